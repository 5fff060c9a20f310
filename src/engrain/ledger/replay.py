"""From events to what they mean, without a database: the truth that the tables must agree with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engrain.errors import LedgerError, StateMismatchError
from engrain.ledger.records import (
    COMMIT_STATUSES,
    GENESIS,
    TRANSITIONS,
    Base,
    ConversationEntry,
    Event,
    Job,
    JobStage,
    LessonEntry,
    Problem,
    State,
    canonical_bytes,
)

_RESTORE = "Restore the ledger from a backup."


@dataclass(slots=True)
class Projection:
    """What is the case after some events. Lessons are in the order of their commits."""

    base: Base | None = None
    conversations: dict[str, ConversationEntry] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    lessons: dict[str, LessonEntry] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The state in force.

        Raises:
            LedgerError: nothing has begun.
        """
        if not self.states:
            raise LedgerError("The ledger has no state yet.", remedy="Run: engrain init.")
        return self.states[-1]

    def active(self) -> list[LessonEntry]:
        """The lessons that are served, in the order of the fold."""
        return [entry for entry in self.lessons.values() if entry.status == "active"]

    def blobs(self) -> set[str]:
        """Digests of all blobs that must be there."""
        staged = (stage.blob for job in self.jobs.values() for stage in job.stages)
        return {
            *(digest for entry in self.lessons.values() for digest in entry.blobs()),
            *(digest for digest in staged if digest),
        }

    def differences(self, other: Projection) -> list[str]:
        """Where two projections differ, as names of things; empty if they are the same."""
        mine, theirs = self._lines(), other._lines()
        names = [*mine, *(name for name in theirs if name not in mine)]
        return [name for name in names if mine.get(name) != theirs.get(name)]

    def _lines(self) -> dict[str, bytes]:
        # Text, because a NaN is equal to a NaN there.
        things: dict[str, Any] = {"base": self.base}
        things |= {f"conversation {key[:12]}": item for key, item in self.conversations.items()}
        things |= {f"job {key}": item for key, item in self.jobs.items()}
        things |= {f"lesson {key}": item for key, item in self.lessons.items()}
        things |= {f"state of event {item.event}": item for item in self.states}
        return {
            name: canonical_bytes(asdict(item) if item else None) for name, item in things.items()
        }


def check_chain(events: Iterable[Event]) -> list[Problem]:
    """Whether every event has the digest that it says and names the one before it."""
    problems = []
    previous, expected = GENESIS, 1
    for event in events:
        where = f"event {event.sequence}"
        if event.sequence != expected:
            message = f"Event {expected} is missing: {event.sequence} comes in its place."
            problems.append(Problem("LedgerError", where, message, _RESTORE))
        if event.previous != previous:
            message = f"Event {event.sequence} does not follow the event before it."
            problems.append(Problem("LedgerError", where, message, _RESTORE))
        if event.derived_digest() != event.digest:
            message = f"Event {event.sequence} was changed: it has another digest."
            problems.append(Problem("LedgerError", where, message, _RESTORE))
        previous, expected = event.digest, event.sequence + 1
    return problems


def replay(events: Iterable[Event]) -> Projection:
    """What the events say is the case.

    Raises:
        LedgerError: an event can't follow from those before it.
        StateMismatchError: the same adapters are said to give two different states.
    """
    projection = Projection()
    digests: dict[tuple[str, ...], str] = {}
    for event in events:
        before = len(projection.states)
        try:
            _APPLY[event.kind](projection, event, event.payload)
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(
                f"Event {event.sequence} ({event.kind}) can't be understood: {error!r}.",
                remedy=_RESTORE,
            ) from error
        for state in projection.states[before:]:
            if digests.setdefault(state.lessons, state.digest) != state.digest:
                raise StateMismatchError(
                    f"Event {event.sequence} gives another digest to lessons that were folded "
                    "before.",
                    remedy="Run: engrain doctor. The base or the way of folding has changed.",
                )
    return projection


def after_status(lessons: Iterable[LessonEntry], change: str, status: str) -> list[LessonEntry]:
    """The lessons that are served once one of them has another status, in fold order."""
    return [
        entry for entry in lessons if (status if entry.id == change else entry.status) == "active"
    ]


def make_state(event: Event, digest: str, active: Sequence[LessonEntry]) -> State:
    """The state that an event brings into force.

    Raises:
        LedgerError: a lesson is active without an adapter.
    """
    return State(
        digest=digest,
        lessons=tuple(entry.id for entry in active),
        adapters=tuple(_adapter(entry) for entry in active),
        event=event.sequence,
        at=event.at,
    )


def _adapter(entry: LessonEntry) -> str:
    if entry.adapter is None:
        raise LedgerError(f"Lesson {entry.id} is active but has no adapter.", remedy=_RESTORE)
    return entry.adapter


def _begun(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    _require(projection.base is None, event, "the ledger has begun before")
    projection.base = Base(payload["source"], payload["digest"], payload["versions"])
    projection.states.append(make_state(event, payload["state"], []))


def _conversation_added(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    digest = payload["digest"]
    _require(digest not in projection.conversations, event, "the conversation was added before")
    projection.conversations[digest] = ConversationEntry(
        digest, payload["head"], payload["length"], event.sequence, event.at
    )


def _job_created(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    _require(payload["job"] not in projection.jobs, event, "the job was created before")
    projection.jobs[payload["job"]] = Job(
        payload["job"], payload["kind"], "", payload["payload"], (), event.at
    )


def _job_advanced(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    stage = JobStage(payload["stage"], event.at, payload["payload"], payload["blob"])
    _advance(projection, event, payload["job"], stage)


def _advance(projection: Projection, event: Event, job_id: str, stage: JobStage) -> None:
    job = projection.jobs[job_id]
    _require(not job.finished, event, "the job has ended before")
    _require(not job.reached(stage.stage), event, f"the job has reached {stage.stage} before")
    projection.jobs[job_id] = replace(job, stage=stage.stage, stages=(*job.stages, stage))


def _lesson_committed(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    entry = LessonEntry.from_payload(payload, at=event.at, position=event.sequence)
    known = projection.conversations
    _require(entry.id not in projection.lessons, event, "the lesson was committed before")
    _require(entry.status in COMMIT_STATUSES, event, f"a lesson can't begin {entry.status}")
    _require(all(s in known for s in entry.sources), event, "a source was never logged")
    _require(entry.parent_state == projection.state.digest, event, "its parent was not in force")
    projection.lessons[entry.id] = entry
    if entry.status == "active":
        projection.states.append(make_state(event, entry.state, projection.active()))
    else:
        _require(entry.state == entry.parent_state, event, "a refused lesson changed the state")
    if entry.job is not None:
        _advance(projection, event, entry.job, commit_stage(entry))


def commit_stage(entry: LessonEntry) -> JobStage:
    """The last stage of a job, that the commit of its lesson gives."""
    return JobStage("committed", entry.at, {"lesson": entry.id, "status": entry.status})


def _status_changed(projection: Projection, event: Event, payload: Mapping[str, Any]) -> None:
    entry, status = projection.lessons[payload["lesson"]], payload["status"]
    _require(status in TRANSITIONS[entry.status], event, f"{entry.status} can't become {status}")
    _require(payload["from"] == entry.status, event, f"the lesson was {entry.status}")
    projection.lessons[entry.id] = replace(entry, status=status)
    projection.states.append(make_state(event, payload["state"], projection.active()))


def _require(holds: bool, event: Event, why_not: str) -> None:
    if not holds:
        raise LedgerError(
            f"Event {event.sequence} ({event.kind}) can't be right: {why_not}.", remedy=_RESTORE
        )


_APPLY = {
    "begun": _begun,
    "conversation_added": _conversation_added,
    "job_created": _job_created,
    "job_advanced": _job_advanced,
    "lesson_committed": _lesson_committed,
    "status_changed": _status_changed,
}
