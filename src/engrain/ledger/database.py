"""The connection to the database: settings, transactions, and what its errors mean.

All that is special to one database is in this module; the rest of the ledger is plain SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import IntegrityError as SqlIntegrityError
from sqlalchemy.orm import Session

from engrain.errors import (
    ConfigError,
    DiskFullError,
    EngrainError,
    HomeLockedError,
    HomeReadOnlyError,
    LedgerError,
)
from engrain.ledger import migrations
from engrain.ledger.lock import os_error

BUSY_MILLISECONDS = 10_000
_WRITING = "engrain_writing"
_LITTLE_SPACE = 1 << 18
_HEADER_BYTES = 100
_MALFORMED = ("malformed", "not a database", "no such table", "no such column", "invalid page")


class Database:
    """An engine with the ledger's settings, and transactions that raise named errors."""

    def __init__(self, url: str | URL | Path, *, create: bool, read_only: bool = False) -> None:
        try:
            self.url = sqlite_url(url) if isinstance(url, Path) else make_url(url)
        except ArgumentError as error:
            raise ConfigError(
                f"{url!r} is not the address of a database.",
                remedy="Give sqlite:///path or postgresql+psycopg://user@host/name.",
            ) from error
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database) if self.is_sqlite and self.url.database else None
        if self.is_sqlite and (self.path is None or str(self.path) == ":memory:"):
            raise ConfigError(
                "A ledger in memory would be lost with the process.",
                remedy="Give the address of a file: sqlite:///path.",
            )
        if self.path is not None and create:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise os_error(error, self.path.parent, "make") from error
        self.read_only = read_only or (self.path is not None and not _writable(self.path))
        if self.path is not None:
            self._check_file(self.path, create)
        self.engine = self._engine()
        self._prepared = False

    def close(self) -> None:
        """Close all connections; SQLite then folds its write-ahead log into the file."""
        self.engine.dispose()

    def prepare(self, now: str, *, create: bool) -> None:
        """Make the tables, or bring older ones up to date.

        Raises:
            LedgerError: there are no tables and none shall be made, or a newer engrain made them.
        """
        with self.reading() as session:
            found = migrations.version(session.connection())
        migrations.check_version(found)
        if found == 0 and not create:
            raise LedgerError(
                f"There is no ledger in {self.where}.",
                remedy="Restore it from a backup, or start a new home with: engrain init.",
            )
        if found < len(migrations.MIGRATIONS):
            with self.writing() as session:
                migrations.migrate(session.connection(), now)
        self._prepared = True

    @property
    def where(self) -> str:
        """The database in words, without a password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view of the database."""
        with (
            self._translated(),
            self.engine.connect() as connection,
            Session(connection) as session,
        ):
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: all of it happens, or nothing."""
        if self.read_only:
            raise self._read_only_error()
        with self._translated(), self.engine.connect() as connection:
            writer = connection.execution_options(**{_WRITING: True})
            with writer.begin(), Session(writer) as session:
                if self.url.get_backend_name() == "postgresql" and self._prepared:
                    # Writers wait for each other before they look, as they do with SQLite.
                    session.execute(text("LOCK TABLE event IN EXCLUSIVE MODE"))
                yield session
                session.flush()

    def integrity_problem(self) -> str:
        """What the database itself finds wrong with its file; empty if nothing."""
        if not self.is_sqlite:
            return ""
        try:
            with self.reading() as session:
                connection = session.connection()
                found = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check"))]
                broken = len(connection.execute(text("PRAGMA foreign_key_check")).all())
        except LedgerError as error:
            return error.message
        if found != ["ok"]:
            return "; ".join(found[:3])
        return f"{broken} rows refer to rows that are gone" if broken else ""

    def _engine(self) -> Engine:
        try:
            if self.path is None:
                return create_engine(self.url, isolation_level="REPEATABLE READ")
            engine = create_engine(self.url, creator=self._connect)
        except (NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"The database {self.where} needs a driver that is not installed: {error}.",
                remedy="Install it, for example: pip install 'psycopg[binary]'.",
            ) from error
        event.listen(engine, "begin", _begin)
        return engine

    def _connect(self) -> sqlite3.Connection:
        path = self.path
        assert path is not None
        if self.read_only:
            # A folder that can't be written has no place for the shared index of the write-ahead
            # log. Without a log the file is all there is and can't change: then none is needed.
            log = path.with_name(path.name + "-wal")
            still = not _writable(path) and not (log.exists() and log.stat().st_size)
            mode = "mode=ro&immutable=1" if still else "mode=ro"
        else:
            mode = "mode=rwc"
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{mode}",
            uri=True,
            timeout=BUSY_MILLISECONDS / 1000,
            check_same_thread=False,
            isolation_level=None,
        )
        settings = ["foreign_keys=ON", f"busy_timeout={BUSY_MILLISECONDS}", "synchronous=FULL"]
        if not self.read_only:
            settings.insert(1, "journal_mode=WAL")
        try:
            for setting in settings:
                connection.execute(f"PRAGMA {setting}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_file(self, path: Path, create: bool) -> None:
        if create:
            if self.read_only and not path.exists():
                raise self._read_only_error()
            return
        # SQLite takes a missing or a tiny file for a new database: what was lost would come
        # back as a home that has never learned anything.
        if not path.exists():
            raise LedgerError(
                f"There is no ledger at {path}.",
                remedy="Restore it from a backup, or start a new home with: engrain init.",
            )
        log = path.with_name(path.name + "-wal")
        size = path.stat().st_size
        if size < _HEADER_BYTES and not (log.exists() and log.stat().st_size):
            raise self._damaged_error(f"the file has {size} bytes")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            raise self._named(error) from error

    def _named(self, error: DBAPIError | sqlite3.Error) -> EngrainError:
        original: Any = error.orig if isinstance(error, DBAPIError) else error
        words = str(original).strip().splitlines()[0] if str(original).strip() else "unknown"
        code = int(getattr(original, "sqlite_errorcode", -1) or -1) & 0xFF
        state = str(getattr(original, "sqlstate", "") or "")
        if "disk is full" in words or state == "53100" or (code == 10 and self._little_space()):
            return DiskFullError(
                f"No space is left to write {self.where}.",
                remedy="Free some space and run the command again; nothing was changed.",
            )
        if "readonly" in words or state == "25006":
            return self._read_only_error()
        if "locked" in words or state in ("40001", "55P03"):
            return HomeLockedError(
                f"The ledger {self.where} is in use by another process.",
                remedy="Wait until it is done and run the command again.",
            )
        if any(sign in words for sign in _MALFORMED) or code in (11, 26):
            return self._damaged_error(words)
        if isinstance(error, SqlIntegrityError):
            return LedgerError(
                f"The ledger refused an entry that contradicts others: {words}.",
                remedy="Run: engrain lessons verify.",
            )
        return LedgerError(
            f"The ledger {self.where} can't be used: {words}.",
            remedy="Check the file, its folder and the disk it is on.",
        )

    def _damaged_error(self, reason: str) -> LedgerError:
        return LedgerError(
            f"The ledger {self.where} is damaged: {reason}.",
            remedy="Restore the file from a backup; the files of the lessons beside it are kept.",
        )

    def _read_only_error(self) -> HomeReadOnlyError:
        return HomeReadOnlyError(
            f"The ledger {self.where} can't be written.",
            remedy="Give the folder write permission, or choose another with --home.",
        )

    def _little_space(self) -> bool:
        if self.path is None:
            return False
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize < _LITTLE_SPACE


def sqlite_url(path: Path) -> URL:
    """The address of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def _begin(connection: Connection) -> None:
    # A writer takes SQLite's write lock at once, so that what it reads is what it changes.
    writing = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
