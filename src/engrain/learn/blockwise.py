"""Moments in 8 bits: one fp32 peak for each block of 256 numbers, one byte for each number.

Source: the blocks are those of Dettmers et al., arXiv 2110.02861, section 2.1, and so is leaving
tensors of less than 4,096 numbers in fp32. The codes are not their dynamic tree but a power law,
which needs arithmetic and no search, and is finer at each size:

    first moment    x = peak c |c| / 127^2,   c a signed byte: relative steps of 2 / |c|;
    second moment   x = peak (c / 255)^4,     c a byte from 1: relative steps of 4 / c.

The second moment reaches down to 2e-10 of the block's peak, the first to 6e-5, and the second is
never rounded to 0, so that no step is divided by nothing. bitsandbytes has the tree and runs on a
CPU, too: beside it a path of AdamW stays closer to that in fp32 (tested where it is installed).
What the tree does better are first moments below 6e-5 of the peak, which are 0 here.

Memory: numbers + 4 ceil(numbers / 256) bytes for each moment. Time: some 20 passes over a piece
that fits into the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import pad

from engrain.learn.optimization.adamw import moments

BLOCK = 256
SMALLEST = 4096
"""Tensors with less numbers keep fp32 moments."""
PIECE = 1 << 17
"""Numbers that are worked on at once; a whole number of blocks."""


def packed_moments(like: Tensor) -> dict[str, Tensor]:
    """Fresh moments in 8 bits and their step count; in fp32 for a small tensor."""
    if like.numel() < SMALLEST:
        return moments(like)
    return {
        "step": like.new_zeros((), dtype=torch.float32),
        **packed("exp_avg", like),
        **packed("exp_avg_sq", like, signed=False),
    }


def packed(key: str, like: Tensor, *, signed: bool = True) -> dict[str, Tensor]:
    """Room for a tensor's codes and peaks."""
    count = like.numel()
    return {
        key: like.new_zeros(count, dtype=torch.int8 if signed else torch.uint8),
        f"{key}_peak": like.new_zeros(-(-count // BLOCK), dtype=torch.float32),
    }


@contextmanager
def unpacked_moments(state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Both moments in fp32, flat if they are kept in 8 bits; what becomes of them is kept."""
    first, second = state["exp_avg"], state["exp_avg_sq"]
    if "exp_avg_peak" not in state:
        yield first, second
        return
    values = decode(first, state["exp_avg_peak"]), decode(second, state["exp_avg_sq_peak"])
    yield values
    encode(values[0], first, state["exp_avg_peak"])
    encode(values[1], second, state["exp_avg_sq_peak"])


def decode(codes: Tensor, peaks: Tensor) -> Tensor:
    """The fp32 numbers ``(count,)`` of codes."""
    values = torch.empty(len(codes), dtype=torch.float32, device=codes.device)
    for out, part, some in zip(
        values.split(PIECE), codes.split(PIECE), peaks.split(PIECE // BLOCK), strict=True
    ):
        wide = _blocks(part.float())
        if codes.dtype == torch.int8:
            wide.mul_(wide.abs()).mul_((some / 127**2)[:, None])
        else:
            wide.square_().square_().mul_((some / 255**4)[:, None])
        out.copy_(wide.view(-1)[: len(part)])
    return values


def encode(values: Tensor, codes: Tensor, peaks: Tensor) -> None:
    """Write the nearest codes of fp32 numbers ``(count,)``, and the peaks of their blocks."""
    for source, part, some in zip(
        values.split(PIECE), codes.split(PIECE), peaks.split(PIECE // BLOCK), strict=True
    ):
        wide = _blocks(source)
        size = wide.abs()
        torch.amax(size, 1, out=some)
        size.div_(some.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).sqrt_()
        if codes.dtype == torch.int8:
            size.mul_(127).copysign_(wide).round_()
        else:
            size.sqrt_().mul_(255).round_().clamp_(min=1)
        part.copy_(size.view(-1)[: len(part)])


def pieces(gradient: Tensor, *written: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat stretches of tensors of one shape, small enough for the processor's cache."""
    # What is written to must be a view; a gradient may lie in memory in another order.
    flat = [gradient.reshape(-1), *(tensor.view(-1) for tensor in written)]
    yield from zip(*(tensor.split(PIECE) for tensor in flat), strict=True)


def _blocks(flat: Tensor) -> Tensor:
    """Numbers as ``(blocks, 256)``, the last filled up with zeros."""
    missing = -len(flat) % BLOCK
    return (pad(flat, (0, missing)) if missing else flat).view(-1, BLOCK)
