"""Figures as PNG files: the accuracy matrix, recipes against each other, training losses.

Matplotlib is imported when a figure is drawn, with its file backend: no window is ever opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engrain.exam.metrics import AccuracyMatrix
from engrain.exam.statistics import mean, t_interval

INK, SOFT, FAINT = "#1f2430", "#667085", "#e4e7ec"
PAPER = "#ffffff"
RAMP = ("#f6f1e7", "#cfe3dc", "#86bfb6", "#3f8f8f", "#14506b", "#0b2a45")
"""From nothing answered to everything answered; readable in grey and to the colour-blind."""

RECIPE_COLOURS = {
    "default": "#0f766e",
    "joint": "#475569",
    "naive-lora": "#d97706",
    "naive-full": "#b4235a",
}
_MORE_COLOURS = ("#4f46e5", "#0284c7", "#65a30d", "#9333ea", "#be123c", "#78716c")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

_STYLE: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": FAINT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def _drawing(path: Path | str, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure with one pair of axes that is written to ``path`` at the end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    style: Any = _STYLE
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)  # type: ignore[union-attr,call-arg]
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()
        # No date in the file: the same data, the same bytes.
        figure.savefig(target, dpi=160, metadata={"Software": None})


def _heading(axes: Any, title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=26)
    axes.annotate(
        subtitle,
        (0, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=SOFT,
    )


def plot_matrix(
    matrix: AccuracyMatrix,
    path: Path | str,
    *,
    title: str = "What is remembered, day by day",
    subtitle: str = "",
) -> Path:
    """A heat map of R: one row a day, one column a lesson, the day of learning framed."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    values = matrix.values
    rows, columns = values.shape
    cell = 0.62 if columns <= 12 else 0.42 if columns <= 20 else 0.33
    width = max(5.4, 2.6 + cell * columns)
    height = max(3.4, 1.9 + 0.78 * cell * rows)
    with _drawing(path, width, height) as (figure, axes):
        colours = LinearSegmentedColormap.from_list("engrain", RAMP)
        # Cells that were not asked stay paper, hatched, so that they are not taken for zeros.
        axes.set_facecolor(PAPER)
        image = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for row in range(rows):
            for column in range(columns):
                value = float(values[row, column])
                if math.isnan(value):
                    axes.add_patch(
                        Rectangle(
                            (column - 0.5, row - 0.5),
                            1,
                            1,
                            facecolor=PAPER,
                            edgecolor=FAINT,
                            hatch="////",
                            linewidth=0,
                        )
                    )
                elif columns <= 20:
                    axes.text(
                        column,
                        row,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=9 if columns <= 12 else 7,
                        color=PAPER if value > 0.55 else INK,
                    )
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=1.6 if columns <= 20 else 0.8)
        axes.tick_params(which="both", length=0)
        for day in range(1, rows):
            axes.add_patch(
                Rectangle(
                    (day - 1.46, day - 0.46),
                    0.92,
                    0.92,
                    fill=False,
                    edgecolor="#e07a2f",
                    linewidth=1.8 if columns <= 20 else 1.1,
                )
            )
        step = 1 if columns <= 20 else 5
        shown = [i for i in range(columns) if i == 0 or (i + 1) % step == 0]
        labels = [_short(matrix.lessons[i]) for i in shown]
        crowded = max(map(len, labels)) * 0.085 > step * cell
        axes.set_xticks(
            shown, labels, rotation=35 if crowded else 0, ha="right" if crowded else "center"
        )
        days = [0, *(i + 1 for i in shown if i + 1 < rows)]
        axes.set_yticks(days, ["untaught", *(_short(matrix.lessons[d - 1]) for d in days[1:])])
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("questions about the lesson")
        axes.set_ylabel("after the lesson")
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=28)
        bar.outline.set_visible(False)
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0%", "25%", "50%", "75%", "100%"])
        bar.ax.tick_params(length=0)
        bar.set_label("share of questions answered")
        hint = "orange frame: the day on which it was learned"
        if np.isnan(values).any():
            hint += "; hatched: not asked"
        _heading(axes, title, f"{subtitle}; {hint}" if subtitle else hint.capitalize())
    return Path(path)


def _short(name: str, most: int = 10) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def plot_recipes(
    curves: Mapping[str, Sequence[Sequence[float]]],
    path: Path | str,
    *,
    title: str = "Recall of the lessons so far, mean over lessons",
    subtitle: str = "",
    bar: float | None = None,
) -> Path:
    """Recall after each day by recipe, one line a recipe; bands are 95% intervals over seeds.

    ``curves`` has one list a seed, as :func:`engrain.exam.life.recall_by_day` gives it. ``bar``
    draws the level that is asked for.
    """
    with _drawing(path, 8.2, 4.6) as (_, axes):
        ends: list[tuple[float, str, str]] = []
        longest = 1
        for place, (name, runs) in enumerate(curves.items()):
            days = max((len(run) for run in runs), default=0)
            if not days:
                continue
            longest = max(longest, days)
            at = np.arange(1, days + 1)
            columns = [[run[d] for run in runs if d < len(run)] for d in range(days)]
            middle = np.array([mean(column) for column in columns])
            colour = _colour(name, place)
            spans = [t_interval(column) for column in columns]
            if any(span.known for span in spans):
                low = [span.low if span.known else m for span, m in zip(spans, middle, strict=True)]
                high = [
                    span.high if span.known else m for span, m in zip(spans, middle, strict=True)
                ]
                axes.fill_between(
                    at, np.clip(low, 0, 1), np.clip(high, 0, 1), color=colour, alpha=0.13, lw=0
                )
            lead = name == "default"
            axes.plot(
                at,
                middle,
                color=colour,
                linewidth=2.6 if lead else 1.8,
                linestyle=_DASHES[0] if lead else _DASHES[place % len(_DASHES)],
                marker=_MARKERS[place % len(_MARKERS)] if days <= 15 else None,
                markersize=5,
                markeredgecolor=PAPER,
                zorder=4 if lead else 3,
            )
            ends.append((float(middle[-1]), name, colour))
        if bar is not None:
            axes.axhline(bar, color=SOFT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
            axes.annotate(
                f"asked for: {100 * bar:.0f}%",
                (0.5, bar),
                xycoords=("axes fraction", "data"),
                xytext=(0, -4),
                textcoords="offset points",
                fontsize=8,
                color=SOFT,
                ha="center",
                va="top",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "alpha": 0.7, "lw": 0},
            )
        _label_ends(axes, ends, longest)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlim(0.9, longest + 0.08 * max(1, longest - 1))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("days of lessons")
        seeds = max((len(runs) for runs in curves.values()), default=0)
        words = f"mean of {seeds} seeds, band: 95% interval" if seeds > 1 else "one seed"
        _heading(axes, title, f"{subtitle}; {words}" if subtitle else words.capitalize())
    return Path(path)


def _colour(name: str, place: int) -> str:
    return RECIPE_COLOURS.get(name, _MORE_COLOURS[place % len(_MORE_COLOURS)])


def _label_ends(axes: Any, ends: list[tuple[float, str, str]], at: float) -> None:
    """Names beside the ends of the lines, pushed apart where they would overlap."""
    least = 0.062
    heights: list[float] = []
    for value, _, _ in sorted(ends):
        heights.append(max(value, heights[-1] + least) if heights else value)
    over = max(0.0, heights[-1] - 1.02) if heights else 0.0
    for height, (value, name, colour) in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            f"{name}  {100 * value:.0f}%",
            (at, height - over),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            fontweight="bold" if name == "default" else "normal",
            color=colour,
            annotation_clip=False,
        )
