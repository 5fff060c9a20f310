"""Trust region of the weights: no parameter moves further than a share of its own norm.

Source: the trust ratio |W| / |step| of LARS (You et al., arXiv 1708.03888, equation 6) and LAMB
(You et al., arXiv 1904.00962, algorithm 2), used as a bound. Those scale every step to the ratio;
here a step that stays inside is left as it is, which is LARC's reading. For each parameter W with
centre C, its value before the lesson (``lesson``) or before the step (``step``):

    if |W - C| > share |C|:    W <- C + share |C| (W - C) / |W - C|        (Frobenius norms),

the nearest point of the ball. With ``lesson`` it bounds what a lesson may change at all: the
change of a layer's output is at most ``share`` of |C| |x|. With ``step`` it only stops outliers.
Weights of bf16 are rounded after that, by less than a 128th of each number.

Memory: one copy of each parameter that moves with ``lesson``, none with ``step``. Time: two norms
a parameter and step. Each parameter is held by itself, so steps may be taken inside backward. A
parameter that starts at zero, as LoRA's B does, has no norm to go by and is not held: for whole
weights. It knows nothing of what a change does; ``trust_predictions`` measures that.

Use it where a bound must cost no forward, not with LoRA. There are no published figures of this
use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Rule, Setting, option


@dataclass(frozen=True)
class TrustWeightsConfig:
    """Hyper-parameters of the trust region of the weights."""

    share: float = option(0.01, "largest change as a share of a parameter's norm", low=0.0)
    since: str = option(
        "lesson", "whether the lesson's change is held or a step's", choices=("lesson", "step")
    )


@register("trust_weights")
class TrustWeights(Rule):
    """A ball around each parameter."""

    Config = TrustWeightsConfig

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Take the parameters; a centre is kept when a parameter first moves."""
        super().prepare(parameters, setting, optimization)
        self._parameters = dict(parameters)
        self._centres: dict[str, Tensor] = {}

    def moved(self, name: str, before: Tensor, weight: Tensor, step: int) -> None:
        """Take a weight that left its ball back to the nearest point of it."""
        centre = before
        if self.config.since == "lesson":
            if name not in self._centres:
                self._centres[name] = before.to(self._parameters[name].dtype)
            centre = self._centres[name].float()
        change = weight - centre
        radius = self.config.share * float(torch.linalg.vector_norm(centre))
        distance = float(torch.linalg.vector_norm(change))
        if distance > radius > 0:
            weight.copy_(centre).add_(change, alpha=radius / distance)

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """The bytes of the parameters with ``lesson``, none with ``step``."""
        if self.config.since == "step":
            return 0
        return sum(parameter.nbytes for parameter in parameters.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Each parameter before the lesson."""
        return dict(self._centres)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the centres back."""
        self._centres = {
            name: tensor.to(self._parameters[name].device, copy=True)
            for name, tensor in state.items()
        }
