"""The exam: the probes of all lessons and the panel, run on one state of the weights."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from engrain.data.lessons import Probe, canonical_digest
from engrain.exam.panel import Panel, PanelResult, run_panel
from engrain.exam.probes import RECALL_KINDS, ExamEngine, ProbeResult, ask


@dataclass(frozen=True)
class Exam:
    """What one state of the weights answered.

    ``results`` are by lesson id, in the order in which the lessons were learned. ``seconds`` is
    how long it took and the only part that may differ between two runs.
    """

    state_digest: str
    results: Mapping[str, tuple[ProbeResult, ...]]
    panel: PanelResult | None = None
    seconds: float = field(default=0.0, compare=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything but the time, as hex: equal on every run of the same exam."""
        record = self.to_dict()
        del record["seconds"]
        return canonical_digest(record)

    def outcomes(
        self, lesson: str, *, kinds: Collection[str] | None = None, ignore: Collection[str] = ()
    ) -> dict[str, bool]:
        """Probe id to passed, of one lesson."""
        return {
            result.probe_id: result.passed
            for result in self.results.get(lesson, ())
            if (kinds is None or result.kind in kinds) and result.probe_id not in ignore
        }

    def scores(self, kinds: Collection[str] = RECALL_KINDS) -> dict[str, float]:
        """Share passed by lesson: one row of the accuracy matrix."""
        row = {}
        for lesson in self.results:
            found = self.outcomes(lesson, kinds=kinds)
            if found:
                row[lesson] = sum(found.values()) / len(found)
        return row

    def to_dict(self) -> dict[str, Any]:
        """The exam as JSON-ready values."""
        return {
            "state_digest": self.state_digest,
            "results": {
                lesson: [result.to_dict() for result in found]
                for lesson, found in self.results.items()
            },
            # Sorted keys of JSON would lose the order of the lessons.
            "order": list(self.results),
            "panel": self.panel.to_dict() if self.panel else None,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Exam:
        """The exam that :meth:`to_dict` gave."""
        results = record["results"]
        return cls(
            record["state_digest"],
            {
                lesson: tuple(ProbeResult.from_dict(result) for result in results[lesson])
                for lesson in record.get("order", results)
            },
            PanelResult.from_dict(record["panel"]) if record.get("panel") else None,
            float(record.get("seconds", 0.0)),
        )


def run_exam(
    engine: ExamEngine,
    probes_by_lesson: Mapping[str, Sequence[Probe]],
    panel: Panel | None = None,
    *,
    state_digest: str | None = None,
    known_panel: PanelResult | None = None,
) -> Exam:
    """Run an exam on the engine's weights: a pure function of weights, questions and machine.

    Args:
        engine: what answers; greedy throughout.
        probes_by_lesson: probes by lesson id, in the order of learning.
        panel: the panel, or None to ask the probes only.
        state_digest: of the weights; by default the engine's own.
        known_panel: the panel's result on these very weights, which saves running it again; taken
            only if its digest is the panel's.
    """
    began = time.perf_counter()
    asked = [probe for probes in probes_by_lesson.values() for probe in probes]
    answered = iter(ask(engine, asked))
    results = {
        lesson: tuple(next(answered) for _ in probes) for lesson, probes in probes_by_lesson.items()
    }
    outcome = None
    if panel is not None:
        fits = known_panel is not None and known_panel.digest == panel.digest
        outcome = known_panel if fits else run_panel(engine, panel)
    state = state_digest if state_digest is not None else getattr(engine, "state_digest", "")
    return Exam(str(state), results, outcome, time.perf_counter() - began)
