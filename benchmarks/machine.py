"""What the machine can do: matrix products per second, also at a step's own shapes, and memory.

A training step on 64 tokens is made of thin products, far from the square ones of a data sheet. So
the peak is measured twice: on large squares, and on the very products of a step, forward and both
backward ones. Those are timed with weights that stay in the processor's caches (``hot``, the higher
peak) and with weights that come from memory each time, as a model's layers do (``streamed``).

    python -m benchmarks.machine [--shape smollm2-135m]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.common import about, options, print_table, write_json
from benchmarks.measure import Meter, contestant, serve
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 2048
STREAM_BYTES = 256_000_000
"""Distinct weights that are cycled through, so that none is found in a cache."""
DTYPES = ("float32", "bfloat16")


def measure(
    shape: Shape, *, tokens: int, head_trained: bool, seconds: float = 0.2
) -> dict[str, Any]:
    """Peaks in GFLOP/s by compute type, and bandwidth in GB/s, with the threads that are set."""
    import torch

    found: dict[str, Any] = {"threads": torch.get_num_threads(), "bandwidth": bandwidth(seconds)}
    for name in DTYPES:
        dtype = getattr(torch, name)
        a, b = (torch.randn(LARGE, LARGE).to(dtype) for _ in range(2))
        taken = timed(partial(torch.matmul, a, b), seconds)
        found[name] = {
            "large_gflops": 2 * LARGE**3 / taken / 1e9,
            **step_products(shape, dtype, tokens, head_trained, seconds),
        }
    return found


def step_products(
    shape: Shape, dtype: Any, tokens: int, head_trained: bool, seconds: float
) -> dict[str, float]:
    """The products of one step: their operations, and GFLOP/s over all of them."""
    flops, hot, streamed = 0.0, 0.0, 0.0
    head = (shape.vocabulary, shape.hidden, 1)
    for rows, columns, count in [*shape.products(), head]:
        trained = head_trained or (rows, columns, count) != head
        flops += count * 2.0 * tokens * rows * columns * (3 if trained else 2)
        for weights, kind in ((1, "hot"), (_enough(rows, columns, count, dtype), "streamed")):
            taken = count * _products_seconds(
                rows, columns, tokens, dtype, weights, trained, seconds
            )
            if kind == "hot":
                hot += taken
            else:
                streamed += taken
    return {
        "step_flops": flops,
        "step_hot_seconds": hot,
        "step_hot_gflops": flops / hot / 1e9,
        "step_streamed_seconds": streamed,
        "step_streamed_gflops": flops / streamed / 1e9,
    }


def bandwidth(seconds: float = 0.2) -> dict[str, float]:
    """GB/s of reading a large array, and of reading one and writing another."""
    import torch

    source = torch.ones(STREAM_BYTES // 4)
    target = torch.empty_like(source)
    return {
        "read_gb_s": source.nbytes / timed(source.sum, seconds) / 1e9,
        "copy_gb_s": 2 * source.nbytes / timed(lambda: target.copy_(source), seconds) / 1e9,
    }


def timed(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """The median seconds of a call, over at least three and about ``seconds``."""
    call()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _enough(rows: int, columns: int, count: int, dtype: Any) -> int:
    size: int = rows * columns * dtype.itemsize
    return max(1, min(count, STREAM_BYTES // size))


def _products_seconds(
    rows: int, columns: int, tokens: int, dtype: Any, weights: int, trained: bool, seconds: float
) -> float:
    """Seconds of one linear map's products: output, input's gradient and weight's gradient."""
    import torch

    def numbers(*sizes: int) -> Tensor:
        return torch.randn(*sizes).to(dtype)

    x, gradient = numbers(tokens, columns), numbers(tokens, rows)
    held = [numbers(rows, columns) for _ in range(weights)]
    turn = 0

    def next_weight() -> Tensor:
        nonlocal turn
        turn = (turn + 1) % len(held)
        return held[turn]

    taken = timed(lambda: torch.nn.functional.linear(x, next_weight()), seconds)
    taken += timed(lambda: gradient @ next_weight(), seconds)
    if trained:
        # Each weight has a gradient of its own, so it is written to memory as often as read.
        taken += timed(lambda: torch.mm(gradient.t(), x, out=next_weight()), seconds)
    return taken


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """The child's part: measure one shape."""
    return measure(
        SHAPES[request["shape"]],
        tokens=request["tokens"],
        head_trained=request["head_trained"],
        seconds=request["seconds"],
    )


def peaks(
    shape: str,
    *,
    tokens: int = 64,
    head_trained: bool = False,
    threads: int = 0,
    seconds: float = 0.2,
    prefix: str = "",
) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    request = {"shape": shape, "tokens": tokens, "head_trained": head_trained, "seconds": seconds}
    return contestant("benchmarks.machine --serve", {**request}, threads=threads, prefix=prefix)


def show(found: Mapping[str, Any], tokens: int) -> None:
    """Print the machine's peaks as a table."""
    print_table(
        f"What the machine can do, {found['threads']} threads",
        ("type", "2048 x 2048 (GFLOP/s)", f"a step on {tokens} tokens", "the same, from memory"),
        [
            (
                name,
                found[name]["large_gflops"],
                found[name]["step_hot_gflops"],
                found[name]["step_streamed_gflops"],
            )
            for name in DTYPES
        ],
    )
    memory = found["bandwidth"]
    print(f"Memory: reading {memory['read_gb_s']:.1f} GB/s, copying {memory['copy_gb_s']:.1f} GB/s")


def main() -> int:
    """Parse the arguments, measure, write."""
    parser = options(__doc__, "machine")
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64, help="trained tokens of a step")
    parser.add_argument("--all-weights", action="store_true", help="the head is trained, too")
    args = parser.parse_args()
    found = peaks(
        args.shape, tokens=args.tokens, head_trained=args.all_weights, threads=args.threads
    )
    if "unavailable" in found:
        sys.exit(found["unavailable"])
    path = write_json(args.json, {**about(args), **found})
    show(found, args.tokens)
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(serve(work) if "--serve" in sys.argv else main())
