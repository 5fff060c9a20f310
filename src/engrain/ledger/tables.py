"""Between rows and records: how an event changes the tables, and how the tables are read."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from engrain.data.lessons import canonical_digest
from engrain.data.messages import Conversation, Message
from engrain.errors import LedgerError
from engrain.ledger.records import (
    GENESIS,
    Base,
    ConversationEntry,
    Event,
    EventKind,
    Job,
    JobStage,
    LessonEntry,
    State,
    canonical_bytes,
)
from engrain.ledger.replay import Projection, commit_stage, make_state
from engrain.ledger.schema import (
    PROJECTION,
    BaseRow,
    ConversationRow,
    EventRow,
    JobRow,
    JobStageRow,
    LessonRow,
    LessonSourceRow,
    MessageRow,
    StateRow,
)

_ENTRY_JSON = ("recipe", "decision", "versions")
_ENTRY_PLAIN = (
    "id",
    "title",
    "status",
    "content",
    "adapter",
    "recipe_digest",
    "exam_before",
    "exam_after",
    "parent_state",
    "state",
    "base_digest",
    "seed",
    "estimated_seconds",
    "measured_seconds",
    "peak_memory_bytes",
    "job",
    "at",
    "position",
)


def to_text(value: Any) -> str:
    """A JSON-ready value as it is kept in a column."""
    return canonical_bytes(value).decode()


def append_event(session: Session, kind: EventKind, payload: dict[str, Any], at: str) -> Event:
    """Write the next event, and what follows from it into the other tables."""
    last = session.scalars(select(EventRow).order_by(EventRow.sequence.desc()).limit(1)).first()
    # The payload is what its JSON gives back, so that tuples and the like can't make a difference.
    payload = json.loads(to_text(payload))
    event = Event(
        sequence=last.sequence + 1 if last else 1,
        at=at,
        kind=kind,
        payload=payload,
        previous=last.digest if last else GENESIS,
    )
    event = Event(event.sequence, at, kind, payload, event.previous, event.derived_digest())
    session.add(
        EventRow(
            sequence=event.sequence,
            at=at,
            kind=kind,
            payload=to_text(payload),
            previous=event.previous,
            digest=event.digest,
        )
    )
    session.flush()
    project(session, event)
    return event


def project(session: Session, event: Event) -> None:
    """Bring the tables up to date with one event."""
    payload, number, at = event.payload, event.sequence, event.at
    if event.kind == "begun":
        versions = to_text(payload["versions"])
        row = BaseRow(
            event=number, source=payload["source"], digest=payload["digest"], versions=versions
        )
        session.add(row)
        _add_state(session, make_state(event, payload["state"], []))
    elif event.kind == "conversation_added":
        session.add(
            ConversationRow(
                digest=payload["digest"],
                head=payload["head"],
                length=payload["length"],
                event=number,
                at=at,
            )
        )
    elif event.kind == "job_created":
        session.add(
            JobRow(
                id=payload["job"],
                kind=payload["kind"],
                stage="",
                payload=to_text(payload["payload"]),
                at=at,
                event=number,
                started="",
            )
        )
    elif event.kind == "job_advanced":
        stage = JobStage(payload["stage"], at, payload["payload"], payload["blob"])
        _add_stage(session, payload["job"], stage, number)
    elif event.kind == "lesson_committed":
        _add_lesson(session, event)
    else:
        lesson = session.get(LessonRow, payload["lesson"])
        if lesson is None:
            raise LedgerError(
                f"There is no row for lesson {payload['lesson']}.",
                remedy="Run: engrain lessons verify.",
            )
        lesson.status = payload["status"]
        session.flush()
        _add_state(session, make_state(event, payload["state"], active_entries(session)))
    session.flush()


def rebuild(session: Session, events: list[Event]) -> None:
    """Empty the tables that follow from the events, and fill them again."""
    owners = {row.id: (row.pid, row.started) for row in session.scalars(select(JobRow))}
    session.expunge_all()
    for table in PROJECTION:
        session.execute(delete(table))
    for event in events:
        project(session, event)
    for row in session.scalars(select(JobRow)):
        row.pid, row.started = owners.get(row.id, (None, ""))


def _add_state(session: Session, state: State) -> None:
    session.add(
        StateRow(
            event=state.event,
            digest=state.digest,
            lessons=to_text(list(state.lessons)),
            adapters=to_text(list(state.adapters)),
            at=state.at,
        )
    )


def _add_stage(session: Session, job_id: str, stage: JobStage, number: int) -> None:
    job = session.get(JobRow, job_id)
    if job is None:
        raise LedgerError(
            f"There is no row for job {job_id}.", remedy="Run: engrain lessons verify."
        )
    job.stage = stage.stage
    session.add(
        JobStageRow(
            job=job_id,
            stage=stage.stage,
            event=number,
            at=stage.at,
            payload=None if stage.payload is None else to_text(stage.payload),
            blob=stage.blob,
        )
    )


def _add_lesson(session: Session, event: Event) -> None:
    entry = LessonEntry.from_payload(event.payload, at=event.at, position=event.sequence)
    columns = {name: getattr(entry, name) for name in _ENTRY_PLAIN}
    columns |= {name: to_text(getattr(entry, name)) for name in _ENTRY_JSON}
    session.add(LessonRow(**columns))
    session.flush()
    session.add_all(
        LessonSourceRow(lesson=entry.id, position=place, conversation=digest)
        for place, digest in enumerate(entry.sources)
    )
    if entry.status == "active":
        _add_state(session, make_state(event, entry.state, active_entries(session)))
    if entry.job is not None:
        _add_stage(session, entry.job, commit_stage(entry), event.sequence)


def read_events(session: Session) -> list[Event]:
    """All events, in order."""
    rows = session.scalars(select(EventRow).order_by(EventRow.sequence))
    return [
        Event(row.sequence, row.at, _kind(row.kind), _json(row.payload), row.previous, row.digest)
        for row in rows
    ]


def read_projection(session: Session) -> Projection:
    """What the tables say is the case."""
    return Projection(
        base=read_base(session),
        conversations={entry.digest: entry for entry in read_conversations(session)},
        jobs={job.id: job for job, _, _ in read_jobs(session)},
        lessons={entry.id: entry for entry in read_entries(session)},
        states=read_states(session),
    )


def read_base(session: Session) -> Base | None:
    """The base model, if the ledger has begun."""
    row = session.scalars(select(BaseRow)).first()
    return Base(row.source, row.digest, _json(row.versions)) if row else None


def read_conversations(session: Session) -> list[ConversationEntry]:
    """All conversations of the log, in the order in which they came."""
    rows = session.scalars(select(ConversationRow).order_by(ConversationRow.event))
    return [ConversationEntry(row.digest, row.head, row.length, row.event, row.at) for row in rows]


def read_entries(session: Session, *, status: str | None = None) -> list[LessonEntry]:
    """Lessons in the order of their commits."""
    wanted = select(LessonRow).order_by(LessonRow.position)
    if status is not None:
        wanted = wanted.where(LessonRow.status == status)
    sources: dict[str, list[str]] = {}
    for source in session.scalars(
        select(LessonSourceRow).order_by(LessonSourceRow.lesson, LessonSourceRow.position)
    ):
        sources.setdefault(source.lesson, []).append(source.conversation)
    return [
        LessonEntry(
            **{name: getattr(row, name) for name in _ENTRY_PLAIN},
            **{name: _json(getattr(row, name)) for name in _ENTRY_JSON},
            sources=tuple(sources.get(row.id, ())),
        )
        for row in session.scalars(wanted)
    ]


def active_entries(session: Session) -> list[LessonEntry]:
    """The lessons that are served, in the order of the fold."""
    return read_entries(session, status="active")


def read_states(session: Session) -> list[State]:
    """All states that were in force, oldest first."""
    return [_state(row) for row in session.scalars(select(StateRow).order_by(StateRow.event))]


def read_state(session: Session) -> State | None:
    """The state in force."""
    row = session.scalars(select(StateRow).order_by(StateRow.event.desc()).limit(1)).first()
    return _state(row) if row else None


def read_jobs(session: Session) -> list[tuple[Job, int | None, str]]:
    """All jobs, oldest first, each with the process that owns it and when that began."""
    stages: dict[str, list[JobStage]] = {}
    for row in session.scalars(select(JobStageRow).order_by(JobStageRow.event)):
        payload = None if row.payload is None else _json(row.payload)
        stages.setdefault(row.job, []).append(JobStage(row.stage, row.at, payload, row.blob))
    return [
        (
            Job(
                row.id,
                row.kind,
                row.stage,
                _json(row.payload),
                tuple(stages.get(row.id, ())),
                row.at,
            ),
            row.pid,
            row.started,
        )
        for row in session.scalars(select(JobRow).order_by(JobRow.event))
    ]


def message_digest(parent: str | None, message: Message) -> str:
    """A message's address: over its role, its content, and the message that it answers."""
    return canonical_digest({"parent": parent, **message.to_dict()})


def add_messages(session: Session, conversation: Conversation) -> str:
    """Keep the messages that are not there yet; returns the digest of the last one."""
    parent: str | None = None
    for message in conversation.messages:
        digest = message_digest(parent, message)
        if session.get(MessageRow, digest) is None:
            session.add(
                MessageRow(digest=digest, parent=parent, role=message.role, content=message.content)
            )
            session.flush()
        parent = digest
    if parent is None:
        raise LedgerError("A conversation without messages can't be kept.", remedy="Say something.")
    return parent


def read_conversation(session: Session, entry: ConversationEntry) -> Conversation:
    """A conversation, with the digests of all of its messages derived again.

    Raises:
        LedgerError: a message is gone, or was changed.
    """
    messages: list[Message] = []
    digest: str | None = entry.head
    while digest is not None and len(messages) <= entry.length:
        row = session.get(MessageRow, digest)
        if row is None:
            break
        message = Message(row.role, row.content)
        if message_digest(row.parent, message) != digest:
            break
        messages.append(message)
        digest = row.parent
    conversation = Conversation(tuple(reversed(messages)))
    if digest is not None or conversation.digest != entry.digest:
        raise LedgerError(
            f"The conversation {entry.digest[:12]} is damaged: a message is gone or was changed.",
            remedy="Restore the ledger from a backup.",
        )
    return conversation


def _state(row: StateRow) -> State:
    return State(
        row.digest, tuple(_json(row.lessons)), tuple(_json(row.adapters)), row.event, row.at
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise LedgerError(
            f"The ledger holds a value that is not JSON: {error}.",
            remedy="Restore the ledger from a backup.",
        ) from error


def _kind(text: str) -> EventKind:
    return text  # type: ignore[return-value]
