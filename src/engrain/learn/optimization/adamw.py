"""AdamW: the field's default, torch's fused implementation.

Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2. Two fp32 moments for every trained
number, decay applied to the weight and not to the gradient. The learning rate warms up linearly,
then falls along a cosine to ``final_fraction`` of its peak; the global gradient norm is clipped.

Memory: 8 bytes for each trained number. No memory-efficient optimizer beats it where it fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Setting, option


@dataclass(frozen=True)
class AdamWConfig:
    """Hyper-parameters of AdamW."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=1.0)
    beta1: float = option(0.9, "decay of the first moment", low=0.0, high=0.9999)
    beta2: float = option(0.99, "decay of the second moment", low=0.0, high=0.99999)
    epsilon: float = option(1e-8, "added to the root of the second moment", low=0.0)
    weight_decay: float = option(0.0, "decoupled decay per step and learning rate", low=0.0)
    clip: float = option(1.0, "largest global gradient norm; 0 switches it off", low=0.0)
    warmup: float = option(0.1, "share of the steps over which the rate rises", low=0.0, high=1.0)
    final_fraction: float = option(0.05, "rate at the end as a share of the peak", low=0, high=1)


@register("adamw")
class AdamW(Optimization):
    """Fused AdamW with warm-up, cosine and clipping."""

    Config = AdamWConfig

    def prepare(self, parameters: Mapping[str, nn.Parameter], setting: Setting) -> None:
        """Make moments for these parameters."""
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        self._steps = setting.steps
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=self.config.learning_rate,
            betas=(self.config.beta1, self.config.beta2),
            eps=self.config.epsilon,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = max(1, round(self.config.warmup * self._steps))
        if step < warm:
            return float(self.config.learning_rate * (step + 1) / warm)
        done = (step - warm) / max(1, self._steps - warm)
        low = self.config.final_fraction
        shape = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))
        return float(self.config.learning_rate * shape)

    def step(self, step: int) -> float:
        """Clip, move, clear."""
        if self.config.clip > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        rate = self.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return rate

    def state_dict(self) -> dict[str, Tensor]:
        """Both moments and the step count of each parameter, under the parameter's name."""
        return {
            f"{name}.{key}": value
            for name, parameter in zip(self._names, self._parameters, strict=True)
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take moments and step counts back in fp32."""
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if f"{name}.step" in state:
                self._optimizer.state[parameter] = {
                    key: state[f"{name}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
                }
