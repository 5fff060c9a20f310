"""The tables. Events and messages are the record itself; all other tables are a projection.

Structured values are canonical JSON in text columns, so that every database keeps the very bytes
that were hashed.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DIGEST = String(64)
ID = String(10)
WORD = String(40)


class Table(DeclarativeBase):
    """The parent of all tables."""


class SchemaVersionRow(Table):
    """One migration that was applied."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(80))
    applied_at: Mapped[str] = mapped_column(WORD)


class EventRow(Table):
    """One line of the append-only record."""

    __tablename__ = "event"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(WORD)
    kind: Mapped[str] = mapped_column(WORD)
    payload: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(DIGEST, unique=True)
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)


class MessageRow(Table):
    """A message, addressed by its content and its parent: shared beginnings are kept once."""

    __tablename__ = "message"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    parent: Mapped[str | None] = mapped_column(DIGEST, ForeignKey("message.digest"))
    role: Mapped[str] = mapped_column(WORD)
    content: Mapped[str] = mapped_column(Text)


class BaseRow(Table):
    """The base model; the table has one row."""

    __tablename__ = "base"

    event: Mapped[int] = mapped_column(
        ForeignKey("event.sequence"), primary_key=True, autoincrement=False
    )
    source: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST)
    versions: Mapped[str] = mapped_column(Text)


class ConversationRow(Table):
    """A conversation of the verbatim log, named by its last message."""

    __tablename__ = "conversation"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    head: Mapped[str] = mapped_column(DIGEST, ForeignKey("message.digest"))
    length: Mapped[int]
    event: Mapped[int] = mapped_column(ForeignKey("event.sequence"), unique=True)
    at: Mapped[str] = mapped_column(WORD)


class JobRow(Table):
    """A piece of work; ``pid`` and ``started`` name the process that works on it."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    kind: Mapped[str] = mapped_column(WORD)
    stage: Mapped[str] = mapped_column(WORD)
    payload: Mapped[str] = mapped_column(Text)
    at: Mapped[str] = mapped_column(WORD)
    event: Mapped[int] = mapped_column(ForeignKey("event.sequence"), unique=True)
    pid: Mapped[int | None]
    started: Mapped[str] = mapped_column(WORD)


class JobStageRow(Table):
    """A stage that a job has reached, with what a resume needs."""

    __tablename__ = "job_stage"

    job: Mapped[str] = mapped_column(ID, ForeignKey("job.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(WORD, primary_key=True)
    event: Mapped[int] = mapped_column(ForeignKey("event.sequence"), unique=True)
    at: Mapped[str] = mapped_column(WORD)
    payload: Mapped[str | None] = mapped_column(Text)
    blob: Mapped[str | None] = mapped_column(DIGEST)


class LessonRow(Table):
    """A committed lesson; ``position`` is the event that committed it."""

    __tablename__ = "lesson"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    position: Mapped[int] = mapped_column(ForeignKey("event.sequence"), unique=True)
    at: Mapped[str] = mapped_column(WORD)
    title: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(WORD)
    content: Mapped[str] = mapped_column(DIGEST)
    adapter: Mapped[str | None] = mapped_column(DIGEST)
    recipe: Mapped[str] = mapped_column(Text)
    recipe_digest: Mapped[str] = mapped_column(DIGEST)
    exam_before: Mapped[str] = mapped_column(DIGEST)
    exam_after: Mapped[str] = mapped_column(DIGEST)
    decision: Mapped[str] = mapped_column(Text)
    parent_state: Mapped[str] = mapped_column(DIGEST)
    state: Mapped[str] = mapped_column(DIGEST)
    base_digest: Mapped[str] = mapped_column(DIGEST)
    seed: Mapped[int] = mapped_column(BigInteger)
    estimated_seconds: Mapped[float | None] = mapped_column(Float(53))
    measured_seconds: Mapped[float] = mapped_column(Float(53))
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    versions: Mapped[str] = mapped_column(Text)
    job: Mapped[str | None] = mapped_column(ID, ForeignKey("job.id"))


class LessonSourceRow(Table):
    """A conversation that a lesson was learned from."""

    __tablename__ = "lesson_source"

    lesson: Mapped[str] = mapped_column(ID, ForeignKey("lesson.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    conversation: Mapped[str] = mapped_column(DIGEST, ForeignKey("conversation.digest"))


class StateRow(Table):
    """A weight state that came into force; ``lessons`` and ``adapters`` are JSON lists."""

    __tablename__ = "state"

    event: Mapped[int] = mapped_column(
        ForeignKey("event.sequence"), primary_key=True, autoincrement=False
    )
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    lessons: Mapped[str] = mapped_column(Text)
    adapters: Mapped[str] = mapped_column(Text)
    at: Mapped[str] = mapped_column(WORD)


PROJECTION = (
    StateRow,
    LessonSourceRow,
    LessonRow,
    JobStageRow,
    JobRow,
    ConversationRow,
    BaseRow,
)
"""Tables that follow from the events, in an order in which they can be emptied."""
