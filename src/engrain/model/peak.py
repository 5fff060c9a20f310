"""What this machine reaches: matrix products in fp32 and bf16, memory bandwidth, threads.

Measured figures inform and warn; they choose nothing by themselves, since a lesson's last bits
must not depend on how busy the machine was when it was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.model.hardware import COMPUTE_TYPES, ComputeType
from engrain.model.threads import default_threads, machine_digest, machine_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 2048
FEW_ROWS = 8
TOO_LONG = 3.0
"""Seconds of a product above which only some of its rows are multiplied."""
STEP_ROWS = 64
"""Rows of the product of a training step: the tokens of a lesson's targets."""
LARGE_ROWS = 1024
"""Rows from which a product is no longer bound by reading its weights."""
READ_BYTES = 1 << 29
"""What is read to measure bandwidth: more than the caches of most processors."""
SECONDS = 0.15
"""Time for one figure; the slowest possible product of it may take longer."""
CLEARLY = 1.2
"""From which factor on one measured speed is called faster than another."""


@dataclass(frozen=True)
class Peak:
    """Measured figures of one machine; ``threads`` is how many they were measured with.

    ``step_gflops`` and ``large_gflops`` are by compute type, in 10**9 operations a second, a
    product of 64 (1024) x 2048 with 2048 x 2048; ``bandwidth_gbs`` in 10**9 bytes a second;
    ``by_threads`` is the speed of the smaller product, in the compute type of the machine, by
    number of threads.
    """

    threads: int
    compute: ComputeType
    step_gflops: dict[str, float]
    large_gflops: dict[str, float]
    bandwidth_gbs: float
    by_threads: dict[str, float]
    measured_at: str
    seconds: float

    @property
    def faster(self) -> ComputeType | None:
        """The compute type that is clearly faster in a training step; None where none is."""
        for one, other in (COMPUTE_TYPES, COMPUTE_TYPES[::-1]):
            if self.step_gflops[one] > CLEARLY * self.step_gflops[other]:
                return one
        return None

    def better_threads(self, used: int) -> int | None:
        """Another number of threads that is clearly faster than the one in use, or None."""
        best = max(self.by_threads, key=lambda number: self.by_threads[number])
        now = self.by_threads.get(str(used))
        if now is None or self.by_threads[best] <= CLEARLY * now:
            return None
        return int(best)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return asdict(self)


def measure_peak(compute: ComputeType, *, threads: int | None = None) -> Peak:
    """Measure the machine: some seconds; the number of torch's threads comes back afterwards.

    ``compute`` is the type in which numbers of threads are compared.
    """
    import torch

    began, before = time.perf_counter(), torch.get_num_threads()
    used = threads or default_threads()
    try:
        torch.set_num_threads(used)
        step: dict[str, float] = {kind: _product(kind, STEP_ROWS) for kind in COMPUTE_TYPES}
        large: dict[str, float] = {kind: _product(kind, LARGE_ROWS) for kind in COMPUTE_TYPES}
        bandwidth = _bandwidth()
        by_threads = {str(used): step[compute]}
        for number in _counts(max(used, default_threads())):
            if number != used:
                torch.set_num_threads(number)
                by_threads[str(number)] = _product(compute, STEP_ROWS)
    finally:
        torch.set_num_threads(before)
    return Peak(
        used,
        compute,
        step,
        large,
        bandwidth,
        dict(sorted(by_threads.items(), key=lambda item: int(item[0]))),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        round(time.perf_counter() - began, 3),
    )


def peak_path(folder: Path, threads: int, compute: ComputeType) -> Path:
    """The file of a machine's figures; processor, libraries, threads and compute type tell it."""
    # The fingerprint has those of this process, which need not be those that will be used.
    digest = machine_digest({**machine_fingerprint(), "threads": threads, "compute": compute})
    return folder / f"{digest[:32]}.json"


def load_peak(path: Path) -> Peak | None:
    """Stored figures; None where there are none, or none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = Peak(**{spec.name: record[spec.name] for spec in fields(Peak)})
        complete = all(kind in found.step_gflops for kind in COMPUTE_TYPES)
        return found if complete and found.by_threads else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def store_peak(path: Path, peak: Peak) -> None:
    """Keep figures; where they can't be kept, they are measured again."""
    temporary = path.with_suffix(".part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(peak.to_dict()), encoding="utf-8")
        temporary.replace(path)


def _counts(cores: int) -> list[int]:
    """Numbers of threads worth trying: all of them on a small machine, else powers of two."""
    if cores <= 4:
        return list(range(1, cores + 1))
    powers = [1 << i for i in range(cores.bit_length()) if 1 << i < cores]
    return [*powers, cores]


def _product(kind: str, rows: int) -> float:
    import torch

    dtype = getattr(torch, kind)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, WIDTH, generator=generator).to(dtype)
    b = torch.randn(WIDTH, WIDTH, generator=generator).to(dtype)
    began = time.perf_counter()
    torch.mm(a[:FEW_ROWS], b)
    # A type that the processor does not multiply is done number by number: a piece tells as much.
    if (time.perf_counter() - began) * rows / FEW_ROWS > TOO_LONG:
        rows, a = FEW_ROWS, a[:FEW_ROWS].clone()
    out = torch.empty(rows, WIDTH, dtype=dtype)
    return 2 * rows * WIDTH * WIDTH / _best(lambda: torch.mm(a, b, out=out)) / 1e9


def _bandwidth() -> float:
    import torch

    numbers = torch.ones(READ_BYTES // 4 // WIDTH, WIDTH)
    vector = torch.ones(WIDTH)
    out = torch.empty(len(numbers))
    return numbers.numel() * 4 / _best(lambda: torch.mv(numbers, vector, out=out)) / 1e9


def _best(work: Callable[[], Tensor]) -> float:
    """Seconds of the quickest run in the time for one figure, after one to warm up."""
    began = time.perf_counter()
    work()
    best = float("inf")
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - start)
        if now - began > SECONDS:
            return best
