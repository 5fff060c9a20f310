"""What the exams of a home ask, and what their answers are compared with.

An exam asks the new lesson's probes, a share of those of the lessons before it, and the panel. What
a later lesson corrects is not asked any more. The answers are compared with the best recall so far,
with the panel's result on the untaught model, and with the noise of the panel.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.exam import panel as panels
from engrain.exam.exam import Exam
from engrain.exam.gate import LEARNED_KINDS
from engrain.exam.kept import Kept
from engrain.exam.noise import NoiseBand, measure_noise
from engrain.exam.panel import Panel, PanelResult, run_panel
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonEntry, Status
from engrain.lesson.pace import Shape, kept_pace, panel_passes
from engrain.lesson.served import Served
from engrain.lesson.weak import asked_for
from engrain.model.adapter import Adapter

if TYPE_CHECKING:
    from engrain.model.loading import LoadedModel

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, in all) while a stage runs."""

EARLIER_PROBES = 60
"""Most probes of earlier lessons in one exam, so that an exam costs the same on day 30."""

MOST_TIMES = 3
"""Later lessons with which an earlier lesson's weak facts are trained again, at most."""

QUICK = 50_000_000
"""Parameters up to which a panel is run in seconds."""
_SHORT = ("loss", "capability", "arithmetic", "format", "reading", "locality", "abstention")
SHORT_PANELS = tuple(
    dict(zip(_SHORT, counts, strict=True))
    for counts in ((16, 30, 10, 6, 8, 10, 8), (8, 16, 8, 6, 8, 8, 8), (4, 8, 5, 4, 6, 6, 6))
)
"""What is asked of larger models: an exam must not take longer than the lesson."""
PANEL_SECONDS = 60.0
"""Seconds in which the panel of a larger model is run: the longest of these that keeps to them is
taken, and the shortest in any case. It is told from the model's pace, which is kept in the home, so
on one machine a home has the same panel each time."""

WERE_SERVED: tuple[Status, ...] = ("active", "disabled", "undone")
"""Statuses of lessons whose exam afterwards was made on a state that was in force."""


def panel_for(loaded: LoadedModel, folder: Path) -> Panel:
    """The panel that guards a model; ``folder`` keeps its pace on this machine."""
    whole = panels.load_panel()
    if loaded.profile.parameters <= QUICK:
        return whole
    pace, shape = kept_pace(folder, loaded), Shape.of(loaded)
    for counts in SHORT_PANELS:
        panel = whole.smaller(counts)
        if pace.seconds(panel_passes(panel, loaded), shape) <= PANEL_SECONDS:
            break
    return panel


@dataclass(frozen=True)
class Asked:
    """The exams of one home: its lessons' probes, its panel, and what was measured before."""

    ledger: Ledger
    served: Served
    kept: Kept

    def lessons(self) -> list[Lesson]:
        """The lessons that are served but lesson zero, in the order in which they were accepted."""
        return [self.ledger.lesson(name) for name, _ in self.served.learned()]

    def adapters(self) -> list[Adapter]:
        """The adapters of these lessons."""
        return self.served.adapters([digest for _, digest in self.served.learned()])

    def questions(
        self, lesson: Lesson | None = None, *, weak_first: bool = False
    ) -> tuple[dict[str, tuple[Probe, ...]], list[str]]:
        """Probes by lesson for an exam, and the ids of those that the lesson corrects.

        Earlier lessons share ``EARLIER_PROBES`` evenly; which of theirs are asked changes from
        lesson to lesson, so that all have their turn. ``weak_first`` fills up to half of a share
        with those of weak facts: whether they are recalled decides whether they come again.
        """
        earlier = self.lessons()
        weak = self._weak() if weak_first else {}
        share = max(1, EARLIER_PROBES // max(1, len(earlier)))
        chosen: dict[str, tuple[Probe, ...]] = {}
        superseded: list[str] = []
        for position, old in enumerate(earlier):
            newer = [*earlier[position + 1 :], *([lesson] if lesson else [])]
            wrong = {p.id for p in old.probes if any(corrects(n, old, p) for n in newer)}
            superseded += sorted(wrong)
            valid = [probe for probe in old.probes if probe.id not in wrong]
            turn = random.Random(f"{lesson.id if lesson else ''}:{old.id}")
            first = [probe for probe in valid if probe in weak.get(old.id, ())]
            first = first[: max(1, share // 2)]
            others = [probe for probe in valid if probe not in first]
            kept = [*first, *turn.sample(others, min(share - len(first), len(others)))]
            chosen[old.id] = tuple(sorted(kept, key=lambda probe: probe.id))
        if lesson is not None:
            chosen[lesson.id] = lesson.probes
        return chosen, superseded

    def weak(self, lesson: Lesson | None = None) -> list[tuple[str, TrainingText]]:
        """Texts of the facts that the lessons in force did not recall, with their lesson's id.

        They are trained again with the next lessons until an exam finds them recalled, with
        ``MOST_TIMES`` of them at most. All of it follows from the lessons in force and their exams,
        so no lesson that leaves has to be known to another. What a later lesson corrects, or
        ``lesson``, stays out.
        """
        earlier, found = self.lessons(), self._weak()
        texts: list[tuple[str, TrainingText]] = []
        for position, old in enumerate(earlier):
            newer = [*earlier[position + 1 :], *([lesson] if lesson else [])]
            groups = asked_for(old, found.get(old.id, []))
            texts += [
                (old.id, text)
                for text in old.facts()
                if text.group in groups and not any(new.supersedes(text) for new in newer)
            ]
        return texts

    def _weak(self) -> dict[str, list[Probe]]:
        """The probes by lesson in force that are missed still, and whose facts may come again."""
        listed = {entry.id: entry for entry in self.ledger.list_lessons()}
        entries = [listed[name] for name, _ in self.served.learned()]
        found: dict[str, list[Probe]] = {}
        for place, entry in enumerate(entries):
            left, tried = _missed(entry), Counter[str]()
            for later in entries[place + 1 :] if left else ():
                exam = Exam.from_dict(json.loads(self.ledger.blobs.get(later.exam_after)))
                left -= {name for name, right in exam.outcomes(entry.id).items() if right}
                tried.update(later.decision.get("again", {}).get(entry.id, ()))
            if not left:
                continue
            old = self.ledger.lesson(entry.id)
            found[entry.id] = [
                probe
                for probe in old.probes
                if probe.id in left
                and max((tried[name] for name in asked_for(old, [probe])), default=0) < MOST_TIMES
            ]
        return found

    def peaks(self, superseded: Collection[str] = ()) -> dict[str, float]:
        """Each active lesson's best recall in the exams of the states that were in force."""
        active = set(self.ledger.current().lessons)
        best: dict[str, float] = {}
        for entry in self.ledger.list_lessons():
            if entry.status not in WERE_SERVED:
                continue
            exam = Exam.from_dict(json.loads(self.ledger.blobs.get(entry.exam_after)))
            for lesson in active & set(exam.results):
                found = exam.outcomes(lesson, kinds=LEARNED_KINDS, ignore=superseded)
                if found:
                    share = sum(found.values()) / len(found)
                    best[lesson] = max(share, best.get(lesson, 0.0))
        return best

    def known_panel(self, state: str) -> PanelResult | None:
        """The panel's result on a state, if it was run before."""
        if known := self.kept.result(state):
            return known
        for entry in reversed(self.ledger.list_lessons()):
            if entry.state == state and entry.status in WERE_SERVED:
                exam = Exam.from_dict(json.loads(self.ledger.blobs.get(entry.exam_after)))
                same = exam.panel is not None and exam.panel.digest == self.kept.panel.digest
                if same and exam.state_digest == state:
                    return exam.panel
        return None

    def origin(self) -> PanelResult:
        """The panel's result on the untaught model, run once."""
        state = self.ledger.history()[0].digest
        result = self.known_panel(state)
        if result is None:
            with self.served.base():
                result = run_panel(self.served.engine, self.kept.panel)
            self.kept.keep_result(state, result)
        return result

    def known_noise(self) -> NoiseBand:
        """The noise band if it was measured, else an assumed one: no lesson waits for it."""
        known = self.kept.noise()
        return known or NoiseBand.assumed(self.kept.base_digest, self.kept.panel.digest)

    def noise(self, on_progress: OnProgress | None = None) -> NoiseBand:
        """The noise band of the panel, measured once (``engrain doctor --noise``)."""
        if known := self.kept.noise():
            return known
        origin = self.origin()

        def on_copy(done: int, total: int) -> None:
            if on_progress:
                on_progress("noise", done, total)

        with self.served.base():
            band = measure_noise(
                self.served.loaded,
                self.served.engine,
                self.kept.panel,
                copies=4,
                reference=origin,
                on_copy=on_copy,
            )
        self.kept.keep_noise(band)
        return band


def _missed(entry: LessonEntry) -> set[str]:
    """The probes of new facts that a lesson's own exam found unanswered, by id."""
    checks = [check for check in entry.decision.get("checks", ()) if check["name"] == "recall"]
    return {name for check in checks for name in check["statistics"].get("missed", ())}


def corrects(newer: Lesson, old: Lesson, probe: Probe) -> bool:
    """Whether a newer lesson gives another answer to what a probe of an older one asks."""
    if not probe.answers:
        return probe.messages[-1].content in newer.corrects
    return any(
        newer.supersedes(text)
        for text in old.facts()
        if any(answer in text.target for answer in probe.answers)
    )
