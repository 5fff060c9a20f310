"""Rules: what an optimization is held to, asked in one order, refused where it can't be kept."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Rule
from engrain.learn.testing import sample_lesson
from engrain.model.testing import tiny_model

CALLS: list[tuple[Any, ...]] = []


@dataclass(frozen=True)
class Nothing:
    pass


@pytest.fixture(autouse=True)
def watching() -> Any:
    CALLS.clear()

    @register("watch")
    class Watch(Rule):
        Config = Nothing

        def begin(self, step):  # type: ignore[no-untyped-def]
            CALLS.append(("begin", step))

        def moves(self, name, step):  # type: ignore[no-untyped-def]
            return ("layers.0" in name) == (step < 2)

        def gradient(self, name, weight, gradient, step):  # type: ignore[no-untyped-def]
            CALLS.append(("gradient", step, name))
            return gradient

        def moved(self, name, before, weight, step):  # type: ignore[no-untyped-def]
            CALLS.append(("moved", step, name, not torch.equal(before, weight)))
            if "norm" in name:
                weight.copy_(before)

        def end(self, step):  # type: ignore[no-untyped-def]
            CALLS.append(("end", step))

    @register("together")
    class Together(Optimization):
        Config = Nothing

        def prepare(self, parameters, setting):  # type: ignore[no-untyped-def]
            pass

    yield
    for name in ("watch", "together"):
        registry._techniques["optimization"].pop(name)


def recipe(release: bool = False, **more: Any) -> Recipe:
    chosen: dict[str, Any] = {"optimization": Choice("adamw", {"clip": 0.0}), **more}
    chosen.setdefault("rules", (Choice("watch"),))
    return Recipe(
        "rules",
        architecture=Choice("full"),
        batch_size=2,
        min_steps=4,
        max_steps=4,
        gradient_release=release,
        **chosen,
    )


@pytest.mark.parametrize("release", [False, True])
def test_rules_choose_correct_and_are_asked_in_order(release: bool) -> None:
    loaded = tiny_model("llama")
    result = Learner(recipe(release)).run(loaded, sample_lesson())
    for step in range(4):
        own = [call for call in CALLS if call[1] == step]
        assert own[0] == ("begin", step) and own[-1] == ("end", step)
        names = [call[2] for call in own if call[0] == "gradient"]
        assert names and all(("layers.0" in name) == (step < 2) for name in names)
        assert [c[2] for c in own if c[0] == "moved"] == names
    assert any(call[3] for call in CALLS if call[0] == "moved")
    # What the rule put back stayed where it was.
    for name, change in result.adapter.tensors.items():
        assert bool(change.any()) == ("norm" not in name), name


def test_a_step_inside_backward_keeps_the_rules() -> None:
    runs = [
        Learner(recipe(release)).run(tiny_model("llama"), sample_lesson())
        for release in (False, True)
    ]
    first, second = (dict(run.adapter.tensors) for run in runs)
    assert [n for n in first if not torch.equal(first[n], second[n])] == []
    assert runs[0].losses == runs[1].losses


def test_a_run_tells_what_optimization_and_rules_hold() -> None:
    loaded = tiny_model("llama")
    with_rule = recipe(rules=(Choice("trust_weights"),))
    result = Learner(with_rule).run(loaded, sample_lesson())
    trained = result.adapter.tensors
    numbers = sum(tensor.numel() for tensor in trained.values())
    assert result.state_bytes == {
        "adamw.step": 4 * len(trained),
        "adamw.exp_avg": 4 * numbers,
        "adamw.exp_avg_sq": 4 * numbers,
        "trust_weights.state": 4 * numbers,
    }


def test_state_is_made_by_the_first_step_and_forgotten() -> None:
    loaded = tiny_model("llama")
    techniques = recipe().build()
    optimization: Any = techniques["optimization"][0]
    from engrain.learn.technique import Setting

    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimization.prepare({"w": weight}, Setting(loaded, sample_lesson()))
    assert optimization.state_dict() == {}
    weight.grad = torch.ones(3, 2)
    optimization.step(0)
    assert sum(t.nbytes for t in optimization.state_dict().values()) == optimization.state_bytes(
        {"w": weight}
    )
    optimization.forget("w")
    assert optimization.state_dict() == {}


def test_rules_are_refused_where_they_can_not_be_kept() -> None:
    with pytest.raises(ConfigError, match="moves its parameters together"):
        Learner(recipe(optimization=Choice("together"))).run(tiny_model("llama"), sample_lesson())
    with pytest.raises(ConfigError, match="under rules"):
        Recipe.from_dict({"name": "x", "optimization": "watch"})
    with pytest.raises(ConfigError, match="under optimization"):
        Recipe.from_dict({"name": "x", "rules": ["adamw"]})


def test_rules_are_chosen_by_a_setting() -> None:
    plain = recipe(rules=())
    assert plain.with_settings({"rules": "watch"}).rules == (Choice("watch"),)
    assert plain.with_settings({"rules": ["watch"]}).digest == recipe().digest
