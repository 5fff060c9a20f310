"""How a ledger's tables came about: plain functions, applied once each, in order.

A migration never changes after it was released, so it spells its tables out instead of using
``schema.py``; a test compares the result of all of them with ``schema.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
)

from engrain.errors import LedgerError
from engrain.ledger.schema import SchemaVersionRow

Migration = Callable[[Connection], None]
MIGRATIONS: list[Migration] = []


def migration(function: Migration) -> Migration:
    """Add a migration to the end of the list; its number is its place, counted from 1."""
    MIGRATIONS.append(function)
    return function


def version(connection: Connection) -> int:
    """The number of the last migration that was applied; 0 for a database without tables."""
    if not inspect(connection).has_table(SchemaVersionRow.__tablename__):
        return 0
    return connection.scalar(select(func.max(SchemaVersionRow.version))) or 0


def check_version(found: int) -> None:
    """Refuse a ledger that a newer engrain has written.

    Raises:
        LedgerError: its version is not known here.
    """
    if found > len(MIGRATIONS):
        raise LedgerError(
            f"The ledger has version {found}; this engrain knows {len(MIGRATIONS)}.",
            remedy="Upgrade engrain: pip install --upgrade engrain.",
        )


def migrate(connection: Connection, now: str) -> int:
    """Apply what is missing, in the caller's transaction; returns how many were applied."""
    SchemaVersionRow.metadata.tables[SchemaVersionRow.__tablename__].create(
        connection, checkfirst=True
    )
    found = version(connection)
    check_version(found)
    for number, function in enumerate(MIGRATIONS[found:], start=found + 1):
        function(connection)
        connection.execute(
            insert(SchemaVersionRow).values(version=number, name=function.__name__, applied_at=now)
        )
    return len(MIGRATIONS) - found


@migration
def m001_initial(connection: Connection) -> None:
    """Events, messages, and the projection: base, conversations, jobs, lessons, states."""
    tables = MetaData()

    def column(name: str, kind: object, *rules: object, null: bool = False) -> Column[object]:
        return Column(name, kind, *rules, nullable=null)  # type: ignore[arg-type]

    def key(name: str, kind: object, *rules: object) -> Column[object]:
        return Column(name, kind, *rules, primary_key=True, autoincrement=False)  # type: ignore[arg-type]

    def event() -> ForeignKey:
        return ForeignKey("event.sequence")

    digest, word, identifier = String(64), String(40), String(10)
    Table(
        "event",
        tables,
        key("sequence", Integer),
        column("at", word),
        column("kind", word),
        column("payload", Text),
        Column("previous", digest, nullable=False, unique=True),
        Column("digest", digest, nullable=False, unique=True),
    )
    Table(
        "message",
        tables,
        key("digest", digest),
        column("parent", digest, ForeignKey("message.digest"), null=True),
        column("role", word),
        column("content", Text),
    )
    Table(
        "base",
        tables,
        key("event", Integer, event()),
        column("source", Text),
        column("digest", digest),
        column("versions", Text),
    )
    Table(
        "conversation",
        tables,
        key("digest", digest),
        column("head", digest, ForeignKey("message.digest")),
        column("length", Integer),
        Column("event", Integer, event(), nullable=False, unique=True),
        column("at", word),
    )
    Table(
        "job",
        tables,
        key("id", identifier),
        column("kind", word),
        column("stage", word),
        column("payload", Text),
        column("at", word),
        Column("event", Integer, event(), nullable=False, unique=True),
        column("pid", Integer, null=True),
        column("started", word),
    )
    Table(
        "job_stage",
        tables,
        key("job", identifier, ForeignKey("job.id")),
        key("stage", word),
        Column("event", Integer, event(), nullable=False, unique=True),
        column("at", word),
        column("payload", Text, null=True),
        column("blob", digest, null=True),
    )
    Table(
        "lesson",
        tables,
        key("id", identifier),
        Column("position", Integer, event(), nullable=False, unique=True),
        column("at", word),
        column("title", Text),
        column("status", word),
        column("content", digest),
        column("adapter", digest, null=True),
        column("recipe", Text),
        column("recipe_digest", digest),
        column("exam_before", digest),
        column("exam_after", digest),
        column("decision", Text),
        column("parent_state", digest),
        column("state", digest),
        column("base_digest", digest),
        column("seed", BigInteger),
        column("estimated_seconds", Float(53), null=True),
        column("measured_seconds", Float(53)),
        column("peak_memory_bytes", BigInteger),
        column("versions", Text),
        column("job", identifier, ForeignKey("job.id"), null=True),
    )
    Table(
        "lesson_source",
        tables,
        key("lesson", identifier, ForeignKey("lesson.id")),
        key("position", Integer),
        column("conversation", digest, ForeignKey("conversation.digest")),
    )
    Table(
        "state",
        tables,
        key("event", Integer, event()),
        Column("digest", digest, nullable=False, index=True),
        column("lessons", Text),
        column("adapters", Text),
        column("at", word),
    )
    tables.create_all(connection)
