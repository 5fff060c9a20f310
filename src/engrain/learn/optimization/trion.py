"""Trion: Muon in the space of the cosine vectors that carry most of the momentum.

Source: Modoranu et al., arXiv 2505.17967 (version 3), algorithm 2. For a matrix W (m, n) with
gradient G, seen along its smaller side, and Q the orthonormal cosine transform of that side:

    D = M + G;    I: the ``rank`` rows of Q D with the largest l1 norms;    B = Q[I];    R = B D
    M <- D - (1 - momentum) B^T R
    W <- W - rate factor B^T orthogonal(R) - rate weight_decay W

with Muon's iteration and factors (``original``: sqrt(max(1, m / n)), the authors' first). Momentum
decays inside of the space only, so what a step left out stays for later ones. What has not two
dimensions takes AdamW's step at ``others`` times the rate, 3e-4 for the authors' 0.02.

Memory: 4 m n bytes a matrix, as Muon; I is chosen anew at each step and not kept. Time: a real
Fourier transform of D, two products of 2 m n rank operations more than momentum needs, and an
iteration on (rank, n) instead of (m, n), mostly thin and so in fp32: a tenth of Muon's. Use it
where Muon takes too long; not to save memory, and it costs quality.

In the source, perplexity on C4 at 350M, 800M and 1.3B weights with rank 256: 15.30, 12.22, 11.28;
Muon 14.99, 12.05, 11.13.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.optimization.adamw import AdamWConfig, adamw_step, moments
from engrain.learn.optimization.muon import ITERATIONS, orthogonal, shape_factor
from engrain.learn.projectors import along_smaller, cosine_indices, cosines
from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter


@dataclass(frozen=True)
class TrionConfig(AdamWConfig):
    """Hyper-parameters of Trion; the moments' are for AdamW's part."""

    learning_rate: float = option(2e-2, "peak step size", low=0.0, high=100.0)
    beta2: float = option(0.95, "decay of the second moment", low=0.0, high=0.99999)
    clip: float = option(0.0, "largest gradient norm; the step does not depend on it", low=0.0)
    momentum: float = option(0.95, "what a step leaves of the part it takes", low=0.0, high=1.0)
    rank: int = option(64, "dimensions of the space", low=1, high=8192)
    factor: str = option(
        "original", "how the step depends on the shape", choices=("match_rms", "original")
    )
    iteration: str = option(
        "auto", "number format of the iteration, as in Muon", choices=ITERATIONS
    )
    others: float = option(0.015, "rate of what is no matrix, as a share of the rate", low=0.0)


@register("trion")
class Trion(PerParameter):
    """Low-rank orthogonalised momentum."""

    Config = TrionConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The momentum of a matrix; AdamW's moments for anything else."""
        if parameter.ndim != 2:
            return moments(parameter)
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32)}

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of Trion on a matrix, of AdamW on anything else."""
        state, config = self._state[name], self.config
        if weight.ndim != 2:
            adamw_step(state, weight, gradient, rate * config.others, config)
            return
        if config.weight_decay:
            weight.mul_(1 - rate * config.weight_decay)
        held = along_smaller(state["momentum"].add_(gradient))
        small = len(held)
        basis = cosines(cosine_indices(held, min(config.rank, small)), small)
        low = basis @ held
        held.addmm_(basis.t(), low, alpha=config.momentum - 1)
        turned = orthogonal(low, config.iteration).float()
        factor = shape_factor(config.factor, weight.shape)
        along_smaller(weight).addmm_(basis.t(), turned, alpha=-rate * factor)
