"""One contestant, one fresh process: seconds of each step, and memory above the loaded weights.

The parent calls :func:`contestant`, the child :func:`serve`. A request goes in as JSON on standard
input, a record comes back as the last line of standard output. Contestants never run at the same
time: two pools of threads on the same cores would slow each other more than tenfold.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONUNBUFFERED": "1",
}
MEMORY_SHARE = 0.85
"""Of the memory that is free when a contestant begins: what it may take."""


class Meter:
    """Times and memory of one contestant, taken inside its own process."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.record: dict[str, Any] = {}
        self.peaks: list[int] = []

    def importing_done(self) -> None:
        """Libraries are there, the model is not."""
        self.record["resident_before_bytes"] = settled()

    def loaded(self, weights_bytes: int) -> None:
        """The model is there: from here on, peaks count."""
        from engrain.learn.memory import reset_peak

        self.record["weights_bytes"] = weights_bytes
        self.record["resident_loaded_bytes"] = settled()
        reset_peak()

    def step(self, seconds: float) -> None:
        """One optimizer step took ``seconds``, and has just ended."""
        from engrain.learn.memory import peak_memory_bytes, reset_peak

        self.seconds.append(seconds)
        self.peaks.append(peak_memory_bytes())
        if len(self.seconds) == 1:
            # The first step also holds what a run does once; later ones are the steady state.
            reset_peak()

    def finish(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return {
            **self.record,
            "peak_bytes": max(self.peaks, default=None),
            "steady_peak_bytes": max(self.peaks[1:], default=None),
            "first_step_seconds": self.seconds[0] if self.seconds else None,
            "step_seconds": self.seconds[1:],
        }


def settled() -> int:
    """The resident set in bytes, after what is free was given back to the system."""
    import ctypes

    import psutil

    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def touch(model: Any) -> int:
    """Read every weight, since loaders map files lazily; gives the bytes of all weights."""
    tensors = list(model.parameters())
    for tensor in tensors:
        tensor.detach().sum()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


Work = Callable[[Mapping[str, Any], Meter], Mapping[str, Any]]
"""What a child does: a request and a meter in, what is to be recorded beside the meter's out."""


def measured(work: Work, request: Mapping[str, Any]) -> dict[str, Any]:
    """One request in this process; a record with ``unavailable`` says what is missing."""
    meter = Meter()
    try:
        more = work(request, meter)
        return {**meter.finish(), **more}
    except ImportError as error:
        return {"unavailable": f"not installed: {error.name or error}"}
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        gigabytes = int(request.get("memory_bytes", 0)) / 1e9
        return {"unavailable": f"needs more than the {gigabytes:.1f} GB that were free"}


def serve(work: Work) -> int:
    """The child: run one request under its limits, and print one record as the last line."""
    request = json.load(sys.stdin)
    _limit(int(request["memory_bytes"]))
    # Libraries print what they like; standard output holds the record alone.
    with redirect_stdout(sys.stderr):
        import psutil
        import torch

        torch.set_num_threads(int(request["threads"]))
        record = measured(work, request)
        began = psutil.Process().create_time()
    print(json.dumps({**record, "process_seconds": time.time() - began}))
    return 0


def contestant(
    module: str,
    request: Mapping[str, Any],
    *,
    python: str = sys.executable,
    threads: int = 0,
    timeout: float = 1800.0,
    prefix: str = "",
) -> dict[str, Any]:
    """Run one contestant in a fresh process; a record with ``unavailable`` says why it can't.

    ``module`` may carry arguments; ``prefix`` are words before the command, as ``taskset -c 0-1``.
    """
    import psutil

    from engrain.model.threads import default_threads

    chosen = threads or default_threads()
    memory = int(MEMORY_SHARE * psutil.virtual_memory().available)
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **OFFLINE,
        "OMP_NUM_THREADS": str(chosen),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    given = json.dumps({**request, "threads": chosen, "memory_bytes": memory})
    try:
        done = subprocess.run(
            [*shlex.split(prefix), python, "-m", *module.split()],
            input=given,
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"unavailable": f"not done after {timeout:.0f} s"}
    if done.returncode == -signal.SIGKILL:
        return {"unavailable": "killed by the system, as it does for want of memory"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        print(done.stderr[-4000:], file=sys.stderr)
        return {"unavailable": f"exit {done.returncode}: {lines[-1][:300]}", "failed": True}
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return record


def model_folder(shape: str, folder: Path, *, python: str = sys.executable) -> Path:
    """The folder of a shape's model, written by a process of its own unless it is there."""
    target = folder / shape
    if not (target / "config.json").exists():
        environment = {**os.environ, **OFFLINE, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        subprocess.run(
            [python, "-m", "benchmarks.shapes", shape, str(target)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return target


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over repeats: of the steps after the first, of the first, of memory."""
    good = [record for record in records if "unavailable" not in record]
    if not good:
        return {"unavailable": records[0]["unavailable"] if records else "not run"}
    steps = [
        statistics.median(r["step_seconds"] or [r["first_step_seconds"]])
        for r in good
        if r["first_step_seconds"] is not None
    ]
    middle: dict[str, Any] = {
        "repeats": len(good),
        "step_seconds": statistics.median(steps),
        "step_seconds_range": [min(steps), max(steps)],
    }
    numbers = {
        key
        for record in good
        for key, value in record.items()
        if key.endswith(("_bytes", "_seconds")) and isinstance(value, (int, float))
    }
    for key in sorted(numbers - {"step_seconds"}):
        middle[key] = statistics.median(r[key] for r in good if r.get(key) is not None)
    weights, loaded = middle["weights_bytes"], middle["resident_loaded_bytes"]
    middle["peak_extra_over_weights"] = (middle["peak_bytes"] - loaded) / weights
    if "steady_peak_bytes" in middle:
        middle["steady_extra_over_weights"] = (middle["steady_peak_bytes"] - loaded) / weights
    # Counts copies that a loader keeps beside the weights, which the figures above take as given.
    all_above = middle["peak_bytes"] - middle["resident_before_bytes"] - weights
    middle["peak_extra_with_loading"] = all_above / weights
    return middle


def _limit(memory: int) -> None:
    """Let an allocation beyond ``memory`` bytes fail here, instead of the system's choice."""
    if memory <= 0:
        return
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in text or "not enough mem" in text
