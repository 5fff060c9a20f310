"""From a source to a decided lesson, in one home: read, estimated, begun as a job, run.

What a lesson goes through once it is a job are the stages of :mod:`engrain.pipeline`; what is here
comes before (what the source holds, whether it fits, what a resume must find as it was) and after
(what was learned again replaces what it was, and the estimate learns from the seconds).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.changes import Changes
from engrain.config import Config, GateConfig
from engrain.data.lessons import Lesson, TrainingText
from engrain.data.messages import Conversation
from engrain.errors import ConfigError, GateRefused, ResumeError, UsageError
from engrain.ledger.ledger import Ledger
from engrain.ledger.lock import HomeLock, named_errors
from engrain.ledger.records import LessonRecord
from engrain.memory.log import ChatLog
from engrain.pipeline import OnProgress, Outcome, Pipeline

if TYPE_CHECKING:
    from engrain.dream.lesson import Preview
    from engrain.estimate import Estimate, Prices
    from engrain.exam.noise import NoiseBand
    from engrain.exam.panel import Panel
    from engrain.learn.recipe import Recipe
    from engrain.served import Served

Source = Path | str | Conversation | Sequence[Conversation]
"""What can be learned: a file, a chat's name, or conversations."""


@dataclass(frozen=True)
class Learning:
    """Makes lessons of one home.

    ``served`` and ``panel`` give the model and the panel only when they are needed: a source that
    can't be read is refused before anything is loaded.
    """

    folder: Path
    config: Config
    ledger: Ledger
    lock: HomeLock
    log: ChatLog
    changes: Changes
    served: Callable[[], Served]
    panel: Callable[[], Panel]

    def recipe(self, name: str | None = None) -> Recipe:
        """The recipe that a lesson will be learned with."""
        from engrain.learn.recipe import named

        recipe = named(name or self.config.learn.recipe)
        recipe = recipe.with_settings(dict(self.config.learn.settings))
        if recipe.restart:
            raise ConfigError(
                f"The recipe {recipe.name!r} learns everything anew and can't make one lesson.",
                remedy="Use it in `engrain bench life`, where it bounds the others from above.",
            )
        return recipe

    def preview(self, source: Source, *, on_progress: OnProgress | None = None) -> Preview:
        """What a lesson would hold; nothing is written."""
        conversations, examples = self._read(source)
        return self._study(conversations, examples, "preview", on_progress)

    def learn(
        self,
        source: Source,
        *,
        recipe: str | None = None,
        on_progress: OnProgress | None = None,
        require: bool = False,
        force: bool = False,
    ) -> Outcome:
        """Make a job of a source and run it; see :meth:`engrain.home.Home.learn`."""
        chosen = self.recipe(recipe)
        conversations, examples = self._read(source)
        digests = [self.ledger.add_conversation(c) for c in conversations]
        with self.lock.hold("learn a lesson"):
            estimate = self._seconds(chosen, conversations, examples, force)
            job = self._begin(
                chosen,
                self.config.learn.seed,
                estimate,
                conversations=digests,
                examples=[given.to_dict() for given in examples],
            )
            return self._run(job, on_progress, require)

    def relearn(
        self,
        lesson: str,
        *,
        recipe: str | None = None,
        on_progress: OnProgress | None = None,
        require: bool = False,
        force: bool = False,
    ) -> Outcome:
        """Make a job of a lesson's stored texts; see :meth:`engrain.home.Home.relearn`."""
        with self.lock.hold("learn a lesson again"):
            old = self.ledger.get_lesson(lesson)
            if old.status == "active":
                raise UsageError(
                    f"Lesson {old.id} is in service: the weights hold it.",
                    remedy=f"Take it out first: engrain lessons disable {old.id}",
                )
            chosen = self.recipe(recipe) if recipe else _recorded(old)
            estimate = self._seconds(chosen, (), old.lesson.balanced(), force)
            sources = list(old.lesson.sources)
            job = self._begin(chosen, old.seed, estimate, conversations=sources, again=old.id)
            return self._run(job, on_progress, require)

    def _begin(self, recipe: Recipe, seed: int, estimate: float | None, **source: Any) -> str:
        """A new job, with all that a resume must find as it was."""
        payload = {
            "conversations": [],
            "examples": [],
            **source,
            "recipe": recipe.to_dict(),
            "seed": seed,
            "state": self.ledger.current().digest,
            "lesson": self.ledger.new_lesson_id(),
            "estimate": estimate,
            # Fixed before training: a resumed job is judged by the same thresholds.
            "gate": asdict(self.config.gate),
            "panel": self.panel().digest,
        }
        job = self.ledger.create_job("learn", payload)
        self.ledger.advance(job, "logged")
        return job

    def resume(
        self, job: str, *, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Take a job from the stage that it has reached; see :meth:`engrain.home.Home.resume`."""
        with self.lock.hold("resume a job"):
            taken = self.ledger.take_job(self.ledger.get_job(job).id)
            return self._run(taken.id, on_progress, require)

    def _run(self, job_id: str, on_progress: OnProgress | None, require: bool) -> Outcome:
        from engrain.learn.recipe import Recipe

        job = self.ledger.get_job(job_id)
        recipe = Recipe.from_dict(job.payload["recipe"])
        conversations = [self.ledger.get_conversation(d) for d in job.payload["conversations"]]
        examples = [TrainingText.from_dict(item) for item in job.payload["examples"]]

        again = job.payload.get("again")

        def study() -> Lesson:
            name = str(job.payload["lesson"])
            if again:
                return replace(self.ledger.lesson(again), id=name)
            return self._study(conversations, examples, name, on_progress).lesson

        seed = int(job.payload["seed"])
        if job.payload["panel"] != self.panel().digest:
            self.ledger.advance(job_id, "failed", {"why": "the panel has changed"})
            raise ResumeError(
                f"The panel has changed since job {job_id} began: exams can't be compared.",
                remedy="Learn the conversation again.",
            )
        # Asked for now: after the lesson, the speed would be that of a lesson upon it.
        prices = self._prices(recipe)
        with named_errors(self.folder):
            pipeline = self.pipeline(on_progress, gate=GateConfig(**job.payload["gate"]))
            outcome = pipeline.run(job_id, recipe, seed, study)
        if again and outcome.accepted:
            self.changes.retire(again)
        if not job.reached("studied"):
            # A resumed job did part of its work before: its seconds would mislead.
            prices.correct(job.payload.get("estimate"), outcome.seconds)
        if require and not outcome.accepted:
            raise GateRefused(
                f"The gate {outcome.decision.verdict} lesson {outcome.lesson.id}: "
                + " ".join(outcome.decision.reasons),
                remedy="The served weights are unchanged; see `engrain lessons show last`.",
                outcome=json.dumps(outcome.to_dict()),
            )
        return outcome

    def pipeline(
        self,
        on_progress: OnProgress | None = None,
        *,
        noise: NoiseBand | None = None,
        gate: GateConfig | None = None,
    ) -> Pipeline:
        """The stages of a lesson, with this home's model, panel, thresholds and noise band."""
        from engrain.exam.decision import GateThresholds

        gate = gate or self.config.gate
        pipeline = Pipeline(
            ledger=self.ledger,
            served=self.served(),
            panel=self.panel(),
            thresholds=GateThresholds.from_config(gate),
            noise=noise or self.noise(on_progress),
            folder=self.folder,
            gate=gate.enabled,
        )
        return replace(pipeline, on_progress=on_progress) if on_progress else pipeline

    def noise(self, on_progress: OnProgress | None = None) -> NoiseBand:
        """The noise band of the panel, measured once for this model, machine and panel."""
        from engrain.exam.noise import NoiseBand

        return self.pipeline(noise=NoiseBand.assumed()).measured_noise(on_progress)

    def _read(self, source: Source) -> tuple[list[Conversation], list[TrainingText]]:
        from engrain.dream.lesson import read_source

        if isinstance(source, Conversation):
            return [source], []
        if isinstance(source, (str, Path)):
            if str(source) == "last" or str(source) in self.log.names():
                return [self.log.read(str(source))], []
            return read_source(Path(source))
        return list(source), []

    def _study(
        self,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        name: str,
        on_progress: OnProgress | None,
    ) -> Preview:
        from engrain.dream.lesson import make_lesson

        def report(stage: str, done: int, total: int) -> None:
            if on_progress:
                on_progress("studied", done, total)

        return make_lesson(
            self.served().engine,
            conversations,
            explicit=examples,
            earlier=[self.ledger.lesson(lesson) for lesson in self.ledger.current().lessons],
            name=name,
            seed=self.config.learn.seed,
            effort=self.config.learn.effort,
            hold_out=self.config.study.hold_out,
            max_facts=self.config.study.max_facts,
            on_progress=report,
        )

    # ------------------------------------------------------------------ estimate
    def estimate(self, source: Source, *, recipe: str | None = None) -> Estimate:
        """Seconds and peak memory of a lesson; see :meth:`engrain.home.Home.estimate`."""
        conversations, examples = self._read(source)
        return self._estimate(self.recipe(recipe), conversations, examples)

    def _estimate(
        self,
        recipe: Recipe,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        force: bool = False,
    ) -> Estimate:
        from engrain import estimate

        state, served = self.ledger.current(), self.served()
        source = estimate.Source(
            conversations,
            examples,
            self.config.learn.effort,
            [self.ledger.lesson(name) for name in state.lessons],
            served.adapters(state.adapters),
        )
        return self._prices(recipe).estimate(served, source, force=force)

    def _seconds(
        self,
        recipe: Recipe,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        force: bool,
    ) -> float | None:
        """Seconds of a lesson that is about to begin; refused if it does not fit."""
        found = self._estimate(recipe, conversations, examples, force)
        if not force:
            found.memory.check()
        return found.seconds

    def _prices(self, recipe: Recipe) -> Prices:
        from engrain.estimate import Prices
        from engrain.exam.noise import NoiseBand

        pipeline = self.pipeline(noise=NoiseBand.assumed())
        return Prices(
            self.folder / "speed",
            recipe,
            self.ledger.base().digest,
            self.panel(),
            bool(self.ledger.current().lessons),
            pipeline.noise_path().exists(),
        )


def _recorded(record: LessonRecord) -> Recipe:
    """The recipe that a lesson was learned with."""
    from engrain.learn.recipe import Recipe

    return Recipe.from_dict(dict(record.recipe))
