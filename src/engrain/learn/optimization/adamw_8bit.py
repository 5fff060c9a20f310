"""AdamW with its moments in 8 bits: a quarter of their memory at the same rule.

Source: Dettmers et al., arXiv 2110.02861, on AdamW (arXiv 1711.05101, algorithm 2). Between steps a
moment is one byte a number and one fp32 peak for each 256; a step turns a piece of both into fp32,
takes AdamW's fused step, and turns them back. The codes are those of
:mod:`engrain.learn.blockwise`, not the paper's tree, and need no library. A tensor of less than
4,096 numbers keeps fp32 moments, as in the paper.

Memory: 2 N + 8 ceil(N / 256) + 4 bytes for N numbers, 8 N + 4 for a small tensor. Time: some 25
passes over pieces in the processor's cache, about ten times the fused AdamW; against forward and
backward of a step it is little. Rounding loses what is less than a code's step: with a slow
``beta2`` a second moment follows its block's peak and its own changes only when they are large.

Use it for full weights where AdamW's state does not fit and a quarter of it does; not where the
update is most of a step. The source's abstract reports the quality of 32 bits, on language models
of up to 1.5B weights among others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engrain.learn.blockwise import BLOCK, PIECE, packed_moments, pieces, unpacked_moments
from engrain.learn.optimization.adamw import AdamWConfig, adamw_step
from engrain.learn.registry import register
from engrain.learn.update import PerParameter


@register("adamw-8bit")
class AdamW8bit(PerParameter):
    """AdamW with moments of one byte."""

    Config = AdamWConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Codes and peaks of both moments, and how many steps were taken."""
        return packed_moments(parameter)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of AdamW, piece by piece."""
        state = self._state[name]
        if "exp_avg_peak" not in state:
            adamw_step(state, weight, gradient, rate, self.config)
            return
        for number, (source, part) in enumerate(pieces(gradient, weight)):
            start = number * PIECE
            own = {
                key: tensor[start : start + PIECE]
                if not key.endswith("_peak")
                else tensor[start // BLOCK : (start + PIECE) // BLOCK]
                for key, tensor in state.items()
                if key != "step"
            }
            with unpacked_moments(own) as (first, second):
                moments = {"exp_avg": first, "exp_avg_sq": second, "step": state["step"].clone()}
                adamw_step(moments, part, source, rate, self.config)
        state["step"] += torch.ones_like(state["step"])
