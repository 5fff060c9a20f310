"""Changes of what is served: what a lesson's leaving does, and what the other lessons lose by it.

Undoing the last lesson gives back the weights of before, and nothing needs to be asked. A lesson
in the middle was part of the weights on which all later ones were learned: without it they may
answer less. So their own probes are asked before and after, and the loss is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from engrain.data.lessons import Probe
from engrain.errors import EngrainError, UsageError
from engrain.exam.probes import RECALL_KINDS, ExamEngine, ask
from engrain.learn.recipe import Recipe
from engrain.ledger.records import Plan, Status
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.folder import HomeFolder
from engrain.lesson.job import Jobs
from engrain.lesson.served import Served
from engrain.lesson.stages import Outcome

_DOING: Mapping[Status, str] = {"active": "enable", "disabled": "disable", "undone": "undo"}


@dataclass(frozen=True)
class Others:
    """How many recall probes of the lessons that stay are passed before and after a change."""

    asked: int
    before: int
    after: int

    def now(self, engine: ExamEngine, probes: Sequence[Probe]) -> Others:
        """The same with what the weights in force pass."""
        return replace(self, after=passed(engine, probes))

    @property
    def lost(self) -> float:
        """Points of recall that the others lose, out of 100; below 0 if they gain."""
        return 100 * (self.before - self.after) / self.asked if self.asked else 0.0

    def to_dict(self) -> dict[str, int]:
        """The counts as JSON-ready values."""
        return {"asked": self.asked, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Change:
    """A change of a lesson's status: the state before and after it, and what it cost the others.

    ``others`` is None where no later lesson is served, since then none can lose anything.
    ``later`` are the served lessons that were learned after this one; ``relearned`` is what became
    of them when they were learned again without it.
    """

    lesson: str
    title: str
    status: str
    state_before: str
    state_after: str
    others: Others | None = None
    later: tuple[str, ...] = ()
    relearned: tuple[Outcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON-ready values."""
        return {
            "lesson": self.lesson,
            "title": self.title,
            "status": self.status,
            "state_before": self.state_before,
            "state_after": self.state_after,
            "others": self.others.to_dict() if self.others else None,
            "later": list(self.later),
            "relearned": [outcome.to_dict() for outcome in self.relearned],
        }


@dataclass(frozen=True)
class Changes:
    """Takes lessons out of service, brings them back, and learns them again.

    ``folding`` gives what folds weights, ``asked`` the probes of the lessons in service; both only
    when they are needed, since a damaged lesson must be taken out without them.
    """

    home: HomeFolder
    folding: Callable[[], Served]
    asked: Callable[[], Asked]
    jobs: Jobs

    def make(
        self, lesson: str, status: Status, dry_run: bool = False, *, measured: bool = True
    ) -> Change:
        """Change a lesson's status, or with ``dry_run`` say what that would do."""
        doing = f"{_DOING[status]} a lesson"
        with nullcontext() if dry_run else self.home.lock.hold(doing):
            plan = self.home.ledger.plan(lesson, status)
            later = self._later(plan.lesson)
            others = self._others(plan) if measured and later and status != "active" else None
            served = self.folding()
            digest = served.fold_digest(plan.adapters) if dry_run else served.apply(plan)
        entry = self.home.ledger.get_entry(plan.lesson)
        before = plan.before.digest
        return Change(entry.id, entry.title, entry.status, before, digest, others, later)

    def undo_and_relearn(self, lesson: str, on_progress: OnProgress | None = None) -> Change:
        """Undo a lesson and learn the later ones again, in order, as if it had never been.

        Where the gate refuses one, it stays as it was first learned.
        """
        with self.home.lock.hold("undo a lesson"):
            change = self._gone(lesson)
            probes = self._recall_probes()
            for name in reversed(change.later):
                self.make(name, "disabled", measured=False)
            outcomes = []
            for name in change.later:
                outcomes.append(self.relearn(name, on_progress=on_progress))
                if not outcomes[-1].accepted:
                    self.make(name, "active")
            return replace(
                change,
                state_after=self.home.ledger.current().digest,
                others=change.others and change.others.now(self.folding().engine, probes),
                relearned=tuple(outcomes),
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
        """Make a job of a lesson's stored texts and run it."""
        with self.home.lock.hold("learn a lesson again"):
            old = self.home.ledger.get_lesson(lesson)
            if old.status == "active":
                raise UsageError(
                    f"Lesson {old.id} is in service: the weights hold it.",
                    remedy=f"Take it out first: engrain lessons disable {old.id}",
                )
            jobs = self.jobs
            chosen = jobs.recipe(recipe) if recipe else Recipe.from_dict(dict(old.recipe))
            told = jobs.told(chosen, (), old.lesson.balanced(), force=force)
            sources = list(old.lesson.sources)
            job = jobs.begin(chosen, old.seed, told, conversations=sources, again=old.id)
            return jobs.run(job, on_progress, require)

    def _gone(self, lesson: str) -> Change:
        """Undo a lesson, unless it is undone already."""
        if lesson != "last" and (entry := self.home.ledger.get_entry(lesson)).status == "undone":
            served, later = self.folding(), self._later(entry.id)
            now, probes = served.refresh(), self._recall_probes()
            right = passed(served.engine, probes)
            others = Others(len(probes), right, right) if later else None
            return Change(entry.id, entry.title, "undone", now, now, others, later)
        return self.make(lesson, "undone")

    def _recall_probes(self, without: str = "") -> list[Probe]:
        """The recall probes of the lessons in service, but for one."""
        return [
            probe
            for lesson, probes in self.asked().questions()[0].items()
            if lesson != without
            for probe in probes
            if probe.kind in RECALL_KINDS
        ]

    def _later(self, lesson: str) -> tuple[str, ...]:
        """The lessons in service that were accepted after one, oldest first."""
        entries = self.home.ledger.list_lessons()
        after = entries[[entry.id for entry in entries].index(lesson) + 1 :]
        return tuple(entry.id for entry in after if entry.status == "active")

    def _others(self, plan: Plan) -> Others | None:
        if plan.lesson not in plan.before.lessons:
            return None
        served = self.folding()
        try:
            served.refresh()
        except EngrainError:
            return None
        probes = self._recall_probes(plan.lesson)
        before = passed(served.engine, probes)
        with served.candidate(*served.fold(plan.adapters)):
            return Others(len(probes), before, passed(served.engine, probes))


def passed(engine: ExamEngine, probes: Sequence[Probe]) -> int:
    """How many probes the weights in force pass."""
    return sum(result.passed for result in ask(engine, probes))
