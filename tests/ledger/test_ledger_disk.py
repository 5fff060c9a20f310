"""Files that are cut, folders that can't be written, disks that are full."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engrain.errors import DiskFullError, HomeReadOnlyError, LedgerError
from engrain.ledger import BlobStore, Ledger
from engrain.ledger.database import Database
from tests.ledger.ledger_tools import (
    change,
    conversation,
    fold_digest,
    learn,
    make_record,
    new_home,
    open_ledger,
)


@contextmanager
def mounted(*command: str, on: Path) -> Iterator[None]:
    """A mount for the while; the test is skipped where the system does not let us."""
    on.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *command, str(on)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(on)], check=True)


needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="needs the right to mount"
)


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 10_000])
def test_a_ledger_that_was_cut(tmp_path: Path, keep: int) -> None:
    with new_home(tmp_path) as ledger:
        for number in range(5):
            learn(ledger, number)
    path = tmp_path / "ledger.db"
    assert not (tmp_path / "ledger.db-wal").exists()
    os.truncate(path, keep)
    with pytest.raises(LedgerError) as caught, open_ledger(tmp_path) as ledger:
        assert ledger.verify(fold_digest)
        ledger.list_lessons()
    assert type(caught.value) is LedgerError
    assert "damaged" in caught.value.message
    assert "backup" in caught.value.remedy


def test_a_ledger_whose_pages_were_overwritten(tmp_path: Path) -> None:
    with new_home(tmp_path) as ledger:
        for number in range(30):
            learn(ledger, number)
    raw = bytearray((tmp_path / "ledger.db").read_bytes())
    raw[4096:] = os.urandom(len(raw) - 4096)
    (tmp_path / "ledger.db").write_bytes(raw)
    with pytest.raises(LedgerError, match="damaged"), open_ledger(tmp_path) as ledger:
        assert ledger.verify(fold_digest)
        ledger.events()


def test_what_is_no_database(tmp_path: Path) -> None:
    new_home(tmp_path).close()
    (tmp_path / "ledger.db").write_bytes(b"Dear diary, " * 1000)
    for create in (False, True):
        with pytest.raises(LedgerError, match="damaged"):
            open_ledger(tmp_path, create=create)


def test_a_database_that_is_no_ledger(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.execute("CREATE TABLE diary (line TEXT)")
    connection.close()
    with pytest.raises(LedgerError, match="no ledger"):
        open_ledger(tmp_path)


def test_a_ledger_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        open_ledger(tmp_path)
    assert not (tmp_path / "ledger.db").exists()


def test_creating_again_keeps_what_is_there(tmp_path: Path) -> None:
    with new_home(tmp_path) as ledger:
        learn(ledger, 1)
    with new_home(tmp_path) as ledger:
        assert len(ledger.list_lessons()) == 1


@needs_mount
@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_home_can_be_read(tmp_path: Path, killed: bool) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    ledger = new_home(source)
    lesson = learn(ledger, 1)
    if killed:
        # Copy the files of an open ledger, as a kill leaves them: the log is not folded in.
        shutil.copytree(source, tmp_path / "copy")
        source = tmp_path / "copy"
        assert (source / "ledger.db-wal").stat().st_size > 0
    ledger.close()
    with (
        mounted("--bind", "-o", "ro", str(source), on=home),
        open_ledger(home) as read,
    ):
        assert read.read_only
        assert read.current().lessons == (lesson,)
        assert read.get_lesson("last").id == lesson
        assert read.verify(fold_digest) == []
        for write in writes(read):
            with pytest.raises(HomeReadOnlyError):
                write()


def writes(ledger: Ledger) -> list[Callable[[], object]]:
    return [
        lambda: change(ledger, "last", "undone"),
        lambda: learn(ledger, 2),
        lambda: ledger.create_job("learn"),
        lambda: ledger.add_conversation(conversation(9)),
        lambda: ledger.blobs.put(b"new"),
        lambda: ledger.rebuild(),
    ]


@needs_mount
def test_a_home_can_not_be_made_on_a_read_only_disk(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with mounted("--bind", "-o", "ro", str(tmp_path / "source"), on=tmp_path / "home"):
        for home in (tmp_path / "home", tmp_path / "home" / "deeper"):
            with pytest.raises(HomeReadOnlyError):
                new_home(home)


def test_opened_for_reading_only(tmp_path: Path) -> None:
    with new_home(tmp_path) as ledger:
        lesson = learn(ledger, 1)
        with open_ledger(tmp_path, read_only=True) as read:
            assert read.current().lessons == (lesson,)
            second = learn(ledger, 2)
            assert read.current().lessons == (lesson, second)
            with pytest.raises(HomeReadOnlyError):
                read.create_job("learn")


def test_the_home_becomes_read_only_while_it_is_open(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(ledger, 1)
    plan = ledger.plan("last", "undone")
    with ledger._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(HomeReadOnlyError) as caught:
        ledger.apply(plan, fold_digest(()))
    assert "permission" in caught.value.remedy
    ledger.close()
    assert ledger.current() == plan.before
    assert ledger.verify(fold_digest) == []


@needs_mount
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with mounted("-t", "tmpfs", "-o", "size=600k", "tmpfs", on=home):
        ledger = new_home(home)
        committed: list[str] = []
        with pytest.raises(DiskFullError) as caught:
            for number in range(10_000):
                record = make_record(ledger, number)
                ledger.commit(record)
                committed.append(record.id)
        assert committed
        assert "Free some space" in caught.value.remedy
        # Reading goes on, nothing of the failed lesson is there, and undo works with some space.
        assert [entry.id for entry in ledger.list_lessons()] == committed
        assert ledger.verify(fold_digest) == []
        subprocess.run(["mount", "-o", "remount,size=4m", str(home)], check=True)
        before = ledger.history()[-2].digest
        assert change(ledger, "last", "undone").digest == before
        learn(ledger, 77_777)
        ledger.close()
        with open_ledger(home) as again:
            assert again.verify(fold_digest) == []


@needs_mount
def test_no_space_to_make_a_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with mounted("-t", "tmpfs", "-o", "size=16k", "tmpfs", on=home):
        with pytest.raises(DiskFullError):
            new_home(home)
        subprocess.run(["mount", "-o", "remount,size=4m", str(home)], check=True)
        with new_home(home) as ledger:
            assert ledger.verify(fold_digest) == []


def test_a_page_limit_is_a_full_disk(ledger: Ledger) -> None:
    # What SQLite says when a disk is full, without the need to mount one.
    with ledger._database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    before = ledger.events()
    with pytest.raises(DiskFullError):
        for number in range(1000):
            learn(ledger, number)
    ledger.close()
    assert len(ledger.events()) > len(before)
    assert ledger.verify(fold_digest) == []


def test_blobs_that_can_not_be_written_stop_a_commit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(ledger, 1)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(DiskFullError):
            ledger.commit(record)
    assert ledger.list_lessons() == []
    assert ledger.verify(fold_digest) == []
    ledger.commit(record)


def test_settings_of_the_database(ledger: Ledger) -> None:
    with ledger._database.engine.connect() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert settings == ["wal", 2, 1, 10_000]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("database or disk is full", "DiskFullError"),
        ("attempt to write a readonly database", "HomeReadOnlyError"),
        ("database is locked", "HomeLockedError"),
        ("database disk image is malformed", "LedgerError"),
        ("file is not a database", "LedgerError"),
        ("something else", "LedgerError"),
        ("", "LedgerError"),
    ],
)
def test_words_of_the_database(tmp_path: Path, words: str, kind: str) -> None:
    new_home(tmp_path).close()
    database = Database(tmp_path / "ledger.db", create=False)
    error = database._named(sqlite3.OperationalError(words))
    assert error.code == kind
    assert error.remedy
    database.close()


def test_a_driver_that_is_not_installed(tmp_path: Path) -> None:
    from engrain.errors import ConfigError

    with pytest.raises(ConfigError, match="driver"):
        Ledger("mysql+nodriver://me:secret@host/name", BlobStore(tmp_path))
