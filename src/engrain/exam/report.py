"""Reports of exams, decisions and lives: sheets of text and plain JSON.

Every report is first a :class:`Sheet`, a title with rows of text, so that the terminal and the
documents never tell different things. The terminal's tables are made of sheets by
``engrain.cli.sheets``, since the library prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engrain.exam.decision import Decision
from engrain.exam.exam import Exam
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import PanelResult, PartScore
from engrain.exam.statistics import Interval, clopper_pearson

UNKNOWN = "–"
"""What stands for a figure that is not known."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as text: title, column names, rows, notes; ``marks`` colour rows on a terminal."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


# ---------------------------------------------------------------------------- numbers
def percent(value: float | None, digits: int = 0) -> str:
    """A share as percent."""
    return UNKNOWN if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 2, *, sign: bool = False, unit: str = "") -> str:
    """A number with a fixed number of digits."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:{'+' if sign else ''}.{digits}f}{unit}"


def span(interval: Interval, *, share: bool = True, digits: int = 3) -> str:
    """An interval as "62% to 100%"."""
    if not interval.known:
        return UNKNOWN

    def show(value: float) -> str:
        return percent(value) if share else number(value, digits)

    return f"{show(interval.low)} to {show(interval.high)}"


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


# ---------------------------------------------------------------------------- sheets
def panel_sheet(
    result: PanelResult, before: PanelResult | None = None, noise: NoiseBand | None = None
) -> Sheet:
    """The panel's figures with intervals; beside an earlier result, with the change."""
    scores: dict[str, tuple[PartScore, PartScore | None]] = {}
    if result.texts:
        scores["loss"] = (result.loss_score, before.loss_score if before else None)
    for name, score in result.parts.items():
        scores[name] = (score, before.parts.get(name) if before else None)
    columns = ["part", "items", *(["before"] if before else []), "now", "95% interval"]
    columns += ["change"] if before else []
    columns += ["noise"] if noise else []
    rows = []
    for name, (now, then) in scores.items():
        loss = name == "loss"

        def show(value: float, loss: bool = loss) -> str:
            return number(value, 3, unit=" nats") if loss else percent(value)

        row = [name, str(now.count)]
        row += [show(then.value) if then else UNKNOWN] if before else []
        row += [show(now.value), span(now.interval, share=not loss)]
        if before:
            row.append(_change(now, then, loss))
        if noise:
            found = noise.of(name, items=now.count, value=now.value)
            row.append("±" + (number(found.band, 4) if loss else percent(found.band, 1)))
        rows.append(tuple(row))
    notes = [f"Panel {result.version}, digest {result.digest[:12]}."]
    if noise and not noise.measured:
        notes.append("The noise band is assumed, not measured.")
    return Sheet("Panel", tuple(columns), tuple(rows), tuple(notes))


def _change(now: PartScore, then: PartScore | None, loss: bool) -> str:
    if then is None:
        return UNKNOWN
    if loss:
        return number(100 * (now.value / then.value - 1), 2, sign=True, unit="%")
    return number(100 * (now.value - then.value), 0, sign=True, unit=" points")


def exam_sheet(exam: Exam) -> Sheet:
    """What an exam found, one row for each lesson and kind of probe."""
    rows = []
    for lesson, results in exam.results.items():
        for kind in dict.fromkeys(result.kind for result in results):
            found = [result.passed for result in results if result.kind == kind]
            interval = clopper_pearson(sum(found), len(found))
            share = sum(found) / len(found)
            rows.append(
                (lesson, kind, f"{sum(found)} of {len(found)}", percent(share), span(interval))
            )
    note = f"State {exam.state_digest[:12] or UNKNOWN}, {exam.seconds:.1f} s."
    columns = ("lesson", "kind", "passed", "share", "95% interval")
    return Sheet("Lessons", columns, tuple(rows), (note,))


def decision_sheet(decision: Decision) -> Sheet:
    """A decision of the gate: every check, what was allowed, and the reasons."""
    rows, marks = [], []
    for check in decision.checks:
        loss = "loss" in check.name
        rows.append(
            (
                check.name,
                number(check.before, 3) if loss else percent(check.before),
                number(check.after, 3) if loss else percent(check.after),
                number(check.threshold, 2, unit="%") if loss else percent(check.threshold),
                "passed" if check.passed else check.severity,
            )
        )
        marks.append("good" if check.passed else "bad" if check.severity == "harm" else "fair")
    columns = ("check", "before", "after", "threshold", "result")
    title = f"Gate: {decision.verdict}"
    return Sheet(title, columns, tuple(rows), tuple(decision.reasons), tuple(marks))


_LIFE_ROWS: tuple[tuple[str, str, str], ...] = (
    ("recall_final", "recall of all facts after the last day", "share"),
    ("learning_accuracy", "recall right after each lesson", "share"),
    ("forgetting", "forgetting", "points"),
    ("worst_drop", "worst drop of a lesson", "points"),
    ("bwt", "backward transfer", "signed"),
    ("fwt", "forward transfer (zero-shot)", "signed"),
    ("corrections", "corrections: new value, not the old", "share"),
    ("abstention", "abstention on what was never told", "share"),
    ("panel_change_percent", "panel loss", "percent"),
    ("seconds_per_lesson", "seconds a lesson", "seconds"),
    ("cost_ratio_last_first", "cost of the last lesson / the first", "ratio"),
    ("peak_memory_bytes", "peak memory", "bytes"),
)


def life_sheet(recipes: Mapping[str, Mapping[str, Any]]) -> Sheet:
    """Recipes side by side, from ``summarise_life``: mean over seeds ± half the 95% interval."""
    rows = []
    for key, words, unit in _LIFE_ROWS:
        cells = [_life_cell(record.get(key), record, key, unit) for record in recipes.values()]
        if any(cell != UNKNOWN for cell in cells):
            rows.append((words, *cells))
    seeds = sorted({len(record.get("seeds", ())) for record in recipes.values()})
    note = f"Seeds: {', '.join(map(str, seeds))}. ± is half of the 95% t interval over seeds."
    if seeds and seeds[-1] < 2:
        note = "One seed: no interval."
    return Sheet("Life", ("", *recipes), tuple(rows), (note,))


def _life_cell(value: float | None, record: Mapping[str, Any], key: str, unit: str) -> str:
    if value is None:
        return UNKNOWN
    interval = record.get("summaries", {}).get(key, {}).get("interval", {})
    low, high = interval.get("low"), interval.get("high")
    half = (high - low) / 2 if low is not None and high is not None else None

    def spread(scale: float, digits: int) -> str:
        return "" if half is None else f" ± {scale * half:.{digits}f}"

    match unit:
        case "share":
            return f"{100 * value:.1f}{spread(100, 1)}%"
        case "points":
            return f"{100 * value:.1f}{spread(100, 1)} points"
        case "signed":
            return f"{100 * value:+.1f}{spread(100, 1)} points"
        case "percent":
            return f"{value:+.2f}{spread(1, 2)}%"
        case "bytes":
            return size(value)
        case "ratio":
            return f"{value:.2f}{spread(1, 2)}"
    return f"{value:.1f}{spread(1, 1)} s"


# ---------------------------------------------------------------------------- whole exams
def exam_sheets(
    exam: Exam, before: Exam | None = None, noise: NoiseBand | None = None
) -> list[Sheet]:
    """The sheets of an exam: lessons, panel, capability by task."""
    sheets = [exam_sheet(exam)] if exam.results else []
    if exam.panel is not None:
        sheets.append(panel_sheet(exam.panel, before.panel if before else None, noise))
        if exam.panel.tasks:
            sheets.append(_tasks_sheet(exam.panel))
    return sheets


def _tasks_sheet(result: PanelResult) -> Sheet:
    rows = tuple(
        (name, str(score.count), percent(score.value), span(score.interval))
        for name, score in result.tasks.items()
    )
    return Sheet("Capability", ("task", "items", "right", "95% interval"), rows)


def json_ready(value: Any) -> Any:
    """The value with NaN and infinity as None, and objects by their ``to_dict``."""
    if hasattr(value, "to_dict"):
        return json_ready(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [json_ready(item) for item in items]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
