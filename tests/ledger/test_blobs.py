from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engrain.errors import (
    BlobCorruptError,
    BlobMissingError,
    DiskFullError,
    HomeError,
    HomeReadOnlyError,
)
from engrain.ledger import BlobStore
from engrain.ledger.lock import os_error


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def leftovers(store: BlobStore) -> list[str]:
    folder = store.folder / "tmp"
    return os.listdir(folder) if folder.exists() else []


def test_a_blob_is_named_by_its_digest_and_sharded(store: BlobStore) -> None:
    digest = store.put(b"hello")
    assert digest == hashlib.sha256(b"hello").hexdigest()
    assert (store.folder / digest[:2] / digest[2:]).read_bytes() == b"hello"
    assert store.get(digest) == b"hello"
    assert store.has(digest)
    assert store.size(digest) == 5
    assert leftovers(store) == []


@settings(max_examples=40, deadline=None)
@given(raws=st.lists(st.binary(max_size=300), max_size=8))
def test_what_is_put_is_got(raws: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    digests = [store.put(raw) for raw in raws]
    assert [store.get(digest) for digest in digests] == raws
    assert store.digests() == sorted(set(digests))
    assert store.verify() == []


def test_putting_again_changes_nothing(store: BlobStore) -> None:
    digest = store.put(b"hello")
    before = store.path(digest).stat()
    assert store.put(b"hello") == digest
    after = store.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_an_empty_blob(store: BlobStore) -> None:
    assert store.get(store.put(b"")) == b""


def test_putting_again_mends_a_damaged_blob(store: BlobStore) -> None:
    digest = store.put(b"hello")
    store.path(digest).write_bytes(b"hellO")
    assert store.put(b"hello") == digest
    assert store.get(digest) == b"hello"


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"", b"hello\n"])
def test_a_damaged_blob_is_never_given(store: BlobStore, damage: bytes) -> None:
    digest = store.put(b"hello")
    store.path(digest).write_bytes(damage)
    with pytest.raises(BlobCorruptError) as caught:
        store.get(digest)
    assert caught.value.remedy
    assert [problem.kind for problem in store.verify()] == ["BlobCorruptError"]


def test_a_folder_in_the_place_of_a_blob(store: BlobStore) -> None:
    digest = store.put(b"hello")
    store.path(digest).unlink()
    store.path(digest).mkdir()
    with pytest.raises(BlobCorruptError):
        store.get(digest)
    assert [problem.kind for problem in store.verify([digest])] == ["BlobCorruptError"]


def test_a_missing_blob(store: BlobStore) -> None:
    digest = hashlib.sha256(b"never").hexdigest()
    assert not store.has(digest)
    assert store.size(digest) == 0
    with pytest.raises(BlobMissingError, match=digest[:12]):
        store.get(digest)
    assert [problem.kind for problem in store.verify([digest])] == ["BlobMissingError"]
    assert store.digests() == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" * 32, "a" * 63])
def test_what_is_no_digest_never_becomes_a_path(store: BlobStore, name: str) -> None:
    with pytest.raises(BlobMissingError):
        store.get(name)


def test_garbage_is_what_nothing_refers_to(store: BlobStore) -> None:
    kept, lost = store.put(b"kept"), store.put(b"lost")
    assert store.garbage([kept]) == [lost]
    store.discard(lost)
    store.discard(lost)
    assert store.digests() == [kept]


def test_only_old_temporary_files_are_cleaned(store: BlobStore) -> None:
    assert store.clean() == 0
    store.put(b"hello")
    old, young = store.folder / "tmp" / "1-old", store.folder / "tmp" / "1-young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert store.clean() == 1
    assert leftovers(store) == ["1-young"]
    assert len(store.digests()) == 1


@pytest.mark.parametrize("call", ["write", "fsync", "open", "replace", "mkdir"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EROFS, HomeReadOnlyError),
        (errno.EACCES, HomeReadOnlyError),
        (errno.EIO, HomeError),
    ],
)
def test_a_disk_that_refuses_leaves_nothing_behind(
    store: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[Exception],
) -> None:
    kept = store.put(b"kept")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(expected):
            store.put(b"lost")
    # The very last steps, fsync of the folders, may come after the rename: the blob is then
    # whole, but not acknowledged.
    assert store.verify() == []
    assert kept in store.digests()
    assert leftovers(store) == []


def test_a_disk_that_fills_in_the_middle_of_a_blob(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    calls = iter(range(100))

    def half(file: int, raw: bytes) -> int:
        if next(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(file, raw[:10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(DiskFullError) as caught:
        store.put(b"x" * 100)
    assert "Free some space" in caught.value.remedy
    assert store.digests() == []
    assert leftovers(store) == []


def test_short_writes_are_continued(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, raw: write(file, raw[:7]))
    assert store.get(store.put(b"x" * 100)) == b"x" * 100


def test_a_known_blob_on_a_read_only_disk(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(b"hello")

    def refuse(_: int) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "fsync", refuse)
    assert store.put(b"hello") == digest


def test_other_errors_of_the_system_are_named_too() -> None:
    error = os_error(OSError(errno.EMFILE, "Too many open files"), Path("x"), "write")
    assert type(error) is HomeError
    assert "Too many open files" in str(error)


def test_everything_is_synced_before_the_name_appears(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"first")
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        target = os.readlink(f"/proc/self/fd/{file}")
        calls.append("sync folder" if os.path.isdir(target) else "sync file")
        fsync(file)

    def noted_replace(source: str, target: str) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store.put(b"second")
    at = calls.index("rename")
    assert "sync file" in calls[:at]
    assert "sync folder" in calls[at:]
