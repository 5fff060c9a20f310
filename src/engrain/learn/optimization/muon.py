"""Muon: the mean gradient of each matrix with all its singular values drawn to about 1.

Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; Liu et al., arXiv
2502.16982, section 2, for the factor of the step. For a matrix W (m, n) with gradient G:

    M <- momentum M + (1 - momentum) G;    D = momentum M + (1 - momentum) G where ``nesterov``
    X0 = D / |D|;    X <- a X + (b X X^T + c (X X^T)^2) X, five times, a, b, c of the source
    W <- W - rate factor X - rate weight_decay W

    factor:  match_rms  0.2 sqrt(max(m, n)): AdamW's step size, so AdamW's rates (2502.16982);
             original   sqrt(max(1, m / n))

In fp32 a matrix of sides k, l > 1.5 k is iterated on its Gram matrix: all factors are polynomials
of X0 X0^T, so they are multiplied among themselves and with X0 once at the end. Not in bf16 (what
the source iterates in), where the rounding of large singular values covers small ones, and the
factors blow it up; as written above they stay where fp32 has them. ``iteration`` auto is bf16 where
training computes in bf16 and l <= 4 k, else fp32. What has not two dimensions takes AdamW's step at
``others`` times the rate.

Memory: 4 m n bytes. Time: 20 k^2 l + 10 k^3 operations, by the Gram matrix 4 k^2 l + 34 k^3: tens
of times AdamW's pass, and nearly all of it matrix products. Gram matrices in bf16 that are made
anew after 2 and 4 turns would save little, at a larger error. It pays where a step sees many
tokens. Not for embeddings. Decay is 0 by default and not the authors' 0.1, since here weights that
know something are trained.

In 2502.16982, Muon needs about half of AdamW's operations for the same loss (abstract).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.optimization.adamw import AdamWConfig, adamw_step, moments
from engrain.learn.projectors import along_smaller
from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter
from engrain.model.hardware import AUTO, COMPUTE_TYPES, compute_type

A, B, C = 3.4445, -4.7750, 2.0315
"""Jordan's coefficients: values between 0 and 1 end between 0.7 and 1.2."""
STEPS = 5
TINY = 1e-7
THIN = 4
"""Larger side over smaller above which fp32 by the Gram matrix is faster than bf16."""
ITERATIONS = (AUTO, *COMPUTE_TYPES)


@dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Hyper-parameters of Muon; the moments' are for AdamW's part."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=100.0)
    clip: float = option(0.0, "largest gradient norm; the step does not depend on it", low=0.0)
    momentum: float = option(0.95, "decay of the mean gradient", low=0.0, high=0.9999)
    nesterov: bool = option(True, "look one step of the mean ahead")
    factor: str = option(
        "match_rms", "how the step depends on the shape", choices=("match_rms", "original")
    )
    iteration: str = option(
        "auto", "number format; auto: bf16 where that is in hardware and faster", choices=ITERATIONS
    )
    others: float = option(1.0, "rate of what is no matrix, as a share of the rate", low=0.0)


@register("muon")
class Muon(PerParameter):
    """Orthogonalised momentum."""

    Config = MuonConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The mean gradient of a matrix; AdamW's moments for anything else."""
        if parameter.ndim != 2:
            return moments(parameter)
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32)}

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of Muon on a matrix, of AdamW on anything else."""
        state, config = self._state[name], self.config
        if weight.ndim != 2:
            adamw_step(state, weight, gradient, rate * config.others, config)
            return
        mean = state["momentum"].lerp_(gradient, 1 - config.momentum)
        ahead = gradient.lerp_(mean, config.momentum) if config.nesterov else mean
        if config.weight_decay:
            weight.mul_(1 - rate * config.weight_decay)
        turned = orthogonal(along_smaller(ahead), config.iteration)
        factor = shape_factor(config.factor, weight.shape)
        along_smaller(weight).add_(turned, alpha=-rate * factor)


def orthogonal(matrix: Tensor, iteration: str = AUTO) -> Tensor:
    """The matrix ``(small, large)`` with singular values near 1, in the type of the iteration."""
    small, large = matrix.shape
    if iteration == AUTO:
        iteration = compute_type() if large <= THIN * small else "float32"
    normed = matrix / (torch.linalg.vector_norm(matrix) + TINY)
    if iteration == "float32" and 2 * large > 3 * small:
        return _by_gram(normed)
    found: Tensor = normed.to(getattr(torch, iteration))
    for _ in range(STEPS):
        gram = found @ found.t()
        found = torch.addmm(found, _quadratic(gram), found, beta=A)
    return found


def _by_gram(source: Tensor) -> Tensor:
    """With P_i = a + b A_i + c A_i^2 and A_(i+1) = P_i A_i P_i, which commute: (P_5 ... P_1) X."""
    gram, product = source @ source.t(), None
    for left in reversed(range(STEPS)):
        turn = _quadratic(gram)
        turn.diagonal().add_(A)
        product = turn if product is None else turn @ product
        if left:
            gram = turn @ gram @ turn
    assert product is not None
    return product @ source


def _quadratic(gram: Tensor) -> Tensor:
    """The two products b A + c A^2 of a turn, rounded once."""
    return torch.addmm(gram, gram, gram, beta=B, alpha=C)


def shape_factor(kind: str, shape: torch.Size) -> float:
    """What the step of a matrix ``(m, n)`` is multiplied by."""
    rows, columns = shape
    if kind == "match_rms":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))
