"""Who may write: one process at a time, by an operating-system lock on a file of the home.

The kernel drops the lock when its holder dies, however it dies, so a stale lock can't exist; the
text inside (process id and purpose) is only there to tell people who is at work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engrain.errors import (
    DiskFullError,
    EngrainError,
    HomeError,
    HomeLockedError,
    HomeReadOnlyError,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a home's lock, and what for."""

    pid: int
    purpose: str
    since: str


class HomeLock:
    """The right to write into a home; reading never needs it.

    All threads of the process share it, and it may be taken again while it is held.

    Example:
        >>> import tempfile
        >>> lock = HomeLock(Path(tempfile.mkdtemp()) / "lock")
        >>> with lock.hold("learn a lesson"):
        ...     lock.held
        True
    """

    def __init__(self, path: Path | str, *, wait_seconds: float = 1.0) -> None:
        self.path = Path(path)
        self.wait_seconds = wait_seconds
        self._guard = threading.RLock()
        self._file: int | None = None
        self._depth = 0
        _locks.add(self)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object."""
        return self._file is not None

    @contextlib.contextmanager
    def hold(self, purpose: str) -> Iterator[None]:
        """Hold the lock for a while.

        Raises:
            HomeLockedError: another process holds it, and still does after ``wait_seconds``.
        """
        with self._guard:
            if self._depth == 0:
                self._file = self._take(purpose)
            self._depth += 1
        try:
            yield
        finally:
            with self._guard:
                self._depth -= 1
                if self._depth == 0:
                    self._release()

    def holder(self) -> Holder | None:
        """The living process that says it holds the lock, if there is one."""
        try:
            said = json.loads(self.path.read_text())
            holder = Holder(int(said["pid"]), str(said["purpose"]), str(said["since"]))
            started = said["started"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return holder if process_alive(holder.pid, started) else None

    def _take(self, purpose: str) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise os_error(error, self.path, "lock") from error
        try:
            self._wait(file)
            text = json.dumps(
                {
                    "pid": os.getpid(),
                    "started": process_start(os.getpid()),
                    "purpose": purpose,
                    "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                }
            )
            # On a full disk the words are lost, the lock is not; whoever writes next will be told.
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
                os.pwrite(file, text.encode(), 0)
        except BaseException:
            os.close(file)
            raise
        return file

    def _wait(self, file: int) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                    raise os_error(error, self.path, "lock") from error
            if time.monotonic() >= deadline:
                raise self._locked()
            time.sleep(_POLL_SECONDS)

    def _locked(self) -> HomeLockedError:
        holder = self.holder()
        who = f"process {holder.pid} ({holder.purpose})" if holder else "another process"
        wait = f"Wait until process {holder.pid} is done" if holder else "Wait until it is done"
        return HomeLockedError(
            f"The home {self.path.parent} is in use by {who}.",
            remedy=f"{wait}, or stop it; reading commands work meanwhile.",
            pid=holder.pid if holder else "unknown",
        )

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
        # Closing is not enough: a child that was forked a moment ago may still have a copy open.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)

    def _forget(self) -> None:
        # A fork copies the open file; closing the copy leaves the parent's lock alone, while
        # keeping it would leave the home locked for as long as some worker lives.
        self._guard = threading.RLock()
        self._depth = 0
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name what the system says of a file of the home: no space left, not to be written."""
    try:
        yield
    except OSError as error:
        raise os_error(error, Path(error.filename or path), "write") from error


def make_writable(folder: Path) -> None:
    """Make a folder, and find out whether files can be made in it.

    Raises:
        DiskFullError: there is no room.
        HomeReadOnlyError: it can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        kind = DiskFullError if error.errno in FULL else HomeReadOnlyError
        raise kind(
            f"The home {folder} can't be made: {error.strerror}.",
            remedy="Give a folder that you may write, with --home or ENGRAIN_HOME.",
        ) from error


_locks: weakref.WeakSet[HomeLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in _locks:
        lock._forget()


os.register_at_fork(after_in_child=_after_fork)


def process_start(pid: int) -> str:
    """When a process began, in the kernel's words, so that a reused id is not mistaken.

    Empty where the system does not tell.
    """
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def process_alive(pid: int, started: str = "") -> bool:
    """Whether a process lives, and is the one that began at ``started``.

    A zombie is dead: only its parent has not looked yet.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    fields = _stat(pid)
    if fields and fields[0] in ("Z", "X"):
        return False
    now = process_start(pid)
    return not (started and now) or started == now


def _stat(pid: int) -> list[str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The second field is the program's name in brackets and may hold anything, so count after it.
    return stat.rpartition(")")[2].split()


def os_error(error: OSError, path: Path, doing: str) -> EngrainError:
    """The named error for what the operating system said about a path of the home."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return DiskFullError(
            f"No space is left to {doing} {path}: {reason}.",
            remedy="Free some space and run the command again; nothing was changed.",
        )
    if error.errno in NOT_WRITABLE:
        return HomeReadOnlyError(
            f"{path} can't be written: {reason}.",
            remedy="Give the folder write permission, or choose another with --home.",
        )
    return HomeError(
        f"Can't {doing} {path}: {reason}.", remedy="Check the folder and the disk it is on."
    )
