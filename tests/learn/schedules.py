"""Runs under block schedules for tests: through the learner, or without a model."""

from typing import Any, cast

import torch

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn import registry
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Setting
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
