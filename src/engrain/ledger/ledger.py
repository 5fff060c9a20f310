"""The append-only record of what a model has learned, and of the weight state in force.

The ledger knows no tensors. A weight state is a digest that its caller derives by folding the
adapters that the ledger lists, in the ledger's order; the ledger makes sure that the same list
always has the same digest, that only accepted lessons are in it, and that every change is one
transaction with one event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from engrain.data.lessons import Lesson
from engrain.errors import (
    BaseChangedError,
    BlobMissingError,
    LedgerError,
    StateMismatchError,
    UnknownNameError,
    UsageError,
)
from engrain.ledger import tables
from engrain.ledger.identifiers import resolve
from engrain.ledger.log import Log
from engrain.ledger.records import (
    COMMIT_STATUSES,
    STATUSES,
    TRANSITIONS,
    Base,
    Event,
    LessonEntry,
    LessonRecord,
    Plan,
    Problem,
    State,
    Status,
    canonical_bytes,
    lesson_content,
    lesson_from_content,
)
from engrain.ledger.replay import after_status, make_state
from engrain.ledger.schema import ConversationRow, LessonRow, StateRow
from engrain.ledger.verification import FoldDigest, verify

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERBS: Mapping[str, str] = {"active": "enable", "disabled": "disable", "undone": "undo"}
_LAST: Mapping[str, tuple[str, ...]] = {
    "active": ("disabled",),
    "disabled": ("active",),
    "undone": ("active", "disabled"),
}
"""What "last" looks for: a quarantined lesson is let in, or undone, by its own name only."""
_DONE: Mapping[str, str] = {"active": "enabled", "disabled": "disabled", "undone": "undone"}


class Ledger(Log):
    """Lessons, states, conversations, jobs and events of one home.

    Reading is always allowed. Writing takes ``lock`` for the moment unless the caller holds it
    already for longer; only the log of conversations is written without it, since what a person
    said must be kept even while another process learns.
    """

    # The beginning

    def begin(
        self,
        *,
        source: str,
        base_digest: str,
        state: str,
        versions: Mapping[str, str] | None = None,
    ) -> State:
        """Say which base model all lessons stand on; ``state`` is the fold of no adapters.

        Saying the same again changes nothing.

        Raises:
            BaseChangedError: the ledger has begun with another base.
        """
        payload = {
            "source": source,
            "digest": base_digest,
            "versions": dict(versions or {}),
            "state": state,
        }
        with self._write("begin the ledger") as session:
            base, first = tables.read_base(session), tables.read_states(session)[:1]
            if base is None:
                tables.append_event(session, "begun", payload, self._now())
            elif (base.digest, first[0].digest) != (base_digest, state):
                raise self._base_changed(base, base_digest)
        return self.current()

    def base(self) -> Base:
        """The base model that all states stand on.

        Raises:
            LedgerError: nothing has begun.
        """
        with self._database.reading() as session:
            return self._base(session)

    def check_base(self, digest: str) -> None:
        """Refuse weights that are not those of the home.

        Raises:
            BaseChangedError: the digest is another.
        """
        base = self.base()
        if base.digest != digest:
            raise self._base_changed(base, digest)

    # Lessons and states

    def new_lesson_id(self) -> str:
        """An id for a lesson that is about to be learned; it sorts after all ids in use."""
        with self._database.reading() as session:
            return self._new_id(session)

    def commit(self, record: LessonRecord) -> State:
        """Write a lesson, its exams, its decision and the state that follows, all or nothing.

        The blobs are on the disk before the one transaction begins. The same record again
        changes nothing, so that a killed run can commit again. Returns the state in force.

        Raises:
            BlobMissingError: the adapter was not put into the blobs.
            BlobCorruptError: the adapter's bytes are damaged.
            StateMismatchError: the state in force is not the record's parent.
            LedgerError: the record contradicts itself or the ledger.
        """
        entry = record.entry()
        self._check_record(entry)
        self.blobs.put(lesson_content(record.lesson))
        self.blobs.put(canonical_bytes(record.exam_before))
        self.blobs.put(canonical_bytes(record.exam_after))
        if entry.adapter is not None:
            problems = self.blobs.verify([entry.adapter])
            if problems:
                raise BlobMissingError(
                    f"Lesson {entry.id} can't be committed: {problems[0].message}",
                    remedy="Put the adapter's bytes into the blobs first.",
                )
        with self._write("commit a lesson") as session:
            if session.get(LessonRow, entry.id) is not None:
                return self._committed_before(session, entry)
            now = self._current(session)
            base = self._base(session)
            if entry.base_digest != base.digest:
                raise self._base_changed(base, entry.base_digest)
            self._check_parent(now, entry.parent_state)
            for source in entry.sources:
                if session.get(ConversationRow, source) is None:
                    raise LedgerError(
                        f"The conversation {source[:12]} of lesson {entry.id} is not in the log.",
                        remedy="Add the conversation to the ledger first.",
                    )
            if entry.job is not None and self._job(session, entry.job).finished:
                raise UsageError(f"Job {entry.job} has ended.", remedy="Begin a new job.")
            if entry.status == "active":
                self._check_same_digest(session, (*now.lessons, entry.id), entry.state)
            tables.append_event(session, "lesson_committed", entry.payload(), self._now())
            state = self._current(session)
        return state

    def get_lesson(self, name: str) -> LessonRecord:
        """A lesson by its id, a unique prefix of it, or ``last``, with all that belongs to it.

        Raises:
            UnknownNameError: there is no such lesson, or there are several.
            BlobMissingError: something that belongs to it is gone.
            BlobCorruptError: something that belongs to it is damaged.
        """
        entry = self.get_entry(name)
        values = {
            key: getattr(entry, key)
            for key in entry.__dataclass_fields__
            if key in LessonRecord.__dataclass_fields__
        }
        values["lesson"] = lesson_from_content(entry, self.blobs.get(entry.content))
        values["exam_before"] = json.loads(self.blobs.get(entry.exam_before))
        values["exam_after"] = json.loads(self.blobs.get(entry.exam_after))
        return LessonRecord(**values)

    def get_entry(self, name: str) -> LessonEntry:
        """A lesson's line of the list; needs no blob."""
        entries = self.list_lessons()
        return self._find(entries, name, lambda _: True, "show")

    def lesson(self, name: str) -> Lesson:
        """A lesson's texts and probes, checked against their digest; exams are not read."""
        entry = self.get_entry(name)
        return lesson_from_content(entry, self.blobs.get(entry.content))

    def list_lessons(self, *, status: Status | None = None) -> list[LessonEntry]:
        """Lessons in the order of their commits, of all statuses or of one."""
        if status is not None and status not in STATUSES:
            raise UnknownNameError("status", status, STATUSES)
        with self._database.reading() as session:
            return tables.read_entries(session, status=status)

    def plan(self, name: str, status: Status) -> Plan:
        """Think a change of status through: which adapters would be served afterwards.

        ``last`` means the newest accepted lesson that the change is possible for, so that
        undoing the last one twice undoes two lessons.

        Raises:
            UnknownNameError: there is no such lesson.
            UsageError: the lesson can't be changed so, for example since it is undone already.
        """
        if status not in _VERBS:
            raise UnknownNameError("status to change to", status, _VERBS)
        with self._database.reading() as session:
            entries = tables.read_entries(session)
            before = self._current(session)
        entry = self._find(entries, name, lambda item: item.status in _LAST[status], _VERBS[status])
        if status not in TRANSITIONS[entry.status]:
            raise self._refused(entry, status)
        active = after_status(entries, entry.id, status)
        moment = Event(before.event, before.at, "status_changed", {}, "")
        after = make_state(moment, "", active)
        return Plan(entry.id, status, before, after.lessons, after.adapters)

    def apply(self, plan: Plan, digest: str) -> State:
        """Do what a plan says; ``digest`` is that of the weights that its adapters fold into.

        Raises:
            LedgerError: the state has changed since the plan was made.
            StateMismatchError: the same lessons had another digest before.
        """
        _require_digest(digest)
        with self._write(f"{_VERBS[plan.status]} a lesson") as session:
            now = self._current(session)
            entry = self._entry(session, plan.lesson)
            if now != plan.before or plan.status not in TRANSITIONS[entry.status]:
                raise LedgerError(
                    f"The lessons have changed since the plan for {plan.lesson} was made.",
                    remedy="Run the command again.",
                )
            self._check_same_digest(session, plan.lessons, digest)
            payload = {
                "lesson": plan.lesson,
                "status": plan.status,
                "from": entry.status,
                "state": digest,
            }
            tables.append_event(session, "status_changed", payload, self._now())
            state = self._current(session)
        return state

    def current(self) -> State:
        """The state in force.

        Raises:
            LedgerError: nothing has begun.
        """
        with self._database.reading() as session:
            return self._current(session)

    def history(self) -> list[State]:
        """All states that were in force, oldest first."""
        with self._database.reading() as session:
            return tables.read_states(session)

    def verify(self, fold_digest: FoldDigest) -> list[Problem]:
        """Derive everything again and name what is wrong; empty if nothing is.

        ``fold_digest`` gets the digests of a state's adapters, in order, and returns the digest
        of the weights; what it raises of ``EngrainError`` becomes a problem.
        """
        return verify(self._database, self.blobs, fold_digest)

    def rebuild(self) -> None:
        """Make the tables anew from the events, if ``verify`` finds that they differ."""
        with self._write("rebuild the ledger") as session:
            tables.rebuild(session, tables.read_events(session))

    def garbage(self) -> list[str]:
        """Digests of blobs that no event refers to: left behind by killed or failed runs."""
        referenced: set[str] = set()
        for event in self.events():
            referenced.update(_digests_in(event.payload))
        # A large payload of a stage is a blob that may itself name blobs.
        for job in self.list_jobs():
            for stage in job.stages:
                if stage.blob is not None and self.blobs.has(stage.blob):
                    referenced.update(_digests_in(json.loads(self.blobs.get(stage.blob))))
        return self.blobs.garbage(referenced)

    def discard_garbage(self) -> int:
        """Delete blobs that nothing refers to, and old temporary files; returns how many.

        Not while a job of this process is under way: its newest blobs are not referred to yet.
        """
        with self._write("clean up"):
            found = self.garbage()
            for digest in found:
                self.blobs.discard(digest)
            return len(found) + self.blobs.clean()

    # Helpers

    def _current(self, session: Session) -> State:
        state = tables.read_state(session)
        if state is None:
            raise LedgerError("The ledger has no state yet.", remedy="Run: engrain init.")
        return state

    def _base(self, session: Session) -> Base:
        base = tables.read_base(session)
        if base is None:
            raise LedgerError("The ledger has no base model yet.", remedy="Run: engrain init.")
        return base

    def _base_changed(self, base: Base, digest: str) -> BaseChangedError:
        return BaseChangedError(
            f"The base model {base.source} has the digest {digest[:12]}; this home was made with "
            f"{base.digest[:12]}.",
            remedy="Put the old weights back, or make a new home for the new ones: engrain init.",
        )

    def _entry(self, session: Session, lesson_id: str) -> LessonEntry:
        return next(item for item in tables.read_entries(session) if item.id == lesson_id)

    def _find(
        self,
        entries: list[LessonEntry],
        name: str,
        possible: Callable[[LessonEntry], bool],
        verb: str,
    ) -> LessonEntry:
        by_id = {entry.id: entry for entry in entries}
        if name.strip().lower() != "last":
            return by_id[resolve("lesson", name, by_id)]
        last = next((entry for entry in reversed(entries) if possible(entry)), None)
        if last is None:
            raise UsageError(
                f"There is no lesson to {verb}.", remedy="See them all: engrain lessons list."
            )
        return last

    def _refused(self, entry: LessonEntry, status: Status) -> UsageError:
        if status == entry.status:
            words = f"Lesson {entry.id} is {status} already."
        else:
            words = f"Lesson {entry.id} is {entry.status}, so it can't be {_DONE[status]}."
        possible = [_VERBS[item] for item in TRANSITIONS[entry.status]]
        remedy = f"Possible: {' or '.join(possible)}."
        if not possible:
            remedy = "It stays in the record; learn its conversation again to have it back."
        return UsageError(words, remedy=remedy)

    def _check_record(self, entry: LessonEntry) -> None:
        for digest in (entry.state, entry.parent_state, entry.base_digest):
            _require_digest(digest)
        if entry.status not in COMMIT_STATUSES:
            raise UnknownNameError("status to commit with", entry.status, COMMIT_STATUSES)
        if entry.status == "active" and entry.adapter is None:
            raise LedgerError(
                f"Lesson {entry.id} is accepted but has no adapter.",
                remedy="Put the adapter's bytes into the blobs and give their digest.",
            )
        if entry.status != "active" and entry.state != entry.parent_state:
            raise LedgerError(
                f"Lesson {entry.id} is {entry.status} but would change the state.",
                remedy="Give the parent's digest as its state.",
            )

    def _check_parent(self, now: State, parent: str) -> None:
        if now.digest != parent:
            raise StateMismatchError(
                f"The state in force is {now.digest[:12]}; the lesson was learned on "
                f"{parent[:12]}.",
                remedy="Learn the lesson again on the state in force.",
            )

    def _check_same_digest(self, session: Session, lessons: Collection[str], digest: str) -> None:
        wanted = select(StateRow.digest).where(StateRow.lessons == tables.to_text(list(lessons)))
        known = session.scalars(wanted.limit(1)).first()
        if known not in (None, digest):
            raise StateMismatchError(
                f"The same lessons gave the state {str(known)[:12]} before, and {digest[:12]} now.",
                remedy="Check that the base model and engrain's version are those of the home.",
            )

    def _committed_before(self, session: Session, entry: LessonEntry) -> State:
        known = replace(self._entry(session, entry.id), status=entry.status)
        if canonical_bytes(known.payload()) != canonical_bytes(entry.payload()):
            raise LedgerError(
                f"Another lesson was committed as {entry.id}.", remedy="Give the lesson a new id."
            )
        return self._current(session)


def _require_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise LedgerError(
            f"{digest!r} is not a digest.", remedy="Give a SHA-256 as 64 hexadecimal digits."
        )


def _digests_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _DIGEST.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _digests_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _digests_in(item)
