"""The page of :mod:`benchmarks.optimizers`: one row a contestant, a table of it and a plot."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import print_table
from benchmarks.optimizer_jobs import HELD_OUT
from benchmarks.optimizer_steps import NOTHING, TORCH
from engrain.exam.statistics import paired_difference, summarise

BASELINE = "adamw"
COLOURS = {"optimization": "#0f766e", "rule": "#d97706", "architecture": "#4f46e5"}

INKS = ("#475569", "#d97706", "#0f766e", "#4f46e5", "#b4235a", "#0284c7", "#65a30d")
DECIDING = {"facts": ("recall_final", 1), "book": ("loss", -1)}
"""By part the figure by which rates are compared, and whether more of it is better."""
TRADEOFF = ("panel_change_percent", "recall_final")
"""What is given, and what it is given for."""

Row = dict[str, Any]
Rates = dict[float | None, dict[int, Row]]


# ---------------------------------------------------------------------------- figures
def rows(record: Mapping[str, Any], kinds: Mapping[str, tuple[str, str]]) -> list[Row]:
    """One row for each contestant that anything is known of, the baseline's first."""
    found = []
    for name, (kind, architecture) in kinds.items():
        row: Row = {"name": name, "kind": kind, "architecture": architecture}
        parts = {
            "memory": memory_of(record, name),
            "time": time_of(record, name),
            "facts": learned(record, "facts", name),
            "book": learned(record, "book", name),
        }
        parts = {part: figures for part, figures in parts.items() if figures}
        if parts:
            found.append({**row, **parts})
    return found


def memory_of(record: Mapping[str, Any], name: str) -> Row:
    """State a trained number, live and by the formula, and what a step takes above the weights.

    ``above_nothing`` is what it takes above a step that drops its gradients.
    """
    runs = {run["contestant"]: run for run in _runs(record, "memory")}
    run = runs.get(name, {})
    if "unavailable" in run or not run:
        return {k: run[k] for k in ("unavailable",) if k in run}
    extra = run["steady_peak_bytes"] - run["resident_loaded_bytes"]
    nothing = runs.get(NOTHING, {})
    found: Row = {
        "state_bytes": run["state_alive_bytes"],
        "state_formula_bytes": run["state_formula_bytes"],
        "state_equals_formula": run["state_equal"],
        "numbers": run["numbers"],
        "state_bytes_per_number": run["state_alive_bytes"] / run["numbers"],
        "state_over_weights": run["state_alive_bytes"] / run["weights_bytes"],
        "gradient_release": run["gradient_release"],
        "peak_extra_bytes": extra,
        "peak_extra_over_weights": extra / run["weights_bytes"],
        "first_step_extra_bytes": run["peak_bytes"] - run["resident_loaded_bytes"],
    }
    if "steady_peak_bytes" in nothing:
        least = nothing["steady_peak_bytes"] - nothing["resident_loaded_bytes"]
        found["above_nothing_over_weights"] = (extra - least) / run["weights_bytes"]
    return found


def time_of(record: Mapping[str, Any], name: str) -> Row:
    """Medians over rounds of seconds and of ratios to torch's fused AdamW in the same round."""
    runs = [run for run in _runs(record, "time") if "unavailable" not in run]
    torchs = {run["round"]: run for run in runs if run["contestant"] == TORCH}
    own = [run for run in runs if run["contestant"] == name]
    own = [run for run in own if run["key"] == own[-1]["key"]]
    found: Row = {"rounds": len(own)} if own else {}
    for key in ("step_seconds", "update_seconds"):
        seconds = [statistics.median(run[key]) for run in own]
        ratios = [
            taken / statistics.median(torchs[run["round"]][key])
            for taken, run in zip(seconds, own, strict=True)
            if run["round"] in torchs
        ]
        if seconds:
            found[key] = statistics.median(seconds)
        if ratios:
            found[key.replace("seconds", "ratio")] = statistics.median(ratios)
            found[key.replace("seconds", "ratio_range")] = [min(ratios), max(ratios)]
    return found


def learned(record: Mapping[str, Any], part: str, name: str) -> Row:
    """What a contestant learned at its rate, and ``beside`` that at others, by rate.

    ``to_best`` has the differences to the baseline at the best of its rates, where that is another
    than the chosen one: of those with as many seeds, and the best on the very seeds that are
    compared, so in the baseline's favour.
    """

    def chosen(name: str) -> Row:
        found: Row = record.get(part, {}).get("rates", {}).get(name, {})
        return found

    runs, rate = by_rate(record, part, name), chosen(name).get("rate")
    if rate not in runs:
        return {}
    bases, own = by_rate(record, part, BASELINE), chosen(BASELINE).get("rate")
    base = bases.get(own, {})
    found = {**chosen(name), **over_seeds(runs[rate], {} if name == BASELINE else base)}
    others = [{"rate": r, **over_seeds(runs[r], base)} for r in sorted(runs.keys() - {rate})]
    if others:
        found["beside"] = others
    full = {r: one for r, one in bases.items() if base.keys() <= one.keys()}
    best = max(full, key=lambda r: _reached(full[r], part), default=own)
    if name != BASELINE and best != own:
        found["to_best"] = {"rate": best, "difference": differences(runs[rate], full[best])}
    return found


def _reached(runs: Mapping[int, Row], part: str) -> float:
    figure, sign = DECIDING[part]
    mean = statistics.fmean(_figure(run, figure) for run in runs.values())
    return sign * mean if math.isfinite(mean) else -math.inf


def over_seeds(own: Mapping[int, Row], base: Mapping[int, Row]) -> Row:
    """Each figure over the seeds, and its difference to the baseline's."""
    return {
        "seeds": sorted(own),
        "diverged": sorted(seed for seed, run in own.items() if "diverged" in run),
        "figures": {
            figure: summarise(_figure(run, figure) for run in own.values()).to_dict()
            for figure in _figures(own)
        },
        "difference": differences(own, base),
    }


def differences(own: Mapping[int, Row], base: Mapping[int, Row]) -> Row:
    """The difference of each figure to the baseline's, seed by seed."""
    found: Row = {}
    for figure in _figures(own):
        pairs = [
            (_figure(base[s], figure), _figure(run, figure)) for s, run in own.items() if s in base
        ]
        if pairs:
            gap = paired_difference(*zip(*pairs, strict=True))
            found[figure] = {
                "mean": gap.mean if math.isfinite(gap.mean) else None,
                "count": gap.count,
                "interval": gap.interval.to_dict(),
                "p_permutation": gap.p_permutation,
            }
    return found


def _figures(runs: Mapping[int, Row]) -> list[str]:
    return next((list(run["figures"]) for run in runs.values() if "figures" in run), [])


def by_rate(record: Mapping[str, Any], part: str, name: str) -> Rates:
    """The held-out runs of a contestant by learning rate and seed, each of its newest recipe."""
    runs = [r for r in _runs(record, part) if (r["contestant"], r["split"]) == (name, HELD_OUT)]
    newest = {run.get("rate"): run["recipe"] for run in runs}
    found: Rates = {}
    for run in runs:
        if run["recipe"] == newest[run.get("rate")]:
            found.setdefault(run.get("rate"), {})[run["seed"]] = run
    return found


def verdict(found: Sequence[Row]) -> Row:
    """Names of contestants whose interval of the difference to AdamW is clear of zero."""

    def clear(row: Row, part: str, figure: str, sign: int, best: bool = False) -> bool:
        found = row.get(part, {})
        # Where the baseline is best at the rate that was chosen, that is the best.
        found = found.get("to_best", found) if best else found
        gap = found.get("difference", {}).get(figure, {})
        end = gap.get("interval", {}).get("low" if sign > 0 else "high")
        return end is not None and sign * end > 0

    forget_less = [r for r in found if clear(r, "facts", "forgetting", -1)]
    states = [
        r["memory"]["state_equals_formula"] for r in found if "numbers" in r.get("memory", {})
    ]
    return {
        "state_equals_formula": all(states) if states else None,
        "recall_more": [r["name"] for r in found if clear(r, "facts", "recall_final", 1)],
        "recall_less": [r["name"] for r in found if clear(r, "facts", "recall_final", -1)],
        "forget_less_and_recall_no_less": [
            r["name"] for r in forget_less if not clear(r, "facts", "recall_final", -1)
        ],
        "forget_less_and_learn_no_less": [
            r["name"] for r in forget_less if not clear(r, "facts", "learning_accuracy", -1)
        ],
        "forget_less_than_best_and_recall_no_less": [
            r["name"]
            for r in found
            if clear(r, "facts", "forgetting", -1, best=True)
            and not clear(r, "facts", "recall_final", -1, best=True)
        ],
        "book_better": [r["name"] for r in found if clear(r, "book", "loss", -1)],
        "book_worse": [r["name"] for r in found if clear(r, "book", "loss", 1)],
    }


def _runs(record: Mapping[str, Any], part: str) -> list[Row]:
    runs: list[Row] = record.get(part, {}).get("runs", [])
    return runs


def _figure(run: Row, name: str) -> float:
    value = run.get("figures", {}).get(name)
    return math.nan if value is None else float(value)


def _mean(row: Row, part: str, figure: str, of: str = "figures") -> float | None:
    value: float | None = row.get(part, {}).get(of, {}).get(figure, {}).get("mean")
    return value


# ---------------------------------------------------------------------------- text
def one_line(record: Mapping[str, Any]) -> str:
    """What a process took, for a line of progress."""
    if "unavailable" in record:
        return str(record["unavailable"])
    extra = record["steady_peak_bytes"] - record["resident_loaded_bytes"]
    return (
        f"{statistics.median(record['step_seconds']):.3g} s a step, "
        f"{statistics.median(record['update_seconds']):.3g} s of it the update, "
        f"{extra / 1e6:.0f} MB above the weights"
    )


def show(record: Mapping[str, Any]) -> None:
    """The page as tables."""
    found: list[Row] = record["rows"]
    stepped = [row for row in found if "memory" in row or "time" in row]
    if stepped:
        print_table(
            "State, peak of a step above the loaded weights, seconds",
            ("contestant", "kind", "state (B/number)", "as formula", "released", "peak (MB)",
             "of weights", "above nothing", "step (s)", "ratio", "update (ms)", "ratio"),
            [
                (
                    row["name"],
                    row["kind"],
                    memory.get("state_bytes_per_number"),
                    memory.get("state_equals_formula"),
                    {True: "yes", False: "no"}.get(memory.get("gradient_release"), ""),
                    memory.get("peak_extra_bytes") and memory["peak_extra_bytes"] / 1e6,
                    memory.get("peak_extra_over_weights"),
                    memory.get("above_nothing_over_weights"),
                    taken.get("step_seconds"),
                    taken.get("step_ratio"),
                    taken.get("update_seconds") and 1000 * taken["update_seconds"],
                    taken.get("update_ratio"),
                )
                for row in stepped
                for memory, taken in [(row.get("memory", {}), row.get("time", {}))]
            ],
        )  # fmt: skip
    for part, head, figures in (
        ("facts", "Facts of many days, learned into the same weights",
         ("recall_final", "learning_accuracy", "forgetting", "abstention", "corrections",
          "panel_change_percent")),
        ("book", "Continued training on a book", ("loss_before", "loss", "loss_change")),
    ):  # fmt: skip
        asked = [row for row in found if part in row]
        if asked:
            gap = figures[0] if part == "facts" else "loss"
            print_table(
                f"{head}; the difference of {gap} to {BASELINE} with its 95% interval",
                ("contestant", "rate", "seeds", *figures, "difference", "low", "high"),
                [
                    (
                        row["name"],
                        row[part].get("rate"),
                        len(row[part]["seeds"]),
                        *(_mean(row, part, figure) for figure in figures),
                        _mean(row, part, gap, "difference"),
                        *_interval(row[part]["difference"].get(gap, {})),
                    )
                    for row in asked
                ],
            )
    for name, value in verdict(found).items():
        words = ", ".join(value) if isinstance(value, list) else value
        print(f"{name}: {words if words not in ('', None) else '-'}")


def _interval(found: Mapping[str, Any]) -> tuple[float | None, float | None]:
    ends = found.get("interval") or {}
    return ends.get("low"), ends.get("high")


# ---------------------------------------------------------------------------- plot
def plot(found: Sequence[Row], path: Path) -> Path:
    """Quality against memory: a line a contestant, by bytes of state, with what it learned."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from engrain.exam.plots import FAINT, INK, PAPER, SOFT

    lines = sorted(found, key=_state, reverse=True)
    style: Any = {
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": FAINT,
        "font.size": 10,
    }
    panels = (
        ("facts", "recall_final", "recall after the last day", "More is better", (0.0, 1.0)),
        ("facts", "forgetting", "forgetting", "Less is better", (-1.0, 1.0)),
        ("book", "loss", "loss of held-out passages", "Less is better", (0.0, math.inf)),
    )
    with matplotlib.rc_context({**style, "xtick.color": SOFT, "ytick.color": INK}):
        height = 1.6 + 0.27 * max(4, len(lines))
        figure = Figure(figsize=(14.0, height), layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)
        bars, *others = figure.subplots(1, 1 + len(panels), sharey=True)
        places = range(len(lines))
        known = [(place, row) for place, row in zip(places, lines, strict=True) if _state(row) >= 0]
        bars.barh(
            [place for place, _ in known],
            [_state(row) for _, row in known],
            color=[COLOURS[row["kind"]] for _, row in known],
            height=0.62,
        )
        bars.set_yticks(list(places), [row["name"] for row in lines])
        bars.set_xlabel("bytes of state a trained number")
        bars.set_title("Memory", loc="left", fontweight="bold", fontsize=11)
        for axes, (part, name, label, title, (least, most)) in zip(others, panels, strict=True):
            for place, row in zip(places, lines, strict=True):
                value = _mean(row, part, name)
                if value is None:
                    continue
                low, high = _interval(row[part]["figures"][name])
                if low is not None and high is not None:
                    ends = [max(low, least), min(high, most)]
                    axes.plot(ends, [place, place], color=COLOURS[row["kind"]], lw=1.6)
                axes.plot([value], [place], "o", color=COLOURS[row["kind"]], markersize=5)
                if row["name"] == BASELINE:
                    axes.axvline(value, color=SOFT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
            axes.set_xlabel(label)
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
        for axes in (bars, *others):
            axes.grid(axis="x", color=FAINT, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=0)
        for kind, colour in COLOURS.items():
            bars.plot([], [], "o", color=colour, label=kind)
        figure.legend(loc="outside upper right", ncols=len(COLOURS), frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date in the file: the same data, the same bytes.
        figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


def plot_tradeoff(found: Sequence[Row], path: Path) -> Path:
    """What is kept against what it costs: recall by harm, a line through a contestant's rates."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from engrain.exam.plots import FAINT, INK, PAPER, SOFT

    style: Any = {"text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": FAINT}
    with matplotlib.rc_context({**style, "xtick.color": SOFT, "ytick.color": SOFT}):
        figure = Figure(figsize=(9.0, 5.6), layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for row, colour in zip(found, itertools.cycle(INKS)):
            facts = row["facts"]
            points = sorted([facts, *facts.get("beside", ())], key=lambda one: one["rate"] or 0)
            line = [[_mean({"facts": one}, "facts", name) for one in points] for name in TRADEOFF]
            axes.plot(*line, color=colour, lw=1.4)
            for one, x, y in zip(points, *line, strict=True):
                own = one is facts
                across, up = (_margins(one["figures"][name]) for name in TRADEOFF)
                axes.errorbar(
                    x, y, up, across, "o", color=colour, elinewidth=0.8, markersize=7,
                    markerfacecolor=colour if own else PAPER, label=row["name"] if own else None,
                )  # fmt: skip
                if not own:
                    axes.annotate(
                        f"{one['rate'] / facts['rate']:.3g} times its rate", (x, y), (7, 6),
                        textcoords="offset points", fontsize=8, color=SOFT,
                    )  # fmt: skip
        axes.set_xlabel("rise of the panel's loss (%)")
        axes.set_ylabel("recall after the last day")
        axes.set_title("What is kept, and what it costs", loc="left", fontweight="bold")
        axes.grid(color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


def _margins(summary: Row) -> list[list[float]]:
    """How far the ends of an interval are from its mean, (2, 1); 0 where one seed has none."""
    mean = summary["mean"]
    low, high = (mean if end is None else end for end in _interval(summary))
    return [[mean - low], [high - mean]]


def _state(row: Row) -> float:
    """Bytes of state a trained number; -1 where they were not measured."""
    value: float = row.get("memory", {}).get("state_bytes_per_number", -1.0)
    return value
