"""Compiled kernels: what torch has no fast call for, in C, beside a way in torch that always works.

A token at one row is bound by reading the weights once, and a lesson's step by many small passes
over memory; both lose more in calls than in arithmetic. The kernels are compiled when engrain is
installed, if there is a C compiler (:mod:`engrain.model.kernels.build`); without them everything
works, more slowly. Each is deterministic whatever the number of threads: one output is computed by
one thread, in one order. They use the threads of torch, with which they share OpenMP.

Which kernels are in use decides last bits, so :func:`name` is part of a machine's fingerprint.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from engrain.model.hardware import processor
from engrain.model.kernels import build

NEEDED: dict[str, frozenset[str]] = {
    "avx512bf16": frozenset(
        {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx2", "fma"}
    ),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma"}),
    "avx2": frozenset({"avx2", "fma"}),
    "base": frozenset(),
}
"""Processor flags that an instruction set needs, as Linux names them."""

_off = False


def library() -> ctypes.CDLL | None:
    """The kernels, or None where there are none or they are switched off."""
    return None if _off else _found()[0]


def name() -> str:
    """The instruction set of the kernels in use with the digest of their sources; "" for none."""
    return "" if _off else _found()[1]


def reason() -> str:
    """Why no kernels are in use; "" where they are."""
    return "they are switched off" if _off else _found()[2]


def set_kernels(chosen: str = "auto") -> None:
    """Use the kernels (``auto``), or not (``off``), in this process.

    Raises:
        ValueError: it is neither.
    """
    global _off
    if chosen not in ("auto", "off"):
        raise ValueError(f"{chosen!r} is not one of auto, off")
    _off = chosen == "off"


@contextmanager
def without() -> Iterator[None]:
    """Compute in torch alone for a while."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def run(name: str, *given: Any) -> None:
    """Call a kernel of :data:`SIGNATURES`; tensors are given as pointers, threads are torch's."""
    words = [value.data_ptr() if hasattr(value, "data_ptr") else value for value in given]
    _functions()[name](*words, _threads())


_P, _I, _L, _F, _U = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_uint32,
)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "engrain_move": (_I, _L, _P, _I, _P, _I, _P, _P, _P, _I, _U, _U),
    "engrain_round": (_L, _P, _P, _U, _U),
    "engrain_low_rank": (_L, _L, _L, _P, _P, _P),
    "engrain_losses": (_P, _I, _L, _L, _L, _P, _F, _P, _P, _P),
    "engrain_losses_back": (_P, _I, _L, _L, _L, _P, _F, _P, _P, _P, _P),
}
"""Arguments of the kernels that :func:`run` calls, the number of threads at the end left out."""


@cache
def _functions() -> dict[str, Any]:
    """The kernels by name, their arguments declared once."""
    found = _found()[0]
    assert found is not None
    functions = {}
    for name, signature in SIGNATURES.items():
        functions[name] = getattr(found, name)
        functions[name].argtypes = (*signature, _I)
        functions[name].restype = None
    return functions


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def load(isa: str) -> tuple[ctypes.CDLL | None, str]:
    """The library of one instruction set, or why it can't be used here."""
    # Torch brings the OpenMP library whose threads both are to share.
    import torch  # noqa: F401

    path = build.library(isa)
    if not NEEDED[isa] <= processor()[1]:
        return None, f"the processor has no {isa}"
    if not path.exists():
        return None, "they were not compiled; see `python -m engrain.model.kernels.build`"
    try:
        found = ctypes.CDLL(str(path))
        found.engrain_sources.restype = ctypes.c_char_p
        made_from = found.engrain_sources().decode()
    except (OSError, AttributeError) as error:
        return None, f"{path.name} can't be loaded: {error}"
    if made_from != build.digest():
        return None, f"{path.name} was made from other sources; compile the kernels again"
    return found, ""


@cache
def _found() -> tuple[ctypes.CDLL | None, str, str]:
    """Library, name, and why there is none."""
    why = ""
    for isa in build.sets():
        found, why = load(isa)
        if found is not None:
            return found, f"{isa}-{build.digest()[:8]}", ""
    return None, "", why
