"""One person's home: chat, learn, list, switch off, undo, verify.

A home is a folder: ``config.toml``, ``ledger.db``, ``blobs/``, ``log/`` (every chat, verbatim),
``jobs/`` (checkpoints of interrupted runs), ``panels/``, ``noise/``, ``speed/``, ``manners/``
(measured once), ``lock``. The command line mirrors :class:`Home`; :mod:`engrain.lesson` works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self, Unpack

from engrain.data.messages import Message
from engrain.exam.exam import Exam, run_exam
from engrain.exam.kept import Kept
from engrain.exam.panel import Panel
from engrain.ledger.records import Job, LessonEntry, LessonRecord, Problem, State
from engrain.lesson import zero
from engrain.lesson.asked import Asked, OnProgress, panel_for
from engrain.lesson.changes import Change, Changes
from engrain.lesson.door import Door
from engrain.lesson.folder import HomeFolder, Overrides, Where
from engrain.lesson.job import Again, How, Jobs, Source
from engrain.lesson.served import Served
from engrain.lesson.stages import Outcome, versions
from engrain.model.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

    from engrain.data.lessons import Lesson
    from engrain.learn.recipe import Recipe
    from engrain.lesson.brought import Lot, Survey, Which
    from engrain.lesson.cost import Estimate
    from engrain.model.loading import LoadedModel
    from engrain.study.lesson import Preview


class Home:
    """A person's model with everything that it has learned.

    Example:
        >>> home = Home.create("~/engrain")                                # doctest: +SKIP
        >>> home.learn("conversation.json").decision.verdict               # doctest: +SKIP
        'accepted'
        >>> home.undo("last").state_after == home.ledger.history()[0].digest  # doctest: +SKIP
        True
    """

    def __init__(self, folder: HomeFolder) -> None:
        self._folder, self.path, self.lock = folder, folder.path, folder.lock
        self.resolved, self.config = folder.resolved, folder.config
        self.ledger, self.blobs, self.log = folder.ledger, folder.blobs, folder.log
        self._jobs = Jobs(folder, lambda: self.asked)
        self._changes = Changes(folder, lambda: self._folding, lambda: self.asked, self._jobs)
        self.door = Door(folder, lambda: self.asked, self._jobs)

    # ------------------------------------------------------------------ beginning and end
    @classmethod
    def create(cls, path: Where = None, *, overrides: Overrides = None) -> Home:
        """Make a home, with its model loaded.

        Raises:
            HomeExistsError: the folder holds a home already.
            HomeReadOnlyError, DiskFullError: it can't be written.
            ModelError: the model can't be used; nothing was made.
        """
        resolved, loaded = HomeFolder.prepare(path, overrides)
        home = cls(HomeFolder.make(resolved, loaded.source))
        home.loaded = loaded
        # Last, since a home exists from here on: what a kill left before it is made again.
        home.ledger.begin(
            source=loaded.source,
            base_digest=loaded.base_digest,
            state=home._folding.fold_digest(()),
            versions=versions(),
        )
        if home.config.learn.manners:
            zero.take(home.ledger, home._folding, versions())
        return home

    @classmethod
    def plan(cls, path: Where = None, *, overrides: Overrides = None) -> dict[str, str]:
        """What :meth:`create` would make, the model checked; nothing is written."""
        made, loaded = HomeFolder.prepare(path, overrides)
        return {"home": str(made.home), "model": loaded.source, "base_digest": loaded.base_digest}

    @classmethod
    def open(cls, path: Where = None, *, overrides: Overrides = None) -> Home:
        """Open a home; its model is loaded when something needs it.

        Raises:
            HomeNotFoundError: the folder holds no home.
        """
        return cls(HomeFolder.open(path, overrides))

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def loaded(self) -> LoadedModel:
        """The base model, checked against the digest that the home was made with."""
        return self._folder.load()

    @cached_property
    def _folding(self) -> Served:
        """What folds weights, whether or not the state in force can be folded."""
        return Served(self.loaded, Engine(self.loaded), self.ledger)

    @cached_property
    def served(self) -> Served:
        """The model with the weights of the state in force."""
        self._folding.refresh()
        return self._folding

    @property
    def state(self) -> State:
        """The state in force."""
        return self.ledger.current()

    @cached_property
    def panel(self) -> Panel:
        """The panel that guards this home's model; a short one where a question takes long."""
        return panel_for(self.loaded, self.path / "speed")

    @property
    def asked(self) -> Asked:
        """What exams ask, and what was measured once: panel results and the noise band."""
        kept = Kept(self.path, self.panel, self.ledger.base().digest)
        return Asked(self.ledger, self.served, kept)

    def chat(self, messages: Sequence[Message], *, seed: int = 0) -> Iterator[str]:
        """The served model's answer, piece by piece; nothing is looked up."""
        self.served.refresh()
        options = self.config.chat
        yield from self.served.engine.stream(
            messages,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=seed,
        )

    def eval(self) -> Exam:
        """Run the exam on the served weights: all lessons' probes and the panel."""
        probes, _ = self.asked.questions()
        return run_exam(self.served.engine, probes, self.panel, state_digest=self.served.refresh())

    # ------------------------------------------------------------------ learn
    def recipe(self, name: str | None = None) -> Recipe:
        """The recipe that a lesson will be learned with; a ``ConfigError`` if it can't make one."""
        return self._jobs.recipe(name)

    def survey(self, path: Path | str, **which: Unpack[Which]) -> Survey:
        """What a file, archive or folder holds and what of it is new, in lots of a day each."""
        return self._jobs.survey(path, **which)

    def estimate(self, source: Source, *, recipe: str | None = None) -> Estimate:
        """Seconds and peak memory of a lesson; the first asking times the machine, if it fits."""
        return self._jobs.estimate(source, recipe)

    def seconds_of(self, lots: Sequence[Lot], *, recipe: str | None = None) -> list[float | None]:
        """Seconds of a lesson of each lot, once an estimate has timed the machine."""
        return self._jobs.seconds_of(lots, recipe)

    def preview(self, source: Source, *, on_progress: OnProgress | None = None) -> Preview:
        """What a lesson would hold, and what was left out and why; nothing is written."""
        return self._jobs.preview(source, on_progress)

    def learn(self, source: Source, studied: Lesson | None = None, **how: Unpack[How]) -> Outcome:
        """Learn a conversation: study it, train a candidate, examine it, let the gate decide.

        ``studied`` is the lesson of a preview, as it was or edited, and saves studying again.

        Raises:
            ConversationError, NothingToLearnError: it can't be read, or there is nothing new in it.
            DoesNotFitError: it needs more memory than is free; nothing was begun.
            GateRefused: only with ``require``; the served weights are unchanged either way.
        """
        return self._jobs.learn(source, studied=studied, **how)

    def relearn(self, lesson: str, **how: Unpack[Again]) -> Outcome:
        """Learn the stored texts of a lesson again, on the weights as they are, as a new lesson.

        If the gate accepts it, the old one is out for good. Errors are those of :meth:`learn`.

        Raises:
            UsageError: the lesson is in service.
        """
        return self._changes.relearn(lesson, **how)

    def resume(
        self, job: str, *, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Continue an interrupted job, to the bit as if it had not been interrupted.

        Raises:
            UnknownNameError, UsageError: no such job, or it has ended.
            ResumeError: other lessons were accepted or undone since it began.
        """
        return self._jobs.resume(job, on_progress, require)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return self.ledger.list_jobs()

    def lessons(self) -> list[LessonEntry]:
        """All lessons of the ledger, in the order of their commits."""
        return self.ledger.list_lessons()

    def show(self, lesson: str) -> LessonRecord:
        """A lesson with sources, texts, recipe, exams, decision and digests."""
        return self.ledger.get_lesson(lesson)

    def disable(self, lesson: str = "last", *, dry_run: bool = False) -> Change:
        """Take a lesson out of the served weights; it can be enabled again."""
        return self._changes.make(lesson, "disabled", dry_run)

    def enable(self, lesson: str = "last", *, dry_run: bool = False) -> Change:
        """Serve a disabled or quarantined lesson."""
        return self._changes.make(lesson, "active", dry_run)

    def undo(
        self,
        lesson: str = "last",
        *,
        relearn: bool = False,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Change:
        """Take a lesson out for good; its record stays.

        With ``relearn`` the lessons after it are learned again, in order, as if it had never been;
        one that the gate refuses stays as it was. A lesson undone already is then no error.
        """
        if relearn and not dry_run:
            return self._changes.undo_and_relearn(lesson, on_progress)
        return self._changes.make(lesson, "undone", dry_run)

    def verify(self) -> list[Problem]:
        """Derive every digest again: blobs, lessons, events, and the weights of every state."""
        return self.ledger.verify(self._folding.fold_digest)
