"""Rounding of fp32 results into bf16 weights, so that small steps are not lost.

A bf16 weight has 8 bits of precision: a step below 2^-9 of it vanishes when rounded to the nearest.
Two cures:

    stochastic   round up with the probability of the part that is cut off: the mean is right
                 (Gupta et al., arXiv 1502.02551, section 3);
    kahan        keep what was cut off, in bf16, and add it to the next step (Zamirai et al.,
                 arXiv 2010.06192, algorithm 1): 2 bytes for each weight.

The random numbers are counter-based: those of a weight's element depend on the seed, the weight's
name, the step and the element's position, never on what was drawn before or on threads.
"""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from engrain.learn.passes import round_stochastic

MODES = ("stochastic", "kahan", "nearest")
BLOCK = 1 << 18
"""Elements that are rounded at once; their random numbers fit into a processor's cache."""


def round_into(weight: Tensor, value: Tensor, mode: str, *names: object, lost: Tensor) -> None:
    """Write fp32 ``value`` into a bf16 ``weight`` of the same shape; ``value`` may be overwritten.

    ``names`` (seed, weight, step) choose the random numbers; ``lost`` holds what Kahan's sum keeps,
    in bf16, and is empty for the other modes.
    """
    if mode == "kahan":
        value += lost
        weight.copy_(value)
        lost.copy_(value - weight)
    elif mode == "stochastic":
        first, second = keys(*names)
        if not round_stochastic(weight, value, (first, second)):
            _stochastic(weight, value, first, second)
    else:
        weight.copy_(value)


def _stochastic(weight: Tensor, value: Tensor, first: int, second: int) -> None:
    """Add 16 random bits below the last bit that is kept, then cut; NaN stays NaN."""
    target, source = weight.view(-1), value.contiguous().view(-1)
    table = _table().to(weight.device)
    for number, (out, part) in enumerate(
        zip(target.split(BLOCK), source.split(BLOCK), strict=True)
    ):
        # A multiplication by an odd number and an exclusive or are one to one: for every element
        # each of the 65,536 values of its random bits is equally likely.
        bits = torch.bitwise_xor(table[: part.numel()], _signed(first + number * 0x9E3779B9))
        bits.mul_(_signed(second | 1)).bitwise_right_shift_(16).bitwise_and_(0xFFFF)
        bits.add_(part.view(torch.int32)).bitwise_and_(-0x10000)
        out.copy_(bits.view(torch.float32))


def keys(*names: object) -> tuple[int, int]:
    """Two numbers of 32 bits that choose the random numbers of a weight and step."""
    digest = hashlib.sha256(":".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _signed(number: int) -> int:
    """The same 32 bits as a signed number, as torch's integers are."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >= 1 << 31 else number


@cache
def _table() -> Tensor:
    """One hashed number for each position of a block (Murmur3's finaliser)."""
    number = torch.arange(BLOCK, dtype=torch.int64)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = ((number ^ (number >> shift)) * factor) & 0xFFFFFFFF
    number ^= number >> 16
    return torch.where(number >= 1 << 31, number - (1 << 32), number).to(torch.int32)
