"""Figures of a whole stream of lessons, for each recipe, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from engrain.exam.decision import Decision
from engrain.exam.metrics import AccuracyMatrix, ProbeHistory
from engrain.exam.panel import PanelResult
from engrain.exam.probes import RECALL_KINDS
from engrain.exam.statistics import Summary, clopper_pearson, mean, summarise


@dataclass(frozen=True)
class LifeRun:
    """One seed of one recipe over a stream.

    ``history`` has a row for every day and row 0 for the untaught model. ``corrections`` are the
    ids of the probes that ask for a corrected value (kind ``correction`` counts, too). Lists of
    seconds and bytes have one entry a lesson.
    """

    recipe: str
    seed: int
    history: ProbeHistory
    seconds: Sequence[float] = ()
    peak_memory_bytes: Sequence[int] = ()
    panel_before: PanelResult | None = None
    panel_after: PanelResult | None = None
    corrections: Collection[str] = ()
    losses: Sequence[Sequence[float]] = ()
    decisions: Sequence[Decision] = field(default=())

    @cached_property
    def matrix(self) -> AccuracyMatrix:
        """R over the recall probes; superseded ones leave from their day on."""
        return self.history.matrix()

    @cached_property
    def steady_matrix(self) -> AccuracyMatrix:
        """R over the probes that count to the end, so that drops compare the same questions."""
        return self.history.matrix(consistent=True)

    def figures(self) -> dict[str, float]:
        """Every figure of this run by the name it has in the JSON of ``bench life``.

        Those named ``steady`` leave a superseded probe out of all days, the others from its day on.
        """
        matrix, steady = self.matrix, self.steady_matrix
        percent = math.nan
        if self.panel_before is not None and self.panel_after is not None:
            percent = self.panel_after.change_percent(self.panel_before)
        return {
            "recall_final": self._share(self._recall()),
            "overall_performance": matrix.overall_performance(),
            "learning_accuracy": matrix.learning_accuracy(),
            "forgetting": matrix.forgetting(),
            "forgetting_clipped": matrix.forgetting(clipped=True),
            "forgetting_steady": steady.forgetting(),
            "worst_drop": matrix.worst_drop(),
            "worst_drop_steady": steady.worst_drop(),
            "bwt": matrix.backward_transfer(),
            "fwt": matrix.forward_transfer(),
            "abstention": self._share(self.history.share(("abstention",))),
            "corrections": self._share(self._corrected()),
            "panel_change_percent": percent,
            "seconds_per_lesson": mean(self.seconds),
            "cost_ratio_last_first": self._cost_ratio(),
            "peak_memory_bytes": float(max(self.peak_memory_bytes, default=0)) or math.nan,
        }

    def counts(self) -> dict[str, tuple[int, int]]:
        """Passed and asked questions behind the fractions on the last day."""
        return {
            "recall_final": self._recall(),
            "abstention": self.history.share(("abstention",)),
            "corrections": self._corrected(),
        }

    def panel_parts(self) -> dict[str, tuple[float, float]]:
        """Each panel figure on the untaught model and after the last day."""
        if self.panel_before is None or self.panel_after is None:
            return {}
        earlier, now = self.panel_before.figures(), self.panel_after.figures()
        return {name: (earlier[name], now[name]) for name in earlier if name in now}

    def _recall(self) -> tuple[int, int]:
        return self.history.share(RECALL_KINDS)

    def _corrected(self) -> tuple[int, int]:
        last = len(self.history.days) - 1
        found = [
            result
            for lesson in self.history.lessons[:last]
            for result in self.history.counted(last, lesson, RECALL_KINDS)
            if result.kind == "correction" or result.probe_id in self.corrections
        ]
        return sum(result.passed for result in found), len(found)

    def _cost_ratio(self) -> float:
        return self.seconds[-1] / self.seconds[0] if len(self.seconds) > 1 else math.nan

    @staticmethod
    def _share(counts: tuple[int, int]) -> float:
        return counts[0] / counts[1] if counts[1] else math.nan


def summarise_life(runs: Sequence[LifeRun]) -> dict[str, dict[str, Any]]:
    """``recipes`` of the life benchmark's JSON: by recipe, mean figures and all behind them.

    The plain keys hold the mean over seeds (null where unknown); ``summaries`` holds deviation,
    number, t interval over seeds and the single values; ``R`` is the mean matrix, ``R_by_seed``
    each; ``pooled`` gives the exact interval of each fraction over the questions of all seeds.
    """
    by_recipe: dict[str, list[LifeRun]] = {}
    for run in runs:
        by_recipe.setdefault(run.recipe, []).append(run)
    return {recipe: _recipe(found) for recipe, found in by_recipe.items()}


def _recipe(runs: Sequence[LifeRun]) -> dict[str, Any]:
    figures = [run.figures() for run in runs]
    summaries: dict[str, Summary] = {
        name: summarise(figure[name] for figure in figures) for name in figures[0]
    }
    record: dict[str, Any] = {
        name: summary.mean if math.isfinite(summary.mean) else None
        for name, summary in summaries.items()
    }
    return record | {
        "R": mean_matrix([run.matrix for run in runs]).to_dict()["values"],
        "R_by_seed": {str(run.seed): run.matrix.to_dict() for run in runs},
        "seeds": [run.seed for run in runs],
        "summaries": {name: summary.to_dict() for name, summary in summaries.items()},
        "pooled": _pooled(runs),
        "panel_parts": _mean_parts(runs),
        "seconds": [list(run.seconds) for run in runs],
        "peak_memory": [list(run.peak_memory_bytes) for run in runs],
        "decisions": [[decision.verdict for decision in run.decisions] for run in runs],
    }


def _pooled(runs: Sequence[LifeRun]) -> dict[str, Any]:
    pooled: dict[str, Any] = {}
    for name in runs[0].counts():
        passed = sum(run.counts()[name][0] for run in runs)
        asked = sum(run.counts()[name][1] for run in runs)
        if asked:
            interval = clopper_pearson(passed, asked)
            pooled[name] = {"passed": passed, "asked": asked, "interval": interval.to_dict()}
    return pooled


def _mean_parts(runs: Sequence[LifeRun]) -> dict[str, Any]:
    parts = [run.panel_parts() for run in runs]
    return {
        name: {
            "before": mean(part[name][0] for part in parts),
            "after": mean(part[name][1] for part in parts),
        }
        for name in parts[0]
        if all(name in part for part in parts)
    }


def mean_matrix(matrices: Sequence[AccuracyMatrix]) -> AccuracyMatrix:
    """The mean over seeds of matrices of one shape, cell by cell over those that were asked."""
    first = matrices[0]
    if any(m.values.shape != first.values.shape for m in matrices):
        raise ValueError("the matrices have different shapes")
    rows, columns = first.values.shape
    return AccuracyMatrix(
        [
            [mean(float(m.values[row, column]) for m in matrices) for column in range(columns)]
            for row in range(rows)
        ],
        first.lessons,
    )


def recall_by_day(matrices: Sequence[AccuracyMatrix]) -> list[list[float]]:
    """Overall performance after each day, from day 1, one list a seed: a curve for a plot."""
    return [[m.overall_performance(day) for day in range(1, m.last + 1)] for m in matrices]
