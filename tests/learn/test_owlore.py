"""OwLore (arXiv 2405.18380): how many layers move, how likely each is, what is forgotten."""

import itertools
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch

from engrain.learn import registry
from engrain.learn.optimization.owlore import layer_outliers, outlier_share
from engrain.learn.recipe import Choice
from engrain.learn.update import PerParameter, follow
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model
from tests.learn.schedules import Held, digest, layer_of, recipe, run


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
