"""Fira: GaLore's step, and the gradient outside of its space scaled as Adam scaled the inside.

Source: Chen et al., arXiv 2410.01623, equations 6 to 9 and algorithm 1. With GaLore's basis B,
projected gradient R = B G of (rank, n) and Adam's N = M / (sqrt(V) + epsilon):

    channel:  f_j = |N_j| / |R_j| for each index j of the larger side;    tensor:  f = |N| / |R|
    S = f (G - B^T R), held to |S_t| <= limiter |S_(t-1)|
    W <- W - rate sqrt(1 - beta2^t) / (1 - beta1^t) scale (B^T N + S) - rate weight_decay W.

This is the paper's form: the released code multiplies the part that is subtracted from G by
``scale``, so that its residual still holds most of the space. The residual is never made: it is
orthogonal to the space, so its norms follow from those of G and R, and the step is
B^T (N - f R) + f G. After a step without residual the limiter begins anew.

Memory: GaLore's and 4 bytes, 4 (rank m + 2 rank n) + 8 a matrix of smaller side m and larger side
n. Time: GaLore's and three passes over G. The step has full rank. Use it instead of GaLore where
the limiter's 1 % a step is no lock, so not for lessons of a few steps whose first gradient is
small.

In the source (pre-training), perplexity on C4 at 60M, 130M, 350M and 1B weights: 31.06, 22.73,
16.85, 14.31; Adam of full rank 34.06, 25.08, 18.80, 15.56; without the limiter 32.22 at 60M. With a
tuned AdamW at 1B 15.10 against its 13.97 (arXiv 2505.22922).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.optimization.galore import Galore, GaloreConfig
from engrain.learn.projected import Seen, growth_factor
from engrain.learn.registry import register
from engrain.learn.technique import option

TINY = 1e-8
ROUNDING = 1e-6
"""A share of a column's energy below which a difference of two energies is rounding alone."""


@dataclass(frozen=True)
class FiraConfig(GaloreConfig):
    """Hyper-parameters of Fira."""

    granularity: str = option(
        "channel", "one factor for each channel or each tensor", choices=("channel", "tensor")
    )
    limiter: float = option(1.01, "most growth of the residual's norm; 0 for any", low=0.0)


@register("fira")
class Fira(Galore):
    """Low-rank steps and a scaled residual."""

    Config = FiraConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """GaLore's state and the last norm of the residual."""
        state = super().state(name, parameter)
        if parameter.ndim == 2:
            state["norm"] = parameter.new_zeros((), dtype=torch.float32)
        return state

    def apply(self, state: dict[str, Tensor], target: Tensor, seen: Seen, rate: float) -> None:
        """Change the weight ``(small, large)`` by both parts."""
        config, side = self.config, 0 if self.config.granularity == "channel" else (0, 1)
        projected, adapted = seen.projected, seen.adapted
        inside = torch.linalg.vector_norm(projected, dim=side, keepdim=True)
        factors = torch.linalg.vector_norm(adapted, dim=side, keepdim=True) / (inside + TINY)
        whole = _energy(seen.gradient)
        outside = whole - projected.square().sum(0)
        outside = torch.where(outside < ROUNDING * whole, 0.0, outside)
        # The limiter looks at the residual without the correction of Adam's bias.
        correction = math.sqrt(1 - config.beta2**seen.count) / (1 - config.beta1**seen.count)
        norm = (outside * factors.square()).sum().sqrt() / correction
        held = growth_factor(state, norm, config.limiter)
        if held is not None:
            factors *= held
        target.addmm_(seen.basis.t(), adapted - factors * projected, alpha=-rate * config.scale)
        target.addcmul_(seen.gradient, factors, value=-rate * config.scale)


def _energy(gradient: Tensor) -> Tensor:
    """Sum of squares of each column ``(large,)``, some rows at a time."""
    energy = gradient.new_zeros(gradient.shape[1])
    for rows in gradient.split(64):
        energy += rows.square().sum(0)
    return energy
