"""One training step on a long conversation, against transformers' Trainer and TRL with PEFT.

One conversation, 2,048 tokens of context and 64 that are learned, one optimizer step on a model
with the shape of a published one and random weights. Each contestant runs in a fresh process of its
own, one after the other, in five rounds; figures are medians, ratios are within this run.

Trainer at its best is the fastest of its settings on this machine: compute type, checkpointing, and
logits for the learned tokens alone. All are tried once, the winners go into the rounds.

    python -m benchmarks.step [--shape smollm2-135m --peer-python PATH --json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks import ours, peers
from benchmarks.common import about, options, print_table, write_json
from benchmarks.machine import peaks, show
from benchmarks.measure import contestant, model_folder, summary
from benchmarks.shapes import SHAPES, token_ids

LESSONS = 8
"""Lessons of one conversation that share one computation of its context."""

Records = dict[str, list[dict[str, Any]]]


class Rounds:
    """Runs contestants and keeps every record."""

    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        self.args, self.model = args, model
        self.ids = token_ids(args.context, args.targets, seed=args.seed)
        self.records: Records = {}
        self.tried: Records = {}

    def run(self, name: str, request: Mapping[str, Any], steps: int) -> dict[str, Any]:
        """One contestant once; what it took is printed as it comes."""
        mine = name.startswith("ours")
        record = contestant(
            "benchmarks.ours" if mine else "benchmarks.peers",
            {
                **request,
                "model": str(self.model),
                "ids": self.ids,
                "targets": self.args.targets,
                "seed": self.args.seed,
                "steps": steps,
            },
            python=sys.executable if mine else self.args.peer_python,
            threads=self.args.threads,
            timeout=self.args.timeout,
            prefix=self.args.prefix,
        )
        seconds = [record.get("first_step_seconds"), *record.get("step_seconds", [])]
        shown = ", ".join(f"{s:.3g}" for s in seconds if s is not None)
        print(f"  {name}: {record.get('unavailable') or shown + ' s'}", file=sys.stderr, flush=True)
        return record

    def fastest(self, choices: Mapping[str, Mapping[str, Any]]) -> str:
        """Try each of some settings once; gives the name of the fastest."""
        for name, request in choices.items():
            self.tried.setdefault(name, []).append(self.run(name, request, 2))
        found = {name: summary(self.tried[name]) for name in choices}
        return min(found, key=lambda name: found[name].get("step_seconds", float("inf")))

    def repeat(self, entrants: Mapping[str, Mapping[str, Any]], keep: Callable[[], object]) -> None:
        """All contestants in turn, as many rounds as asked for; one that can't run, once.

        What is measured so far is kept after each round: a whole run can take an hour.
        """
        for number in range(self.args.repeats):
            for name, request in entrants.items():
                kept = self.records.setdefault(name, [])
                slow = name == "trainer-default" and number >= self.args.default_repeats
                if slow or (kept and "unavailable" in kept[-1]):
                    continue
                steps = self.args.our_steps if name.startswith("ours") else self.args.steps
                kept.append(self.run(name, request, 1 + steps))
            keep()


def choose(rounds: Rounds, args: argparse.Namespace, bf16: bool) -> dict[str, dict[str, Any]]:
    """The contestants of the rounds by name, Trainer's and TRL's best settings found."""
    dtype = "bfloat16" if bf16 else "float32"
    settings = dict(item.partition("=")[::2] for item in args.set)
    settings = {key: json.loads(value) for key, value in settings.items()}
    mine = ours.contestants(dtype, args.optimization, settings)
    fixed = peers.contestants(bf16)
    if args.quick:
        plain = "trainer-bf16" if bf16 else "trainer-fp32"
        chosen = {"trainer-best": peers.variants(bf16)[plain]}
        return {**mine, "trainer-default": fixed["trainer-default"], **chosen}
    entrants = {**mine}
    if "trainer" in args.peers:
        entrants["trainer-default"] = fixed["trainer-default"]
        choices = peers.variants(bf16)
        for name, few in (("trainer-best", False), ("trainer-best-few-logits", True)):
            fit = {k: v for k, v in choices.items() if v["few_logits"] is few}
            entrants[name] = choices[rounds.fastest(fit)]
    if "trl" in args.peers:
        fit = {name: fixed[name] for name in ("trl-lora", "trl-lora-no-gc")}
        entrants["trl-lora"] = fixed[rounds.fastest(fit)]
    return entrants


def figures(
    found: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
    """The figures that the bars are about; None where a contestant is missing."""
    seconds = {name: row["step_seconds"] for name, row in found.items() if "step_seconds" in row}
    default = seconds.get("trainer-default")
    arguments = seconds.get("trainer-best")
    all_best = [seconds[n] for n in ("trainer-best", "trainer-best-few-logits") if n in seconds]
    best = min(all_best, default=None)
    ours_row = found.get("ours-cached", {})
    cached = seconds.get("ours-cached")
    prefill = ours_row.get("prefill_seconds", 0.0)
    shared = cached + prefill / LESSONS if cached else None
    recomputed = seconds.get("ours-recomputed")
    against = {
        "trainer_default": default,
        "trainer_best": best,
        "trainer_best_arguments": arguments,
        "trl_lora": seconds.get("trl-lora"),
    }
    result: dict[str, Any] = {}
    for prefix, own in (
        ("speedup", cached),
        ("speedup_8_lessons", shared),
        ("speedup_recomputed", recomputed),
    ):
        for name, other in against.items():
            result[f"{prefix}_vs_{name}"] = other / own if own and other else None
    peak = machine.get(dtype, {})
    result |= {
        "peak_extra_over_weights": ours_row.get("steady_extra_over_weights"),
        "peak_extra_with_prefill_over_weights": ours_row.get("peak_extra_over_weights"),
        "peak_extra_with_loading_over_weights": ours_row.get("peak_extra_with_loading"),
        "matmul_peak_fraction": _share(peak.get("step_hot_seconds"), cached),
        "matmul_peak_fraction_streamed": _share(peak.get("step_streamed_seconds"), cached),
        "step_seconds": cached,
        "prefill_seconds": prefill or None,
        "step_seconds_8_lessons": shared,
    }
    return result


def _share(least: float | None, taken: float | None) -> float | None:
    """Both do the same operations, so the share of the peak is a ratio of seconds."""
    return least / taken if least and taken else None


def parse() -> argparse.Namespace:
    """The arguments; ``--quick`` makes everything tiny."""
    parser = options(__doc__, "step")
    parser.set_defaults(model="")
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--context", type=int, default=2048, help="tokens that are not learned")
    parser.add_argument("--targets", type=int, default=64, help="tokens that are learned")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, each in fresh processes")
    parser.add_argument(
        "--default-repeats", type=int, default=2, help="rounds of Trainer with its defaults"
    )
    parser.add_argument("--steps", type=int, default=1, help="a peer's steps after its first")
    parser.add_argument("--our-steps", type=int, default=5, help="our steps after the first")
    parser.add_argument("--optimization", default="sign", help="ours")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="a setting of our recipe"
    )
    parser.add_argument("--peers", nargs="*", default=["trainer", "trl"], metavar="PEER")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--prefix", default="", help="before each command, as 'taskset -c 0-1'")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of one process")
    parser.add_argument("--models", type=Path, help="keep the random models here")
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny model")
    args = parser.parse_args()
    if args.quick:
        args.shape, args.context, args.targets = "tiny", 256, 16
        args.repeats, args.default_repeats, args.our_steps, args.steps = 1, 1, 2, 1
        args.peers = ["trainer"]
    return args


def main() -> int:
    """Parse the arguments, run the rounds, write; 1 if a contestant failed."""
    args = parse()
    from engrain.learn.compute import has_bf16

    bf16 = has_bf16() if args.dtype == "auto" else args.dtype == "bfloat16"
    dtype = "bfloat16" if bf16 else "float32"
    made = tempfile.TemporaryDirectory() if args.models is None else nullcontext(args.models)
    with made as folder:
        rounds = Rounds(args, model_folder(args.shape, Path(folder)))
        machine = peaks(
            args.shape,
            tokens=args.targets,
            threads=args.threads,
            seconds=0.02 if args.quick else 0.2,
            prefix=args.prefix,
        )
        entrants = choose(rounds, args, bf16)

        def record() -> dict[str, Any]:
            found = {name: summary(records) for name, records in rounds.records.items()}
            shape = SHAPES[args.shape]
            return {
                **about(args),
                "compute": dtype,
                "machine_peaks": machine,
                "shape": {**vars(shape), "parameters": shape.parameters, "head": shape.head},
                **figures(found, machine, dtype),
                "contestants": found,
                "settings": entrants,
                "tried_once": {name: summary(tried) for name, tried in rounds.tried.items()},
                "raw": {"rounds": rounds.records, "tried": rounds.tried},
            }

        rounds.repeat(entrants, lambda: write_json(args.json, record()))
    whole = record()
    path = write_json(args.json, whole)
    _print(args, whole)
    print(path)
    everything = [r for kept in (rounds.records, rounds.tried) for rs in kept.values() for r in rs]
    return 1 if any(r.get("failed") for r in everything) else 0


def _print(args: argparse.Namespace, record: Mapping[str, Any]) -> None:
    if "unavailable" not in record["machine_peaks"]:
        show(record["machine_peaks"], args.targets)
    rows = {**record["tried_once"], **record["contestants"]}
    print_table(
        f"One step: {args.shape}, {args.context} tokens of context, {args.targets} learned",
        ("contestant", "runs", "step (s)", "first (s)", "weights (MB)", "peak above (MB)", "share"),
        [
            (
                name,
                row["repeats"],
                row["step_seconds"],
                row["first_step_seconds"],
                round(row["weights_bytes"] / 1e6),
                round((row["peak_bytes"] - row["resident_loaded_bytes"]) / 1e6),
                row["peak_extra_over_weights"],
            )
            for name, row in rows.items()
            if "unavailable" not in row
        ],
    )
    for name, row in rows.items():
        if "unavailable" in row:
            print(f"{name}: {row['unavailable']}")
    figures_ = [(k, v) for k, v in record.items() if k.startswith(("speedup", "peak_", "matmul"))]
    print_table("Figures", ("figure", "value"), figures_)


if __name__ == "__main__":
    raise SystemExit(main())
