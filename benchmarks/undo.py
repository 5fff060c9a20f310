"""Undo: is the digest before the last lesson back, and what do the other lessons lose?

Days of a made-up life are learned in a home. Then each lesson but the last is switched off alone,
all recall questions of the others are asked, and it is switched on again; and in a copy of the home
it is undone and the later lessons are learned again. At the end the last lesson is undone.
Questions whose answer some later day corrects count nowhere.

    python -m benchmarks.undo [--days 4 --seeds 3 --folder FOLDER] [--no-relearn]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.common import about, begin, options, print_table, write_json
from benchmarks.days import add_options, learn_days, open_or_make

BAR = 3.0
"""Percentage points that the other lessons may lose, all together."""
AGAIN = ("its own, relearned", "the others, relearned", "seconds")


def one_life(args: argparse.Namespace, folder: Path, source: str, seed: int) -> dict[str, Any]:
    """Learn the days of one seed, take every lesson out in turn, undo the last."""
    from engrain.bench.life import ask_all, make_stream
    from engrain.exam.probes import RECALL_KINDS, ProbeResult

    stream = make_stream(days=args.days, facts_per_day=args.facts, seed=seed)
    gone = {probe for day in stream for probe in day.supersedes}

    def marks(found: Mapping[str, Sequence[ProbeResult]]) -> dict[str, dict[str, bool]]:
        return {
            day: {
                r.probe_id: r.passed
                for r in results
                if r.kind in RECALL_KINDS and r.probe_id not in gone
            }
            for day, results in found.items()
        }

    with open_or_make(folder / f"seed-{seed}", source, args) as home:
        names = learn_days(home, stream, explicit=args.explicit)
        for entry in home.lessons():
            if entry.status == "disabled":  # a run that was stopped in the middle
                home.enable(entry.id)
        whole = home.state
        if tuple(names) != whole.lessons:
            sys.exit(f"The home of seed {seed} is of a finished run: give another --folder.")
        before = marks(ask_all(home.served.engine, stream))
        removed: list[dict[str, Any]] = []

        def learned_again(home: Any, name: str, args: argparse.Namespace) -> Any:
            with tempfile.TemporaryDirectory() as other:
                shutil.copytree(home.path, Path(other) / "home")
                with open_or_make(Path(other) / "home", source, args) as copy:
                    began = time.perf_counter()
                    copy.undo(name, relearn=True)
                    seconds = time.perf_counter() - began
                    return seconds, ask_all(copy.served.engine, stream)

        for position, name in enumerate(names[:-1]):
            home.disable(name)
            after = marks(ask_all(home.served.engine, stream))
            again = home.enable(name).state_after == whole.digest
            relearned = learned_again(home, name, args) if args.relearn else None
            asked_again = marks(relearned[1]) if relearned else {}
            others = [day.id for i, day in enumerate(stream) if i != position]
            pairs = [(before[d][p], after[d][p]) for d in others for p in before[d]]
            own = stream[position].id
            removed.append(
                {
                    "day": own,
                    "questions": len(pairs),
                    "others_before": sum(b for b, _ in pairs),
                    "others_after": sum(a for _, a in pairs),
                    "lost": sum(b and not a for b, a in pairs),
                    "gained": sum(a and not b for b, a in pairs),
                    "own_questions": len(before[own]),
                    "own_before": sum(before[own].values()),
                    "own_after": sum(after[own].values()),
                    "digest_equal_after_enable": again,
                }
            )
            if relearned:
                removed[-1] |= {
                    "relearned_others": sum(asked_again[d][p] for d in others for p in before[d]),
                    "relearned_own": sum(asked_again[own].values()),
                    "relearned_seconds": relearned[0],
                }
        parent = home.show(names[-1]).parent_state
        change = home.undo("last")
        problems = home.verify()
    return {
        "seed": seed,
        "recall_before": _share([mark for found in before.values() for mark in found.values()]),
        "removed": removed,
        "undo_last": {
            "before": change.state_before,
            "after": change.state_after,
            "wanted": parent,
            "equal": change.state_after == parent,
        },
        "verify_problems": len(problems),
    }


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def main() -> int:
    """Parse the arguments, learn and undo, write; 0 if both bars are reached."""
    parser = options(__doc__, "undo")
    parser.add_argument("--seeds", type=int, default=1, help="lives, from --seed on")
    parser.add_argument("--relearn", action=argparse.BooleanOptionalAction, default=True)
    add_options(parser, days=4)
    args = parser.parse_args()
    made = tempfile.TemporaryDirectory() if args.folder is None else nullcontext(args.folder)
    with made as folder:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        source = begin(args, place)
        lives = []
        for seed in range(args.seed, args.seed + args.seeds):
            lives.append(one_life(args, place, source, seed))
    removed = [row for life in lives for row in life["removed"]]
    asked = sum(row["questions"] for row in removed)
    change = 100 * sum(r["others_after"] - r["others_before"] for r in removed) / max(1, asked)
    worst = min(
        (100 * (r["others_after"] - r["others_before"]) / r["questions"] for r in removed),
        default=0.0,
    )
    changes = [
        100 * (r["relearned_others"] - r["others_before"]) / r["questions"]
        for r in removed
        if "relearned_others" in r
    ]
    again = sum(changes) / len(changes) if changes else None
    worst_again = min(changes, default=None)
    equal = all(life["undo_last"]["equal"] for life in lives)
    restored = all(row["digest_equal_after_enable"] for row in removed)
    clean = not any(life["verify_problems"] for life in lives)
    record = {
        **about(args),
        "bar_points": BAR,
        "undo_last_digest_equal": equal,
        "enable_digest_equal": restored,
        "verify_clean": clean,
        "others_change_points": change,
        "others_worst_change_points": worst,
        "relearned_change_points": again,
        "relearned_worst_change_points": worst_again,
        "lives": lives,
    }
    path = write_json(args.json, record)
    rows = [
        (
            f"{life['seed']}",
            row["day"],
            f"{row['own_before']} -> {row['own_after']} of {row['own_questions']}",
            f"{row['others_before']} -> {row['others_after']} of {row['questions']}",
            f"{100 * (row['others_after'] - row['others_before']) / row['questions']:+.1f}",
            row["digest_equal_after_enable"],
            *_again(row),
        )
        for life in lives
        for row in life["removed"]
    ]
    print_table(
        "Taking one lesson out",
        ("seed", "lesson", "its own", "the others", "points", "enable equal", *AGAIN),
        rows,
    )
    if args.relearn:
        print(
            f"\nWith the later lessons learned again: {again:+.2f} points on average "
            f"(worst {worst_again:+.1f}; bar -{BAR:.0f})."
        )
    print(
        f"\nThe others: {change:+.2f} points on average (worst {worst:+.1f}; bar -{BAR:.0f}). "
        f"Undo of the last lesson: digest {'equal' if equal else 'NOT equal'}. "
        f"Verify: {'clean' if clean else 'NOT clean'}.\n{path}"
    )
    kept = worst if worst_again is None else max(worst, worst_again)
    return 0 if equal and restored and clean and kept >= -BAR else 1


def _again(row: Mapping[str, Any]) -> tuple[str, str, str]:
    if "relearned_others" not in row:
        return "-", "-", "-"
    return (
        f"{row['relearned_own']} of {row['own_questions']}",
        f"{row['relearned_others']} of {row['questions']}",
        f"{row['relearned_seconds']:.0f}",
    )


if __name__ == "__main__":
    sys.exit(main())
