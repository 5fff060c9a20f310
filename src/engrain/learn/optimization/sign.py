"""Sign: every number moves by the same amount, in the direction of its gradient's sign.

Source: signSGD and Signum, Bernstein et al., arXiv 1802.04434, algorithms 1 and 2:

    M <- momentum M + (1 - momentum) G,      W <- W - rate (sign(M) + weight_decay W).

The limit of Adam for beta1 = beta2 = 0, so layers whose gradients differ in size are served alike,
without a second moment. Memory: nothing without momentum, 4 bytes a number with it. Its noise does
not fall with the gradient, so the rate must: rates are 3 to 10 times below AdamW's.

Use it for full weights where no state fits, and not for long runs on small batches at a constant
rate. In the source the form with momentum is like Adam on ImageNet (abstract).
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
class SignConfig(UpdateConfig):
    """Hyper-parameters of the sign rule."""

    learning_rate: float = option(5e-4, "peak step size", low=0.0, high=100.0)
    clip: float = option(0.0, "largest gradient norm; signs have no use for it", low=0.0)
    momentum: float = option(0.0, "decay of the mean gradient; 0 keeps none", low=0, high=0.9999)


@register("sign")
class Sign(PerParameter):
    """signSGD, or Signum where there is momentum."""

    Config = SignConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The mean gradient, where there is momentum."""
        if not self.config.momentum:
            return {}
        return {"momentum": torch.zeros_like(parameter, dtype=torch.float32)}

    def one_pass(self, name: str, rate: float) -> Move | None:
        """Without momentum the weight and its gradient are all that is read."""
        keep = 1 - rate * self.config.weight_decay
        return None if self.config.momentum else Move("sign", rate, keep)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step by signs."""
        if self.config.weight_decay:
            weight.mul_(1 - rate * self.config.weight_decay)
        if self.config.momentum:
            gradient = self._state[name]["momentum"].lerp_(gradient, 1 - self.config.momentum)
        weight.add_(gradient.sign(), alpha=-rate)
