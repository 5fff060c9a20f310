"""SGD: the gradient itself is the step; the least memory there is.

Source: Robbins and Monro (1951); momentum as in Polyak (1964); inside backward as in LOMO (Lv et
al., arXiv 2306.09782). For a weight W with gradient G:

    M <- momentum M + G,      W <- W - rate (M + weight_decay W).

Memory: nothing without momentum, 4 bytes for each trained number with it. A language model's layers
have gradients of very different size, which one rate can't serve: use it where memory rules out
all else, with ``clip_scope`` each, and prefer ``sign`` or ``apollo``.

In LOMO's abstract the memory of training falls to 10.8% of the usual, and a 65B model is fine-tuned
on eight cards of 24 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.passes import Move
from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter, UpdateConfig


@dataclass(frozen=True)
class SgdConfig(UpdateConfig):
    """Hyper-parameters of SGD."""

    learning_rate: float = option(3e-1, "peak step size", low=0.0, high=100.0)
    momentum: float = option(0.0, "decay of the sum of gradients; 0 keeps none", low=0, high=0.9999)


@register("sgd")
class Sgd(PerParameter):
    """Stochastic gradient descent, with momentum if wanted."""

    Config = SgdConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The sum of gradients, where there is momentum."""
        if not self.config.momentum:
            return {}
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32)}

    def one_pass(self, name: str, rate: float) -> Move | None:
        """Without momentum the weight and its gradient are all that is read."""
        keep = 1 - rate * self.config.weight_decay
        return None if self.config.momentum else Move("sgd", rate, keep)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step down the gradient."""
        if self.config.weight_decay:
            weight.mul_(1 - rate * self.config.weight_decay)
        if self.config.momentum:
            gradient = self._state[name]["momentum"].mul_(self.config.momentum).add_(gradient)
        weight.add_(gradient, alpha=-rate)
