"""One linear map with a moving target: small enough to be followed by a plain loop beside it."""

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from engrain.learn import registry
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.recipe import Recipe
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.model.digest import tensor_digest
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

PLAIN = {"clip": 0.0, "warmup": 0.0, "final_fraction": 1.0, "learning_rate": 0.02}


class Toy:
    """Runs an architecture on ``0.5 |x W^T - y|^2`` with other x and y in every step."""

    def __init__(self, m: int, n: int, name: str, steps: int, seed: int = 0, **settings: Any):
        generator = torch.Generator().manual_seed(7)
        self.model = nn.ModuleDict({"map": nn.Linear(n, m, bias=False)})
        with torch.no_grad():
            self.model["map"].weight.copy_(torch.randn(m, n, generator=generator) / n**0.5)
        self.base = self.model["map"].weight.detach().clone()
        profile = SimpleNamespace(lora_targets=("map",))
        loaded: Any = SimpleNamespace(model=self.model, profile=profile, source="toy")
        self.setting = Setting(loaded, sample_lesson(), seed=seed, steps=steps)
        self.data = [
            (torch.randn(9, n, generator=generator), torch.randn(9, m, generator=generator))
            for _ in range(steps)
        ]
        self.architecture: Any = registry.build("architecture", name, settings)
        self.architecture.attach(self.setting)
        self.optimization: Any = None

    def optimize(self, name: str = "adamw", **settings: Any) -> "Toy":
        self.optimization = registry.build("optimization", name, PLAIN | settings)
        self.optimization.prepare(self.architecture.parameters(), self.setting)
        return self

    @property
    def layer(self) -> Any:
        return self.architecture._layers["map"]

    def backward(self, step: int) -> None:
        x, y = self.data[step]
        (0.5 * (self.model["map"](x) - y).square().sum()).backward()

    def step(self, step: int) -> None:
        self.optimization.begin(step)
        self.backward(step)
        self.optimization.step(step)

    def run(self, first: int = 0, last: int | None = None) -> "Toy":
        for step in range(first, self.setting.steps if last is None else last):
            self.step(step)
            self.architecture.stepped(step, self.optimization)
        return self

    def delta(self) -> torch.Tensor:
        """What the adapter adds to the map ``(m, n)``."""
        weights = {"map.weight": torch.zeros_like(self.base)}
        self.architecture.fold(self.architecture.adapter(), weights)
        return weights["map.weight"]

    def gradient(self, weight: torch.Tensor, step: int) -> torch.Tensor:
        """dL/dW in fp64, for reference loops."""
        x, y = (tensor.double() for tensor in self.data[step])
        return (x @ weight.t() - y).t() @ x


class Adam:
    """AdamW's step on one vector or matrix in fp64, written out."""

    def __init__(self, like: torch.Tensor) -> None:
        self.first, self.second, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def change(self, gradient: torch.Tensor, rate: float = 0.02) -> torch.Tensor:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.99 * self.second + 0.01 * gradient**2
        mean = self.first / (1 - 0.9**self.count)
        return -rate * mean / ((self.second / (1 - 0.99**self.count)).sqrt() + 1e-8)


def tiny(dtype: torch.dtype, kind: str = "llama") -> LoadedModel:
    """A tiny model with weights of a type."""
    loaded = tiny_model(kind)
    loaded.model.to(dtype)
    return loaded


def saved_at(points: Collection[int], learn: Callable[..., LearnResult], at: Path) -> LearnResult:
    """A run that saves after each step; what it had saved at a point becomes ``at/POINT``.

    That is what a run leaves behind that is stopped in the step after the point.
    """
    at.mkdir(exist_ok=True)
    path = at / "checkpoint"

    def keep(done: int, *_: Any) -> None:
        # What is told at a step is saved after it.
        if done - 1 in points:
            shutil.copy(path, at / f"{done - 1}")

    result = learn(checkpoint=path, save_every=1, on_step=keep)
    path.unlink()
    return result


def resumes(run: Recipe, folder: Path, dtype: torch.dtype, points: Sequence[int]) -> None:
    """Checks that a run which was stopped at each of the points ends as one that was not."""

    def learn(**more: Any) -> LearnResult:
        return Learner(run).run(tiny(dtype), sample_lesson(), seed=4, **more)

    whole = saved_at(points, learn, folder)
    assert len(set(whole.losses)) == len(whole.losses)
    for at in points:
        resumed = learn(checkpoint=folder / f"{at}", save_every=100)
        assert resumed.resumed_from == at
        assert resumed.losses == whole.losses
        assert tensor_digest(dict(resumed.adapter.tensors)) == tensor_digest(
            dict(whole.adapter.tensors)
        )
