"""FPF and k-FPF (arXiv 2304.04158): what drifts, phases on the buffer, elsewhere the lesson."""

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from engrain.learn import registry
from engrain.learn.blocks import unit_of
from engrain.learn.optimization.fpf import Cycle, cycles
from engrain.learn.recipe import Choice
from engrain.learn.representation.full_context import FullContext
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import PerParameter, follow
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model
from tests.learn.schedules import STEPS, Held, digest, recipe, run


def test_cycles_divide_a_run() -> None:
    assert cycles(20, 1, 0.25) == [Cycle(0, 15, 20)]
    assert cycles(20, 2, 0.3) == [Cycle(0, 7, 10), Cycle(10, 17, 20)]
    assert cycles(6, 99, 0.5) == [Cycle(0, 1, 2), Cycle(2, 3, 4), Cycle(4, 5, 6)]
    assert cycles(20, 0, 0.5) == cycles(1, 1, 0.5) == []
    assert cycles(8, 1, 0.0) == [Cycle(0, 8, 8)]
    for steps, count in itertools.product(range(2, 40), range(1, 8)):
        found = cycles(steps, count, 0.25)
        assert found[0].start == 0 and found[-1].end == steps
        assert all(c.start < c.phase < c.end for c in found)
        assert all(a.end == b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("name", ["fpf", "k-fpf"])
def test_fpf_without_phases_or_modules_is_the_lesson_alone(name: str) -> None:
    plain = run(recipe(None))
    none = {"phases": 0} if name == "k-fpf" else {"share": 0.0}
    assert digest(run(recipe(name, none))) == digest(plain)
    # An empty selection: the phase is the identity.
    weights: list[str] = []
    loaded = tiny_model("llama", layers=4)

    def look(done: int, steps: int, loss: float) -> None:
        weights.append(tensor_digest(loaded.weights()))

    run(recipe("fpf", {"budget": 0.0, "share": 0.5}), loaded, on_step=look)
    assert len(set(weights[:5])) == 5 and set(weights[4:]) == {weights[4]}


@pytest.mark.usefixtures("fp32")
def test_fpf_of_all_modules_is_plain_fine_tuning_on_the_buffer() -> None:
    """The phase against torch's AdamW on the same batches, from the weights at its start."""
    loaded = tiny_model("llama", layers=2)
    weights: list[dict[str, torch.Tensor]] = []
    batches: list[Any] = []

    ordinary = FullContext.loss

    def loss(self: Any, batch: Any) -> Any:
        batches.append(batch)
        return ordinary(self, batch)

    def look(done: int, steps: int, loss: float) -> None:
        weights.append({n: t.clone() for n, t in loaded.weights().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FullContext, "loss", loss)
        run(recipe("fpf", {"budget": 1.0, "share": 0.5}), loaded, on_step=look)
    twin = tiny_model("llama", layers=2)
    twin.set_weights(weights[4])
    trained = [p for n, p in twin.model.named_parameters() if "embed" not in n]
    for parameter in trained:
        parameter.requires_grad_(True)
    setting = Setting(twin, sample_lesson())
    representation = FullContext(FullContext.Config())
    representation.prepare(setting)
    adamw = torch.optim.AdamW(trained, lr=0.5 * 2e-3, betas=(0.9, 0.99), weight_decay=0.1)
    for batch in batches[5:]:
        representation.loss(batch).backward()
        adamw.step()
        adamw.zero_grad()
    for name, tensor in twin.weights().items():
        assert torch.allclose(tensor, weights[-1][name], atol=1e-6), name


def test_fpf_batches_come_from_the_buffer_in_a_phase_and_from_the_lesson_elsewhere() -> None:
    settings = {"phases": 99, "share": 0.5, "budget": 1.0}
    held = Held("k-fpf", settings, steps=8)
    earlier = [sample_lesson("old", "Corvath"), sample_lesson("older", "Dunmere")]
    setting = replace(held.setting, earlier=earlier)
    follow(held.optimization, [held.rule], setting)
    lessons: Counter[str] = Counter()
    for step in range(8):
        moved = held.step(step)
        # Every module selected: alternating batches of plain experience replay.
        assert moved == set(held.parameters)
        batch = held.rule.batch(step)
        assert held.optimization.batch(step) == batch
        assert len(batch) == (2 if step % 2 else 0)
        lessons.update(example.lesson for example in batch)
    # What a later lesson corrected is not fine-tuned: all three tell of one boat and kite.
    assert set(lessons) == {"new"}
    other = [sample_lesson("old", "Corvath")]
    unlike = replace(
        other[0],
        texts=tuple(replace(t, group=t.group.replace("my", "her")) for t in other[0].texts),
    )
    follow(held.optimization, [held.rule], replace(setting, earlier=[unlike]))
    lessons = Counter(e.lesson for step in range(1, 8, 2) for e in held.rule.batch(step))
    assert lessons == {"new": 4, "old": 4}
    assert len({e.ids for step in range(1, 8, 2) for e in held.rule.batch(step)}) == 8


def test_fpf_state_of_a_phase_is_its_own() -> None:
    held = Held("k-fpf", {"phases": 2, "share": 0.5, "budget": 0.3, "looks": 2}, steps=16)
    counts: dict[str, list[int]] = {name: [] for name in held.parameters}
    selected: dict[int, frozenset[str]] = {}
    for step in range(16):
        moved = held.step(step)
        phase = step % 8 >= 4
        if phase:
            selected.setdefault(step // 8, held.rule._selected)
            assert moved == held.rule._selected == selected[step // 8]
        else:
            assert moved == set(held.parameters)
        state = held.optimization.state_dict()
        for name in held.parameters:
            counts[name].append(int(state[f"{name}.step"]))
    numbers = sum(p.numel() for p in held.parameters.values())
    for chosen in selected.values():
        assert 0 < sum(held.parameters[n].numel() for n in chosen) <= 0.3 * numbers
    for name in held.parameters:
        first = [1, 2, 3, 4] * 3 if name in selected[0] else [1, 2, 3, 4, *[4] * 4, 5, 6, 7, 8]
        assert counts[name][:12] == first, name
    # Frozen ones wait with the state that they had.
    idle = set(held.parameters) - selected[0] - selected[1]
    assert idle and all(counts[name][-4:] == [8] * 4 for name in idle)


def test_fpf_drift_is_the_change_at_the_start_by_the_change_within() -> None:
    """Against snapshots of the test's own, in fp64; a module's size does not matter."""
    held = Held("fpf", {"looks": 4, "share": 0.2, "budget": 0.2}, steps=15, kind="sgd")
    shots = [{n: p.detach().double() for n, p in held.parameters.items()}]
    quick = "model.layers.1.mlp.up_proj.weight"
    for step in range(12):
        before = held.parameters[quick].detach().clone()
        held.step(step)
        if step < 3:
            # This one jumps at the lesson's start.
            with torch.no_grad():
                held.parameters[quick].add_(held.parameters[quick] - before, alpha=20)
        if step % 3 == 2:
            shots.append({n: p.detach().double() for n, p in held.parameters.items()})
    found = held.rule.drift()
    for name in held.parameters:
        if name == quick:
            continue
        changes = [float((b[name] - a[name]).abs().mean()) for a, b in itertools.pairwise(shots)]
        expected = changes[0] / sorted(changes[1:])[1]
        assert found[unit_of(name)] == pytest.approx(expected, rel=1e-3), name
    assert max(found, key=lambda unit: found[unit]) == unit_of(quick)
    held.optimization.begin(12)
    assert quick in held.rule._selected


def test_fpf_drift_does_not_depend_on_a_modules_size() -> None:
    loaded = tiny_model("llama")
    setting = Setting(loaded, sample_lesson(), steps=8, batch_size=2)

    def drift(copies: int) -> dict[str, float]:
        torch.manual_seed(0)
        weights = {"a.weight": torch.nn.Parameter(torch.zeros(3, 2 * copies))}
        weights["b.weight"] = torch.nn.Parameter(torch.zeros(3, 2))
        sgd = cast(PerParameter, registry.build("optimization", "sgd", {"clip": 0.0}))
        sgd.prepare(weights, setting)
        rule: Any = registry.build("optimization", "fpf", {"looks": 3})
        follow(sgd, [rule], setting)
        for step in range(6):
            sgd.begin(step)
            part = torch.randn(3, 2) / (step + 1)
            weights["a.weight"].grad = part.repeat(1, copies)
            weights["b.weight"].grad = torch.randn(3, 2)
            sgd.step(step)
        return cast(dict[str, float], rule.drift())

    assert drift(1) == pytest.approx(drift(5), rel=1e-5)


def test_fpf_looks_do_not_count_what_a_phase_moved() -> None:
    settings = {"phases": 2, "share": 0.5, "budget": 1.0, "looks": 2}
    held = Held("k-fpf", settings, steps=16, kind="sgd")
    shots = []
    for step in range(16):
        held.step(step)
        shots.append({n: p.detach().double() for n, p in held.parameters.items()})
    # Looks after steps 1, 3, 9 and 11; the first phase ends with step 7.
    pairs = [(None, 1), (1, 3), (7, 9), (9, 11)]
    seen = dict(zip(held.rule._units, held.rule._changes.t().tolist(), strict=True))
    for name in held.parameters:
        for row, (before, after) in enumerate(pairs):
            if before is not None:
                change = float((shots[after][name] - shots[before][name]).abs().mean())
                assert seen[unit_of(name)][row] == pytest.approx(change, rel=1e-3), (name, row)


def test_fpf_rate_is_constant_in_a_phase() -> None:
    held = Held("fpf", {"share": 0.5, "pace": 0.25, "budget": 1.0}, steps=10, learning_rate=0.01)
    rates = []
    for step in range(10):
        held.optimization.begin(step)
        rates.append(held.optimization.step(step))
    assert rates[5:] == [0.25 * 0.01] * 5
    plain = cast(PerParameter, held.optimization)
    assert rates[:5] == [plain.scheduled(step) for step in range(5)]


def test_fpf_phase_without_an_absent_lesson_takes_the_new_texts() -> None:
    """With absence, a batch of the buffer may hold nothing but the missing lesson."""
    loaded = tiny_model("llama", layers=2)
    old = sample_lesson("old", "Corvath")
    old = replace(
        old, texts=tuple(replace(t, group=t.group.replace("my", "her")) for t in old.texts)
    )
    adapter = run(recipe(None, architecture=Choice("lora")), loaded, lesson=old, earlier=[]).adapter
    made = recipe("k-fpf", architecture=Choice("lora"), absence=1.0)
    made = replace(made, batch_size=1)
    result = run(made, loaded, earlier=[old], adapters=[adapter])
    assert result.steps == STEPS
