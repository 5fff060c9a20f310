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


class _Numbers(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_float)
        for name in "rate keep factor beta1 beta2 epsilon correction1 correction2".split()
    ]


class _Outer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "tokens outs ins".split()),
        *((name, ctypes.c_void_p) for name in "into inward weight pairs numbers".split()),
        *((name, ctypes.c_int32) for name in "rule rounding threads".split()),
        *((name, ctypes.c_uint32) for name in "key1 key2".split()),
    ]


TILE, WIDE = 4, 96
"""Rows and columns of a tile of a product, as in update.c."""
LONGEST = 512
"""Most tokens of a product that is used at once; above, torch's own products are faster."""


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
        library = kernels.library()
        both = (weight, gradient)
        if (
            library is None
            or any(t.dtype not in KINDS or not t.is_cpu or not t.is_contiguous() for t in both)
            or (weight.dtype != torch.float32 and rounding not in ROUNDINGS)
        ):
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
            ctypes.addressof(numbers := self._numbers(factor)),
            ROUNDINGS.get(rounding, 0),
            keys[0],
            keys[1] | 1,
        )
        del numbers
        return True

    def apply_product(
        self,
        weight: Tensor,
        into: Tensor,
        inward: Tensor,
        rounding: str,
        keys: tuple[int, int],
    ) -> bool:
        """Move a bf16 weight ``(outs, ins)`` by the gradient ``into^T inward``, never stored.

        ``into`` is ``(tokens, outs)``, ``inward`` ``(tokens, ins)``. False where no kernel can, and
        nothing was done.
        """
        library = kernels.library()
        each = (weight, into, inward)
        if (
            library is None
            or self.first is not None
            or any(t.dtype != torch.bfloat16 or not t.is_contiguous() for t in each)
            or rounding not in ROUNDINGS
            or len(into) > LONGEST
        ):
            return False
        tokens, outs, ins = len(into), *weight.shape
        columns = -(-outs // TILE) * TILE + -(-ins // WIDE) * WIDE
        pairs = torch.empty((tokens + 1) // 2 * columns, dtype=torch.int32)
        numbers = self._numbers(1.0)
        call = _Outer(tokens, outs, ins, into.data_ptr(), inward.data_ptr(), weight.data_ptr())
        call.pairs, call.numbers = pairs.data_ptr(), ctypes.addressof(numbers)
        call.rule, call.rounding = RULES[self.rule], ROUNDINGS[rounding]
        call.threads, call.key1, call.key2 = torch.get_num_threads(), keys[0], keys[1] | 1
        return not library.engrain_outer_move(ctypes.byref(call))

    def _numbers(self, factor: float) -> _Numbers:
        return _Numbers(
            self.rate,
            self.keep,
            factor,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.correction1,
            self.correction2,
        )


def round_stochastic(weight: Tensor, value: Tensor, keys: tuple[int, int]) -> bool:
    """Round fp32 values into a bf16 weight; False where no kernel can, and nothing was done."""
    library = kernels.library()
    if library is None or not (weight.is_cpu and weight.is_contiguous() and value.is_contiguous()):
        return False
    kernels.run("engrain_round", weight.numel(), weight, value, keys[0], keys[1] | 1)
    return True
