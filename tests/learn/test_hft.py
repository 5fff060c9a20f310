"""HFT (arXiv 2404.18466): half of each kind, another half for each lesson, the rest to the bit."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.learn.blocks import places
from engrain.learn.recipe import Choice
from engrain.learn.testing import sample_lesson
from engrain.model.testing import tiny_model
from tests.learn.schedules import SEED, STEPS, Held, digest, layer_of, recipe, run


def hft(lesson: str = "new", seed: int = SEED, layers: int = 4, **settings: Any) -> Held:
    loaded = tiny_model(settings.pop("architecture", "llama"), layers=layers)
    return Held("hft", settings, loaded=loaded, lesson=sample_lesson(lesson), seed=seed)


def kinds_moving(held: Held) -> dict[str, list[int]]:
    """Units that move in each layer, by kind."""
    found = places(held.parameters, held.setting)
    moving: dict[tuple[str, int | None], set[str]] = {}
    for name, place in found.items():
        units = moving.setdefault((place.kind, place.layer), set())
        if held.rule.moves(name, 0):
            units.add(place.unit)
    result: dict[str, list[int]] = {}
    for (kind, _), units in sorted(moving.items(), key=str):
        result.setdefault(kind, []).append(len(units))
    return result


@pytest.mark.parametrize("layers", [3, 4, 6])
def test_hft_halves_each_kind_in_each_layer(layers: int) -> None:
    found = kinds_moving(hft(layers=layers))
    assert found["attention"] == [2] * layers
    assert found["norm"] == [1] * layers
    assert set(found["feed_forward"]) == {1, 2}
    assert sum(found["feed_forward"]) == round(1.5 * layers)
    assert kinds_moving(hft(layers=layers, architecture="qwen3"))["norm"] == [2] * layers


def test_hft_draws_for_each_lesson_and_seed() -> None:
    def mask(held: Held) -> set[str]:
        return {name for name in held.parameters if held.rule.moves(name, 0)}

    assert mask(hft()) == mask(hft())
    assert len({frozenset(mask(hft(f"lesson {i}"))) for i in range(8)}) == 8
    assert mask(hft()) != mask(hft(seed=SEED + 1))
    held = hft()
    first = mask(held)
    assert all(held.step(step) == first for step in range(4))


@pytest.mark.parametrize("level", ["category", "layer", "model"])
def test_hft_every_matrix_moves_in_half_of_the_lessons_and_composes(level: str) -> None:
    held = hft(level=level)
    found = places(held.parameters, held.setting)
    inside = {place.unit for place in found.values() if place.layer is not None}
    rounds, lessons = 3, 1200
    counts: Counter[str] = Counter()
    untouched = 0
    for at in range(0, lessons, rounds):
        touched: set[str] = set()
        for lesson in range(at, at + rounds):
            units = held.rule._drawn(found, held.setting.rng("hft", f"lesson {lesson}"))
            counts.update(units)
            touched |= units
        untouched += len(inside - touched)
    assert set(counts) == inside
    assert all(count / lessons == pytest.approx(0.5, abs=0.07) for count in counts.values())
    assert untouched / len(inside) / (lessons / rounds) == pytest.approx(2**-rounds, abs=0.02)


def test_hft_levels() -> None:
    held = hft(level="layer")
    moved = {layer_of(name) for name in held.step(0)} - {None}
    assert len(moved) == 2
    assert {n for n in held.parameters if layer_of(n) in moved} == {
        n for n in held.step(1) if layer_of(n) is not None
    }
    whole_model = hft(level="model")
    found = places(whole_model.parameters, whole_model.setting)
    units = {found[n].unit for n in whole_model.step(0) if found[n].layer is not None}
    assert len(units) == 2 * 9


@pytest.mark.parametrize("where", ["full", "lora"])
def test_hft_of_all_is_full_fine_tuning_and_of_none_is_nothing(where: str) -> None:
    chosen = Choice(where)
    everything = run(recipe("hft", {"ratio": 1.0}, architecture=chosen))
    plain = run(recipe(None, architecture=chosen))
    assert digest(everything) == digest(plain) and everything.losses == plain.losses
    nothing = run(recipe("hft", {"ratio": 0.0, "outside": False}, architecture=chosen))
    assert all(not bool(t.any()) for n, t in nothing.adapter.tensors.items() if "lora_A" not in n)
    held = hft(ratio=0.0)
    assert held.step(0) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert hft(ratio=0.0, outside=False).step(0) == set()


def test_hft_keeps_state_for_what_moves_and_tells_its_share() -> None:
    held = hft(outside=False)
    for step in range(3):
        held.step(step)
    chosen = {n: p for n, p in held.parameters.items() if held.rule.moves(n, 0)}
    numbers = sum(p.numel() for p in chosen.values())
    moments = [t for n, t in held.optimization.state_dict().items() if not n.endswith(".step")]
    assert sum(t.nbytes for t in moments) == 2 * 4 * numbers
    assert held.rule.share == numbers / sum(p.numel() for p in held.parameters.values())


def test_hft_half_of_the_weights_are_those_before() -> None:
    """theta = M theta_new + (1 - M) theta_0, to the bit, in bf16 too."""
    for dtype in (torch.float32, torch.bfloat16):
        loaded = tiny_model("llama", layers=4)
        loaded.model.to(dtype)
        before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
        held = Held("hft", {}, loaded=loaded, kind="sgd", momentum=0.9, learning_rate=0.1)
        for step in range(6):
            held.step(step)
        for name, parameter in held.parameters.items():
            assert torch.equal(parameter, before[name]) != held.rule.moves(name, 0), name


def test_hft_reset_is_the_full_lesson_with_the_other_half_put_back() -> None:
    """Half-Reset: theta = M theta_full + (1 - M) theta_0, to the bit."""
    full = run(recipe(None)).adapter.tensors
    half = run(recipe("hft", {"reset": True})).adapter.tensors
    held = hft()
    drawn = {name for name in full if held.rule.moves(name, 0)}
    assert 0 < len(drawn) < len(full)
    assert set(half) == drawn
    assert all(torch.equal(half[name], full[name]) for name in drawn)


def test_hft_reset_keeps_a_copy_of_what_goes_back_and_resumes(tmp_path: Path) -> None:
    held = hft(reset=True)
    held.step(0)
    kept = held.rule.state_dict()
    assert sum(t.nbytes for t in kept.values()) == held.rule.state_bytes(held.parameters) > 0
    made = recipe("hft", {"reset": True})
    path = tmp_path / "checkpoint"

    def stop(done: int, steps: int, loss: float) -> None:
        if done == STEPS - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, checkpoint=path, save_every=4, on_step=stop)
    resumed = run(made, checkpoint=path, save_every=4)
    assert resumed.resumed_from == 4 and digest(resumed) == digest(run(made))
