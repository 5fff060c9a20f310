"""A parameter's step as one pass over memory, by a compiled kernel where there is one.

In torch a bf16 weight's step is a dozen passes: the gradient widened, the weight widened, the rule,
random numbers, rounding. Memory is what they cost, and one pass does the same.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engrain.model import kernels

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {torch.float32: 0, torch.bfloat16: 1}
RULES = {"sgd": 0, "sign": 1, "adamw": 2}
ROUNDINGS = {"nearest": 0, "stochastic": 1}


class Numbers(ctypes.Structure):
    """A rule's numbers, as update.c has them."""

    _fields_ = [
        (name, ctypes.c_float)
        for name in "rate keep factor beta1 beta2 epsilon correction1 correction2".split()
    ]


def possible(weight: Tensor, gradient: Tensor, rounding: str) -> bool:
    """Whether a kernel can move such a weight by such a gradient."""
    both = (weight, gradient)
    return (
        kernels.library() is not None
        and all(t.dtype in KINDS and t.is_cpu and t.is_contiguous() for t in both)
        and (weight.dtype == torch.float32 or rounding in ROUNDINGS)
    )


@dataclass(frozen=True)
class Move:
    """A rule with its numbers; ``factor`` scales the gradient, ``keep`` the weight.

    ``correction1`` is 1 - beta1^t, ``correction2`` the root of 1 - beta2^t.
    """

    rule: str
    rate: float
    keep: float = 1.0
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 0.0
    correction1: float = 1.0
    correction2: float = 1.0
    first: Tensor | None = None
    second: Tensor | None = None

    def apply(
        self, weight: Tensor, gradient: Tensor, factor: float, rounding: str, keys: tuple[int, int]
    ) -> bool:
        """Move a weight in place; False where no kernel can, and nothing was done."""
        if not possible(weight, gradient, rounding):
            return False
        kernels.run(
            "engrain_move",
            RULES[self.rule],
            weight.numel(),
            weight,
            KINDS[weight.dtype],
            gradient,
            KINDS[gradient.dtype],
            self.first,
            self.second,
            ctypes.addressof(numbers := self.numbers(factor)),
            ROUNDINGS.get(rounding, 0),
            keys[0],
            keys[1] | 1,
        )
        del numbers
        return True

    def numbers(self, factor: float) -> Numbers:
        """The rule's numbers as the kernels take them."""
        return Numbers(
            self.rate,
            self.keep,
            factor,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.correction1,
            self.correction2,
        )


@dataclass(frozen=True)
class Product:
    """A bf16 matrix's step by the two factors of its gradient, which is never formed.

    ``keys`` are those of stochastic rounding (:func:`engrain.learn.rounding.keys`).
    """

    name: str
    move: Move
    rounding: str
    keys: tuple[int, int]

    @classmethod
    def of(
        cls, name: str, weight: Tensor, move: Move | None, rounding: str, keys: tuple[int, int]
    ) -> Product | None:
        """The step, or None where it can't be taken so: moments would be read in short pieces."""
        if move is None or move.first is not None or rounding not in ROUNDINGS:
            return None
        if weight.dtype != torch.bfloat16 or not weight.is_contiguous():
            return None
        return cls(name, move, rounding, (keys[0], keys[1] | 1))


def round_stochastic(weight: Tensor, value: Tensor, keys: tuple[int, int]) -> bool:
    """Round fp32 values into a bf16 weight; False where no kernel can, and nothing was done."""
    library = kernels.library()
    if library is None or not (weight.is_cpu and weight.is_contiguous() and value.is_contiguous()):
        return False
    kernels.run("engrain_round", weight.numel(), weight, value, keys[0], keys[1] | 1)
    return True
