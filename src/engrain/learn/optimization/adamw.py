"""AdamW: the field's default, torch's fused implementation.

Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2. Two fp32 moments for every trained
number, decay applied to the weight and not to the gradient. The learning rate warms up linearly,
then falls along a cosine to ``final_fraction`` of its peak; the global gradient norm is clipped.

Memory: 8 bytes for each trained number. No memory-efficient optimizer beats it where it fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from engrain.learn.passes import Move
from engrain.learn.registry import register
from engrain.learn.technique import option
from engrain.learn.update import PerParameter, UpdateConfig


@dataclass(frozen=True)
class AdamWConfig(UpdateConfig):
    """Hyper-parameters of AdamW."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=1.0)
    beta1: float = option(0.9, "decay of the first moment", low=0.0, high=0.9999)
    beta2: float = option(0.99, "decay of the second moment", low=0.0, high=0.99999)
    epsilon: float = option(1e-8, "added to the root of the second moment", low=0.0)


@register("adamw")
class AdamW(PerParameter):
    """Fused AdamW with warm-up, cosine and clipping."""

    Config = AdamWConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Both moments, and how many steps were taken."""
        return moments(parameter)

    def one_pass(self, name: str, rate: float) -> Move | None:
        """Weight, gradient and both moments are read once."""
        state, config = self._state[name], self.config
        count = float(state["step"]) + 1
        return Move(
            "adamw",
            rate,
            1 - rate * config.weight_decay,
            config.beta1,
            config.beta2,
            config.epsilon,
            1 - config.beta1**count,
            math.sqrt(1 - config.beta2**count),
            state["exp_avg"],
            state["exp_avg_sq"],
        )

    def passed(self, name: str) -> None:
        """Count the step."""
        self._state[name]["step"] += 1

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of AdamW."""
        adamw_step(self._state[name], weight, gradient, rate, self.config)


def moments(parameter: Tensor) -> dict[str, Tensor]:
    """Fresh fp32 moments of a parameter and its step count."""
    zeros = {"exp_avg": 0, "exp_avg_sq": 0}
    state = {key: torch.zeros_like(parameter, dtype=torch.float32) for key in zeros}
    return {"step": torch.zeros((), dtype=torch.float32), **state}


def adamw_step(
    state: dict[str, Tensor], weight: Tensor, gradient: Tensor, rate: float, config: AdamWConfig
) -> None:
    """Move an fp32 weight by AdamW's rule, in place."""
    adam(
        [weight],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        fused=True,
        amsgrad=False,
        beta1=config.beta1,
        beta2=config.beta2,
        lr=rate,
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        maximize=False,
        decoupled_weight_decay=True,
    )
