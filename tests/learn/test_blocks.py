"""Block schedules: who moves when, what stands still to the bit, what is kept and forgotten."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.blocks import places, unit_of
from engrain.learn.fold import fold
from engrain.learn.footprint import training_bytes
from engrain.learn.learner import LearnResult
from engrain.learn.recipe import Choice
from engrain.learn.technique import Rule, Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import PerParameter, follow
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model
from tests.learn.schedules import (
    ANCHORS,
    RULES,
    STEPS,
    Held,
    digest,
    gradient,
    layer_of,
    recipe,
    run,
)
from tests.learn.toys import saved_at

# Where a parameter belongs


@pytest.mark.parametrize(
    ("architecture", "attention", "feed_forward", "norms"),
    [
        ("llama", 4, 3, 2),
        ("qwen3", 4, 3, 4),
        ("gemma3", 4, 3, 6),
        ("gemma4", 4, 5, 7),
        ("gpt2", 2, 2, 2),
        ("phi3", 2, 2, 2),
        ("qwen3_moe", 4, 3, 4),
        ("lfm2", 4, 3, 4),
    ],
)
def test_places_are_found_in_any_architecture(
    architecture: str, attention: int, feed_forward: int, norms: int
) -> None:
    loaded = tiny_model(architecture)
    names = [name for name, _ in loaded.model.named_parameters()]
    found = places(names, Setting(loaded, sample_lesson()))
    kinds = Counter(kind for kind, _ in {(p.kind, p.unit) for p in found.values() if p.layer == 1})
    assert kinds == {"attention": attention, "feed_forward": feed_forward, "norm": norms}
    outside = {name for name, place in found.items() if place.layer is None}
    path = loaded.profile.layers_path
    assert outside == {name for name in names if not name.startswith(f"{path}.")} != set()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_both_matrices_of_a_lora_are_one_unit_of_the_model(architecture: str) -> None:
    loaded = tiny_model(architecture)
    setting = Setting(loaded, sample_lesson())
    lora: Any = registry.build("architecture", "lora")
    lora.attach(setting)
    found = places(lora.parameters(), setting)
    lora.detach()
    told = places(lora.would_train(setting), setting)
    for names in (found, told):
        units = Counter((p.layer, p.unit.removeprefix("base_model.model.")) for p in names.values())
        assert units == {(layer_of(path), path): 2 for path in loaded.profile.lora_targets}
        kinds = {p.unit.split(".")[-2]: p.kind for p in names.values()}
        assert kinds == {"self_attn": "attention", "mlp": "feed_forward"}
    assert unit_of("model.layers.0.mlp.experts.down_proj") == "model.layers.0.mlp.experts.down_proj"


@pytest.mark.parametrize("name", ["badam", "owlore", "hft"])
def test_a_choice_among_layers_needs_layers(name: str) -> None:
    loaded = tiny_model("llama")
    setting = Setting(loaded, sample_lesson(), steps=6)
    optimization = cast(PerParameter, registry.build("optimization", "adamw"))
    flat = {"adapter": torch.nn.Parameter(torch.zeros(3))}
    optimization.prepare(flat, setting)
    rule = cast(Rule, registry.build("optimization", name))
    assert dict(rule.at_once(flat, setting)) == flat
    with pytest.raises(ConfigError, match="belongs to one"):
        follow(optimization, [rule], setting)


# What all schedules share


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("architecture", "where"),
    [("llama", "full"), ("qwen3", "full"), ("gemma3", "full"), ("llama", "lora")],
)
def test_what_stands_still_stands_still_to_the_bit(
    name: str, architecture: str, where: str
) -> None:
    """Decay and momentum on; only what the rule names has a gradient and moves."""
    loaded = tiny_model(architecture, layers=3)
    made = recipe(
        name,
        RULES[name] | ({"layers": 1} if name == "owlore" else {}),
        architecture=Choice(where),
        optimization=Choice(
            "sgd", {"momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.05, "clip": 0.0}
        ),
    )
    seen: list[set[str]] = []
    live = loaded.model
    last: dict[str, torch.Tensor] = {}

    def look(done: int, steps: int, loss: float) -> None:
        now = {n: p.detach().clone() for n, p in live.named_parameters()}
        if last:
            changed = {n for n, tensor in now.items() if not torch.equal(tensor, last[n])}
            allowed = {n for n, p in live.named_parameters() if p.requires_grad}
            assert changed <= allowed and changed
            seen.append(changed)
        last.update(now)

    run(made, loaded, on_step=look)
    assert len(seen) == STEPS - 1
    if name == "hft":
        assert all(one == seen[0] for one in seen)
    else:
        assert any(one != seen[0] for one in seen)


@pytest.mark.parametrize("name", ["badam", "owlore"])
def test_the_runs_that_are_stopped_do_switch(name: str) -> None:
    held = Held(name, RULES[name], steps=STEPS)
    first, second, third = (held.rule.moving(turn) for turn in range(3))
    assert first != second != third


STOPS = (2, 3, 4, 5, 6)
Whole = Callable[[str, torch.dtype, str], tuple[LearnResult, Path]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs without a stop, each made once, and the folder with what it had saved at each stop."""

    @cache
    def made(name: str, dtype: torch.dtype, where: str) -> tuple[LearnResult, Path]:
        loaded = tiny_model("llama", layers=4)
        loaded.model.to(dtype)
        folder = tmp_path_factory.mktemp("whole")
        learn = partial(run, recipe(name, architecture=Choice(where)), loaded)
        return saved_at(STOPS, learn, folder), folder

    return made


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("stop", "dtype", "where"),
    [
        *((stop, torch.float32, "full") for stop in STOPS),
        *((stop, torch.bfloat16, "full") for stop in (3, 5)),
        *((stop, torch.float32, "lora") for stop in (3, 5)),
    ],
)
def test_a_stopped_run_continues_to_the_bit(
    name: str, stop: int, dtype: torch.dtype, where: str, whole: Whole
) -> None:
    """Before, at and after a switch of turns (3), the start of a phase (5; 2) and its end (3)."""
    expected, folder = whole(name, dtype, where)
    loaded = tiny_model("llama", layers=4)
    loaded.model.to(dtype)
    made = recipe(name, architecture=Choice(where))
    resumed = run(made, loaded, checkpoint=folder / f"{stop}", save_every=100)
    assert resumed.resumed_from == stop
    assert resumed.losses == expected.losses
    assert digest(resumed) == digest(expected)


@pytest.mark.parametrize("name", RULES)
def test_a_step_inside_backward_is_the_ordinary_step(name: str) -> None:
    ordinary, released = (run(recipe(name, gradient_release=r)) for r in (False, True))
    assert ordinary.losses == released.losses
    assert digest(ordinary) == digest(released)


@pytest.mark.parametrize("name", RULES)
def test_layers_that_are_run_again_in_backward_change_nothing(name: str, whole: Whole) -> None:
    again = run(recipe(name, recompute=True))
    assert digest(again) == digest(whole(name, torch.float32, "full")[0])


@pytest.mark.parametrize("name", RULES)
def test_state_has_the_bytes_that_are_told(name: str) -> None:
    """The optimizer's: at most that of what moves at once. The rule's: its formula."""
    held = Held(name, RULES[name], steps=STEPS)
    most = 0
    for step in range(STEPS):
        held.step(step)
        kept = sum(tensor.nbytes for tensor in held.optimization.state_dict().values())
        most = max(most, kept)
        own = sum(tensor.nbytes for tensor in held.rule.state_dict().values())
        meta = {n: torch.nn.Parameter(p.to("meta")) for n, p in held.parameters.items()}
        assert own == held.rule.state_bytes(meta)
    told = held.rule.at_once(held.parameters, held.setting)
    assert most == held.optimization.state_bytes(told)
    assert len(told) < len(held.parameters) or "fpf" in name


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_parameters_does_not_matter(name: str) -> None:
    first, second = Held(name, RULES[name], steps=STEPS), Held(name, RULES[name], steps=STEPS)
    turned = dict(reversed(second.parameters.items()))
    second.optimization.prepare(turned, second.setting)
    follow(second.optimization, [second.rule], second.setting)
    for step in range(STEPS):
        first.optimization.begin(step), second.optimization.begin(step)
        moving = [{n for n, p in h.parameters.items() if p.requires_grad} for h in (first, second)]
        assert moving[0] == moving[1]
        for held in (first, second):
            for number, parameter in enumerate(first.parameters):
                weight = held.parameters[parameter]
                if weight.requires_grad:
                    weight.grad = gradient(weight, number, step)
            held.optimization.step(step)
    assert tensor_digest(first.loaded.weights()) == tensor_digest(second.loaded.weights())


@pytest.mark.parametrize("name", RULES)
def test_it_learns(name: str) -> None:
    made = replace(recipe(name), min_steps=60, max_steps=60)
    losses = run(made, tiny_model("llama", layers=2), earlier=[]).losses
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])


def test_backward_ends_at_the_lowest_layer_that_moves() -> None:
    loaded = tiny_model("llama", layers=6)
    reached: list[list[int]] = []
    for number, layer in enumerate(loaded.model.model.layers):

        def look(_: Any, __: Any, output: Any, number: int = number) -> None:
            if number == 0:
                reached.append([])
            if output.requires_grad:
                reached[-1].append(number)

        layer.register_forward_hook(look)
    made = recipe("badam", {"interval": 1, "order": "descending"})
    run(made, loaded)
    expected = [list(range(5 - step % 6, 6)) for step in range(STEPS)]
    # The learner runs the model without gradients before the first step.
    assert reached[-STEPS:] == expected


def test_memory_of_a_run_is_told_by_what_moves_at_once() -> None:
    loaded = tiny_model("llama", layers=4)
    setting = Setting(loaded, sample_lesson(), (), ANCHORS, steps=9, batch_size=2)
    plain = training_bytes(recipe(None), setting)
    for name in ("badam", "owlore", "hft"):
        told = training_bytes(recipe(name), setting)
        for part in ("optimizer", "gradients"):
            assert told[part] < 0.7 * plain[part], (name, part)
    assert training_bytes(recipe("fpf"), setting)["optimizer"] > plain["optimizer"]


def test_full_stores_what_moved_and_undo_is_exact() -> None:
    loaded = tiny_model("llama", layers=4)
    base = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    before = tensor_digest(base)
    result = run(recipe("hft"), loaded)
    plain = run(recipe(None), loaded)
    assert set(result.adapter.tensors) < set(plain.adapter.tensors)
    assert result.adapter.nbytes == 4 * sum(base[n].numel() for n in result.adapter.tensors)
    loaded.set_weights(fold(loaded.base_weights(), [result.adapter]))
    changed = set(loaded.changed_since(base))
    assert changed == set(result.adapter.tensors)
    loaded.set_weights(fold(loaded.base_weights(), []))
    assert tensor_digest(loaded.weights()) == before


def test_settings_of_a_rule_are_dotted() -> None:
    made = recipe("k-fpf").with_settings({"rules.k-fpf.phases": 7})
    assert made.rules[0].settings["phases"] == 7
    with pytest.raises(ConfigError, match="not one of random, ascending, descending"):
        recipe("badam").with_settings({"rules.badam.order": "sideways"})


def test_rules_that_choose_blocks_go_together() -> None:
    """A lesson's half, one layer of it at a time."""
    rules = (Choice("hft"), Choice("badam", {"interval": 2}))
    loaded = tiny_model("llama", layers=4)
    result = run(recipe(None, rules=rules), loaded)
    half = run(recipe("hft"), loaded)
    moved = set(result.adapter.tensors)
    assert moved < set(half.adapter.tensors) and {layer_of(n) for n in moved} == {0, 1, 2, 3}


# BAdam (arXiv 2404.02827)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_badam_follows_its_algorithm(kind: str) -> None:
    """Against a plain loop in fp64 with a fresh state for every turn, over five of them."""
    more = {"warmup": 0.0, "final_fraction": 1.0, "learning_rate": 0.01}
    more |= {"momentum": 0.9} if kind == "sgd" else {}
    held = Held("badam", {"interval": 3, "order": "ascending"}, kind=kind, **more)
    reference = {n: p.detach().double() for n, p in held.parameters.items()}
    for step in range(15):
        held.step(step)
        block = step // 3 % 4
        if step % 3 == 0:
            first = {n: torch.zeros_like(p) for n, p in reference.items()}
            second = {n: torch.zeros_like(p) for n, p in reference.items()}
        for number, (name, weight) in enumerate(reference.items()):
            if layer_of(name) != block:
                continue
            g = gradient(held.parameters[name], number, step).double()
            weight *= 1 - 0.01 * 0.1
            if kind == "sgd":
                first[name] = 0.9 * first[name] + g
                weight -= 0.01 * first[name]
                continue
            t = step % 3 + 1
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.99 * second[name] + 0.01 * g**2
            root = (second[name] / (1 - 0.99**t)).sqrt() + 1e-8
            weight -= 0.01 * first[name] / (1 - 0.9**t) / root
    for name, parameter in held.parameters.items():
        assert torch.allclose(parameter.double(), reference[name], atol=2e-6), name


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_badam_gives_every_block_one_turn_a_round(order: str) -> None:
    held = Held("badam", {"interval": 2, "order": order}, steps=40)
    turns = []
    for step in range(40):
        moved = {layer_of(name) for name in held.step(step)}
        assert len(moved) == 1 and None not in moved
        assert {layer_of(name) for name in held.state_of()} == moved
        turns.append(moved.pop())
    assert turns[::2] == turns[1::2]
    rounds = [turns[at : at + 8 : 2] for at in range(0, 40, 8)]
    assert all(sorted(cast(list[int], one)) == [0, 1, 2, 3] for one in rounds)
    if order == "random":
        assert len({tuple(one) for one in rounds}) > 1
        other = Held("badam", {"interval": 2}, lesson=sample_lesson("another"))
        assert [other.rule.block(t) for t in range(20)] != turns[::2]
    else:
        assert set(map(tuple, rounds)) == {(0, 1, 2, 3) if order == "ascending" else (3, 2, 1, 0)}


@pytest.mark.parametrize("steps", [1, 3, 4, 9, 64, 1000])
def test_a_run_gives_every_block_a_turn_where_no_interval_is_set(steps: int) -> None:
    """Of four layers: four turns of badam, two draws of two by owlore; 50 steps at most."""
    for name, settings, enough in (("badam", {}, 4), ("owlore", {"layers": 2}, 2)):
        rule = Held(name, settings, steps=steps).rule
        turns = Counter(rule.turn(step) for step in range(steps))
        assert sorted(turns) == list(range(max(-(-steps // 50), min(enough, steps))))
        assert max(turns.values()) - min(turns.values()) <= 1 and max(turns.values()) <= 50
        if name == "badam" and steps >= 4:
            assert {rule.block(turn) for turn in range(4)} == {0, 1, 2, 3}
        published = Held(name, settings | {"interval": 50}, steps=steps).rule
        assert [published.turn(step) for step in range(steps)] == [s // 50 for s in range(steps)]


def test_badam_begins_turns_of_the_runs_own_length_anew() -> None:
    held, counts = Held("badam", {}, steps=9), []
    for step in range(9):
        held.step(step)
        (count,) = {float(v) for k, v in held.optimization.state_dict().items() if "step" in k}
        counts.append(count)
    assert counts == [1, 2, 3, 1, 2, 1, 2, 1, 2]


def test_badam_begins_each_turn_anew_even_with_one_block() -> None:
    held = Held("badam", {"interval": 3}, loaded=tiny_model("llama", layers=1))
    counts = []
    for step in range(7):
        held.step(step)
        (count,) = {float(v) for k, v in held.optimization.state_dict().items() if "step" in k}
        counts.append(count)
    assert counts == [1, 2, 3, 1, 2, 3, 1]


def test_badam_outside_of_the_layers() -> None:
    loaded = tiny_model("llama", layers=2, tied=False)

    def moved(outside: str) -> list[set[str]]:
        settings = {"interval": 1, "order": "ascending", "outside": outside}
        held = Held("badam", settings, loaded=loaded)
        return [{n for n in held.step(step) if layer_of(n) is None} for step in range(4)]

    embedding, others = {"model.embed_tokens.weight"}, {"lm_head.weight", "model.norm.weight"}
    assert moved("frozen") == [set()] * 4
    assert moved("moves") == [embedding | others] * 4
    assert moved("blocks") == [embedding, set(), set(), others]
