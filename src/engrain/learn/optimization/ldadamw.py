"""LDAdamW: low-rank Adam whose space turns a little each step and takes its moments along.

Source: Robert et al., arXiv 2410.16103, algorithm 1. For a matrix W with gradient G, seen along its
smaller side m, the basis B0 of the step before, and t steps taken:

    G <- G + E
    D = blend B0^T M / (1 - beta1^t) + (1 - blend) G
    B: orthonormal rows that span D (D^T B0^T), one step of power iteration;    C = B B0^T
    R = B G;    E <- G - B^T R + beta1 / (1 - beta1) (B0^T M - B^T C M)
    M <- C M;    V <- | (1 - beta2^t) ((C C) (V / (1 - beta2^t) - M0^2) + M1^2) |
         with M0, M1 the bias-corrected M before and after, and products by entries
    W <- W - rate B^T (Adam's bias-corrected step for R) - rate weight_decay W.

The first B are singular vectors of G. D is never made: both its products follow from those of G.
The authors leave E in the gradient's own buffer, which clearing destroys and clipping cuts; here it
is state, in the weight's own type.

Memory: 8 rank n + 4 rank m + 4 bytes a matrix of larger side n, and E as large as the weight, which
is most of it; ``error`` off drops E. Time: six products of 2 m n rank operations a step, four
without E. Use it for small ranks, where a space that stands still for 200 steps loses most.

Not for full weights short of memory, unless E is dropped. In the comparison of DCT-AdamW (arXiv
2505.17967), 800M weights on C4: perplexity 13.91, AdamW of full rank 11.73. The source's own tables
were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.projected import Projected, ProjectedConfig
from engrain.learn.projectors import (
    along_smaller,
    choose_space,
    generator_of,
    orthonormal,
    turn_moments,
)
from engrain.learn.registry import register
from engrain.learn.technique import option


@dataclass(frozen=True)
class LDAdamWConfig(ProjectedConfig):
    """Hyper-parameters of LDAdamW."""

    beta1: float = option(0.908, "decay of the first moment", low=0.0, high=0.9999)
    beta2: float = option(0.99, "decay of the second moment", low=0.0, high=0.99999)
    rank: int = option(
        16, "dimensions of the space, at most a matrix's smaller side", low=1, high=8192
    )
    blend: float = option(0.908, "share of the mean gradient in the next space", low=0.0, high=1.0)
    error: bool = option(True, "feed back what the space left out")
    scale: float = option(1.0, "factor of a matrix's step", low=0.0)


@register("ldadamw")
class LDAdamW(Projected):
    """Low-rank steps with moments that are transported."""

    Config = LDAdamWConfig

    @property
    def projector(self) -> str:
        """What chooses the first space."""
        return "gram"

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments, the basis, and the error in the weight's own type."""
        state = super().state(name, parameter)
        if parameter.ndim == 2 and self.config.error:
            state["error"] = torch.zeros_like(parameter)
        return state

    def project(self, name: str, state: dict[str, Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
        """Turn the space, transport the moments; gives the basis and the gradient in it."""
        config, count = self.config, int(state["step"])
        if config.error:
            gradient += along_smaller(state["error"])
        before, mean, turn = state["basis"], state["exp_avg"], None
        if not count:
            choose_space("gram", state, gradient, generator_of(self._seed, self.name, name))
        else:
            weight = config.blend / (1 - config.beta1**count)
            probe = weight * mean + (1 - config.blend) * (before @ gradient)
            columns = (1 - config.blend) * (gradient @ probe.t())
            columns.addmm_(before.t(), mean @ probe.t(), alpha=weight)
            state["basis"] = orthonormal(columns)
            turn = state["basis"] @ before.t()
        basis = state["basis"]
        projected = basis @ gradient
        if config.error:
            share = config.beta1 / (1 - config.beta1)
            carried = projected if turn is None else projected + share * (turn @ mean)
            gradient.addmm_(basis.t(), carried, alpha=-1)
            if turn is not None:
                gradient.addmm_(before.t(), mean, alpha=share)
            along_smaller(state["error"]).copy_(gradient)
        if turn is not None:
            betas = (config.beta1, config.beta2)
            turn_moments(mean, state["exp_avg_sq"], turn, "transport", count, betas)
        return basis, projected

    def taken(self, name: str, state: dict[str, Tensor]) -> int:
        """All steps: transported moments forget none."""
        return int(state["step"])
