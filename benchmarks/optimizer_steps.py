"""One contestant of :mod:`benchmarks.optimizers` for a few steps: state, memory and seconds.

Run by :mod:`benchmarks.measure`, one contestant a process, through the learner as any lesson is.
The state is counted twice: from the tensors that are alive after each step, of which the most
counts, and by the formula that ``state_bytes`` gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.measure import Meter, serve, touch
from benchmarks.shapes import lesson
from engrain.data.general import anchors
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe
from engrain.learn.technique import Architecture, Optimization, Rule, Setting, Technique
from engrain.learn.update import PerParameter, UpdateConfig
from engrain.model.loading import load_model

NOTHING, TORCH = "nothing", "torch-adamw"
PEERS = (NOTHING, TORCH)
"""A step that drops each gradient, for what remains is not the optimizer's; and torch's own."""


class Nothing(PerParameter):
    """No step at all: a gradient is dropped as soon as it is whole."""

    Config = UpdateConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """None."""
        return {}

    def update(self, name: str, step: int) -> None:
        """Clear the gradient."""
        self._parameters[name].grad = None


class TorchAdamW(Optimization):
    """``torch.optim.AdamW(fused=True)`` as anybody uses it: state in the weights' own type."""

    Config = UpdateConfig

    def prepare(self, parameters: Mapping[str, nn.Parameter], setting: Setting) -> None:
        """Make torch's optimizer."""
        rate = self.config.learning_rate
        self._inner = torch.optim.AdamW(parameters.values(), rate, fused=True)

    def step(self, step: int) -> float:
        """Its step, and its way to clear gradients."""
        self._inner.step()
        self._inner.zero_grad()
        return float(self.config.learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """All its tensors."""
        return {
            f"{place}.{key}": tensor
            for place, state in enumerate(self._inner.state.values())
            for key, tensor in state.items()
        }


class Stopwatch:
    """Seconds inside some methods of objects; one that calls another is counted once."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._began = 0.0, 0, 0.0

    def watch(self, thing: Any, *names: str) -> None:
        """Time these methods of a thing from now on."""
        for name in names:
            if hasattr(thing, name):
                setattr(thing, name, self._timed(getattr(thing, name)))

    def taken(self) -> float:
        """The seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            if not self._depth:
                self._began = time.perf_counter()
            self._depth += 1
            try:
                return method(*given)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - self._began

        return timed


class Watched:
    """A recipe whose techniques stay at hand and are timed; a peer may make the steps."""

    def __init__(self, recipe: Recipe, peer: str = "") -> None:
        self._recipe, self._peer, self.watch = recipe, peer, Stopwatch()
        self.built: dict[str, list[Technique]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recipe, name)

    def build(self) -> dict[str, list[Technique]]:
        """The techniques, with a stopwatch on all that makes a step of a gradient."""
        self.built = with_peer(self._recipe, self._peer)
        optimization = self.built["optimization"][0]
        # A step that is taken by the factors of its gradient has no time of its own.
        if isinstance(optimization, PerParameter):
            vars(optimization)["product"] = lambda *_: None
        self.watch.watch(optimization, "begin", "update", "step")
        self.watch.watch(self.built["architecture"][0], "stepped")
        return self.built


def with_peer(recipe: Recipe, peer: str) -> dict[str, list[Technique]]:
    """A recipe's techniques, with a peer in the optimization's place if one is named."""
    built: dict[str, list[Technique]] = recipe.build()
    if peer:
        cls = {NOTHING: Nothing, TORCH: TorchAdamW}[peer]
        built["optimization"] = [cls(UpdateConfig(clip=0.0))]
    return built


def may_release(built: Mapping[str, list[Technique]]) -> bool:
    """Whether steps may be taken inside backward, once nothing clips by the norm of all."""
    rules = cast(list[Rule], built["rules"])
    alone = isinstance(built["optimization"][0], PerParameter)
    return alone and not any(rule.coupling() for rule in rules)


def state_of(built: Mapping[str, list[Technique]]) -> tuple[int, int | None, int]:
    """Bytes of the live state, by the formula where there is one, and how many numbers train."""
    architecture = cast(Architecture, built["architecture"][0])
    optimization = cast(Optimization, built["optimization"][0])
    rules = cast(list[Rule], built["rules"])
    trained = architecture.parameters()
    alive = sum(sum(technique.memory_report().values()) for technique in (optimization, *rules))
    formula: int | None = None
    if not isinstance(optimization, TorchAdamW):
        moving: Mapping[str, nn.Parameter] = trained
        for rule in rules:
            moving = rule.at_once(moving, rule.setting)
        formula = optimization.state_bytes(moving) + sum(r.state_bytes(trained) for r in rules)
    return alive, formula, sum(parameter.numel() for parameter in trained.values())


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Learn one text for some steps; the recipe's own clipping by all gradients is switched off."""
    chosen = Recipe.from_dict(request["recipe"])
    release = may_release(with_peer(chosen, request["peer"]))
    settings: dict[str, Any] = {"min_steps": request["steps"], "max_steps": request["steps"]}
    if "clip" in chosen.to_dict()["optimization"]:
        settings["optimization.clip"] = 0.0
    chosen = chosen.with_settings({**settings, "batch_size": 1, "gradient_release": release})
    recipe = Watched(chosen, request["peer"])
    meter.importing_done()
    loaded = load_model(request["model"], dtype=request["dtype"], local_only=True)
    meter.loaded(touch(loaded.model))
    text = lesson(request["context"], request["targets"], seed=request["seed"])
    ends: list[float] = []
    states: list[tuple[int, int | None, int]] = []
    updates: list[float] = []

    def on_step(done: int, steps: int, loss: float) -> None:
        now = time.perf_counter()
        meter.step(now - (ends[-1] if ends else began))
        updates.append(recipe.watch.taken())
        states.append(state_of(recipe.built))
        ends.append(time.perf_counter())

    began = time.perf_counter()
    result = Learner(cast(Recipe, recipe)).run(
        loaded, text, anchors=anchors(), seed=request["seed"], on_step=on_step
    )
    alive, formula, numbers = max(states, key=lambda state: state[0])
    return {
        "gradient_release": release,
        "state_alive_bytes": alive,
        "state_formula_bytes": formula,
        "state_equal": None if formula is None else alive == formula,
        "numbers": numbers,
        "update_seconds": updates[1:],
        "losses": list(result.losses),
    }


if __name__ == "__main__":
    raise SystemExit(serve(work))
