"""What optimizations that move one parameter at a time have in common.

Each parameter's step needs its own gradient alone, so it may be taken as soon as that gradient is
whole, inside backward: :class:`GradientRelease` does so, and only one layer's gradient is alive at
a time (Lv et al., arXiv 2306.09782). A rule that couples parameters, such as clipping by the norm
of all gradients, says so in :meth:`PerParameter.coupling`, and is refused there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.errors import ConfigError, DivergedError
from engrain.learn.rounding import MODES, round_into
from engrain.learn.technique import Optimization, Rule, Setting, option


@dataclass(frozen=True)
class UpdateConfig:
    """Hyper-parameters that all per-parameter optimizations take."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=100.0)
    weight_decay: float = option(0.0, "decoupled decay per step and learning rate", low=0.0)
    clip: float = option(1.0, "largest gradient norm; 0 switches it off", low=0.0)
    clip_scope: str = option(
        "all", "whose norm is clipped: of all gradients, or of each", choices=("all", "each")
    )
    warmup: float = option(0.1, "share of the steps over which the rate rises", low=0.0, high=1.0)
    final_fraction: float = option(0.05, "rate at the end as a share of the peak", low=0, high=1)
    rounding: str = option(
        "stochastic", "how results become bf16, where weights are bf16", choices=MODES
    )


class PerParameter(Optimization):
    """An optimization whose parameters move one by one; subclasses write :meth:`move`.

    A parameter's state is made when it first moves, so what never moves costs nothing, and
    :meth:`forget` gives it back.
    """

    def prepare(self, parameters: Mapping[str, nn.Parameter], setting: Setting) -> None:
        """Take the parameters."""
        self._parameters = dict(parameters)
        self._steps, self._seed = setting.steps, setting.seed
        self._state: dict[str, dict[str, Tensor]] = {}
        self._lost: dict[str, Tensor] = {}
        self._rules: tuple[Rule, ...] = ()
        self._correct = False

    def follow(self, rules: Sequence[Rule], setting: Setting) -> None:
        """Take the rules that every step is held to."""
        for rule in rules:
            rule.prepare(self._parameters, setting, self)
        self._rules = tuple(rules)
        self._correct = any(type(rule).moved is not Rule.moved for rule in rules)

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Fresh tensors that a parameter's steps need, fp32."""
        raise NotImplementedError

    def forget(self, name: str) -> None:
        """Drop the state of a parameter; its next step begins anew."""
        self._state.pop(name, None)
        self._lost.pop(name, None)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """Change an fp32 weight in place by its fp32 gradient, which may be overwritten."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: linear warm-up, then a cosine."""
        warm = max(1, round(self.config.warmup * self._steps))
        if step < warm:
            return float(self.config.learning_rate * (step + 1) / warm)
        done = (step - warm) / max(1, self._steps - warm)
        low = self.config.final_fraction
        shape = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))
        return float(self.config.learning_rate * shape)

    def coupling(self) -> str:
        """Why one parameter's step needs the gradients of others; "" where it does not."""
        if self.config.clip > 0 and self.config.clip_scope == "all":
            return "optimization.clip needs the norm of all gradients"
        return next(filter(None, (rule.coupling() for rule in self._rules)), "")

    def begin(self, step: int) -> None:
        """Let the rules choose; what does not move in this step takes no gradient."""
        for rule in self._rules:
            rule.begin(step)
        if self._rules:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(all(rule.moves(name, step) for rule in self._rules))

    def step(self, step: int) -> float:
        """Clip, move every parameter that has a gradient, clear."""
        if self.config.clip > 0 and self.config.clip_scope == "all":
            waiting = [p for p in self._parameters.values() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(waiting, self.config.clip)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.update(name, step)
        for rule in self._rules:
            rule.end(step)
        return self.rate(step)

    @torch.no_grad()
    def update(self, name: str, step: int) -> None:
        """Move one parameter by its gradient, and clear that.

        Raises:
            DivergedError: the gradient is not finite; the parameter and its state are as before.
        """
        parameter = self._parameters[name]
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad.float(), None
        # One sum tells, and before any state or weight has taken it in.
        if not math.isfinite(float(gradient.sum())):
            raise DivergedError(
                f"The gradient of {name} is not finite at step {step + 1}.",
                remedy="Lower optimization.learning_rate.",
            )
        if self.config.clip > 0 and self.config.clip_scope == "each":
            norm = float(torch.linalg.vector_norm(gradient))
            gradient = gradient * min(1.0, self.config.clip / (norm + 1e-6))
        weight, whole = parameter.data, parameter.data.float()
        if name not in self._state:
            self._state[name] = self.state(name, parameter)
        for rule in self._rules:
            gradient = rule.gradient(name, whole, gradient, step)
        before = whole.clone() if self._correct else whole
        self.move(name, whole, gradient, self.rate(step), step)
        for rule in self._rules:
            rule.moved(name, before, whole, step)
        if weight.dtype != torch.float32:
            self._round(name, weight, whole, step)

    def _round(self, name: str, weight: Tensor, whole: Tensor, step: int) -> None:
        if self.config.rounding == "kahan" and name not in self._lost:
            self._lost[name] = torch.zeros_like(weight)
        lost = self._lost.get(name, weight.new_empty(0))
        round_into(weight, whole, self.config.rounding, self._seed, name, step, lost=lost)

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Bytes that the state of these parameters takes."""
        found = 0
        for name, parameter in parameters.items():
            meta = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            found += sum(tensor.nbytes for tensor in self.state(name, meta).values())
            if parameter.dtype != torch.float32 and self.config.rounding == "kahan":
                found += parameter.nbytes
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The state of each parameter, under the parameter's name."""
        kept = {f"{n}.{key}": t for n, state in self._state.items() for key, t in state.items()}
        return kept | {f"{name}.lost": tensor for name, tensor in self._lost.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back in its own types."""
        self._state, self._lost = {}, {}
        for place, tensor in state.items():
            name, _, key = place.rpartition(".")
            if key == "lost":
                self._lost[name] = tensor.clone()
            else:
                self._state.setdefault(name, {})[key] = tensor.clone()


def follow(optimization: Optimization, rules: Sequence[Rule], setting: Setting) -> None:
    """Hold an optimization to rules.

    Raises:
        ConfigError: it moves its parameters together, so no rule can be asked about each.
    """
    if not rules:
        return
    if not isinstance(optimization, PerParameter):
        raise ConfigError(
            f"The optimization {optimization.name!r} can't be held to rules "
            f"({', '.join(rule.name for rule in rules)}): it moves its parameters together.",
            remedy="Choose one that extends engrain.learn.update.PerParameter, such as adamw.",
        )
    optimization.follow(rules, setting)


class GradientRelease:
    """Takes each parameter's step inside backward, as soon as its gradient is whole.

    Raises:
        ConfigError: the optimization moves parameters together.
    """

    def __init__(self, optimization: Optimization, parameters: Mapping[str, nn.Parameter]) -> None:
        why = (
            optimization.coupling()
            if isinstance(optimization, PerParameter)
            else "it moves its parameters together"
        )
        if why:
            raise ConfigError(
                f"The optimization {optimization.name!r} can't take its steps inside backward: "
                f"{why}.",
                remedy="Set optimization.clip_scope to each, or optimization.clip to 0; or "
                "gradient_release to false.",
            )
        assert isinstance(optimization, PerParameter)
        self._optimization = optimization
        self._parameters = parameters

    @contextmanager
    def hooked(self, step: Callable[[], int]) -> Iterator[None]:
        """Watch the gradients for a while; ``step`` tells which step a backward belongs to."""

        def on_gradient(name: str) -> None:
            self._optimization.update(name, step())

        handles = [
            parameter.register_post_accumulate_grad_hook(lambda _, n=name: on_gradient(n))
            for name, parameter in self._parameters.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
