"""What the processor can do, and the number format in which a lesson's steps are computed.

bf16 halves the bytes of every matrix product, and pays where the processor multiplies it in
hardware (AVX512-BF16, AMX, the bf16 extension of ARM); elsewhere it is emulated and slower than
fp32. The choice decides the last bits of what is learned, so it follows from the processor's flags
and from the configuration (``model.compute``) alone, never from a measurement.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Literal, cast

from engrain.errors import ModelError

ComputeType = Literal["float32", "bfloat16"]

COMPUTE_TYPES: tuple[ComputeType, ...] = ("float32", "bfloat16")
AUTO = "auto"
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Flags of processors that multiply bf16 matrices, as Linux names them (``bf16`` is ARM's)."""

_chosen: ComputeType | None = None


def default_compute() -> ComputeType:
    """The compute type that the processor's flags choose.

    A system that does not tell them (all but Linux) gets fp32.
    """
    return "bfloat16" if bf16_flags() else "float32"


def bf16_flags() -> tuple[str, ...]:
    """The processor's flags that speak for bf16."""
    flags = processor()[1]
    return tuple(flag for flag in BF16_FLAGS if flag in flags)


def compute_type() -> ComputeType:
    """The compute type of training in this process."""
    return _chosen or default_compute()


def set_compute(chosen: str = AUTO) -> ComputeType:
    """Choose the compute type of this process (``auto``: by the processor); gives the type.

    Raises:
        ValueError: it is none of them.
    """
    global _chosen
    if chosen not in (AUTO, *COMPUTE_TYPES):
        raise ValueError(f"{chosen!r} is not one of {', '.join((AUTO, *COMPUTE_TYPES))}")
    _chosen = None if chosen == AUTO else cast(ComputeType, chosen)
    return compute_type()


def overridden_compute() -> ComputeType | None:
    """The compute type, if it is not the one that the processor would get; else None.

    What is measured or computed under an override is kept apart by it.
    """
    return compute_type() if compute_type() != default_compute() else None


def choose_device(wanted: str = AUTO) -> str:
    """The device that a model shall run on; ``auto`` takes the fastest that there is.

    Raises:
        ModelError: no such device, or this machine has none.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == AUTO:
        return next(name for name, found in there.items() if found)
    # "cuda:1" is the second of several.
    if not there.get(wanted.partition(":")[0], False):
        raise ModelError(
            f"There is no device {wanted!r} here.",
            remedy="Set model.device to auto or cpu, or install the torch build for the device.",
        )
    return wanted


@cache
def processor() -> tuple[str, frozenset[str]]:
    """The processor's name and flags."""
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    for key, value in cpuinfo():
        if key == "model name":
            model = value
        elif key in ("flags", "Features"):
            flags = frozenset(value.split())
            break
    return model, flags


def cpuinfo() -> list[tuple[str, str]]:
    """Linux's description of the processors as keys and values; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines if ":" in line)
    return [(key.strip(), value.strip()) for key, _, value in pairs]
