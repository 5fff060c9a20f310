"""Attention of a lesson's tokens to a frozen context and to each other by a compiled kernel.

The same function as the two-part attention of :mod:`engrain.model.context`, block by block of keys
in bf16, as in FlashAttention (arXiv 2205.14135, algorithms 1 and 4): no scores are kept and none
reach memory. Forward keeps queries, own keys and values, the output and one number for each query
and head. For C keys of context, D tokens, H heads of width d it computes 10 C D H d operations
instead of the 20 of an attention that differentiates its context.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engrain.model import kernels

WIDEST = 256
"""Largest width of a head."""
LANES, VECTORS = 16, 6
"""Queries in a vector, and most vectors of a block, as in attention.c."""


class Call(ctypes.Structure):
    """The arguments of attention.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "rows tokens heads groups dim columns".split()),
        ("window", ctypes.c_int64),
        *((f"context_{name}", ctypes.c_int64) for name in "row head token".split()),
        ("lengths", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in "query key value".split()),
        *((f"context_{name}", ctypes.c_void_p) for name in "key value".split()),
        *((name, ctypes.c_void_p) for name in "out sums change change_query change_key".split()),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]


@dataclass(frozen=True, eq=False)
class Seen:
    """What queries see beside their own row: a context, and how far back.

    ``key``, ``value``: ``(rows or 1, kv_heads, columns, dim)`` or None; ``lengths``: tokens of each
    row's context, ``(rows,)``, int64; ``window``: 0 for all.
    """

    key: Tensor | None
    value: Tensor | None
    lengths: Tensor | None
    window: int
    scale: float

    @classmethod
    def of(
        cls,
        key: Tensor | None,
        value: Tensor | None,
        lengths: Tensor | None,
        window: int,
        scale: float,
    ) -> Seen:
        """What the kernel can read: copies only what does not lie as it must."""
        if key is None or value is None:
            return cls(None, None, None, window, scale)
        if key.stride(3) != 1 or key.stride() != value.stride():
            key, value = key.contiguous(), value.contiguous()
        return cls(key, value, lengths, window, scale)


def attends(kind: torch.dtype, dim: int, softcap: float | None) -> bool:
    """Whether the kernel knows this attention."""
    library = kernels.library()
    return (
        library is not None
        and kind == torch.bfloat16
        and dim % 16 == 0
        and dim <= WIDEST
        and not softcap
        and bool(library.engrain_attends())
    )


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Seen) -> Tensor:
    """``(rows, tokens, heads, dim)`` of queries ``(rows, tokens, heads, dim)``, own keys, values.

    Keys and values are ``(rows, tokens, kv_heads, dim)``; all are bf16.
    """
    found: Tensor = _Blocks.apply(query, key, value, seen)  # type: ignore[no-untyped-call]
    return found


def forward(query: Tensor, key: Tensor, value: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
    """The output, and what backward needs beside it; without a graph."""
    call, lanes, blocks = _call(query, key, value, seen)
    out = torch.empty_like(query)
    sums = query.new_empty((query.shape[0], key.shape[2], blocks, lanes), dtype=torch.float32)
    call.out, call.sums = out.data_ptr(), sums.data_ptr()
    _run("engrain_attend", call)
    return out, sums


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Seen,
    out: Tensor,
    sums: Tensor,
    change: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, own keys and own values."""
    call, _, blocks = _call(query, key, value, seen)
    rows, tokens, groups, dim = key.shape
    change_query = torch.empty_like(query)
    parts = query.new_zeros((rows, groups, blocks, 2, tokens, dim), dtype=torch.float32)
    call.out, call.sums, call.change = out.data_ptr(), sums.data_ptr(), change.data_ptr()
    call.change_query, call.change_key = change_query.data_ptr(), parts.data_ptr()
    _run("engrain_attend_back", call)
    whole = parts.sum(2).permute(2, 0, 3, 1, 4).to(query.dtype)
    return change_query, whole[0].contiguous(), whole[1].contiguous()


def _call(query: Tensor, key: Tensor, value: Tensor, seen: Seen) -> tuple[Call, int, int]:
    rows, tokens, heads, dim = query.shape
    groups = key.shape[2]
    call = call_of(rows, tokens, heads, groups, dim, seen)
    call.query, call.key, call.value = query.data_ptr(), key.data_ptr(), value.data_ptr()
    # As attention.c parts the queries of a key head.
    vectors = -(-tokens * (heads // groups) // LANES)
    blocks = -(-vectors // VECTORS)
    return call, -(-vectors // blocks) * LANES, blocks


def call_of(rows: int, tokens: int, heads: int, groups: int, dim: int, seen: Seen) -> Call:
    """The sizes and the context of a call, which holds pointers into ``seen``."""
    call = Call(rows, tokens, heads, groups, dim, 0, seen.window)
    if seen.key is not None and seen.value is not None and seen.lengths is not None:
        shared = seen.key.shape[0] == 1
        call.columns, call.lengths = seen.key.shape[2], seen.lengths.data_ptr()
        call.context_row = 0 if shared else seen.key.stride(0)
        call.context_head, call.context_token = seen.key.stride(1), seen.key.stride(2)
        call.context_key, call.context_value = seen.key.data_ptr(), seen.value.data_ptr()
    call.scale, call.threads = seen.scale, torch.get_num_threads()
    return call


def _run(name: str, call: Call) -> None:
    library = kernels.library()
    assert library is not None
    if getattr(library, name)(ctypes.byref(call)):
        raise MemoryError("The attention kernel got no scratch memory.")


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Seen) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out, sums = forward(query, key, value, seen)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.seen = seen
        return out

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        found = backward(query, key, value, ctx.seen, out, sums, change.contiguous())
        return *found, None
