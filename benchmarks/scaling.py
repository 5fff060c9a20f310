"""How cost grows: with the context, with the size of the model, with the lessons that came before.

The first two parts time one optimizer step as :mod:`benchmarks.step` does, ours against Trainer at
its best, where that fits into the memory that is free. The third part times a step of the default
recipe, the fold and a served token on top of many adapters. One fresh process each.

    python -m benchmarks.scaling [--part context --part size --part adapters] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks import ours, peers
from benchmarks.common import RESULTS, about, options, print_table, write_json
from benchmarks.measure import contestant, model_folder, summary
from benchmarks.shapes import CUT, SHAPES, token_ids

PARTS = ("context", "size", "adapters")
OURS = ("ours-cached", "ours-recomputed")
COLOURS = {
    "ours-cached": "#0f766e",
    "ours-recomputed": "#0284c7",
    "trainer-best": "#b4235a",
}

Row = dict[str, Any]


class Scaling:
    """Runs one contestant at one point, several times, and gives its medians."""

    def __init__(self, args: argparse.Namespace, folder: Path, bf16: bool) -> None:
        self.args, self.folder, self.bf16 = args, folder, bf16
        self.dtype = "bfloat16" if bf16 else "float32"
        settings = dict(item.partition("=")[::2] for item in args.set)
        mine = ours.contestants(
            self.dtype, args.optimization, {k: json.loads(v) for k, v in settings.items()}
        )
        self.mine = {name: mine[name] for name in OURS}

    def step(self, shape: str, context: int) -> dict[str, Row]:
        """One step on a shape and a context: ours, and Trainer's best that fits."""
        request = {
            "model": str(model_folder(shape, self.folder)),
            "ids": token_ids(context, self.args.targets, seed=self.args.seed),
            "targets": self.args.targets,
            "seed": self.args.seed,
        }
        found = {
            name: self._repeated(
                "benchmarks.ours",
                {**request, **settings, "steps": 1 + self.args.our_steps},
                f"{shape}, {context}: {name}",
            )
            for name, settings in self.mine.items()
        }
        if self.args.peer_repeats:
            found["trainer-best"] = self._trainer(request, f"{shape}, {context}")
        return found

    def _trainer(self, request: Row, where: str) -> Row:
        """Trainer with few logits: as it is, or with checkpointing if that does not fit."""
        choices = peers.variants(self.bf16)
        kind = "bf16" if self.bf16 else "fp32"
        found: Row = {}
        for name in (f"trainer-{kind}-few", f"trainer-{kind}-gc-few"):
            found = self._repeated(
                "benchmarks.peers",
                {**request, **choices[name], "steps": 2},
                f"{where}: {name}",
                python=self.args.peer_python,
                repeats=self.args.peer_repeats,
            )
            found["settings"] = name
            if "unavailable" not in found:
                break
        return found

    def adapters(self, count: int) -> Row:
        """A step, the fold and a served token on top of ``count`` adapters."""
        return self._repeated(
            "benchmarks.adapters",
            {
                "model": str(model_folder(self.args.shape, self.folder)),
                "dtype": self.dtype,
                "count": count,
                "steps": 1 + self.args.adapter_steps,
                "times": 1 if self.args.quick else 3,
            },
            f"{self.args.shape}, {count} adapters",
        )

    def _repeated(
        self, module: str, request: Row, what: str, *, python: str = "", repeats: int = 0
    ) -> Row:
        records: list[Row] = []
        for _ in range(repeats or self.args.repeats):
            records.append(
                contestant(
                    module,
                    request,
                    python=python or sys.executable,
                    threads=self.args.threads,
                    timeout=self.args.timeout,
                    prefix=self.args.prefix,
                )
            )
            if "unavailable" in records[-1]:
                break
        row = summary(records)
        seconds = row.get("unavailable") or f"{row['step_seconds']:.3g} s"
        print(f"  {what}: {seconds}", file=sys.stderr, flush=True)
        return {**row, "failed": any(record.get("failed") for record in records)}


def plot(record: Mapping[str, Any], path: Path) -> Path:
    """Three panels: seconds by context, seconds by size, milliseconds by adapters."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from engrain.exam.plots import FAINT, INK, PAPER, SOFT

    style: Any = {
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": FAINT,
        "font.size": 10,
    }
    with matplotlib.rc_context({**style, "xtick.color": SOFT, "ytick.color": SOFT}):
        figure = Figure(figsize=(12.6, 4.2), layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3)
        steps = (
            ("context", "tokens of context", "One step, by context", 1.0),
            ("size", "million weights", "One step, by size of the model", 1e-6),
        )
        for axes, (part, label, title, scale) in zip(panels, steps, strict=False):
            rows = record.get(part) or []
            for name, colour in COLOURS.items():
                points = [
                    (row["at"] * scale, row[name]["step_seconds"])
                    for row in rows
                    if "step_seconds" in row.get(name, {})
                ]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), marker="o", color=colour, label=name, lw=2
                    )
            axes.set(xlabel=label, ylabel="seconds a step", xscale="log", yscale="log")
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
            ticks = [row["at"] * scale for row in rows]
            axes.set_xticks(
                ticks, [f"{tick:,.0f}" if tick >= 1 else f"{tick:.2f}" for tick in ticks]
            )
            axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        rows = [row for row in record.get("adapters") or [] if "unavailable" not in row]
        for key, name, colour in (
            ("mean_step_seconds", "a step of the default recipe", "#0f766e"),
            ("fold_seconds", "the fold", "#d97706"),
            ("served_token_seconds", "a served token", "#475569"),
        ):
            points = [(place, 1000 * row[key]) for place, row in enumerate(rows)]
            if points:
                panels[2].plot(
                    *zip(*points, strict=True), marker="o", color=colour, label=name, lw=2
                )
        panels[2].set(xlabel="earlier adapters", ylabel="milliseconds", yscale="log")
        panels[2].set_xticks(range(len(rows)), [str(row["at"]) for row in rows])
        panels[2].set_title("On top of earlier lessons", loc="left", fontweight="bold", fontsize=11)
        for axes in panels:
            axes.grid(color=FAINT, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date in the file: the same data, the same bytes.
        figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


def parse() -> argparse.Namespace:
    """The arguments; ``--quick`` makes everything tiny."""
    parser = options(__doc__, "scaling")
    parser.set_defaults(model="")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given again")
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--contexts", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--context", type=int, default=2048, help="where the size of models grows")
    parser.add_argument(
        "--shapes", nargs="*", choices=list(SHAPES), default=[s for s in SHAPES if s not in CUT]
    )
    parser.add_argument("--counts", type=int, nargs="*", default=[0, 1, 4, 16, 64])
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="processes of ours a point")
    parser.add_argument("--peer-repeats", type=int, default=1, help="of Trainer; 0: without it")
    parser.add_argument("--our-steps", type=int, default=3, help="our steps after the first")
    parser.add_argument("--adapter-steps", type=int, default=8)
    parser.add_argument("--optimization", default="sign", help="ours")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="a setting of our recipe"
    )
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--prefix", default="", help="before each command, as 'taskset -c 0-1'")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of one process")
    parser.add_argument("--models", type=Path, help="keep the random models here")
    parser.add_argument("--plot", type=Path, help="default: beside the JSON")
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny model")
    args = parser.parse_args()
    args.part = args.part or list(PARTS)
    if args.quick:
        args.shape, args.contexts, args.context, args.targets = "tiny", [128, 256], 128, 16
        args.shapes, args.counts = ["tiny"], [0, 2]
        args.repeats, args.our_steps, args.adapter_steps = 1, 1, 2
    return args


def main() -> int:
    """Parse the arguments, measure point by point, write and plot; 1 if a contestant failed."""
    args = parse()
    from engrain.learn.compute import has_bf16

    bf16 = has_bf16() if args.dtype == "auto" else args.dtype == "bfloat16"
    record: Row = {}
    target = args.json if args.json.parent != Path(".") else RESULTS / args.json
    made = tempfile.TemporaryDirectory() if args.models is None else nullcontext(args.models)
    with made as folder:
        scaling = Scaling(args, Path(folder), bf16)
        record = {**about(args), "compute": scaling.dtype}
        for part in args.part:
            rows: list[Row] = []
            points: Sequence[Any] = {
                "context": args.contexts,
                "size": args.shapes,
                "adapters": args.counts,
            }[part]
            for point in points:
                if part == "context":
                    rows.append({"at": point, **scaling.step(args.shape, point)})
                elif part == "size":
                    weights = SHAPES[point].parameters
                    row = scaling.step(point, args.context)
                    rows.append({"at": weights, "shape": point, **row})
                else:
                    rows.append({"at": point, **scaling.adapters(point)})
                record[part] = rows
                # Hours of work: what is measured so far is kept.
                write_json(target, record)
    path = plot(record, args.plot or target.with_suffix(".png"))
    _print(record)
    print(f"{target}\n{path}")
    return 1 if '"failed": true' in json.dumps(record) else 0


def _print(record: Mapping[str, Any]) -> None:
    for part in ("context", "size"):
        if part in record:
            print_table(
                f"One step, by {part}",
                (part, "contestant", "step (s)", "peak above weights (MB)", ""),
                [
                    (
                        str(row.get("shape", row["at"])),
                        name,
                        row[name].get("step_seconds"),
                        _above(row[name]),
                        row[name].get("unavailable", ""),
                    )
                    for row in record[part]
                    for name in COLOURS
                    if name in row
                ],
            )
    if "adapters" in record:
        print_table(
            "On top of earlier adapters",
            ("adapters", "step, mean (ms)", "fold (ms)", "served token (ms)", "peak (MB)"),
            [
                (
                    row["at"],
                    *(
                        None if row.get(key) is None else 1000 * row[key]
                        for key in ("mean_step_seconds", "fold_seconds", "served_token_seconds")
                    ),
                    _above(row),
                )
                for row in record["adapters"]
            ],
        )


def _above(row: Mapping[str, Any]) -> int | None:
    if "peak_bytes" not in row:
        return None
    above: int = row["peak_bytes"] - row["resident_loaded_bytes"]
    return round(above / 1e6)


if __name__ == "__main__":
    raise SystemExit(main())
