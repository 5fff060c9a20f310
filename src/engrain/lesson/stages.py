"""How a lesson happens: the stages of one job, each on disk before the next begins.

    logged -> studied -> examined_before -> trained -> examined_after -> decided -> committed

A killed job continues at the first stage that is not recorded. Nothing is served before
``committed``, which is one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.dream.earlier import anchors_beside
from engrain.errors import (
    DivergedError,
    EngrainError,
    NoEffectError,
    NothingToLearnError,
    ResumeError,
)
from engrain.exam.decision import Decision, GateThresholds
from engrain.exam.exam import Exam, run_exam
from engrain.exam.gate import LEARNED_KINDS, decide
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import PanelResult
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonRecord, Status
from engrain.lesson import effect
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.served import Served

Study = Callable[[], Lesson]
"""Makes the lesson: self-study of the logged conversations, or explicit examples."""

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


@dataclass(frozen=True)
class Stages:
    """The stages of one job; everything that they need is given, nothing is looked up.

    ``checkpoint`` is the file from which an interrupted run of the learner continues.
    """

    job: str
    recipe: Recipe
    seed: int
    ledger: Ledger
    served: Served
    asked: Asked
    thresholds: GateThresholds
    noise: NoiseBand
    checkpoint: Path
    gate: bool = True
    on_progress: OnProgress = lambda stage, done, total: None

    def run(self, study: Study) -> Outcome:
        """Take the job from the stage that it has reached to its end.

        Raises:
            NothingToLearnError: there is nothing in it to learn; the job has failed.
            DivergedError, NoEffectError: it was not learned; the job has failed.
            ResumeError: other lessons were accepted or undone since it began.
        """
        started = time.perf_counter()
        parent = self._began_on()
        self.served.refresh()
        lesson = self._studied(study)
        probes, superseded = self.asked.questions(lesson)
        before = self._examined("examined_before", probes, self.asked.known_panel(parent))
        trained = self._trained(lesson)
        digest, after = self._tried(lesson, trained["adapter"], probes, before)
        decision = self._decided(lesson, before, after, superseded)
        outcome = Outcome(
            lesson,
            self.job,
            decision,
            before,
            after,
            state_before=parent,
            state_after=digest if decision.accepted else parent,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=int(trained["peak_memory_bytes"]),
        )
        self._committed(outcome, trained["adapter"])
        return outcome

    def _once(self, stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage gives: done and written down, unless the job has reached it before."""
        if not self.ledger.get_job(self.job).reached(stage):
            self.ledger.advance(self.job, stage, work())
        return self.ledger.stage_payload(self.job, stage)

    def _failed(self, why: str) -> None:
        self.ledger.advance(self.job, "failed", {"why": why})
        self.checkpoint.unlink(missing_ok=True)

    @contextmanager
    def _fatal(self, *kinds: type[EngrainError]) -> Iterator[None]:
        """End the job by these errors: they would come again, to the bit, so nothing is resumed."""
        try:
            yield
        except kinds as error:
            self._failed(error.message)
            raise

    def _began_on(self) -> str:
        """The state on which the job began; it must be in force still."""
        parent = str(self.ledger.get_job(self.job).payload["state"])
        if self.ledger.current().digest != parent:
            self._failed("the served state has changed")
            raise ResumeError(
                f"Other lessons were accepted or undone since job {self.job} began.",
                remedy="Learn the conversation again.",
            )
        return parent

    def _studied(self, study: Study) -> Lesson:
        def work() -> dict[str, Any]:
            with self._fatal(NothingToLearnError):
                lesson = study()
                if not lesson.facts():
                    raise NothingToLearnError(
                        "The conversation holds nothing that the model does not know already.",
                        remedy="See `engrain learn --dry-run` for what was dropped and why.",
                    )
            return lesson_to_dict(lesson)

        return lesson_from_dict(self._once("studied", work))

    def _examined(
        self, stage: str, probes: Mapping[str, Sequence[Probe]], known: PanelResult | None
    ) -> Exam:
        def work() -> dict[str, Any]:
            self.on_progress(stage, 0, 1)
            engine, panel = self.served.engine, self.asked.kept.panel
            exam = run_exam(
                engine, probes, panel, state_digest=engine.state_digest, known_panel=known
            )
            self.on_progress(stage, 1, 1)
            return exam.to_dict()

        return Exam.from_dict(self._once(stage, work))

    def _trained(self, lesson: Lesson) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            earlier = self.asked.lessons()
            with self._fatal(DivergedError):
                result = Learner(self.recipe).run(
                    self.served.loaded,
                    lesson,
                    earlier=earlier,
                    adapters=self.asked.adapters(),
                    anchors=anchors_beside([*earlier, lesson]),
                    contexts=self.served.engine.context,
                    seed=self.seed,
                    on_step=lambda done, total, loss: self.on_progress("trained", done, total),
                    checkpoint=self.checkpoint,
                )
            return {
                "adapter": self.ledger.blobs.put(result.adapter.to_bytes()),
                "losses": [round(loss, 6) for loss in result.losses],
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
            }

        return self._once("trained", work)

    def _tried(
        self, lesson: Lesson, adapter: str, probes: Mapping[str, Sequence[Probe]], before: Exam
    ) -> tuple[str, Exam]:
        """The exam with the lesson, and the digest of its weights; it must have changed both."""
        weights, digest = self.served.fold((*self.ledger.current().adapters, adapter))
        engine = self.served.engine
        with self._fatal(NoEffectError):
            with self.served.candidate(weights, digest) as changed:
                effect.check_weights(changed)
                after = self._examined("examined_after", probes, None)
                asked = [] if effect.heard(lesson, before, after) else effect.questions(lesson)
                now = effect.answers(engine, asked)
            effect.check_answers(asked, effect.answers(engine, asked), now)
        return digest, after

    def _decided(
        self, lesson: Lesson, before: Exam, after: Exam, superseded: Sequence[str]
    ) -> Decision:
        def work() -> dict[str, Any]:
            taught = (text.question for text in lesson.facts())
            decision = decide(
                before,
                after,
                self.thresholds,
                self.noise,
                lesson=lesson.id,
                superseded=superseded,
                peaks=self.asked.peaks(superseded),
                origin=self.asked.origin(),
                ignore=self.asked.kept.panel.touched_by(taught),
            )
            if weak := not_recalled(lesson, after):
                decision.reasons.append(f"Not recalled: {'; '.join(weak)}")
            if not self.gate:
                reasons = ["The gate is off.", *decision.reasons]
                decision = Decision("accepted", reasons, decision.checks, decision.thresholds)
            return decision.to_dict()

        return Decision.from_dict(self._once("decided", work))

    def _committed(self, outcome: Outcome, adapter: str) -> None:
        """Write the lesson down with all that proves it, and serve it if it was accepted."""
        self.ledger.commit(
            LessonRecord(
                lesson=outcome.lesson,
                status=STATUS[outcome.decision.verdict],
                adapter=adapter,
                parent_state=outcome.state_before,
                state=outcome.state_after,
                base_digest=self.served.loaded.base_digest,
                recipe=self.recipe.to_dict(),
                exam_before=outcome.exam_before.to_dict(),
                exam_after=outcome.exam_after.to_dict(),
                decision=outcome.decision.to_dict(),
                seed=self.seed,
                estimated_seconds=self.ledger.get_job(self.job).payload.get("estimate"),
                measured_seconds=outcome.seconds,
                peak_memory_bytes=outcome.peak_memory_bytes,
                versions=versions(),
                job=self.job,
            )
        )
        self.served.refresh()
        self.checkpoint.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {name: version(name) for name in ("engrain", "torch", "transformers", "peft")}


def not_recalled(lesson: Lesson, exam: Exam) -> list[str]:
    """The questions about a lesson's facts that an exam finds unanswered."""
    failed = {
        name for name, right in exam.outcomes(lesson.id, kinds=LEARNED_KINDS).items() if not right
    }
    return [probe.messages[-1].content for probe in lesson.probes if probe.id in failed]


def lesson_to_dict(lesson: Lesson) -> dict[str, Any]:
    """A lesson as JSON-ready values."""
    return {
        "id": lesson.id,
        "title": lesson.title,
        "texts": [text.to_dict() for text in lesson.texts],
        "probes": [probe.to_dict() for probe in lesson.probes],
        "sources": list(lesson.sources),
        "corrects": list(lesson.corrects),
    }


def lesson_from_dict(record: Mapping[str, Any]) -> Lesson:
    """The lesson that :func:`lesson_to_dict` gave."""
    return Lesson(
        record["id"],
        record["title"],
        tuple(TrainingText.from_dict(text) for text in record["texts"]),
        tuple(Probe.from_dict(probe) for probe in record["probes"]),
        tuple(record["sources"]),
        corrects=tuple(record.get("corrects", ())),
    )
