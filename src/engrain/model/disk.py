"""Large files on a disk: their digest, room for them, and errors with names."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engrain.errors import DiskFullError, ModelSourceError

MODELS_VARIABLE = "ENGRAIN_MODELS"
SPARE = 64 << 20
"""Bytes that are left free on the disk."""
CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)

OnProgress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done, and how much there is, in MB."""


def file_sha256(path: Path, on_progress: OnProgress | None = None) -> str:
    """SHA-256 of a file as hex."""
    sha, done, size = hashlib.sha256(), 0, path.stat().st_size
    report = steps(on_progress, "check")
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            done += len(chunk)
            report(done, size)
    return sha.hexdigest()


def steps(on_progress: OnProgress | None, stage: str) -> Callable[[int, int], None]:
    """A report of bytes as one of megabytes, and no oftener than they change."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        if on_progress is not None and megabytes(done) != last:
            last = megabytes(done)
            on_progress(stage, last, megabytes(total))

    return report


def megabytes(count: int) -> int:
    """Bytes as whole megabytes."""
    return round(count / 1e6)


def need_room(
    folder: Path,
    count: int,
    remedy: str = f"Free some space, or set {MODELS_VARIABLE} to a folder on another disk.",
) -> None:
    """Check that a disk has room.

    Raises:
        DiskFullError: it has not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < count + SPARE:
        raise DiskFullError(
            f"{folder} needs {megabytes(count + SPARE)} MB and has {megabytes(free)} MB free.",
            remedy=remedy,
        )


@contextmanager
def named_errors(folder: Path) -> Iterator[None]:
    """Name what the system says while a model is written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(
                f"No space is left in {folder}.",
                remedy="Free some space and get the model again: what is there already is kept.",
            ) from error
        raise ModelSourceError(
            f"{error.filename or folder}: {error.strerror or error}.",
            remedy=f"Give the folder write permission, or set {MODELS_VARIABLE} to another.",
        ) from error


@contextmanager
def alone(work: Path, name: str) -> Iterator[None]:
    """Hold the folder in which a model is made: two processes would write into one file."""
    import fcntl

    work.mkdir(parents=True, exist_ok=True)
    # Beside the folder, which is deleted at the end.
    with (work.parent / f"{work.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelSourceError(
                f"Another process is getting {name!r}.", remedy="Wait until it is done."
            ) from error
        yield
