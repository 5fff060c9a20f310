"""One person's home: chat, learn, list, switch off, undo, verify.

A home is a folder: ``config.toml``, ``ledger.db``, ``blobs/``, ``log/`` (every chat, verbatim),
``jobs/`` (checkpoints of interrupted runs), ``panels/``, ``noise/`` and ``speed/`` (measured once),
``lock``. The command line mirrors the methods of :class:`Home` one to one; what they do is in
:mod:`engrain.lesson`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engrain.config import HOME_FILE, Origin, Resolved, home_folder, resolve, to_toml
from engrain.data.messages import Message
from engrain.errors import HomeExistsError, HomeNotFoundError
from engrain.exam.exam import Exam, run_exam
from engrain.exam.kept import Kept
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import Panel, load_panel
from engrain.ledger.blobs import BlobStore
from engrain.ledger.ledger import Ledger
from engrain.ledger.lock import HomeLock, make_writable, named_errors
from engrain.ledger.records import Job, LessonEntry, LessonRecord, Problem, State
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.changes import Change, Changes
from engrain.lesson.job import Jobs, Source
from engrain.lesson.served import Served, load
from engrain.lesson.stages import Outcome, versions
from engrain.memory.log import ChatLog
from engrain.model.engine import Engine

if TYPE_CHECKING:
    from engrain.dream.lesson import Preview
    from engrain.learn.recipe import Recipe
    from engrain.lesson.cost import Estimate
    from engrain.model.loading import LoadedModel

POCKET = "pocket"
LEDGER_FILE = "ledger.db"


class Home:
    """A person's model with everything that it has learned.

    Example:
        >>> home = Home.create("~/engrain")                                # doctest: +SKIP
        >>> home.learn("conversation.json").decision.verdict               # doctest: +SKIP
        'accepted'
        >>> home.undo("last").state_after == home.ledger.history()[0].digest  # doctest: +SKIP
        True
    """

    def __init__(self, resolved: Resolved, *, create: bool = False) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.path = resolved.home
        self.lock = HomeLock(self.path / "lock")
        self.blobs = BlobStore(self.path / "blobs")
        url = self.config.ledger.url or self.path / LEDGER_FILE
        self.ledger = Ledger(url, self.blobs, lock=self.lock, create=create)
        self.log = ChatLog(self.path / "log")
        self._jobs = Jobs(
            self.path, self.config, self.ledger, self.lock, self.log, lambda: self.asked
        )
        self._changes = Changes(
            self.ledger, self.lock, lambda: self._folding, lambda: self.asked, self._jobs
        )

    # ------------------------------------------------------------------ beginning and end
    @classmethod
    def create(
        cls, path: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None
    ) -> Home:
        """Make a home and load its model once.

        Raises:
            HomeExistsError: the folder holds a home already.
            HomeReadOnlyError, DiskFullError: it can't be written.
            ModelError: the model can't be used; nothing was made.
        """
        resolved, loaded = cls._prepare(path, overrides)
        make_writable(resolved.home)
        home = cls(resolved, create=True)
        home.loaded = loaded
        settings = home.path / HOME_FILE
        if not settings.exists():
            given = {**resolved.flags(), "model.source": loaded.source}
            with named_errors(settings):
                settings.write_text(to_toml(given), encoding="utf-8")
        # Last, since a home exists from here on: what a kill left before it is made again.
        untaught = home._folding.fold_digest(())
        home.ledger.begin(
            source=loaded.source,
            base_digest=loaded.base_digest,
            state=untaught,
            versions=versions(),
        )
        return home

    @classmethod
    def plan(
        cls, path: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """What :meth:`create` would make, the model checked; nothing is written."""
        resolved, loaded = cls._prepare(path, overrides)
        home = str(resolved.home)
        return {"home": home, "model": loaded.source, "base_digest": loaded.base_digest}

    @classmethod
    def _prepare(
        cls, path: str | Path | None, overrides: Mapping[str, Any] | None
    ) -> tuple[Resolved, LoadedModel]:
        """Settings and model of a home to be made, if there is room for one."""
        resolved = resolve(home_folder(path), overrides)
        if _begun(resolved):
            raise HomeExistsError(
                f"{resolved.home} is a home already.",
                remedy="Use it as it is, or give another folder with --home.",
            )
        source = Path(resolved.config.model.source).expanduser()
        # A relative path would mean another folder as soon as a command runs elsewhere.
        known = resolved.config.model.source == POCKET or not source.is_dir()
        return resolved, load(resolved, None if known else str(source.resolve()))

    @classmethod
    def open(
        cls, path: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None
    ) -> Home:
        """Open a home; its model is loaded when something needs it.

        Raises:
            HomeNotFoundError: the folder holds no home.
        """
        folder = home_folder(path)
        resolved = resolve(folder, overrides)
        if not (resolved.config.ledger.url or (folder / LEDGER_FILE).exists()):
            raise HomeNotFoundError(
                f"There is no home in {folder}.",
                remedy="Make one with `engrain init`, or give another folder with --home.",
            )
        return cls(resolved)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ the model
    @cached_property
    def loaded(self) -> LoadedModel:
        """The base model, checked against the digest that the home was made with."""
        source = self.ledger.base().source
        if self.resolved.origins.get("model.source", Origin("default")).kind == "home file":
            # A model folder may have moved; the digest tells whether it is the same model.
            source = self.config.model.source
        loaded = load(self.resolved, source)
        self.ledger.check_base(loaded.base_digest)
        return loaded

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
        """The panel that guards this home's model."""
        return load_panel()

    @property
    def asked(self) -> Asked:
        """What exams ask, and what was measured once: panel results and the noise band."""
        kept = Kept(self.path, self.panel, self.ledger.base().digest)
        return Asked(self.ledger, self.served, kept)

    # ------------------------------------------------------------------ chat and exam
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
        """Run the exam on the served weights: all lessons' probes and the panel.

        Nothing is decided, so no noise band is measured, and a home can be examined that can only
        be read.
        """
        probes, _ = self.asked.questions()
        return run_exam(self.served.engine, probes, self.panel, state_digest=self.served.refresh())

    # ------------------------------------------------------------------ learn
    def recipe(self, name: str | None = None) -> Recipe:
        """The recipe that a lesson will be learned with.

        Raises:
            ConfigError: it can't make one lesson.
        """
        return self._jobs.recipe(name)

    def estimate(self, source: Source, *, recipe: str | None = None) -> Estimate:
        """Seconds and peak memory of a lesson, told before it runs; nothing is refused.

        The first asking times the machine, if the lesson fits into its memory.
        """
        return self._jobs.estimate(source, recipe)

    def preview(self, source: Source, *, on_progress: OnProgress | None = None) -> Preview:
        """What a lesson would hold, and what was left out and why; nothing is written."""
        return self._jobs.preview(source, on_progress)

    def learn(
        self,
        source: Source,
        *,
        recipe: str | None = None,
        on_progress: OnProgress | None = None,
        require: bool = False,
        force: bool = False,
    ) -> Outcome:
        """Learn a conversation: study it, train a candidate, examine it, let the gate decide.

        With ``require`` a refusal of the gate is an error; with ``force`` too little memory is
        none.

        Raises:
            ConversationError: the source can't be read.
            DoesNotFitError: it needs more memory than is free; nothing was begun.
            NothingToLearnError: there is nothing new in it.
            GateRefused: only with ``require``; the served weights are unchanged either way.
        """
        return self._jobs.learn(
            source, recipe=recipe, on_progress=on_progress, require=require, force=force
        )

    def relearn(
        self,
        lesson: str,
        *,
        recipe: str | None = None,
        on_progress: OnProgress | None = None,
        require: bool = False,
        force: bool = False,
    ) -> Outcome:
        """Learn the stored texts of a lesson again, on the weights as they are, as a new lesson.

        It takes the recipe and the seed of the first time unless a recipe is given. If the gate
        accepts it, the old lesson is out of service for good.

        Raises:
            UsageError: the lesson is in service.
            DoesNotFitError: it needs more memory than is free, unless with ``force``.
            GateRefused: only with ``require``.
        """
        return self._changes.relearn(
            lesson, recipe=recipe, on_progress=on_progress, require=require, force=force
        )

    def resume(
        self, job: str, *, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Continue an interrupted job, to the bit as if it had not been interrupted.

        Raises:
            UnknownNameError: no such job.
            UsageError: it has ended.
            ResumeError: other lessons were accepted or undone since it began.
        """
        return self._jobs.resume(job, on_progress, require)

    def noise(self, on_progress: OnProgress | None = None) -> NoiseBand:
        """The noise band of the panel, measured once for this model, machine and panel."""
        return self.asked.noise(on_progress)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return self.ledger.list_jobs()

    # ------------------------------------------------------------------ lessons
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

        With ``relearn`` the lessons that were learned after it are learned again, in order, as if
        it had never been: exact, for the price of their training. Where the gate refuses one, it
        stays as it was first learned. With ``relearn`` a lesson that is undone already is no
        error: only the later ones are learned again.
        """
        if relearn and not dry_run:
            return self._changes.undo_and_relearn(lesson, on_progress)
        return self._changes.make(lesson, "undone", dry_run)

    def verify(self) -> list[Problem]:
        """Derive every digest again: blobs, lessons, events, and the weights of every state."""
        return self.ledger.verify(self._folding.fold_digest)


def _begun(resolved: Resolved) -> bool:
    """Whether there is a home; one whose making was interrupted is none."""
    if resolved.config.ledger.url or not (resolved.home / LEDGER_FILE).exists():
        return False
    with Home(resolved) as home:
        return bool(home.ledger.history())
