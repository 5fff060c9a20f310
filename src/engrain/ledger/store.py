"""The ledger's ground: an open database, the right to write, the clock and the events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL, select
from sqlalchemy.orm import Session

from engrain.ledger import tables
from engrain.ledger.blobs import BlobStore
from engrain.ledger.database import Database
from engrain.ledger.identifiers import new_id
from engrain.ledger.lock import HomeLock
from engrain.ledger.records import Event
from engrain.ledger.schema import JobRow, LessonRow


class Store:
    """An open database with its blobs; the ledger's verbs stand on it."""

    def __init__(
        self,
        url: str | URL | Path,
        blobs: BlobStore,
        *,
        lock: HomeLock | None = None,
        create: bool = False,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open a ledger; ``create`` makes one where there is none.

        Raises:
            LedgerError: there is no ledger, it is damaged, or a newer engrain made it.
        """
        self.blobs = blobs
        self._lock = lock
        self._clock = clock
        self._last_id = ""
        self._database = Database(url, create=create, read_only=read_only)
        try:
            self._database.prepare(self._now(), create=create)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the connections; a closed ledger opens them again when it is used."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def read_only(self) -> bool:
        """Whether the ledger can only be read."""
        return self._database.read_only

    def events(self) -> list[Event]:
        """The append-only record, oldest first."""
        with self._database.reading() as session:
            return tables.read_events(session)

    @contextmanager
    def _write(self, purpose: str, *, locked: bool = True) -> Iterator[Session]:
        if self._lock is None or not locked or self.read_only:
            with self._database.writing() as session:
                yield session
        else:
            with self._lock.hold(purpose), self._database.writing() as session:
                yield session

    def _now(self) -> str:
        moment = datetime.fromtimestamp(self._clock(), UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _new_id(self, session: Session) -> str:
        used = [self._last_id]
        for row in (LessonRow, JobRow):
            used.append(session.scalar(select(row.id).order_by(row.id.desc()).limit(1)) or "")
        self._last_id = new_id(self._clock(), after=max(used))
        return self._last_id
