"""APOLLO: the raw gradient, rescaled by factors that a small random projection of it yields.

Source: Zhu et al., arXiv 2412.05270, algorithm 1. For a matrix W with gradient G, m its smaller
and n its larger side, and a random P of shape (rank, m), entries N(0, 1 / rank):

    R = P G along the smaller side, (rank, n);    M, V: Adam's moments of R alone;
    N = M / (sqrt(V) + epsilon)
    channel:  s_j = |N_j| / |R_j| for each index j of the larger side
    tensor:   s = |N| / |R|                                          (APOLLO-Mini, with rank 1)
    S = s G, held to |S_t| <= limiter |S_(t-1)|
    W <- W - rate sqrt(1 - beta2^t) / (1 - beta1^t) sqrt(scale) S - rate weight_decay W.

P is drawn anew every ``refresh`` steps from a seed that the run's seed, the parameter's name and
the number of the draw give; it is never stored. What has not two dimensions takes AdamW's step.
``scale`` makes up for the projection, which shrinks factors by sqrt(rank / m): m / rank restores
AdamW's step size (equation 9), and 0 stands for it.

Memory: 8 n rank + 8 bytes a matrix (moments, last norm, step count), against AdamW's 8 m n. The
source's 2 n rank + 2 numbers hold its seed, which names give here, and no step count. That is each
parameter's own: rules drop the state of some and let others rest, so no step of the run tells how
many its moments have seen. Time: one product with P a step. The update has full rank; only its
factors are coarse. Use it for full weights whose AdamW state does not fit, not where it does. Buys
memory, not quality or time: in the one comparison with tuned baselines full-rank AdamW is better
(arXiv 2505.22922).

In the source (pre-training, rank a quarter of m), perplexity on C4 at 60M, 130M, 350M and 1B
weights: 31.55, 22.94, 16.85, 14.20; Adam of full rank 34.06, 25.08, 18.80, 15.56, not tuned.
Fine-tuning of 1B weights on eight tasks of common sense: 68.21, AdamW 68.07.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.optimization.adamw import AdamWConfig, adamw_step, moments
from engrain.learn.passes import Move
from engrain.learn.projected import growth_factor
from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter

TINY = 1e-8


@dataclass(frozen=True)
class ApolloConfig(AdamWConfig):
    """Hyper-parameters of APOLLO; APOLLO-Mini is rank 1 with the granularity ``tensor``."""

    learning_rate: float = option(1e-3, "peak step size", low=0.0, high=100.0)
    beta2: float = option(0.999, "decay of the second moment", low=0.0, high=0.99999)
    epsilon: float = option(1e-6, "added to the root of the second moment", low=0.0)
    clip: float = option(0.0, "largest gradient norm; the limiter does its work", low=0.0)
    rank: int = option(
        64, "rows of the projection, at most a matrix's smaller side", low=1, high=4096
    )
    granularity: str = option(
        "channel", "one factor for each channel or each tensor", choices=("channel", "tensor")
    )
    scale: float = option(0.0, "square of the step's factor; 0 takes m / rank", low=0.0)
    refresh: int = option(200, "steps after which the projection is drawn anew", low=1)
    limiter: float = option(1.01, "most growth of the step's norm; 0 switches it off", low=0.0)


@register("apollo")
class Apollo(PerParameter):
    """Gradient scaling with factors from a random low-rank space."""

    Config = ApolloConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments of the projected gradient, the last norm and the step count."""
        if parameter.ndim != 2:
            return moments(parameter)
        small, large = sorted(parameter.shape)
        projected = parameter.new_empty(min(self.config.rank, small), large)
        return {**moments(projected), "norm": torch.zeros((), dtype=torch.float32)}

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of APOLLO on a matrix, of AdamW on anything else."""
        state = self._state[name]
        if weight.ndim != 2:
            adamw_step(state, weight, gradient, rate, self.config)
            return
        if self.config.weight_decay:
            weight.mul_(1 - rate * self.config.weight_decay)
        if self.config.granularity == "tensor":
            weight.add_(gradient, alpha=-rate * self._multiple(name, state, gradient))
            return
        turned = _turned(gradient)
        scaled = turned.mul_(self._factors(name, state, turned))
        held = growth_factor(state, torch.linalg.vector_norm(scaled), self.config.limiter)
        if held is not None:
            scaled.mul_(held)
        _turned(weight).add_(scaled, alpha=-rate * self._scale(state, turned))

    def as_multiple(self, name: str, gradient: Tensor, rate: float) -> Move | None:
        """With one factor for a whole matrix the step is a multiple of the gradient."""
        if gradient.ndim != 2 or self.config.granularity != "tensor":
            return None
        multiple = self._multiple(name, self._state[name], gradient)
        return Move("sgd", rate * multiple, 1 - rate * self.config.weight_decay)

    def _multiple(self, name: str, state: dict[str, Tensor], gradient: Tensor) -> float:
        """What the gradient of a matrix is multiplied with, the rate left out."""
        turned = _turned(gradient)
        factor = self._factors(name, state, turned)
        norm = torch.linalg.vector_norm(gradient) * factor
        held = growth_factor(state, norm, self.config.limiter)
        if held is not None:
            factor = factor * held
        return float(factor) * self._scale(state, turned)

    def _scale(self, state: dict[str, Tensor], turned: Tensor) -> float:
        """The correction of the moments' start, and what the rank leaves out."""
        count = int(state["step"])
        correction = math.sqrt(1 - self.config.beta2**count) / (1 - self.config.beta1**count)
        scale = self.config.scale or len(turned) / len(state["exp_avg"])
        return float(correction * math.sqrt(scale))

    def projection(self, name: str, rank: int, side: int, draw: int) -> Tensor:
        """The random matrix ``(rank, side)`` of a parameter's ``draw``-th refresh."""
        generator = torch.Generator()
        seed = random.Random(f"{self._seed}:apollo:{name}:{draw}")
        generator.manual_seed(seed.getrandbits(62))
        return torch.randn(rank, side, generator=generator) / math.sqrt(rank)

    def _factors(self, name: str, state: dict[str, Tensor], gradient: Tensor) -> Tensor:
        """How much each channel ``(1, n)``, or the whole matrix ``()``, is scaled."""
        count = int(state["step"])
        rank = len(state["exp_avg"])
        projection = self.projection(name, rank, len(gradient), count // self.config.refresh)
        projected = projection.to(gradient.device) @ gradient
        state["step"] += 1
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(projected, 1 - self.config.beta1)
        second.mul_(self.config.beta2).addcmul_(projected, projected, value=1 - self.config.beta2)
        adapted = first / (second.sqrt() + self.config.epsilon)
        if self.config.granularity == "tensor":
            return _norm(adapted) / (_norm(projected) + TINY)
        return _norm(adapted, 0) / (_norm(projected, 0) + TINY)


def _turned(matrix: Tensor) -> Tensor:
    """A matrix along its smaller side; a square one is projected from the right."""
    return matrix if matrix.shape[0] < matrix.shape[1] else matrix.t()


def _norm(tensor: Tensor, side: int | None = None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=side, keepdim=side is not None)
    return norm
