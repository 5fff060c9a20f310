"""Does the fast way of learning cost quality? ``bench life`` with it and with the plain way.

Fast is the product as it is: compiled kernels, packed rows, contexts on their own cache, the
processor's compute type. Plain is what it replaces: fp32 in torch alone, padded rows, every token
in the graph. Same stream, recipe and seeds; a seed's two lives are compared with each other, and
the mean difference is given with its 95% interval (Student's t over seeds).

    python -m benchmarks.ways --days 3 --seeds 5 [--way fast --way plain] [--json FILE]

The file is written after every life, and lives that it holds are not run again.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import about, begin, options, print_table, read_json, write_json

if TYPE_CHECKING:
    from engrain.learn.recipe import Recipe

WAYS = ("fast", "plain")
FIGURES = (
    "recall_final",
    "learning_accuracy",
    "forgetting",
    "abstention",
    "corrections",
    "panel_change_percent",
    "seconds_per_lesson",
)


@contextmanager
def way(name: str) -> Iterator[Recipe]:
    """Compute in one of the two ways for a while; gives its recipe."""
    from engrain.learn import compute
    from engrain.learn.recipe import named
    from engrain.model import kernels
    from engrain.model.hardware import set_compute

    recipe = named("default")
    if name == "fast":
        yield recipe
        return
    packed, compute.SHORT = compute.SHORT, 0
    set_compute("float32")
    try:
        with kernels.without():
            yield recipe.with_settings({"representation": "full_context"})
    finally:
        set_compute("auto")
        compute.SHORT = packed


def life(loaded: Any, stream: Sequence[Any], name: str, seed: int) -> dict[str, Any]:
    """One life in one way."""
    from engrain.bench.life import run_life
    from engrain.bench.record import result_record
    from engrain.exam.panel import load_panel

    def on_day(recipe: str, seed: int, day: int, days: int, what: str) -> None:
        print(f"  {name}, seed {seed}, day {day} of {days} {what}", file=sys.stderr, flush=True)

    with way(name) as recipe:
        result = run_life(loaded, stream, recipe, load_panel(), seed=seed, on_day=on_day)
    return {"way": name, **result_record(result)}


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each figure in both ways, and the mean difference over the seeds that both have."""
    from engrain.bench.record import result_from_record
    from engrain.exam.life import summarise_life
    from engrain.exam.statistics import summarise

    found: dict[str, Any] = {}
    alone: dict[tuple[str, int], dict[str, Any]] = {}
    for run in runs:
        record = {key: value for key, value in run.items() if key != "way"}
        summary = summarise_life([result_from_record(record).run])
        alone[run["way"], run["seed"]] = next(iter(summary.values()))
    seeds = sorted({seed for _, seed in alone if all((w, seed) in alone for w in WAYS)})
    for key in FIGURES:
        values = {w: [_number(alone[w, seed][key]) for seed in seeds] for w in WAYS}
        pairs = zip(values["fast"], values["plain"], strict=True)
        found[key] = {
            **{w: summarise(values[w]).to_dict() for w in WAYS},
            "difference": summarise([fast - plain for fast, plain in pairs]).to_dict(),
        }
    return {"seeds": seeds, "figures": found}


def _number(value: float | None) -> float:
    """A figure that a life does not have is left out of the means."""
    return math.nan if value is None else float(value)


def main() -> int:
    """Run the lives that are missing, write the JSON, print the table."""
    parser = options(__doc__, "ways")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--facts", type=int, default=6, help="facts a day")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--way", action="append", choices=WAYS, help="default: both")
    parser.add_argument("--add", action="append", default=[], help="count a file's lives in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        from engrain.bench.life import make_stream
        from engrain.model.loading import load_model

        loaded = load_model(source, local_only=True)
        stream = make_stream(days=args.days, facts_per_day=args.facts)
        known = [read_json(path) for path in (args.json, *map(Path, args.add))]
        runs = {(r["way"], r["seed"]): r for record in known for r in record.get("runs", [])}
        for seed in range(args.seed, args.seed + args.seeds):
            for name in args.way or WAYS:
                if (name, seed) not in runs:
                    runs[name, seed] = life(loaded, stream, name, seed)
                record = about(args, model=source, **figures(list(runs.values())))
                write_json(args.json, {**record, "runs": list(runs.values())})
    summary = figures(list(runs.values()))
    rows = []
    for key, found in summary["figures"].items():
        means = [found[w]["mean"] for w in WAYS]
        gap = found["difference"]
        interval = gap.get("interval") or {}
        bounds = interval.get("low"), interval.get("high")
        rows.append([key, *means, gap.get("mean"), *bounds])
    print_table(
        f"The fast way against the plain way, {len(summary['seeds'])} seeds, {args.days} days",
        ["figure", "fast", "plain", "difference", "low", "high"],
        rows,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
