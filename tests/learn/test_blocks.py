"""Block schedules: who moves when, what stands still to the bit, what is kept and forgotten."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.blocks import places, unit_of
from engrain.learn.fold import fold
from engrain.learn.footprint import training_bytes
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.optimization.fpf import Cycle, cycles
from engrain.learn.optimization.owlore import layer_outliers, outlier_share
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.representation.full_context import FullContext
from engrain.learn.technique import Rule, Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import PerParameter, follow
from engrain.model.digest import tensor_digest
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

ANCHORS = [TrainingText(chat("Hello there.", "Good morning to you."))]
RULES: dict[str, dict[str, Any]] = {
    "badam": {"interval": 3},
    "owlore": {"interval": 3, "layers": 2, "threshold": 3.0},
    "hft": {},
    "fpf": {"looks": 2, "share": 0.4, "budget": 0.4},
    "k-fpf": {"looks": 2, "phases": 3, "budget": 0.4, "share": 0.34},
}
STEPS = 9
SEED = 9
"""Under it every draw of layers in these runs differs from the one before."""


def recipe(name: str | None, settings: dict[str, Any] | None = None, **more: Any) -> Recipe:
    chosen: dict[str, Any] = {
        "architecture": Choice("full"),
        "optimization": Choice("adamw", {"clip": 0.0, "weight_decay": 0.1}),
        "rules": (Choice(name, RULES[name] if settings is None else settings),) if name else (),
        **more,
    }
    return Recipe("blocks", batch_size=2, min_steps=STEPS, max_steps=STEPS, **chosen)


def run(made: Recipe, loaded: LoadedModel | None = None, **more: Any) -> LearnResult:
    arguments: dict[str, Any] = {
        "earlier": [sample_lesson("old", "Corvath")],
        "anchors": ANCHORS,
        "seed": SEED,
        **more,
    }
    loaded = loaded or tiny_model("llama", layers=4)
    return Learner(made).run(loaded, arguments.pop("lesson", sample_lesson()), **arguments)


def digest(result: LearnResult) -> str:
    return tensor_digest(dict(result.adapter.tensors))


def layer_of(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


class Held:
    """An optimization under a rule, with gradients of a seeded generator instead of a model's."""

    def __init__(
        self,
        rule: str,
        settings: dict[str, Any],
        *,
        loaded: LoadedModel | None = None,
        embeddings: bool = True,
        steps: int = 24,
        lesson: Lesson | None = None,
        seed: int = SEED,
        **optimization: Any,
    ) -> None:
        self.loaded = loaded or tiny_model("llama", layers=4)
        self.parameters = {
            name: parameter.requires_grad_(True)
            for name, parameter in self.loaded.model.named_parameters()
            if embeddings or "embed" not in name
        }
        kind = optimization.pop("kind", "adamw")
        chosen = {"clip": 0.0, "weight_decay": 0.1, **optimization}
        self.setting = Setting(
            self.loaded, lesson or sample_lesson(), (), ANCHORS, seed, steps, batch_size=2
        )
        self.optimization = cast(PerParameter, registry.build("optimization", kind, chosen))
        self.rule: Any = registry.build("optimization", rule, settings)
        self.optimization.prepare(self.parameters, self.setting)
        follow(self.optimization, [self.rule], self.setting)

    def step(self, step: int) -> set[str]:
        """Take a step; gives the names of what moved."""
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimization.begin(step)
        for number, parameter in enumerate(self.parameters.values()):
            if parameter.requires_grad:
                parameter.grad = gradient(parameter, number, step)
        self.optimization.step(step)
        return {n for n, p in self.parameters.items() if not torch.equal(p, before[n])}

    def state_of(self) -> set[str]:
        """The names of what has optimizer state."""
        return {name.rpartition(".")[0] for name in self.optimization.state_dict()}


def gradient(parameter: torch.Tensor, number: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + number)
    return torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


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


@cache
def whole(name: str, dtype: torch.dtype, where: str) -> LearnResult:
    loaded = tiny_model("llama", layers=4)
    loaded.model.to(dtype)
    return run(recipe(name, architecture=Choice(where)), loaded)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("stop", "dtype", "where"),
    [
        *((stop, torch.float32, "full") for stop in (2, 3, 4, 5, 6)),
        *((stop, torch.bfloat16, "full") for stop in (3, 5)),
        *((stop, torch.float32, "lora") for stop in (3, 5)),
    ],
)
def test_a_stopped_run_continues_to_the_bit(
    name: str, stop: int, dtype: torch.dtype, where: str, tmp_path: Path
) -> None:
    """Before, at and after a switch of turns (3), the start of a phase (5; 2) and its end (3)."""
    stopped_at(stop, name, dtype, where, tmp_path / "checkpoint")
    loaded = tiny_model("llama", layers=4)
    loaded.model.to(dtype)
    made = recipe(name, architecture=Choice(where))
    resumed = run(made, loaded, checkpoint=tmp_path / "checkpoint")
    expected = whole(name, dtype, where)
    assert resumed.resumed_from == stop
    assert resumed.losses == expected.losses
    assert digest(resumed) == digest(expected)


def stopped_at(stop: int, name: str, dtype: torch.dtype, where: str, path: Path) -> None:
    class Stopped(Exception):
        pass

    def halt(done: int, steps: int, loss: float) -> None:
        if done > stop:
            raise Stopped

    loaded = tiny_model("llama", layers=4)
    loaded.model.to(dtype)
    made = recipe(name, architecture=Choice(where))
    with pytest.raises(Stopped):
        run(made, loaded, checkpoint=path, save_every=stop, on_step=halt)


def test_a_fresh_process_continues_to_the_bit(tmp_path: Path) -> None:
    """A turn's switch for badam, the middle of a phase for k-fpf."""
    stops = {"badam": 3, "k-fpf": 5, "owlore": 4}
    for name, stop in stops.items():
        stopped_at(stop, name, torch.float32, "full", tmp_path / name)
    code = f"""
import json, sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_blocks import recipe, run, digest
torch.set_num_threads({torch.get_num_threads()})
folder = Path({str(tmp_path)!r})
print(json.dumps({{
    name: [found.resumed_from, digest(found)]
    for name in {list(stops)!r}
    for found in [run(recipe(name), checkpoint=folder / name)]
}}))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.splitlines()[-1]) == {
        name: [stop, digest(whole(name, torch.float32, "full"))] for name, stop in stops.items()
    }


@pytest.mark.parametrize("name", RULES)
def test_a_step_inside_backward_is_the_ordinary_step(name: str) -> None:
    ordinary, released = (run(recipe(name, gradient_release=r)) for r in (False, True))
    assert ordinary.losses == released.losses
    assert digest(ordinary) == digest(released)


@pytest.mark.parametrize("name", RULES)
def test_layers_that_are_run_again_in_backward_change_nothing(name: str) -> None:
    again = run(recipe(name, recompute=True))
    assert digest(again) == digest(whole(name, torch.float32, "full"))


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


# OwLore (arXiv 2405.18380)


def test_owlore_moves_as_many_layers_as_it_says_and_switches_at_the_interval() -> None:
    held = Held("owlore", {"interval": 3, "layers": 2, "policy": "uniform"})
    sets = []
    for step in range(24):
        moved = held.step(step)
        assert {"model.embed_tokens.weight", "model.norm.weight"} <= moved
        sets.append(frozenset(layer_of(n) for n in moved) - {None})
    assert all(len(one) == 2 for one in sets)
    switches = {step for step, (a, b) in enumerate(itertools.pairwise(sets), 1) if a != b}
    assert switches and all(step % 3 == 0 for step in switches)
    frozen = Held("owlore", {"policy": "uniform", "layers": 2, "outside": "frozen"})
    assert {layer_of(name) for name in frozen.step(0)} == set(frozen.rule.drawn(0))


def test_owlore_draws_by_its_probabilities() -> None:
    held = Held("owlore", {"layers": 2, "policy": "uniform"})
    rule = held.rule
    rule.probabilities = [0.55, 0.25, 0.15, 0.05]
    turns = 6000
    counts = Counter(layer for turn in range(turns) for layer in rule.drawn(turn))
    found = [counts[layer] / turns for layer in range(4)]
    # Of ordered pairs without replacement: the inclusion probability is not 2 p.
    p = rule.probabilities
    expected = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)]
    assert found == pytest.approx(expected, abs=0.02)
    assert found == sorted(found, reverse=True)
    # Layers of probability zero come when no others are left.
    rule.probabilities = [1.0, 0.0, 0.0, 0.0]
    pairs = Counter(tuple(rule.drawn(turn)) for turn in range(300))
    assert set(pairs) == {(0, 1), (0, 2), (0, 3)} and min(pairs.values()) > 60


@pytest.mark.parametrize("policy", ["uniform", "owl", "owl_reverse", "norm"])
def test_owlore_probabilities_sum_to_one(policy: str) -> None:
    rule = Held("owlore", {"policy": policy, "threshold": 3.0}).rule
    assert sum(rule.probabilities) == pytest.approx(1.0)
    assert min(rule.probabilities) >= 0
    assert (len(set(rule.probabilities)) == 1) == (policy == "uniform")


def test_owlore_reverse_is_the_reverse_and_even_scores_are_lisa() -> None:
    owl = Held("owlore", {"policy": "owl", "threshold": 3.0}).rule.probabilities
    reverse = Held("owlore", {"policy": "owl_reverse", "threshold": 3.0}).rule.probabilities
    assert np.argsort(owl).tolist() == np.argsort(reverse)[::-1].tolist()
    assert min(reverse) == 0.0
    # No weight stands out by so much: all layers are alike.
    settings = {"layers": 2, "interval": 2}
    even = Held("owlore", settings | {"policy": "owl", "threshold": 1e6})
    lisa = Held("owlore", settings | {"policy": "uniform"})
    assert [even.step(step) for step in range(12)] == [lisa.step(step) for step in range(12)]
    assert tensor_digest(even.loaded.weights()) == tensor_digest(lisa.loaded.weights())


@pytest.mark.parametrize("where", ["full", "lora"])
def test_owlore_with_all_layers_is_the_optimization_alone(where: str) -> None:
    settings = {"layers": 9, "interval": 2, "policy": "uniform"}
    chosen = Choice(where, {"layers": 0.5} if where == "lora" else {})
    with_all = run(recipe("owlore", settings, architecture=chosen))
    assert digest(with_all) == digest(run(recipe(None, architecture=chosen)))


@pytest.mark.parametrize("state", ["dropped", "kept"])
def test_owlore_state_of_a_layer_that_is_frozen_again(state: str) -> None:
    settings = {"layers": 1, "interval": 2, "policy": "uniform", "state": state}
    held = Held("owlore", settings, steps=40)
    drawn: set[int] = set()
    counts: dict[int, int] = {}
    for step in range(40):
        (layer,) = held.rule.drawn(step // 2)
        held.step(step)
        fresh = state == "dropped" and layer not in drawn
        drawn = {layer} if state == "dropped" else drawn | {layer}
        counts[layer] = 1 if fresh else counts.get(layer, 0) + 1
        assert {layer_of(name) for name in held.state_of()} - {None} == drawn
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert int(held.optimization.state_dict()[f"{name}.step"]) == counts[layer]
    assert len(drawn) == (1 if state == "dropped" else 4)
    told = held.rule.at_once(held.parameters, held.setting)
    assert (len(told) == len(held.parameters)) == (state == "kept")


def test_owlore_scores_are_owls() -> None:
    """Against plain loops over captured inputs, in fp64, for a weight of each orientation."""
    for architecture in ("llama", "gpt2"):
        held = Held("owlore", {"policy": "owl", "threshold": 3.0}, loaded=tiny_model(architecture))
        loaded, examples = held.loaded, held.rule._calibration()
        assert len(examples) == 1
        inputs: dict[str, torch.Tensor] = {}
        modules = dict(loaded.model.named_modules())

        def keep(
            path: str, inputs: dict[str, torch.Tensor], _: Any, given: tuple[Any, ...]
        ) -> None:
            inputs[path] = given[0][0].detach().double()

        for path in loaded.profile.lora_targets:
            modules[path].register_forward_pre_hook(partial(keep, path, inputs))
        with torch.no_grad():
            loaded.model(torch.tensor([examples[0].ids]))
        shares: dict[int | None, list[float]] = {}
        for path, rows in inputs.items():
            weight = modules[path].weight.detach().double()
            weight = weight.t() if architecture == "gpt2" else weight
            acting = [
                [abs(w) * column for w, column in zip(row, rows.norm(dim=0).tolist(), strict=True)]
                for row in weight.tolist()
            ]
            flat = [value for row in acting for value in row]
            mean = sum(flat) / len(flat)
            share = sum(value > 3.0 * mean for value in flat) / len(flat)
            shares.setdefault(layer_of(path), []).append(share)
        expected = {layer: sum(v) / len(v) for layer, v in shares.items()}
        found = layer_outliers(held.setting, examples, 3.0)
        assert found == pytest.approx(expected, abs=2e-4)
        assert min(found.values()) > 0


def test_owlore_an_outlier_column_raises_the_score_of_its_layer() -> None:
    torch.manual_seed(0)
    weight, features = torch.rand(40, 30) + 1, torch.rand(30) + 1
    assert outlier_share(weight, features, 6.0) == 0.0
    outlying = weight.clone()
    outlying[:, 7] = 100.0
    assert outlier_share(outlying, features, 6.0) == pytest.approx(1 / 30)
    held = Held("owlore", {"policy": "owl"})
    examples = held.rule._calibration()
    before = layer_outliers(held.setting, examples, 5.0)
    with torch.no_grad():
        held.parameters["model.layers.2.mlp.up_proj.weight"][:, 5] *= 1000
        # So that nothing behind the layer hears of it.
        held.parameters["model.layers.2.mlp.down_proj.weight"].zero_()
        base = layer_outliers(held.setting, examples, 5.0)
        held.parameters["model.layers.2.mlp.up_proj.weight"][:, 5] /= 1000
        quiet = layer_outliers(held.setting, examples, 5.0)
    assert base[2] > quiet[2]
    assert {n: v for n, v in base.items() if n != 2} == {n: v for n, v in quiet.items() if n != 2}
    assert base[0] == before[0] and base[1] == before[1]


def test_owlore_scores_are_the_same_under_lora() -> None:
    plain = Held("owlore", {"policy": "owl", "threshold": 3.0})
    loaded = tiny_model("llama", layers=4)
    lora: Any = registry.build("architecture", "lora", {"layers": 0.5, "dropout": 0.1})
    setting = replace(plain.setting, loaded=loaded)
    lora.attach(setting)
    rule: Any = registry.build("optimization", "owlore", {"policy": "owl", "threshold": 3.0})
    optimization = cast(PerParameter, registry.build("optimization", "adamw"))
    optimization.prepare(lora.parameters(), setting)
    follow(optimization, [rule], setting)
    lora.detach()
    assert rule.layers == [2, 3]
    upper = plain.rule.probabilities[2:]
    assert rule.probabilities == pytest.approx([p / sum(upper) for p in upper], abs=2e-3)


# HFT (arXiv 2404.18466)


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


# FPF and k-FPF (arXiv 2304.04158)


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
    assert rates[:5] == [plain.rate(step) for step in range(5)]


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
