"""From a source to a decided lesson, in one home: read, estimated, begun as a job, run.

What a lesson goes through once it is a job are the stages of :mod:`engrain.lesson.stages`; what is
here comes before (what the source holds, whether it fits, what a resume must find as it was) and
after (what was learned again replaces what it was, and the estimate learns from the seconds).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from engrain.config import GateConfig
from engrain.data.lessons import Lesson, TrainingText
from engrain.data.messages import Conversation
from engrain.data.sources import Brought, Place
from engrain.errors import ConfigError, GateRefused, NothingToLearnError, ResumeError
from engrain.exam.decision import GateThresholds
from engrain.learn.recipe import Recipe, named
from engrain.ledger.lock import named_errors
from engrain.lesson import cost, travel, writers, zero
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.brought import Known, Lot, Survey, Which, read_all, survey
from engrain.lesson.folder import POCKET, HomeFolder
from engrain.lesson.stages import Arrived, Outcome, Stages
from engrain.lesson.writers import Chosen
from engrain.study.again import more_wordings
from engrain.study.curation import curate
from engrain.study.lesson import Preview, make_lesson

Source = Path | str | Lot | Conversation | Sequence[Conversation]
"""What can be learned: a file or folder, a lot of a survey, a chat's name, or conversations."""
OnStudied = Callable[[Preview], None]
"""Called with what self-study found, before it is learned."""


class Again(TypedDict, total=False):
    """How the texts of a lesson are learned.

    ``recipe`` is a name, the configured one if none is given; ``require`` makes an error of the
    gate's refusal, ``force`` none of too little memory.
    """

    recipe: str | None
    on_progress: OnProgress | None
    require: bool
    force: bool


class How(Again, total=False):
    """How a lesson is learned; ``on_studied`` gets the preview."""

    on_studied: OnStudied | None


@dataclass(frozen=True)
class Jobs:
    """Makes lessons of one home.

    ``asked`` gives the model and its exams only when they are needed: a source that can't be read
    is refused before anything is loaded.
    """

    home: HomeFolder
    asked: Callable[[], Asked]

    def recipe(self, name: str | None = None) -> Recipe:
        """The recipe that a lesson will be learned with.

        Raises:
            ConfigError: it can't make one lesson.
        """
        chosen = name or self.home.config.learn.recipe
        if chosen == "auto":
            chosen = "default" if self.home.ledger.base().source == POCKET else "chat"
        recipe = named(chosen)
        rounds = self.home.config.learn.rounds
        settings = {"rounds": rounds} if rounds else {}
        recipe = recipe.with_settings({**settings, **self.home.config.learn.settings})
        if recipe.restart:
            raise ConfigError(
                f"The recipe {recipe.name!r} learns everything anew and can't make one lesson.",
                remedy="Use it in `engrain bench life`, where it bounds the others from above.",
            )
        return recipe

    # ------------------------------------------------------------------ before it is a job
    def preview(self, source: Source, on_progress: OnProgress | None = None) -> Preview:
        """What a lesson would hold; nothing is written."""
        conversations, examples = self._read(source)
        writer = self.writer(conversations)
        return self._study(conversations, examples, "preview", writer, on_progress)

    def estimate(self, source: Source, recipe: str | None = None) -> cost.Estimate:
        """Seconds and peak memory of a lesson."""
        conversations, examples = self._read(source)
        writer = self.writer(conversations)
        return self._estimate(self.recipe(recipe), conversations, examples, writer)

    def writer(self, conversations: Sequence[Conversation]) -> Chosen:
        """Who will ask the questions about conversations; nobody else is looked for without any.

        Raises:
            ModelNotFoundError: the one that is set is not on this machine.
        """
        config = self.home.config
        if not conversations:
            return Chosen()
        return writers.choose(config.study.writer, self.asked().served, config.model)

    def _read(self, source: Source) -> tuple[list[Conversation], list[TrainingText]]:
        if isinstance(source, Conversation):
            return [source], []
        if isinstance(source, (str, Path)):
            if str(source) == "last" or str(source) in self.home.log.names():
                return [self.home.log.read(str(source))], []
            return read_all(source)
        return source.read() if isinstance(source, Lot) else (list(source), [])

    def survey(self, path: Path | str, **which: Unpack[Which]) -> Survey:
        """What a file, an archive or a folder holds, and what of it was learned before."""
        name = str(path)
        if name == "last" or name in self.home.log.names():
            # Read first: a survey holds a file, which an error would leave open.
            talk = self.home.log.read(name)
            found = Survey(name)
            found.add(Brought(talk, Place(name), "chat"))
            found.lots = [Lot(found, tuple(found.entries))]
            return found
        return survey(path, Known.of(self.home.ledger), **which)

    def seconds_of(self, lots: Sequence[Lot], recipe: str | None = None) -> list[float | None]:
        """Seconds of a lesson of each lot, by the speed that an estimate has measured."""
        chosen, found, prices = self.recipe(recipe), list[float | None](), dict[bool, cost.Prices]()
        loaded, known = self.asked().served.loaded, self._source(chosen, (), ())
        for lot in lots:
            talks, examples = lot.read()
            if bool(talks) not in prices:
                prices[bool(talks)] = self._prices(chosen, self.writer(talks))
            source = replace(known, conversations=_curated(talks), examples=examples)
            found.append(prices[bool(talks)].told(loaded, source))
        return found

    def _study(
        self,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        name: str,
        writer: Chosen,
        on_progress: OnProgress | None,
    ) -> Preview:
        def report(stage: str, done: int, total: int) -> None:
            if on_progress:
                on_progress("studied", done, total)

        asked, config = self.asked(), self.home.config
        how: dict[str, Any] = {
            "explicit": examples,
            "earlier": asked.lessons(),
            "name": name,
            "seed": config.learn.seed,
            "effort": config.learn.effort,
            "hold_out": config.study.hold_out,
            "max_facts": config.study.max_facts,
            "on_progress": report,
        }
        engine = asked.served.engine
        if asked.served.loaded.source == POCKET:
            # It was trained on the requests of the rules in dream, until it is taught study's.
            from engrain.dream.lesson import make_lesson as make_by_rules

            return cast(Preview, make_by_rules(engine, conversations, **how))
        with writer.opened() as asking:
            how |= {"taught": asked.served.mannered, "belief": zero.belief(asked.served)}
            return make_lesson(engine, conversations, writer=asking, **how)

    def _estimate(
        self,
        recipe: Recipe,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        writer: Chosen,
        force: bool = False,
    ) -> cost.Estimate:
        source = self._source(recipe, conversations, examples)
        return self._prices(recipe, writer).estimate(self.asked().served, source, force=force)

    def _source(
        self,
        recipe: Recipe,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
    ) -> cost.Source:
        asked = self.asked()
        return cost.Source(
            _curated(conversations),
            examples,
            self.home.config.learn.effort,
            asked.lessons(),
            asked.adapters(),
            len(asked.weak()) if recipe.mastery else 0,
            self.home.config.study.max_facts,
        )

    def _prices(self, recipe: Recipe, writer: Chosen) -> cost.Prices:
        asked = self.asked()
        kept, state = asked.kept, self.home.ledger.current().digest
        first = self.home.ledger.history()[0].digest
        return cost.Prices(
            self.home.path / "speed",
            recipe,
            kept.base_digest,
            kept.panel,
            asked.served.mannered,
            1 if asked.known_panel(state) else 2,
            0 if state == first or asked.known_panel(first) else 1,
            writer,
        )

    # ------------------------------------------------------------------ the job
    def learn(
        self,
        source: Source,
        *,
        recipe: str | None = None,
        on_progress: OnProgress | None = None,
        require: bool = False,
        force: bool = False,
        on_studied: OnStudied | None = None,
        studied: Lesson | None = None,
    ) -> Outcome:
        """Make a job of a source and run it.

        ``studied`` is what a person made of its preview: that is learned as it stands, so a second
        round asks for no wordings that nobody has seen.

        Raises:
            NothingToLearnError: nothing is left in it.
        """
        chosen = self.recipe(recipe)
        if studied is not None and not studied.facts():
            raise NothingToLearnError(
                "Nothing is left to learn.", remedy="Leave at least one question with its answer."
            )
        conversations, examples = self._read(source)
        writer = self.writer(conversations)
        digests = [self.home.ledger.add_conversation(c) for c in conversations]
        with self.home.lock.hold("learn a lesson"):
            told = self.told(chosen, conversations, examples, writer, force=force)
            payload = {
                "conversations": digests,
                "examples": [text.to_dict() for text in examples],
                "fresh": studied is None,
                "writer": writer.name,
            }
            job = self.begin(chosen, self.home.config.learn.seed, told, **payload)
            if studied is not None:
                name = str(self.home.ledger.get_job(job).payload["lesson"])
                record = replace(studied, id=name).to_dict()
                self.home.ledger.advance(job, "studied", record)
            return self.run(job, on_progress, require, on_studied)

    def told(
        self,
        recipe: Recipe,
        conversations: Sequence[Conversation],
        examples: Sequence[TrainingText],
        writer: Chosen | None = None,
        *,
        force: bool = False,
    ) -> cost.Estimate:
        """What is told of a lesson that is about to begin.

        Raises:
            DoesNotFitError: it needs more memory than is free, unless with ``force``.
        """
        found = self._estimate(recipe, conversations, examples, writer or Chosen(), force)
        if not force:
            found.memory.check()
        return found

    def begin(self, recipe: Recipe, seed: int, told: cost.Estimate | None, **source: Any) -> str:
        """A new job, with all that a resume must find as it was; gives its name.

        ``source`` are digests of ``conversations``, ``examples`` and who asks the questions, or the
        lesson that is learned ``again``, or what ``arrived``.
        """
        payload = {
            "conversations": [],
            "examples": [],
            "writer": writers.SELF,
            **source,
            "recipe": recipe.to_dict(),
            "seed": seed,
            "state": self.home.ledger.current().digest,
            "lesson": self.home.ledger.new_lesson_id(),
            "estimate": told.seconds if told else None,
            "estimated_parts": dict(told.parts) if told else {},
            # Fixed before training: a resumed job is judged by the same thresholds.
            "gate": asdict(self.home.config.gate),
            "panel": self.asked().kept.panel.digest,
        }
        job = self.home.ledger.create_job("learn", payload)
        self.home.ledger.advance(job, "logged")
        return job

    def arrive(
        self, path: Path, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Examine the lesson of a file as a candidate, as if it had been learned here.

        Raises:
            LessonFileError: the file is damaged, of another base, or holds no lesson.
            UsageError: the lesson is in force already.
        """
        found = travel.arrived(path, self.home.ledger)
        travel.check_fit(found, self.asked().served.loaded.stored(), path)
        with self.home.lock.hold("import a lesson"):
            arrived = {
                "adapter": self.home.blobs.put(found.portable.adapter),
                "lesson": found.lesson.to_dict(),
                "origin": found.origin(self.home.ledger.current().digest),
            }
            job = self.begin(found.recipe, found.seed, None, arrived=arrived)
            return self.run(job, on_progress, require)

    def resume(
        self, job: str, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Take a job from the stage that it has reached."""
        with self.home.lock.hold("resume a job"):
            taken = self.home.ledger.take_job(self.home.ledger.get_job(job).id)
            return self.run(taken.id, on_progress, require)

    def run(
        self,
        name: str,
        on_progress: OnProgress | None,
        require: bool,
        on_studied: OnStudied | None = None,
    ) -> Outcome:
        """Run the stages of a job that are left; the lock is held."""
        job, asked = self.home.ledger.get_job(name), self.asked()
        given, recipe = job.payload, Recipe.from_dict(job.payload["recipe"])
        conversations = [self.home.ledger.get_conversation(d) for d in given["conversations"]]
        examples = [TrainingText.from_dict(item) for item in given["examples"]]
        again, arrived = given.get("again"), given.get("arrived")
        # A job of before writers had names has none.
        writer = writers.kept(given.get("writer", writers.SELF), self.home.config.model)

        def study() -> Lesson:
            lesson = str(given["lesson"])
            if arrived:
                return replace(Lesson.from_dict(arrived["lesson"]), id=lesson)
            if again:
                return replace(self.home.ledger.lesson(again), id=lesson)
            found = self._study(conversations, examples, lesson, writer, on_progress)
            if on_studied:
                on_studied(found)
            return found.lesson

        def reword(lesson: Lesson, groups: Sequence[str]) -> Sequence[TrainingText]:
            # What is learned again is learned in the wordings that are on record.
            if again or not given.get("fresh", True) or asked.served.loaded.source == POCKET:
                return ()
            with writer.opened() as asking:
                return more_wordings(
                    asked.served.engine,
                    conversations,
                    lesson,
                    groups,
                    seed=int(given["seed"]),
                    effort=self.home.config.learn.effort,
                    writer=asking,
                    taught=asked.served.mannered,
                )

        if given["panel"] != asked.kept.panel.digest:
            self.home.ledger.advance(name, "failed", {"why": "the panel has changed"})
            raise ResumeError(
                f"The panel has changed since job {name} began: exams can't be compared.",
                remedy="Learn the conversation again.",
            )
        gate = GateConfig(**given["gate"])
        with named_errors(self.home.path):
            stages = Stages(
                job=name,
                recipe=recipe,
                seed=int(given["seed"]),
                ledger=self.home.ledger,
                served=asked.served,
                asked=asked,
                thresholds=GateThresholds.from_config(gate),
                noise=asked.known_noise(),
                checkpoint=self.home.path / "jobs" / f"{name}.checkpoint",
                gate=gate.enabled,
                arrived=Arrived(arrived["adapter"], arrived["origin"]) if arrived else None,
                on_progress=on_progress or (lambda stage, done, total: None),
            )
            outcome = stages.run(study, reword)
        if again and outcome.accepted:
            self._retire(again)
        if not job.reached("studied") and not arrived:
            # A resumed job did part of its work before: its seconds would mislead.
            told = given.get("estimated_parts", {})
            self._prices(recipe, writer).correct(asked.served.loaded, told, outcome.parts)
        if require and not outcome.accepted:
            raise GateRefused(
                f"The gate {outcome.decision.verdict} lesson {outcome.lesson.id}: "
                + " ".join(outcome.decision.reasons),
                remedy="The served weights are unchanged; see `engrain lessons show last`.",
                outcome=json.dumps(outcome.to_dict()),
            )
        return outcome

    def _retire(self, lesson: str) -> None:
        """Take out for good what was learned again, unless it is out for good already."""
        if self.home.ledger.get_entry(lesson).status in ("disabled", "quarantined"):
            self.asked().served.apply(self.home.ledger.plan(lesson, "undone"))


def _curated(conversations: Sequence[Conversation]) -> list[Conversation]:
    """What of conversations is studied: what is left out, such as a pasted book, takes no time."""
    curated = map(curate, conversations)
    return [found.conversation for found in curated if found.has_user]
