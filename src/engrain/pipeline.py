"""How a lesson happens: the stages of one job, each on disk before the next begins.

    logged -> studied -> examined_before -> trained -> examined_after -> decided -> committed

A killed job continues at the first stage that is not recorded. Nothing is served before
``committed``, which is one transaction.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engrain.data.lessons import Lesson, Probe
from engrain.dream.earlier import anchors_beside
from engrain.errors import DivergedError, NothingToLearnError, ResumeError
from engrain.estimate import EARLIER_PROBES
from engrain.exam.decision import Decision, GateThresholds
from engrain.exam.exam import Exam, run_exam
from engrain.exam.gate import LEARNED_KINDS, decide
from engrain.exam.noise import NoiseBand, machine_fingerprint, measure_noise, noise_key
from engrain.exam.panel import Panel, PanelResult, run_panel
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonRecord, Status
from engrain.served import Served

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, in all) while a stage runs."""

Study = Callable[[], Lesson]
"""Makes the lesson: self-study of the logged conversations, or explicit examples."""

WERE_SERVED: tuple[Status, ...] = ("active", "disabled", "undone")
"""Statuses of lessons whose exam afterwards was made on a state that was in force."""

STATUS: Mapping[str, Status] = {
    "accepted": "active",
    "quarantined": "quarantined",
    "rejected": "rejected",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a lesson.

    ``state_before`` and ``state_after`` are digests of the served weights; they are equal unless
    the lesson was accepted.
    """

    lesson: Lesson
    job: str
    decision: Decision
    exam_before: Exam = field(repr=False)
    exam_after: Exam = field(repr=False)
    state_before: str
    state_after: str
    seconds: float
    peak_memory_bytes: int

    @property
    def accepted(self) -> bool:
        """Whether the lesson is served now."""
        return self.decision.accepted

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON-ready values."""
        return {
            "lesson": self.lesson.id,
            "title": self.lesson.title,
            "job": self.job,
            "verdict": self.decision.verdict,
            "reasons": list(self.decision.reasons),
            "recall_before": self.exam_before.scores().get(self.lesson.id),
            "recall_after": self.exam_after.scores().get(self.lesson.id),
            "texts": len(self.lesson.facts()),
            "probes": len(self.lesson.probes),
            "state_before": self.state_before,
            "state_after": self.state_after,
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass
class Pipeline:
    """Runs a job's stages; everything that it needs is given, nothing is looked up."""

    ledger: Ledger
    served: Served
    panel: Panel
    thresholds: GateThresholds
    noise: NoiseBand
    folder: Path
    gate: bool = True
    on_progress: OnProgress = lambda stage, done, total: None

    def run(self, job_id: str, recipe: Recipe, seed: int, study: Study) -> Outcome:
        """Take a job from the stage that it has reached to its end.

        Raises:
            NothingToLearnError: there is nothing in it to learn; the job has failed.
            ResumeError: other lessons were accepted or undone since it began.
        """
        started = time.perf_counter()
        parent = self.ledger.get_job(job_id).payload["state"]
        if self.ledger.current().digest != parent:
            self._failed(job_id, "the served state has changed")
            raise ResumeError(
                f"Other lessons were accepted or undone since job {job_id} began.",
                remedy="Learn the conversation again.",
            )
        self.served.refresh()
        lesson = self._studied(job_id, study)
        probes, superseded = self.questions(lesson)
        before = self._examined(job_id, "examined_before", probes, self.known_panel(parent))
        trained = self._trained(job_id, lesson, recipe, seed)
        weights, digest = self.served.fold(
            (*self.ledger.current().adapters, trained["adapter"]),
        )
        with self.served.candidate(weights, digest):
            after = self._examined(job_id, "examined_after", probes, None)
        decision = self._decided(job_id, lesson, before, after, superseded)
        status = STATUS[decision.verdict]
        seconds = time.perf_counter() - started
        record = LessonRecord(
            lesson=lesson,
            status=status,
            adapter=trained["adapter"],
            parent_state=parent,
            state=digest if status == "active" else parent,
            base_digest=self.served.loaded.base_digest,
            recipe=recipe.to_dict(),
            exam_before=before.to_dict(),
            exam_after=after.to_dict(),
            decision=decision.to_dict(),
            seed=seed,
            estimated_seconds=self.ledger.get_job(job_id).payload.get("estimate"),
            measured_seconds=seconds,
            peak_memory_bytes=trained["peak_memory_bytes"],
            versions=versions(),
            job=job_id,
        )
        state = self.ledger.commit(record)
        self.served.refresh()
        self.checkpoint(job_id).unlink(missing_ok=True)
        return Outcome(
            lesson,
            job_id,
            decision,
            before,
            after,
            parent,
            state.digest,
            seconds,
            int(trained["peak_memory_bytes"]),
        )

    # ------------------------------------------------------------------ stages
    def _studied(self, job_id: str, study: Study) -> Lesson:
        if not self.ledger.get_job(job_id).reached("studied"):
            try:
                lesson = study()
                if not lesson.facts():
                    raise NothingToLearnError(
                        "The conversation holds nothing that the model does not know already.",
                        remedy="See `engrain learn --dry-run` for what was dropped and why.",
                    )
            except NothingToLearnError as error:
                self._failed(job_id, error.message)
                raise
            self.ledger.advance(job_id, "studied", lesson_to_dict(lesson))
        return lesson_from_dict(self.ledger.stage_payload(job_id, "studied"))

    def _examined(
        self,
        job_id: str,
        stage: str,
        probes: Mapping[str, Sequence[Probe]],
        known: PanelResult | None,
    ) -> Exam:
        if not self.ledger.get_job(job_id).reached(stage):
            self.on_progress(stage, 0, 1)
            exam = run_exam(
                self.served.engine,
                probes,
                self.panel,
                state_digest=self.served.engine.state_digest,
                known_panel=known,
            )
            self.ledger.advance(job_id, stage, exam.to_dict())
            self.on_progress(stage, 1, 1)
        return Exam.from_dict(self.ledger.stage_payload(job_id, stage))

    def _trained(self, job_id: str, lesson: Lesson, recipe: Recipe, seed: int) -> dict[str, Any]:
        if not self.ledger.get_job(job_id).reached("trained"):
            earlier = self.active_lessons()
            try:
                result = Learner(recipe).run(
                    self.served.loaded,
                    lesson,
                    earlier=earlier,
                    adapters=self.served.adapters(self.ledger.current().adapters),
                    anchors=anchors_beside([*earlier, lesson]),
                    contexts=self.served.engine.context,
                    seed=seed,
                    on_step=lambda done, total, loss: self.on_progress("trained", done, total),
                    checkpoint=self.checkpoint(job_id),
                )
            except DivergedError as error:
                # It would diverge again, to the bit: there is nothing to resume.
                self._failed(job_id, error.message)
                raise
            payload = {
                "adapter": self.ledger.blobs.put(result.adapter.to_bytes()),
                "losses": [round(loss, 6) for loss in result.losses],
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
            }
            self.ledger.advance(job_id, "trained", payload)
        return self.ledger.stage_payload(job_id, "trained")

    def _decided(
        self,
        job_id: str,
        lesson: Lesson,
        before: Exam,
        after: Exam,
        superseded: Sequence[str],
    ) -> Decision:
        if not self.ledger.get_job(job_id).reached("decided"):
            decision = decide(
                before,
                after,
                self.thresholds,
                self.noise,
                lesson=lesson.id,
                superseded=superseded,
                peaks=self.peaks(superseded),
                origin=self.origin(),
                ignore=self.panel.touched_by(text.question for text in lesson.facts()),
            )
            if not self.gate:
                reasons = ["The gate is off.", *decision.reasons]
                decision = Decision("accepted", reasons, decision.checks, decision.thresholds)
            self.ledger.advance(job_id, "decided", decision.to_dict())
        return Decision.from_dict(self.ledger.stage_payload(job_id, "decided"))

    def _failed(self, job_id: str, why: str) -> None:
        self.ledger.advance(job_id, "failed", {"why": why})
        self.checkpoint(job_id).unlink(missing_ok=True)

    # ------------------------------------------------------------------ what an exam asks
    def active_lessons(self) -> list[Lesson]:
        """The lessons that are served, in the order in which they were accepted."""
        return [self.ledger.lesson(name) for name in self.ledger.current().lessons]

    def questions(self, lesson: Lesson | None) -> tuple[dict[str, tuple[Probe, ...]], list[str]]:
        """Probes by lesson for an exam, and the ids of those that the lesson corrects.

        Earlier lessons share ``EARLIER_PROBES`` evenly; which of theirs are asked changes from
        lesson to lesson, so that all have their turn.
        """
        earlier = self.active_lessons()
        share = max(1, EARLIER_PROBES // max(1, len(earlier)))
        chosen: dict[str, tuple[Probe, ...]] = {}
        superseded: list[str] = []
        for old in earlier:
            later = [new for new in (*earlier, lesson) if new is not None and new is not old]
            position = earlier.index(old)
            newer = [n for n in later if n not in earlier[:position]]
            wrong = {p.id for p in old.probes if any(corrects(n, old, p) for n in newer)}
            superseded += sorted(wrong)
            valid = [probe for probe in old.probes if probe.id not in wrong]
            turn = random.Random(f"{lesson.id if lesson else ''}:{old.id}")
            kept = valid if len(valid) <= share else turn.sample(valid, share)
            chosen[old.id] = tuple(sorted(kept, key=lambda probe: probe.id))
        if lesson is not None:
            chosen[lesson.id] = lesson.probes
        return chosen, superseded

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

    def origin(self) -> PanelResult:
        """The panel's result on the untaught model, run once."""
        state = self.ledger.history()[0].digest
        result = self.known_panel(state)
        if result is None:
            with self.served.base():
                result = run_panel(self.served.engine, self.panel)
            self.remember_panel(state, result)
        return result

    def measured_noise(self, on_progress: OnProgress | None = None) -> NoiseBand:
        """The noise band of the panel, measured once for this model, machine and panel."""
        path = self.noise_path()
        known = read_measured(path)
        if known:
            return NoiseBand.from_dict(known)
        origin = self.origin()

        def on_copy(done: int, total: int) -> None:
            if on_progress:
                on_progress("noise", done, total)

        with self.served.base():
            band = measure_noise(
                self.served.loaded,
                self.served.engine,
                self.panel,
                copies=4,
                reference=origin,
                on_copy=on_copy,
            )
        keep_measured(path, band.to_dict())
        return band

    def noise_path(self) -> Path:
        """The file of the noise band."""
        base = self.ledger.base().digest
        key = noise_key(base, self.panel.digest, machine_fingerprint())
        return self.folder / "noise" / f"{key[:32]}.json"

    def known_panel(self, state: str) -> PanelResult | None:
        """The panel's result on a state, if it was run before."""
        known = read_measured(self._panel_path(state))
        if known:
            return PanelResult.from_dict(known)
        for entry in reversed(self.ledger.list_lessons()):
            if entry.state == state and entry.status in WERE_SERVED:
                exam = Exam.from_dict(json.loads(self.ledger.blobs.get(entry.exam_after)))
                same = exam.panel is not None and exam.panel.digest == self.panel.digest
                if same and exam.state_digest == state:
                    return exam.panel
        return None

    def remember_panel(self, state: str, result: PanelResult) -> None:
        """Keep a panel's result on a state, so that the next lesson need not run it again."""
        keep_measured(self._panel_path(state), result.to_dict())

    def _panel_path(self, state: str) -> Path:
        return self.folder / "panels" / f"{state[:32]}-{self.panel.digest[:16]}.json"

    def checkpoint(self, job_id: str) -> Path:
        """The file from which an interrupted run of the learner continues."""
        return self.folder / "jobs" / f"{job_id}.checkpoint"


def read_measured(path: Path) -> dict[str, Any]:
    """What a file of measurements holds; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_measured(path: Path, record: Mapping[str, Any]) -> None:
    """Keep a measurement whole or not at all; where it can't be kept, it is made again."""
    temporary = path.with_suffix(".part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)


def corrects(newer: Lesson, old: Lesson, probe: Probe) -> bool:
    """Whether a newer lesson gives another answer to what a probe of an older one asks."""
    if not probe.answers:
        return False
    return any(
        newer.supersedes(text)
        for text in old.facts()
        if any(answer in text.target for answer in probe.answers)
    )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {name: version(name) for name in ("engrain", "torch", "transformers", "peft")}


def lesson_to_dict(lesson: Lesson) -> dict[str, Any]:
    """A lesson as JSON-ready values."""
    return {
        "id": lesson.id,
        "title": lesson.title,
        "texts": [text.to_dict() for text in lesson.texts],
        "probes": [probe.to_dict() for probe in lesson.probes],
        "sources": list(lesson.sources),
    }


def lesson_from_dict(record: Mapping[str, Any]) -> Lesson:
    """The lesson that :func:`lesson_to_dict` gave."""
    from engrain.data.lessons import TrainingText

    return Lesson(
        record["id"],
        record["title"],
        tuple(TrainingText.from_dict(text) for text in record["texts"]),
        tuple(Probe.from_dict(probe) for probe in record["probes"]),
        tuple(record["sources"]),
    )
