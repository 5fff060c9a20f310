"""How a lesson happens: the stages of one job, each on disk before the next begins.

    logged -> studied -> examined_before -> trained -> examined_after -> decided -> committed

Where the recipe has two rounds and too little of the new facts is recalled after the first, this
comes before the gate decides:

    studied_again (fresh wordings of just these) -> trained_again (further) -> examined_again

A killed job continues at the first stage that is not recorded. Nothing is served before
``committed``, which is one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
from engrain.exam.gate import decide
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import PanelResult
from engrain.learn.learner import Further, Learner
from engrain.learn.recipe import Recipe
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonRecord, Status
from engrain.lesson import contradiction, effect
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.served import Served
from engrain.lesson.weak import asked_for, missed, mistaken, questions
from engrain.study.checks import shape

Study = Callable[[], Lesson]
"""Makes the lesson: self-study of the logged conversations, or explicit examples."""

Reword = Callable[[Lesson, Sequence[str]], Sequence[TrainingText]]
"""Gives fresh wordings of some facts of a lesson, by their groups; none where it can't."""

STATUS: Mapping[str, Status] = {
    "accepted": "active",
    "quarantined": "quarantined",
    "rejected": "rejected",
}
LIKED = ("rejected", "quarantined", "accepted")
"""Verdicts, the best last."""


@dataclass(frozen=True)
class Round:
    """One round of training: what the lesson held, what was learned, what the exam then found.

    ``trained`` is what the stage noted; ``state`` is the digest of the weights with its adapter.
    """

    lesson: Lesson
    trained: Mapping[str, Any] = field(repr=False)
    state: str
    exam: Exam = field(repr=False)

    @property
    def missing(self) -> list[Probe]:
        """The held-out wordings of new facts that the exam found unanswered."""
        return missed(self.lesson, self.exam)

    def to_dict(self) -> dict[str, Any]:
        """The round as a decision tells it."""
        return {
            "texts": len(self.lesson.facts()),
            "steps": len(self.trained["losses"]),
            "missing": questions(self.missing),
        }


@dataclass(frozen=True)
class Outcome:
    """What became of a lesson.

    ``state_before`` and ``state_after`` are digests of the served weights; they are equal unless
    the lesson was accepted. ``further_seconds`` are those of a second round among ``seconds``;
    ``parts`` are those of the first round, by part of the estimate.
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
    further_seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict, repr=False)

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
            "rounds": [dict(one) for one in self.decision.rounds],
            "again": dict(self.decision.again),
            "state_before": self.state_before,
            "state_after": self.state_after,
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True)
class Arrived:
    """A lesson that was learned in another home: its adapter's digest, and where it came from."""

    adapter: str
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Stages:
    """The stages of one job; everything that they need is given, nothing is looked up.

    ``checkpoint`` is the file from which an interrupted run of the learner continues. What
    ``arrived`` is examined as it is: nothing is trained.
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
    arrived: Arrived | None = None
    on_progress: OnProgress = lambda stage, done, total: None
    _memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def run(self, study: Study, reword: Reword = lambda lesson, groups: ()) -> Outcome:
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
        studied = time.perf_counter()
        probes, superseded = self._questions(lesson)
        known = self.asked.known_panel(parent)
        before = self._examined("examined_before", probes, known)
        if known is None and before.panel is not None:
            # In the first lesson of a home it is what the untaught model gives, too.
            self.asked.kept.keep_result(parent, before.panel)
        rounds = [self._round(("trained", "examined_after"), lesson, probes, before)]
        once, trained = time.perf_counter(), float(rounds[0].trained["seconds"])
        # What is missing of a lesson that recalls enough comes again with the next one.
        if not self._judged(before, rounds[0], superseded).recalls:
            rounds += self._second_round(rounds[0], probes, before, reword)
        further = time.perf_counter() - once if len(rounds) > 1 else 0.0
        decision = self._decided(before, rounds, superseded)
        kept = rounds[decision.kept_round]
        outcome = Outcome(
            kept.lesson,
            self.job,
            decision,
            before,
            kept.exam,
            state_before=parent,
            state_after=kept.state if decision.accepted else parent,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=max(int(one.trained["peak_memory_bytes"]) for one in rounds),
            further_seconds=further,
            parts={
                "self_study": studied - started,
                "exams": once - studied - trained,
                "training": trained,
            },
        )
        self._committed(outcome, kept.trained["adapter"])
        return outcome

    def _questions(self, lesson: Lesson) -> tuple[dict[str, tuple[Probe, ...]], list[str]]:
        """Probes by lesson, and those that are not true any more; what arrived corrects none."""
        if self.arrived is None:
            return self.asked.questions(lesson, weak_first=self.recipe.mastery)
        chosen, superseded = self.asked.questions()
        chosen = contradiction.beside(chosen, lesson, self.asked.lessons())
        return {**chosen, lesson.id: lesson.probes}, superseded

    def _round(
        self,
        stages: tuple[str, str],
        lesson: Lesson,
        probes: Mapping[str, Sequence[Probe]],
        before: Exam,
        first: Round | None = None,
        further: frozenset[str] = frozenset(),
    ) -> Round:
        """Train and examine; a second round trains the questions in ``further`` after a first."""
        training, examining = stages
        trained = self._trained(training, lesson, first, further)
        digest, exam = self._tried(examining, lesson, trained["adapter"], probes, before, first)
        return Round(lesson, trained, digest, exam)

    def _second_round(
        self, first: Round, probes: Mapping[str, Sequence[Probe]], before: Exam, reword: Reword
    ) -> list[Round]:
        """One more round for the facts that the first left missing; none where there are none."""
        groups = asked_for(first.lesson, first.missing)
        if self.recipe.rounds < 2 or not groups or self.arrived:
            return []
        lesson, further = self._studied_again(first.lesson, groups, reword)
        if not further:
            return []
        stages = ("trained_again", "examined_again")
        with suppress(DivergedError, NoEffectError):
            return [self._round(stages, lesson, probes, before, first, further)]
        return []

    def _once(self, stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage gives: done and written down, unless the job has reached it before."""
        if not self.ledger.get_job(self.job).reached(stage):
            self.ledger.advance(self.job, stage, work())
        return self.ledger.stage_payload(self.job, stage)

    def _failed(self, why: str, error: str) -> None:
        self.ledger.advance(self.job, "failed", {"why": why, "error": error})
        self._clear()

    def _checkpoint(self, stage: str) -> Path:
        """Each round has a file of its own: the one of a finished round is of another run."""
        return self.checkpoint if stage == "trained" else self.checkpoint.with_suffix(f".{stage}")

    def _clear(self) -> None:
        for stage in ("trained", "trained_again"):
            self._checkpoint(stage).unlink(missing_ok=True)

    @contextmanager
    def _fatal(self, *kinds: type[EngrainError], first: Round | None = None) -> Iterator[None]:
        """End the job by these errors: they would come again, to the bit, so nothing is resumed.

        With a ``first`` round at hand the job goes on with what that one learned.
        """
        try:
            yield
        except kinds as error:
            if first is None:
                self._failed(error.message, error.code)
            raise

    def _began_on(self) -> str:
        """The state on which the job began; it must be in force still."""
        parent = str(self.ledger.get_job(self.job).payload["state"])
        if self.ledger.current().digest != parent:
            self._failed("the served state has changed", "ResumeError")
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
            return lesson.to_dict()

        return Lesson.from_dict(self._once("studied", work))

    def _studied_again(
        self, lesson: Lesson, groups: Sequence[str], reword: Reword
    ) -> tuple[Lesson, frozenset[str]]:
        """The lesson with fresh wordings of some facts, and the questions to train further.

        A fact for which no fresh wording is found is trained in its own. A probe never is.
        """
        held = {shape(question) for question in questions(lesson.probes)}

        def work() -> dict[str, Any]:
            self.on_progress("studied_again", 0, 1)
            fresh = [
                text
                for text in reword(lesson, groups)
                if text.group in groups and shape(text.question) not in held
            ]
            left = set(groups) - {text.group for text in fresh}
            own = [text for text in lesson.facts() if text.group in left]
            asked = {t.question for t in (*fresh, *own) if shape(t.question) not in held}
            self.on_progress("studied_again", 1, 1)
            return {"texts": [text.to_dict() for text in fresh], "questions": sorted(asked)}

        found = self._once("studied_again", work)
        fresh = tuple(TrainingText.from_dict(text) for text in found["texts"])
        return replace(lesson, texts=(*lesson.texts, *fresh)), frozenset(found["questions"])

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

    def _trained(
        self, stage: str, lesson: Lesson, first: Round | None, further: frozenset[str]
    ) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            if self.arrived:
                return {
                    "adapter": self.arrived.adapter,
                    "losses": [],
                    "seconds": 0.0,
                    "peak_memory_bytes": 0,
                    "again": {},
                }
            recipe, begun = self.recipe, None
            if first:
                recipe = recipe.further(len(first.trained["losses"]))
                begun = Further(self.served.adapters([first.trained["adapter"]])[0], further)
            earlier = self.asked.lessons()
            weak = self.asked.weak(lesson) if self.recipe.mastery else []
            with self._fatal(DivergedError, first=first):
                result = Learner(recipe).run(
                    self.served.loaded,
                    lesson,
                    earlier=earlier,
                    adapters=self.asked.adapters(),
                    anchors=anchors_beside([*earlier, lesson]),
                    weak=weak,
                    further=begun,
                    contexts=self.served.engine.context,
                    memo=self._memo,
                    seed=self.seed,
                    on_step=lambda done, total, loss: self.on_progress(stage, done, total),
                    checkpoint=self._checkpoint(stage),
                )
            return {
                "adapter": self.ledger.blobs.put(result.adapter.to_bytes()),
                "losses": [round(loss, 6) for loss in result.losses],
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
                "again": {
                    origin: list(dict.fromkeys(t.group for name, t in weak if name == origin))
                    for origin in dict.fromkeys(name for name, _ in weak)
                },
            }

        return self._once(stage, work)

    def _tried(
        self,
        stage: str,
        lesson: Lesson,
        adapter: str,
        probes: Mapping[str, Sequence[Probe]],
        before: Exam,
        first: Round | None,
    ) -> tuple[str, Exam]:
        """The exam with the lesson, and the digest of its weights; it must have changed both."""
        weights, digest = self.served.fold((*self.ledger.current().adapters, adapter))
        engine = self.served.engine
        with self._fatal(NoEffectError, first=first):
            with self.served.candidate(weights, digest) as changed:
                effect.check_weights(changed)
                after = self._examined(stage, probes, None)
                asked = [] if effect.heard(lesson, before, after) else effect.questions(lesson)
                now = effect.answers(engine, asked)
            effect.check_answers(asked, effect.answers(engine, asked), now)
        return digest, after

    def _decided(
        self, before: Exam, rounds: Sequence[Round], superseded: Sequence[str]
    ) -> Decision:
        """The gate's decision; a second round is kept where it likes it better than the first."""

        def work() -> dict[str, Any]:
            found = [self._judged(before, one, superseded) for one in rounds]
            liked = [
                (LIKED.index(decision.verdict), -len(one.missing), -place)
                for place, (decision, one) in enumerate(zip(found, rounds, strict=True))
            ]
            kept = -max(liked)[-1]
            told = [{**one.to_dict(), "kept": place == kept} for place, one in enumerate(rounds)]
            if len(rounds) > 1:
                fate = "" if kept else " It was no better, so the first one is kept."
                wanted = "; ".join(told[0]["missing"])
                found[kept].reasons.append(f"A second round was trained for: {wanted}.{fate}")
            again = rounds[kept].trained.get("again", {})
            decision = replace(found[kept], rounds=told, again=again)
            if self.arrived:
                one, earlier = rounds[kept], self.asked.lessons()
                against = contradiction.found(one.lesson, earlier, before, one.exam)
                decision = contradiction.decided(decision, self.arrived.origin, against)
            return decision.to_dict()

        return Decision.from_dict(self._once("decided", work))

    def _judged(self, before: Exam, found: Round, superseded: Sequence[str]) -> Decision:
        """What the gate says of a round."""
        taught = (text.question for text in found.lesson.facts())
        decision = decide(
            before,
            found.exam,
            self.thresholds,
            self.noise,
            lesson=found.lesson.id,
            superseded=superseded,
            peaks=self.asked.peaks(superseded),
            origin=self.asked.origin(),
            ignore=self.asked.kept.panel.touched_by(taught),
        )
        if weak := questions(found.missing):
            decision.reasons.append(f"Not recalled: {'; '.join(weak)}")
        if wrong := questions(mistaken(found.lesson, found.exam)):
            decision.reasons.append(f"Answered, though never told: {'; '.join(wrong)}")
        if not self.gate:
            reasons = ["The gate is off.", *decision.reasons]
            decision = Decision("accepted", reasons, decision.checks, decision.thresholds)
        return decision

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
        self._clear()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {name: version(name) for name in ("engrain", "torch", "transformers", "peft")}
