r"""The accuracy matrix of a stream of lessons, and the figures of continual learning read from it.

R[t, i] is the score on lesson i after lessons 1 to t were learned, higher being better; row 0 is
the untrained model, so b_i = R[0, i]. Lessons and days count from 1 here and in every argument.

=============================  ===================================================  ==============
figure                         formula                                              source
=============================  ===================================================  ==============
overall performance            1/t sum_{i<=t} R[t,i]                                GEM, TRACE
forgetting                     1/(t-1) sum_{i<t} (max_l R[l,i] - R[t,i]), l < t     RWalk, survey
worst drop                     max_{i<t} (max_l R[l,i] - R[t,i])                    ours
backward transfer              1/(t-1) sum_{i<t} (R[t,i] - R[i,i])                  GEM
forward transfer               1/(t-1) sum_{i=2..t} (R[i-1,i] - b_i)                GEM, survey
forward transfer (plasticity)  1/T sum_i (R[i,i] - R*[i])                           SAPT
learning accuracy              1/T sum_i R[i,i]                                     MER
intransigence                  J[k] - R[k,k]                                        RWalk
minimum accuracy               1/(k-1) sum_{i<k} min_{i<l<=k} R[l,i]                De Lange 2023
worst-case accuracy            1/k R[k,k] + (1 - 1/k) minimum accuracy              De Lange 2023
=============================  ===================================================  ==============

GEM is Lopez-Paz and Ranzato 2017; RWalk Chaudhry et al. 2018; TRACE arXiv 2310.06762; SAPT arXiv
2401.08295; MER Riemer et al. 2018; the survey arXiv 2404.16789. TRACE prints backward transfer as
a percentage and its normaliser could not be read from the paper: 1/(t-1) is used here. The minimum
accuracy of De Lange et al. looks inside a task's training steps; here it sees one row a lesson.

A cell that was not asked is NaN, and every figure is the mean over the terms that have all their
cells; without any it is NaN itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engrain.exam.probes import RECALL_KINDS, ProbeResult
from engrain.exam.statistics import mean

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyMatrix:
    """R, with row 0 for the untrained model and one column a lesson, in the order of learning.

    ``counts`` holds the number of questions behind each cell, where it is known.

    Example:
        >>> R = AccuracyMatrix([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]])
        >>> R.overall_performance(), R.backward_transfer(), R.forgetting()
        (0.75, -0.5, 0.5)
    """

    values: Matrix
    lessons: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = field(default=None, compare=False)

    def __init__(
        self,
        values: Matrix | Sequence[Sequence[float | None]],
        lessons: Sequence[str] = (),
        counts: NDArray[np.int64] | Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Take a matrix; ``None`` cells mean "not asked"."""
        if not isinstance(values, np.ndarray):
            values = np.array(
                [[math.nan if cell is None else cell for cell in row] for row in values]
            )
        table = np.array(values, dtype=np.float64)
        if table.ndim != 2 or not table.size:
            raise ValueError("an accuracy matrix needs rows and columns")
        if table.shape[0] > table.shape[1] + 1:
            raise ValueError(f"{table.shape[0] - 1} days for {table.shape[1]} lessons")
        names = tuple(lessons) or tuple(str(i + 1) for i in range(table.shape[1]))
        if len(names) != table.shape[1]:
            raise ValueError(f"{len(names)} names for {table.shape[1]} lessons")
        table.setflags(write=False)
        object.__setattr__(self, "values", table)
        object.__setattr__(self, "lessons", names)
        object.__setattr__(
            self, "counts", None if counts is None else np.array(counts, dtype=np.int64)
        )

    # ------------------------------------------------------------------ cells
    @property
    def last(self) -> int:
        """The last day that has a row; 0 when only the untrained model was examined."""
        return int(self.values.shape[0]) - 1

    def score(self, day: int, lesson: int) -> float:
        """R[day, lesson]; NaN when not asked."""
        if lesson < 1:
            raise IndexError("lessons count from 1")
        return float(self.values[day, lesson - 1])

    def peak(self, lesson: int, before: int, *, since_first: bool = False) -> float:
        """The best score on a lesson from the day it was learned to the day before ``before``."""
        return _most(self.score(day, lesson) for day in range(1 if since_first else lesson, before))

    def drops(self, day: int | None = None, *, since_first: bool = False) -> list[float]:
        """Best earlier score less today's, for each lesson before the last learned one."""
        today = self._day(day)
        return [
            self.peak(lesson, today, since_first=since_first) - self.score(today, lesson)
            for lesson in range(1, today)
        ]

    def _day(self, day: int | None) -> int:
        today = self.last if day is None else day
        if not 0 <= today <= self.last:
            raise IndexError(f"day {today} of {self.last}")
        return today

    # ------------------------------------------------------------------ figures
    def overall_performance(self, day: int | None = None) -> float:
        """OP: mean score on all lessons learned so far."""
        today = self._day(day)
        return mean(self.score(today, lesson) for lesson in range(1, today + 1))

    def forgetting(
        self, day: int | None = None, *, clipped: bool = False, since_first: bool = False
    ) -> float:
        """F: mean drop from the best earlier score; clipped, a gain counts as 0.

        The best is sought from the day on which the lesson was learned (survey, SAPT); with
        ``since_first`` from day 1 on (Chaudhry et al.), which can only be larger.
        """
        drops = self.drops(day, since_first=since_first)
        return mean(max(0.0, drop) if clipped else drop for drop in drops)

    def worst_drop(self, day: int | None = None) -> float:
        """The largest drop of any one lesson from its best earlier score."""
        return _most(self.drops(day))

    def backward_transfer(self, day: int | None = None) -> float:
        """BWT: mean change of the earlier lessons since each was learned; below 0 is loss."""
        today = self._day(day)
        return mean(
            self.score(today, lesson) - self.score(lesson, lesson) for lesson in range(1, today)
        )

    def forward_transfer(self, day: int | None = None) -> float:
        """FWT, zero-shot: mean gain on a lesson before it is learned, over the untrained model."""
        today = self._day(day)
        return mean(
            self.score(lesson - 1, lesson) - self.score(0, lesson) for lesson in range(2, today + 1)
        )

    def forward_transfer_plasticity(self, alone: Sequence[float]) -> float:
        """FWT', the plasticity form: mean of R[i,i] less the score when trained on i alone."""
        self._check_reference(alone)
        return mean(
            self.score(lesson, lesson) - alone[lesson - 1] for lesson in range(1, self.last + 1)
        )

    def learning_accuracy(self, day: int | None = None) -> float:
        """LA: mean score on each lesson right after it was learned."""
        today = self._day(day)
        return mean(self.score(lesson, lesson) for lesson in range(1, today + 1))

    def intransigence(self, joint: Sequence[float]) -> list[float]:
        """J[k] - R[k,k] for every k: what joint training on lessons 1 to k would have reached."""
        self._check_reference(joint)
        return [
            joint[lesson - 1] - self.score(lesson, lesson) for lesson in range(1, self.last + 1)
        ]

    def minimum_accuracy(self, day: int | None = None) -> float:
        """Mean over the earlier lessons of each one's lowest score since it was learned."""
        today = self._day(day)
        return mean(
            -_most(-self.score(later, lesson) for later in range(lesson + 1, today + 1))
            for lesson in range(1, today)
        )

    def worst_case_accuracy(self, day: int | None = None) -> float:
        """WC-ACC: today's lesson and the minimum accuracy of the others, by their numbers."""
        today = self._day(day)
        if today == 1:
            return self.score(1, 1)
        if today < 1:
            return math.nan
        return self.score(today, today) / today + (1 - 1 / today) * self.minimum_accuracy(today)

    def _check_reference(self, reference: Sequence[float]) -> None:
        if len(reference) < self.last:
            raise ValueError(f"{len(reference)} reference scores for {self.last} lessons")

    def figures(self, day: int | None = None) -> dict[str, float]:
        """Every figure that needs no reference run, by name."""
        return {
            "overall_performance": self.overall_performance(day),
            "forgetting": self.forgetting(day),
            "forgetting_clipped": self.forgetting(day, clipped=True),
            "worst_drop": self.worst_drop(day),
            "backward_transfer": self.backward_transfer(day),
            "forward_transfer": self.forward_transfer(day),
            "learning_accuracy": self.learning_accuracy(day),
            "minimum_accuracy": self.minimum_accuracy(day),
            "worst_case_accuracy": self.worst_case_accuracy(day),
        }

    # ------------------------------------------------------------------ JSON
    def to_dict(self) -> dict[str, Any]:
        """The matrix as JSON-ready values; cells that were not asked are null."""
        return {
            "lessons": list(self.lessons),
            "values": [
                [None if math.isnan(cell) else float(cell) for cell in row] for row in self.values
            ],
            "counts": None if self.counts is None else self.counts.tolist(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> AccuracyMatrix:
        """The matrix that :meth:`to_dict` gave."""
        return cls(record["values"], record["lessons"], record.get("counts"))


def _most(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known else math.nan


# ---------------------------------------------------------------------------- from answers
class ProbeHistory:
    """Answers to the probes of a stream, day by day, from which matrices are read.

    A correction supersedes the probes of the old value. From the day of the correction on they
    count nowhere; with ``consistent`` they are left out of the earlier rows, too, so that a drop
    is never a mere change of the questions.

    Example:
        >>> history = ProbeHistory(["monday", "tuesday"])
        >>> history.add_day({"monday": [ProbeResult("a", "recall", False, "")]})
        >>> history.add_day({"monday": [ProbeResult("a", "recall", True, "")]})
        >>> history.add_day({"monday": [ProbeResult("a", "recall", True, "")]}, supersedes=["a"])
        >>> history.matrix().to_dict()["values"]
        [[0.0, None], [1.0, None], [None, None]]
    """

    def __init__(self, lessons: Sequence[str]) -> None:
        """Begin a history with the names of all lessons, in the order of learning."""
        self.lessons = tuple(lessons)
        self.days: list[dict[str, tuple[ProbeResult, ...]]] = []
        self.superseded: dict[str, int] = {}
        """Probe id to the day from which on it counts no more."""

    def add_day(
        self,
        results: Mapping[str, Sequence[ProbeResult]],
        *,
        supersedes: Collection[str] = (),
    ) -> None:
        """Add the results by lesson of the next day (the first is day 0, the untrained model)."""
        unknown = sorted(set(results) - set(self.lessons))
        if unknown:
            raise ValueError(f"results of lessons that are not in the stream: {unknown}")
        for probe_id in supersedes:
            self.superseded.setdefault(probe_id, len(self.days))
        self.days.append({lesson: tuple(found) for lesson, found in results.items()})

    def counted(self, day: int, lesson: str, kinds: Collection[str]) -> tuple[ProbeResult, ...]:
        """The results that count for a cell."""
        return tuple(
            result
            for result in self.days[day].get(lesson, ())
            if result.kind in kinds and self.superseded.get(result.probe_id, day + 1) > day
        )

    def matrix(
        self, *, kinds: Collection[str] = RECALL_KINDS, consistent: bool = False
    ) -> AccuracyMatrix:
        """R over the probes of some kinds."""
        last = len(self.days) - 1
        gone = {p for p, day in self.superseded.items() if day <= last} if consistent else set()
        values = np.full((len(self.days), len(self.lessons)), np.nan)
        counts = np.zeros(values.shape, dtype=np.int64)
        for day in range(len(self.days)):
            for column, lesson in enumerate(self.lessons):
                found = [
                    result.passed
                    for result in self.counted(day, lesson, kinds)
                    if result.probe_id not in gone
                ]
                counts[day, column] = len(found)
                if found:
                    values[day, column] = sum(found) / len(found)
        return AccuracyMatrix(values, self.lessons, counts)

    def share(
        self, kinds: Collection[str], day: int | None = None, *, learned_only: bool = True
    ) -> tuple[int, int]:
        """Passed and asked probes of some kinds on a day, over the lessons learned until then."""
        today = len(self.days) - 1 if day is None else day
        lessons = self.lessons[:today] if learned_only else self.lessons
        found = [r for lesson in lessons for r in self.counted(today, lesson, kinds)]
        return sum(result.passed for result in found), len(found)

    def to_dict(self) -> dict[str, Any]:
        """The history as JSON-ready values."""
        return {
            "lessons": list(self.lessons),
            "superseded": dict(self.superseded),
            "days": [
                {lesson: [r.to_dict() for r in found] for lesson, found in day.items()}
                for day in self.days
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ProbeHistory:
        """The history that :meth:`to_dict` gave."""
        history = cls(record["lessons"])
        for day in record["days"]:
            history.add_day(
                {lesson: [ProbeResult.from_dict(r) for r in found] for lesson, found in day.items()}
            )
        history.superseded = {str(k): int(v) for k, v in record["superseded"].items()}
        return history


# ---------------------------------------------------------------------------- other figures
def general_ability_delta(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """TRACE's general ability delta: mean change over the abilities that both name."""
    return mean(after[name] - before[name] for name in before if name in after)


def forgotten_per_learned(forgotten: int, updated: int, acquired: int) -> float:
    """FUAR (CKL, arXiv 2110.03215): facts forgotten for each one updated or acquired."""
    learned = updated + acquired
    return forgotten / learned if learned else math.nan


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean of scores; 0 as soon as one of them is."""
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    if any(value <= 0 for value in values):
        return 0.0
    return len(values) / math.fsum(1 / value for value in values)


@dataclass(frozen=True, slots=True)
class EditFigures:
    """Figures of model editing under free generation (the protocol of WILD, arXiv 2502.11177).

    ``reliability``: probes of kind recall and correction that pass after; ``generality``: of kind
    paraphrase; ``locality``: answers to probes of kind locality that are word for word the same
    before and after, which is 1 by construction for an unedited model.
    """

    reliability: float
    generality: float
    locality: float

    @property
    def score(self) -> float:
        """The harmonic mean of the three."""
        return harmonic_mean([self.reliability, self.generality, self.locality])


def edit_figures(before: Sequence[ProbeResult], after: Sequence[ProbeResult]) -> EditFigures:
    """Reliability, generality and locality from the same probes asked before and after."""
    earlier = {result.probe_id: result.answer for result in before}

    def share(keep: Callable[[ProbeResult], bool], good: Callable[[ProbeResult], bool]) -> float:
        return mean(float(good(result)) for result in after if keep(result))

    return EditFigures(
        share(lambda r: r.kind in ("recall", "correction"), lambda r: r.passed),
        share(lambda r: r.kind == "paraphrase", lambda r: r.passed),
        share(
            lambda r: r.kind == "locality" and r.probe_id in earlier,
            lambda r: r.answer == earlier[r.probe_id],
        ),
    )


Direction = Literal["higher", "lower"]
DIRECTIONS: Mapping[str, Direction] = {
    "overall_performance": "higher",
    "forgetting": "lower",
    "forgetting_clipped": "lower",
    "worst_drop": "lower",
    "backward_transfer": "higher",
    "forward_transfer": "higher",
    "learning_accuracy": "higher",
    "minimum_accuracy": "higher",
    "worst_case_accuracy": "higher",
}
"""Which way each figure is better, for tables."""
