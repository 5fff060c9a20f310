"""Threads, and a fingerprint of the machine that says where a figure was measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from engrain.model.hardware import cpuinfo, overridden_compute, processor

SPEED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "bf16")
"""Processor flags that choose between kernels, and so may change the last bits of a result."""


def default_threads() -> int:
    """One a usable core, or fewer where ``OMP_NUM_THREADS`` says so, as to any OpenMP program."""
    wished = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = usable_cores()
    return min(cores, int(wished)) if wished.isdecimal() and int(wished) else cores


def usable_cores() -> int:
    """Physical cores that this process may use: a second thread on a core only gets in the way."""
    usable = sorted(_affinity()) if hasattr(os, "sched_getaffinity") else None
    count = len(usable) if usable is not None else (os.cpu_count() or 1)
    cores = _physical_cores(usable)
    quota = _quota()
    return max(1, min(cores or count, count, quota or count))


def _affinity() -> set[int]:
    """Processors that this process may run on.

    Where ``OMP_PROC_BIND`` asks for it, OpenMP has put this very thread on one of them, and each
    other thread on another: then those of the parent process count.
    """
    own = os.sched_getaffinity(0)
    if os.environ.get("OMP_PROC_BIND", "false").lower() in ("", "false", "0"):
        return own
    try:
        return own | os.sched_getaffinity(os.getppid())
    except OSError:
        return own


def set_threads(count: int | None = None) -> int:
    """Set the threads that torch computes with (None: the default number); gives the number."""
    import torch

    chosen = max(1, count) if count is not None else default_threads()
    torch.set_num_threads(chosen)
    return chosen


def machine_fingerprint() -> dict[str, Any]:
    """What decides the last bits and the speed of a result, JSON-ready.

    Two results are comparable bit for bit only if their fingerprints are equal. The compute type
    follows from the flags; it is named only where the configuration overrides that. ``kernels`` is
    empty where torch computes everything.
    """
    import torch
    import transformers

    from engrain.model import kernels

    model, flags = processor()
    override = overridden_compute()
    return {
        "cpu": model,
        "cores": usable_cores(),
        "flags": [flag for flag in SPEED_FLAGS if flag in flags],
        "system": f"{platform.system()}-{platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "kernels": kernels.name(),
        "torch_kernels": str(torch.backends.cpu.get_cpu_capability()),
        "transformers": str(transformers.__version__),
        "threads": torch.get_num_threads(),
        **({"compute": override} if override else {}),
    }


def machine_digest(fingerprint: dict[str, Any] | None = None) -> str:
    """SHA-256 over a fingerprint (this machine's by default), as hex."""
    text = json.dumps(fingerprint or machine_fingerprint(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _physical_cores(usable: list[int] | None) -> int:
    """Distinct cores under the usable processors; 0 where the system does not say."""
    cores: set[tuple[str, str]] = set()
    number, socket = -1, "0"
    for key, value in cpuinfo():
        if key == "processor" and value.isdigit():
            number, socket = int(value), "0"
        elif key == "physical id":
            socket = value
        elif key == "core id" and (usable is None or number in usable):
            cores.add((socket, value))
    return len(cores)


def _quota() -> int:
    """Processors that a container may use at most; 0 where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()[:2]
        return 0 if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return 0
