"""Whether the same exam gives the same answers, bit for bit: twice, and in another process.

A short lesson is learned from examples, so that more than the base weights is compared: the
digest of the weights after it must be the same in both processes as well. Then the probes of some
days of a made-up life and the panel are asked.

    python -m benchmarks.determinism [--model tiny --items 2 --days 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, about, begin, options, print_table, write_json


def exams(args: argparse.Namespace, times: int) -> dict[str, Any]:
    """Learn, then run the exam some times; gives digests and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        from engrain.bench.life import make_stream
        from engrain.data.general import anchors
        from engrain.exam.exam import run_exam
        from engrain.exam.panel import PARTS, load_panel
        from engrain.learn.fold import fold
        from engrain.learn.learner import Learner
        from engrain.learn.recipe import named
        from engrain.learn.testing import sample_lesson
        from engrain.model.digest import tensor_digest
        from engrain.model.engine import Engine
        from engrain.model.loading import load_model

        loaded = load_model(source)
    state = loaded.base_digest
    engine = Engine(loaded)
    if args.steps:
        recipe = named("default").with_settings({"min_steps": args.steps, "max_steps": args.steps})
        lessons, adapters = [sample_lesson("old", "Corvath"), sample_lesson()], []
        for number, lesson in enumerate(lessons):
            result = Learner(recipe).run(
                loaded, lesson, earlier=lessons[:number], adapters=adapters, anchors=anchors()
            )
            adapters = [*adapters, result.adapter]
            loaded.set_weights(fold(loaded.base_weights(), adapters))
        weights = fold(loaded.base_weights(), adapters)
        state = tensor_digest(weights)
        loaded.set_weights(weights)
        engine.set_state(state)
    panel = load_panel()
    if args.items:
        panel = panel.smaller({part: args.items for part in ("loss", *PARTS)})
    probes = {day.id: day.probes for day in make_stream(days=args.days, seed=args.seed)}
    digests, seconds = [], []
    for _ in range(times):
        began = time.perf_counter()
        digests.append(run_exam(engine, probes, panel, state_digest=state).digest)
        seconds.append(time.perf_counter() - began)
    return {
        "base": loaded.base_digest,
        "state": state,
        "exams": digests,
        "seconds": seconds,
        "questions": sum(map(len, probes.values())),
        "panel": panel.counts(),
    }


def other_process(args: argparse.Namespace) -> dict[str, Any]:
    """The same, once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.determinism", "--worker"]
    for name in ("model", "seed", "threads", "days", "steps", "items"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The other process failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    """Parse the arguments, compare, write; 0 if all digests are equal."""
    parser = options(__doc__, "determinism")
    parser.add_argument("--days", type=int, default=3, help="days whose probes are asked")
    parser.add_argument("--steps", type=int, default=20, help="of the lesson before; 0: none")
    parser.add_argument("--items", type=int, default=0, help="of each part of the panel; 0: all")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(exams(args, 1)))
        return 0
    here, there = exams(args, 2), other_process(args)
    checks = {
        "base weights, two processes": here["base"] == there["base"],
        "weights after a lesson, two processes": here["state"] == there["state"],
        "exam twice in one process": here["exams"][0] == here["exams"][1],
        "exam in two processes": here["exams"][0] == there["exams"][0],
    }
    record = {**about(args), "equal": checks, "here": here, "there": there}
    path = write_json(args.json, record)
    digests = {
        "base weights, two processes": here["base"],
        "weights after a lesson, two processes": here["state"],
        "exam twice in one process": here["exams"][0],
        "exam in two processes": there["exams"][0],
    }
    print_table(
        f"Determinism: {here['questions']} probes and {sum(here['panel'].values())} panel items",
        ("compared", "digest", "equal"),
        [(name, digests[name][:16], "yes" if equal else "NO") for name, equal in checks.items()],
    )
    print(f"\n{path}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
