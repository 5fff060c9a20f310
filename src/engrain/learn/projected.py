"""Adam in a low-dimensional space of each matrix's gradient: what a family of methods shares.

Methods of this family differ in four choices, and a technique is a set of them:

    projector     how the space is chosen (:mod:`engrain.learn.projectors`);
    residual      what becomes of the gradient outside of it: dropped, scaled, fed back;
    apply         the step is taken in the space, or scales the gradient itself;
    on refresh    what becomes of the moments when the space changes: kept, reset, rotated,
                  transported.

For a matrix W with gradient G, seen along its smaller side, and a basis B of rank r:

    R = B G;    A: Adam's bias-corrected step for R;    W <- W - rate scale B^T A

is the plainest of them; :meth:`Projected.project` and :meth:`Projected.apply` are what others
replace. The space is chosen anew every ``refresh`` steps of the parameter, at a phase that its name
gives, so that the cost of it is spread over the steps; the first step always chooses. Decay comes
before the step, as in torch. What has not two dimensions takes AdamW's step. A rank above the
smaller side is held to it, where nothing is saved.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from engrain.learn.blockwise import packed_moments, unpacked_moments
from engrain.learn.optimization.adamw import AdamWConfig, adamw_step, moments
from engrain.learn.projectors import (
    KINDS,
    SPACE,
    along_smaller,
    basis_of,
    choose_space,
    generator_of,
    new_space,
    overlap,
    turn_moments,
)
from engrain.learn.technique import option
from engrain.learn.update import PerParameter

ON_REFRESH = ("keep", "reset", "rotate", "transport")


@dataclass(frozen=True)
class ProjectedConfig(AdamWConfig):
    """Hyper-parameters that all projected optimizations take."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=100.0)
    beta2: float = option(0.999, "decay of the second moment", low=0.0, high=0.99999)
    clip: float = option(0.0, "largest gradient norm; 0 switches it off", low=0.0)
    rank: int = option(
        64, "dimensions of the space, at most a matrix's smaller side", low=1, high=8192
    )


@dataclass(frozen=True)
class RefreshedConfig(ProjectedConfig):
    """Hyper-parameters of those whose space is chosen anew from time to time."""

    projector: str = option("gram", "how the space is chosen", choices=KINDS)
    refresh: int = option(200, "steps after which the space is chosen anew", low=1)
    on_refresh: str = option("keep", "what becomes of the moments when it is", choices=ON_REFRESH)
    scale: float = option(1.0, "factor of a matrix's step", low=0.0)


@dataclass(frozen=True)
class Seen:
    """A matrix's gradient, its part in the space, and what Adam makes of that."""

    gradient: Tensor
    """``(small, large)``; may be overwritten."""
    basis: Tensor
    """``(rank, small)``, orthonormal rows."""
    projected: Tensor
    """``(rank, large)``."""
    adapted: Tensor
    """``(rank, large)``: Adam's bias-corrected step."""
    count: int
    """Steps that the moments remember, this one included."""


class Refreshed(PerParameter):
    """An optimization that chooses something anew every ``refresh`` steps of a parameter."""

    def phase(self, name: str) -> int:
        """By how many steps a parameter's refreshes come earlier than at multiples."""
        return random.Random(f"phase:{name}").randrange(self.config.refresh)

    def due(self, name: str, count: int) -> bool:
        """Whether a parameter that has taken ``count`` steps chooses anew now."""
        return count == 0 or (count + self.phase(name)) % int(self.config.refresh) == 0

    def draw(self, name: str, count: int) -> int:
        """The number of the choice that a parameter uses after ``count`` steps."""
        return (count + self.phase(name)) // int(self.config.refresh)

    def since(self, name: str, count: int) -> int:
        """Steps of a parameter since what it uses was chosen."""
        return min(count, (count + self.phase(name)) % int(self.config.refresh))


class Projected(Refreshed):
    """An optimization whose moments live in a space of low dimension."""

    eight_bit: ClassVar[bool] = False
    """Whether moments are kept in 8 bits (:mod:`engrain.learn.blockwise`)."""

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments of the projected gradient and the space; AdamW's for what is no matrix."""
        if parameter.ndim != 2:
            return moments(parameter)
        fresh = packed_moments if self.eight_bit else moments
        small, large = sorted(parameter.shape)
        rank = min(self.config.rank, small)
        low = torch.empty(rank, large, device=parameter.device)
        return {**fresh(low), **new_space(self.projector, rank, small, parameter)}

    @property
    def projector(self) -> str:
        """How the space is chosen."""
        return str(self.config.projector)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step in the space of a matrix, of AdamW on anything else."""
        state, config = self._state[name], self.config
        if weight.ndim != 2:
            adamw_step(state, weight, gradient, rate, config)
            return
        if config.weight_decay:
            weight.mul_(1 - rate * config.weight_decay)
        target, turned = along_smaller(weight), along_smaller(gradient)
        basis, projected = self.project(name, state, turned)
        taken = self.taken(name, state)
        adapted = self.adapt(state, projected, taken)
        self.apply(state, target, Seen(turned, basis, projected, adapted, taken + 1), rate)

    def project(self, name: str, state: dict[str, Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
        """The basis ``(rank, small)`` and the gradient in it ``(rank, large)``."""
        if self.due(name, int(state["step"])):
            self._refresh(name, state, gradient)
        basis = basis_of(state, len(gradient))
        return basis, basis @ gradient

    def adapt(self, state: dict[str, Tensor], projected: Tensor, taken: int) -> Tensor:
        """Adam's bias-corrected step ``(rank, large)`` after ``taken`` earlier ones."""
        adapted = torch.zeros_like(projected)
        with unpacked_moments(state) as (first, second):
            adam(
                [adapted],
                [projected],
                [first.view_as(projected)],
                [second.view_as(projected)],
                [],
                [torch.full_like(state["step"], taken)],
                fused=True,
                amsgrad=False,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                lr=-1.0,
                weight_decay=0.0,
                eps=self.epsilon(taken + 1),
                maximize=False,
            )
        state["step"] += 1
        return adapted

    def epsilon(self, count: int) -> float:
        """What is added to the root of the bias-corrected second moment."""
        return float(self.config.epsilon)

    def apply(self, state: dict[str, Tensor], target: Tensor, seen: Seen, rate: float) -> None:
        """Change the weight ``(small, large)`` in place."""
        target.addmm_(seen.basis.t(), seen.adapted, alpha=-rate * self.config.scale)

    def taken(self, name: str, state: dict[str, Tensor]) -> int:
        """The steps that the moments remember."""
        count = int(state["step"])
        if self.config.on_refresh != "reset":
            return count
        return self.since(name, count)

    def _refresh(self, name: str, state: dict[str, Tensor], gradient: Tensor) -> None:
        before = {key: state[key] for key in SPACE if key in state}
        count, how = int(state["step"]), self.config.on_refresh
        seeded = generator_of(self._seed, self.name, name, self.draw(name, count))
        choose_space(self.projector, state, gradient, seeded)
        if not count or how == "keep":
            return
        rank, large = len(next(iter(before.values()))), gradient.shape[1]
        with unpacked_moments(state) as (first, second):
            if how == "reset":
                first.zero_(), second.zero_()
            else:
                betas = (self.config.beta1, self.config.beta2)
                first, second = first.view(rank, large), second.view(rank, large)
                turn_moments(first, second, overlap(state, before), how, count, betas)


def growth_factor(state: dict[str, Tensor], norm: Tensor, limiter: float) -> Tensor | None:
    """What holds a norm to ``limiter`` times the last one; None where nothing does."""
    most, factor = limiter * state["norm"], None
    if limiter and float(state["norm"]) > 0 and float(norm) > float(most):
        factor, norm = most / norm, most
    state["norm"] = norm.clone()
    return factor
