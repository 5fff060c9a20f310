"""Days of a made-up life, learned one after the other in a home: what several benchmarks share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engrain.data.streams import Day
    from engrain.home import Home


def open_or_make(folder: Path, source: str, args: Any) -> Home:
    """The home of an interrupted run of the same benchmark, or a new one; its gate is off.

    The gate would only say whether a lesson is served: here the effect of serving it is measured.
    """
    from engrain.home import Home

    overrides = {
        "model.threads": args.threads,
        "gate.enabled": False,
        **({"learn.settings.max_steps": args.max_steps} if args.max_steps else {}),
        **({"learn.settings.min_steps": 1} if args.max_steps else {}),
    }
    if (folder / "config.toml").exists():
        try:
            return smaller(Home.open(folder, overrides=overrides), args)
        except Exception as error:
            sys.exit(f"{folder} holds no home to go on with: {error}")
    return smaller(Home.create(folder, overrides={**overrides, "model.source": source}), args)


def smaller(home: Home, args: Any) -> Home:
    """Cut the panel for a quick look, if ``--items`` says so."""
    if args.items:
        from engrain.exam.panel import PARTS

        limits = {part: args.items for part in ("loss", *PARTS)}
        home.__dict__["panel"] = home.panel.smaller(limits)
    return home


def learn_days(home: Home, stream: Sequence[Day], *, explicit: bool = False) -> list[str]:
    """Learn the days that the home has not learned yet; gives all lessons' ids, in order."""
    for waiting in [job for job in home.jobs() if not job.finished]:
        print(f"  goes on with job {waiting.id}", file=sys.stderr)
        home.resume(waiting.id)
    done = [entry.id for entry in home.lessons()]
    for number, day in enumerate(stream[len(done) :], start=len(done) + 1):
        source: Any = examples(day, home.path / f"{day.id}.jsonl") if explicit else None
        outcome = home.learn(source or list(day.conversations))
        done.append(outcome.lesson.id)
        print(f"  day {number}: {outcome.seconds:.1f} s", file=sys.stderr, flush=True)
    return done


def examples(day: Day, path: Path) -> Path:
    """A day's facts as explicit examples: for a model that can't read."""
    records = [
        {"prompt": f"{probe.messages[-1].content}{mark}", "completion": probe.answers[0]}
        for probe in day.probes
        if probe.answers
        for mark in ("", " Please say.")
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def add_options(parser: Any, *, days: int) -> None:
    """Options of every benchmark over days."""
    parser.add_argument("--days", "--n", type=int, default=days, help="lessons")
    parser.add_argument("--facts", type=int, default=6, help="facts a day")
    parser.add_argument("--folder", type=Path, help="keep the homes here, and go on with them")
    parser.add_argument("--items", type=int, default=0, help="of each part of the panel; 0: all")
    parser.add_argument(
        "--max-steps", type=int, default=0, help="shorter training; 0: the recipe's"
    )
    parser.add_argument(
        "--explicit", action="store_true", help="learn examples, for a model that can't read"
    )
