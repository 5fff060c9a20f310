"""Every optimizer and rule on one page: its state, memory, time, and what it learns.

Contestants come from the registry: each optimization on full weights, each rule on top of AdamW,
each architecture beside full weights. Four parts:

    memory   bytes of state a trained number, live and by the formula; peak of a step (135M shape)
    time     seconds of a step, and of its update alone, against torch's fused AdamW (21M shape)
    facts    days of facts learned one after another, no replay: recall, forgetting, harm
    book     continued training on a book at equal steps: loss of passages from its end

Memory and time take one fresh process a contestant. For facts and book the learning rate of each is
chosen on a development split from one grid, and differences to ``adamw`` are taken seed by seed.
The file is written after each run, and runs that it holds are not run again.

    python -m benchmarks.optimizers [--part facts --only NAME --seeds 10 --json FILE --quick]
    python -m benchmarks.optimizers --merge FILE --merge FILE
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks import optimizer_page as page
from benchmarks.common import (
    RESULTS,
    ROOT,
    TINY,
    about,
    begin,
    commit,
    options,
    read_json,
    write_json,
)
from benchmarks.measure import contestant, model_folder
from benchmarks.optimizer_jobs import DEVELOPMENT, HELD_OUT, Book, Facts, Job
from benchmarks.optimizer_page import BASELINE
from benchmarks.optimizer_steps import NOTHING, TORCH
from benchmarks.shapes import SHAPES
from engrain.data.lessons import canonical_digest
from engrain.errors import DivergedError, UsageError
from engrain.learn import registry
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Rule

PARTS = ("memory", "time", "facts", "book")
NAIVE: dict[str, Any] = {"epochs": 2.0, "batch_size": 6, "min_steps": 64}
"""The passes over a lesson of the naive recipes."""
SOME = ("adamw", "sgd", "hft")
"""Contestants of a smoke run."""
SPARSE = ("refresh", "interval", "reset")
"""Settings that count the steps between two events, with defaults for thousands of steps."""
SHORTER = 8

Scores = Mapping[float | None, tuple[float, ...]]
"""By learning rate what was reached with it, the lowest the best."""


@dataclass(frozen=True)
class Contestant:
    """A technique by name, what it is, and the plainest recipe that uses it."""

    name: str
    kind: str
    recipe: Recipe
    peer: str = ""

    @property
    def place(self) -> str:
        """Where its settings are in the recipe."""
        return f"rules.{self.name}" if self.kind == "rule" else self.kind

    @property
    def rate(self) -> float | None:
        """The learning rate that it has by default; None where it has none."""
        known: float | None = self.recipe.to_dict()["optimization"].get("learning_rate")
        return known

    def shortened(self) -> Contestant:
        """For lessons of some dozen steps: what happens now and then, eight times as often.

        With the published intervals nothing would ever be refreshed. An interval of 0 goes by the
        length of the run as it is.
        """
        category = "optimization" if self.kind == "rule" else self.kind
        chosen = self.recipe.rules[0] if self.kind == "rule" else getattr(self.recipe, self.kind)
        known = {f.name: f.default for f in fields(registry.get(category, self.name).Config)}
        settings = {
            f"{self.place}.{key}": max(1, int(known[key]) // SHORTER)
            for key in SPARSE
            if category == "optimization" and known.get(key) and key not in chosen.settings
        }
        return replace(self, recipe=replace(self.recipe, **NAIVE).with_settings(settings))


def contestants(settings: Mapping[str, Any] | None = None) -> dict[str, Contestant]:
    """All by name, the baseline first; ``settings`` are NAME.KEY of a technique's own."""
    full, found = Recipe("full", architecture=Choice("full")), []
    for name in registry.names("optimization"):
        technique = registry.get("optimization", name)
        if issubclass(technique, Rule):
            on = Choice(technique.tried_on)
            recipe = replace(full, name=name, architecture=on, rules=(Choice(name),))
            found.append(Contestant(name, "rule", recipe))
        else:
            recipe = replace(full, name=name, optimization=Choice(name))
            found.append(Contestant(name, "optimization", recipe))
    for name in registry.names("architecture"):
        if name != "full":
            recipe = replace(full, name=name, architecture=Choice(name))
            found.append(Contestant(name, "architecture", recipe))
    found.sort(key=lambda c: c.name != BASELINE)
    by_name = {c.name: c for c in found}
    for key, value in (settings or {}).items():
        name, _, setting = key.partition(".")
        c = by_name[name]
        by_name[name] = replace(c, recipe=c.recipe.with_settings({f"{c.place}.{setting}": value}))
    return by_name


class Page:
    """What was measured so far, by part; every run has the digest of all that it depends on."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.commit = args, commit()
        self.target = args.json if args.json.parent != Path(".") else RESULTS / args.json
        self.record = read_json(self.target)
        self.all = contestants(args.settings)
        self.chosen = [c for c in self.all.values() if not args.only or c.name in args.only]

    def runs(self, part: str) -> list[dict[str, Any]]:
        """All runs of a part that the file holds."""
        known: list[dict[str, Any]] = self.record.setdefault(part, {}).setdefault("runs", [])
        return known

    def hold(self, part: str, setting: Mapping[str, Any]) -> None:
        """One file holds one setting of a part.

        Raises:
            UsageError: it holds runs of another one.
        """
        held = self.record.setdefault(part, {}).setdefault("setting", dict(setting))
        other = sorted(key for key in setting if held.get(key) != setting[key])
        if other:
            raise UsageError(
                f"{self.target} holds runs of {part} with other {', '.join(other)}.",
                remedy="Name another file with --json.",
            )

    def known(self, part: str, key: str) -> list[dict[str, Any]]:
        """The runs of one digest; a process that failed has not run."""
        return [r for r in self.runs(part) if r["key"] == key and not r.get("failed")]

    def add(self, part: str, run: Mapping[str, Any]) -> None:
        """Keep a run in the place of one that failed; the file is written."""
        runs = self.runs(part)
        runs[:] = [r for r in runs if not (r["key"] == run["key"] and r.get("failed"))]
        runs.append({**run, "commit": self.commit})
        self.record[part]["about"] = about(self.args)
        self.write()

    def take(self, path: Path) -> None:
        """The runs of another file that this one lacks, as from a second process.

        Raises:
            UsageError: they are of another setting.
        """
        other = read_json(path)
        for part in (part for part in PARTS if "setting" in other.get(part, {})):
            self.hold(part, other[part]["setting"])
            held, given = self.record[part], other[part]
            known = {(run["key"], run.get("round")) for run in self.runs(part)}
            self.runs(part).extend(
                r for r in given["runs"] if (r["key"], r.get("round")) not in known
            )
            if "rates" in given:
                held["rates"] = {**given["rates"], **held.get("rates", {})}
            held.setdefault("about", given.get("about"))
        self.write()

    def skip(self, part: str, why: str) -> None:
        """Say why a part was not run."""
        print(f"{part} is left out: {why}", file=sys.stderr, flush=True)
        self.record.setdefault(part, {})["skipped"] = why
        self.write()

    def write(self) -> None:
        """The whole record, with the page that follows from its runs."""
        kinds = {c.name: (c.kind, c.recipe.architecture.name) for c in self.all.values()}
        rows = page.rows(self.record, kinds)
        self.record |= {"rows": rows, **page.verdict(rows)}
        write_json(self.target, self.record)


# ---------------------------------------------------------------------------- memory and time
def measure_steps(found: Page, part: str, folder: Path, dtype: str) -> None:
    """Some steps of each contestant in a process of its own, round by round.

    A round begins with what its ratios refer to, so that no ratio is between two runs.
    """
    args = found.args
    time_it = part == "time"
    shape = args.time_shape if time_it else args.memory_shape
    given = {
        "dtype": dtype,
        "context": args.time_context if time_it else args.memory_context,
        "targets": args.targets,
        "steps": 1 + (args.time_steps if time_it else args.memory_steps),
        "seed": args.seed,
    }
    found.hold(part, {**given, "shape": shape})
    baseline = found.all[BASELINE]
    first = [replace(baseline, name=name, kind="peer", peer=name) for name in (NOTHING, TORCH)]
    everyone = [*first, baseline, *(c for c in found.chosen if c.name != BASELINE)]
    model = ""
    for number in range(args.repeats if time_it else 1):
        keys = {}
        for c in everyone:
            request = {**given, "recipe": c.recipe.to_dict(), "peer": c.peer}
            keys[c.name] = canonical_digest({**request, "shape": shape})
        missing = [c for c in everyone if len(found.known(part, keys[c.name])) <= number]
        if not missing:
            continue
        # Times of two runs of this script are never compared.
        again = [c for c in (*first, baseline) if time_it and c not in missing]
        stamp = f"{time.time():.0f}-{number}"
        for c in [*again, *missing]:
            model = model or str(model_folder(shape, folder))
            record = contestant(
                "benchmarks.optimizer_steps",
                {**given, "recipe": c.recipe.to_dict(), "peer": c.peer, "model": model},
                threads=args.threads,
                timeout=args.timeout,
                prefix=args.prefix,
            )
            run = {"contestant": c.name, "key": keys[c.name], "round": stamp}
            found.add(part, {**run, **record})
            print(f"  {part}: {c.name}: {page.one_line(record)}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------- facts and book
def learn(found: Page, part: str, job: Job) -> None:
    """Choose a learning rate for each contestant, then one run a seed, all of a seed in turn."""
    args = found.args
    by = {"rates": args.rates.name} if args.rates else {"grid": args.grid}
    found.hold(part, {**job.setting, **by, "tune_seed": args.tune_seed})
    at: dict[str, float | None] = {}
    for c in found.chosen:
        choice = rate_from(args.rates, part, c) if args.rates else choose_rate(found, part, job, c)
        at[c.name] = choice["rate"]
        found.record[part].setdefault("rates", {})[c.name] = choice
        found.write()
    for seed in range(args.seed, args.seed + args.seeds):
        for c in found.chosen:
            rate = at[c.name]
            beside = [] if rate is None else [times * rate for times in args.times]
            for each in (rate, *beside):
                one(found, part, job, c.shortened(), each, HELD_OUT, seed)


def choose_rate(found: Page, part: str, job: Job, c: Contestant) -> dict[str, Any]:
    """The best rate of a grid on the development split, and the grid."""
    scores = tuned(found, part, job, c.shortened())
    return {
        "rate": best(scores),
        "default": c.rate,
        "grid": sorted(scores, key=lambda rate: rate or 0.0),
        # A better rate may lie outside of a grid whose end is the best of it.
        "at_the_end": bool(beyond(scores)),
    }


def rate_from(path: Path, part: str, c: Contestant) -> dict[str, Any]:
    """What another record of the same part chose.

    Raises:
        UsageError: it chose nothing for this contestant.
    """
    known = read_json(path).get(part, {}).get("rates", {})
    if c.name not in known:
        raise UsageError(
            f"{path} holds no learning rate of {c.name} for {part}.",
            remedy="Leave out --rates to choose one, or this contestant.",
        )
    choice: dict[str, Any] = known[c.name]
    return choice


def tuned(found: Page, part: str, job: Job, c: Contestant) -> Scores:
    """Scores by learning rate; the grid grows where its end is the best."""
    args, scores = found.args, dict[float | None, tuple[float, ...]]()
    waiting = [None] if c.rate is None else [factor * c.rate for factor in args.grid]
    for _ in range(1 + args.grow):
        for rate in waiting:
            run = one(found, part, job, c, rate, DEVELOPMENT, args.tune_seed)
            figures = run.get("figures", {})
            known = [figures.get(name) for name in job.deciding]
            sign = 1 if job.lower else -1
            scores[rate] = tuple(math.inf if value is None else sign * value for value in known)
        waiting = beyond(scores)
    return scores


def best(scores: Scores) -> float | None:
    """The rate of the lowest score; of equal ones the first."""
    return min(scores, key=lambda rate: scores[rate])


def beyond(scores: Scores) -> list[float | None]:
    """The next rate after the end of a grid that is the best of it, as far as the one before."""
    rates, found = sorted(rate for rate in scores if rate), best(scores)
    if len(rates) < 2 or found not in (rates[0], rates[-1]):
        return []
    last, before = rates[:2] if found == rates[0] else (rates[-1], rates[-2])
    return [float(f"{last * last / before:.6g}")]


def one(
    found: Page, part: str, job: Job, c: Contestant, rate: float | None, split: str, seed: int
) -> dict[str, Any]:
    """One run, or the one that is known already."""
    settings = {} if rate is None else {"optimization.learning_rate": rate}
    recipe = c.recipe.with_settings(settings)
    depends = {"recipe": recipe.to_dict(), **job.about(split, seed)}
    key = canonical_digest(depends)
    if known := found.known(part, key):
        return known[0]
    run: dict[str, Any] = {"contestant": c.name, "key": key, "recipe": recipe.digest}
    run |= {"split": split, "seed": seed, "rate": rate}
    began = time.perf_counter()
    try:
        run |= job.run(recipe, split, seed)
    except DivergedError as error:
        run["diverged"] = error.message
    run["run_seconds"] = time.perf_counter() - began
    found.add(part, run)
    figure = run.get("figures", {}).get(job.figures[0], "diverged")
    print(
        f"  {part}: {c.name}, {split}, seed {seed}, rate {rate}: {job.figures[0]} {figure}, "
        f"{run['run_seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return run


# ---------------------------------------------------------------------------- the script
def parse() -> argparse.Namespace:
    """The arguments; ``--quick`` makes everything tiny."""
    parser = options(__doc__, "optimizers")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given again")
    parser.add_argument(
        "--merge", action="append", default=[], type=Path, metavar="FILE",
        help="first take the runs of another file, of the same setting; without --part, only this",
    )  # fmt: skip
    parser.add_argument("--only", action="append", metavar="NAME", help="may be given again")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=JSON", help="of a technique's own"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--memory-shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--memory-context", type=int, default=64, help="few: the state counts")
    parser.add_argument("--memory-steps", type=int, default=3, help="after the first")
    parser.add_argument("--time-shape", choices=list(SHAPES), default="smollm2-6-layers")
    parser.add_argument("--time-context", type=int, default=480)
    parser.add_argument("--time-steps", type=int, default=6, help="after the first")
    parser.add_argument("--targets", type=int, default=32, help="tokens that are learned")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the part time")
    parser.add_argument(
        "--grid", type=float, nargs="*", default=[0.03, 0.1, 0.3, 1.0, 3.0],
        help="learning rates, as multiples of each default",
    )  # fmt: skip
    parser.add_argument(
        "--grow", type=int, default=2, help="most rates beyond an end of the grid that is its best"
    )
    parser.add_argument(
        "--rates", type=Path, metavar="FILE", help="choose none: take those of another record"
    )
    parser.add_argument(
        "--times", type=float, nargs="*", default=[], metavar="FACTOR",
        help="run, beside each learning rate, these multiples of it",
    )  # fmt: skip
    parser.add_argument("--tune-seed", type=int, default=1000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--tune-days", type=int, default=3)
    parser.add_argument("--facts", type=int, default=6, help="facts a day")
    parser.add_argument("--lessons", type=Path, help="where lessons are kept; default: by the JSON")
    parser.add_argument("--book", default="tinyshakespeare")
    parser.add_argument("--books", type=Path, default=ROOT.parent / "shared" / "data" / "books")
    parser.add_argument("--passage", type=int, default=128, help="tokens of a passage")
    parser.add_argument("--steps", type=int, default=60, help="steps on the book")
    parser.add_argument("--batch", type=int, default=8, help="passages a step")
    parser.add_argument("--held", type=int, default=64, help="passages whose loss is asked")
    parser.add_argument("--prefix", default="", help="before each process, as 'taskset -c 0-1'")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of one process")
    parser.add_argument("--models", type=Path, help="keep the random models here")
    parser.add_argument("--plot", type=Path, help="default: beside the JSON")
    parser.add_argument(
        "--tradeoff", type=Path, metavar="PNG", help="also plot recall against the panel's harm"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny model")
    args = parser.parse_args()
    args.part = args.part or ([] if args.merge else list(PARTS))
    args.settings = {k: json.loads(v) for k, _, v in (item.partition("=") for item in args.set)}
    if args.quick:
        args.model, args.only = TINY, args.only or list(SOME)
        args.memory_shape = args.time_shape = "tiny"
        args.memory_steps, args.time_steps, args.time_context, args.repeats = 2, 2, 64, 1
        args.grid, args.seeds, args.days, args.tune_days, args.facts = [0.3, 1.0], 2, 2, 1, 2
        args.grow = 1
        args.passage, args.steps, args.batch, args.held = 64, 3, 2, 4
    if unknown := set(args.only or ()) - set(contestants()):
        parser.error(f"no contestant {', '.join(sorted(unknown))}; see `engrain methods list`")
    return args


def jobs(args: argparse.Namespace, found: Page, folder: Path) -> dict[str, Job]:
    """The jobs that are asked for and can be done; the model is loaded only for these."""
    wanted = [part for part in ("facts", "book") if part in args.part]
    path = args.books / f"{args.book}.txt.gz"
    if "book" in wanted and not path.is_file():
        found.skip("book", f"there is no {path}; name a folder of books with --books.")
        wanted.remove("book")
    if not wanted:
        return {}
    from engrain.model.loading import load_model

    args.lessons = args.lessons or found.target.with_name(f"{found.target.stem}-lessons")
    loaded = load_model(begin(args, folder), local_only=True)
    made: dict[str, Job] = {}
    if "facts" in wanted:
        made["facts"] = Facts(loaded, args)
    if "book" in wanted:
        made["book"] = Book(loaded, args, path)
    return made


def main() -> int:
    """Run what is missing, write the JSON and the plot, print the page; 1 if a process failed."""
    args = parse()
    found = Page(args)
    for path in args.merge:
        found.take(path)
    from engrain.learn.compute import has_bf16

    bf16 = has_bf16() if args.dtype == "auto" else args.dtype == "bfloat16"
    with tempfile.TemporaryDirectory() as place:
        models = nullcontext(args.models) if args.models else nullcontext(Path(place))
        with models as folder:
            for part in ("memory", "time"):
                if part in args.part:
                    measure_steps(found, part, folder, "bfloat16" if bf16 else "float32")
        for part, job in jobs(args, found, Path(place)).items():
            learn(found, part, job)
    plotted = page.plot(found.record["rows"], args.plot or found.target.with_suffix(".png"))
    if args.tradeoff:
        lived = [row for row in found.record["rows"] if row.get("facts", {}).get("figures")]
        print(page.plot_tradeoff(lived, args.tradeoff))
    page.show(found.record)
    print(f"{found.target}\n{plotted}")
    return 1 if _failed(found) else 0


def _failed(found: Page) -> bool:
    names = {c.name for c in found.chosen}
    return any(
        run.get("failed")
        for part in ("memory", "time")
        if part in found.record
        for run in found.runs(part)
        if run["contestant"] in names
    )


if __name__ == "__main__":
    raise SystemExit(main())
