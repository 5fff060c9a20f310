"""Adafactor: the second moment of each matrix from its row and column means, and no first one.

Source: Shazeer and Stern, arXiv 1804.04235, algorithm 4, with the parameters of section 9. For a
matrix W (m, n) with gradient G, at step t:

    beta = 1 - t^decay                                                     (decay -0.8)
    R <- beta R + (1 - beta) mean over columns of G^2;    C likewise over rows;    (+ 1e-30)
    U = G / sqrt(R C / mean(R));    U <- U / max(1, rms(U) / threshold)
    W <- W - rate max(1e-3, rms(W)) U - rate weight_decay W        (``relative`` off: - rate U)

The root is a product of one factor for each row and one for each column, so no matrix is made. A
vector keeps its whole second moment. The paper lets the rate fall as 1 / sqrt(t); here the schedule
of all optimizations does that.

Memory: 4 (m + n) + 4 bytes a matrix. Time: eight passes over G. The least state of all rules that
treat rows and columns apart; without a first moment it follows single batches, so use it with large
ones and not for single examples. For fine-tuning a model with small weights mind the relative step.

In the source, results like Adam's on translation from English to German (WMT 2014; abstract).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter, UpdateConfig

TINY = 1e-30
LEAST = 1e-3
"""The root mean square that a weight is taken to have at least."""


@dataclass(frozen=True)
class AdafactorConfig(UpdateConfig):
    """Hyper-parameters of Adafactor."""

    learning_rate: float = option(1e-2, "peak step, relative to the weight", low=0.0, high=100.0)
    clip: float = option(0.0, "largest gradient norm; the threshold does its work", low=0.0)
    decay: float = option(-0.8, "power of the step by which old squares fade", low=-1.0, high=0.0)
    threshold: float = option(1.0, "largest root mean square of a step", low=1e-6)
    relative: bool = option(True, "steps are shares of the weight's root mean square")


@register("adafactor")
class Adafactor(PerParameter):
    """A factored second moment."""

    Config = AdafactorConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Means over columns and rows of a matrix, or all squares; how many steps were taken."""
        state = {"step": parameter.new_zeros((), dtype=torch.float32)}
        if parameter.ndim != 2:
            return {**state, "squares": torch.zeros_like(parameter, dtype=torch.float32)}
        rows, columns = parameter.shape
        return {
            **state,
            "rows": parameter.new_zeros((rows, 1), dtype=torch.float32),
            "columns": parameter.new_zeros(columns, dtype=torch.float32),
        }

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of Adafactor."""
        state, config = self._state[name], self.config
        state["step"] += 1
        share = float(state["step"]) ** config.decay
        if config.relative:
            rate_here = rate * max(LEAST, _rms(weight))
        else:
            rate_here = rate
        if "squares" in state:
            state["squares"].lerp_(gradient.square().add_(TINY), share)
            gradient.mul_(state["squares"].rsqrt())
        else:
            rows, columns = _means(gradient)
            rows = state["rows"].lerp_(rows.add_(TINY), share)
            columns = state["columns"].lerp_(columns.add_(TINY), share)
            gradient.mul_((rows / rows.mean()).rsqrt_()).mul_(columns.rsqrt())
        if config.weight_decay:
            weight.mul_(1 - rate * config.weight_decay)
        most = max(1.0, _rms(gradient) / config.threshold)
        weight.add_(gradient, alpha=-rate_here / most)


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) / math.sqrt(tensor.numel())


def _means(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares of the rows ``(m, 1)`` and of the columns ``(n,)``, some rows at a time."""
    rows, columns = [], gradient.new_zeros(gradient.shape[1])
    for part in gradient.split(64):
        squares = part.square()
        rows.append(squares.mean(1, keepdim=True))
        columns += squares.sum(0)
    return torch.cat(rows), columns / len(gradient)
