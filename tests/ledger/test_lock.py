from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engrain.errors import DiskFullError, HomeLockedError, HomeReadOnlyError
from engrain.ledger import HomeLock
from engrain.ledger.lock import process_alive, process_start

HOLD = """
import sys
from engrain.ledger.lock import HomeLock
with HomeLock(sys.argv[1]).hold("learn a lesson"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder_process(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_held_while_inside(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path / "lock")
    assert not lock.held
    assert lock.holder() is None
    with lock.hold("learn"), lock.hold("commit"):
        assert lock.held
        holder = lock.holder()
        assert holder is not None
        assert (holder.pid, holder.purpose) == (os.getpid(), "learn")
    assert not lock.held
    assert lock.holder() is None


def test_released_after_an_error(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), lock.hold("divide"):
        _ = 1 / 0
    with HomeLock(tmp_path / "lock", wait_seconds=0).hold("again"):
        pass


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HomeLock(path, wait_seconds=0)
    process = holder_process(path)
    try:
        with pytest.raises(HomeLockedError) as caught, lock.hold("undo"):
            pass
        assert f"process {process.pid} (learn a lesson)" in caught.value.message
        assert str(process.pid) in caught.value.remedy
        assert not lock.held
    finally:
        finish(process)
    # Killed with the words still in the file: they are stale, the lock is free.
    assert json.loads(path.read_text())["pid"] == process.pid
    assert lock.holder() is None
    with lock.hold("undo"):
        pass


def test_waits_a_little(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder_process(path)
    threading.Timer(0.2, process.kill).start()
    try:
        with HomeLock(path, wait_seconds=20).hold("undo"):
            pass
    finally:
        finish(process)


def test_two_objects_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = HomeLock(path, wait_seconds=0)
    with (
        HomeLock(path).hold("learn"),
        pytest.raises(HomeLockedError, match=str(os.getpid())),
        other.hold("undo"),
    ):
        pass


def test_words_that_can_not_be_read_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for text in ("", "{", "[]", "null", '{"pid": "x"}', "\x00"):
        path.write_text(text)
        lock = HomeLock(path, wait_seconds=0)
        assert lock.holder() is None
        with lock.hold("learn"):
            assert lock.holder() is not None


def test_unknown_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with HomeLock(path).hold("learn"):
        path.write_text("")
        with (
            pytest.raises(HomeLockedError, match="another process"),
            HomeLock(path, wait_seconds=0).hold("undo"),
        ):
            pass


def test_a_folder_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    for number, expected in ((errno.EROFS, HomeReadOnlyError), (errno.ENOSPC, DiskFullError)):

        def refuse(*_: object, number: int = number, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(expected), HomeLock(tmp_path / "lock").hold("learn"):
                pass


def test_a_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = """
import os, sys, time
from engrain.ledger.lock import HomeLock
lock = HomeLock(sys.argv[1], wait_seconds=0)
with lock.hold("learn"):
    child = os.fork()
    if child == 0:
        assert not lock.held
        sys.stdin.read()
        os._exit(0)
# The child lives, and still the lock is free.
with HomeLock(sys.argv[1], wait_seconds=0).hold("undo"):
    print("free", flush=True)
sys.stdin.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "lock")],
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "free\n"


def test_threads_share_the_lock(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path / "lock", wait_seconds=0)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                with lock.hold("work"):
                    assert lock.held
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not lock.held


def test_which_processes_live() -> None:
    pid = os.getpid()
    assert process_alive(pid)
    assert process_alive(pid, process_start(pid))
    assert not process_alive(pid, "1")
    assert not process_alive(0)
    assert process_start(2**22 + 1) == ""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert not process_alive(gone.pid), "a zombie is dead"
    gone.wait()
    assert not process_alive(gone.pid)
