"""A process that lives a random life and is killed (SIGKILL) at a chosen moment of it.

    python -m tests.ledger.crash_worker FOLDER SEED MOMENT...

For each moment it forks a child, so that imports are paid for once. A moment is the number of an
operation on the disk or the database: opening, writing, syncing and renaming files, and every SQL
statement, begin and commit, each with a moment before and one after. The child acknowledges what
it was told is done by appending to FOLDER/MOMENT/told, unbuffered. The moment 0 is never reached:
its child prints how many there are.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.ledger.ledger_tools import change, conversation, make_record, new_home

STEPS = 10


class Killer:
    """Counts moments, and dies at one of them."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        self.passed = 0
        self.armed = False

    def tick(self, *_: object, **__: object) -> None:
        if not self.armed:
            return
        self.passed += 1
        if self.passed == self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.tick()
            result = function(*arguments, **options)
            self.tick()
            return result

        return wrapped

    def half_write(self, write: Callable[..., int]) -> Callable[..., int]:
        """A write that first puts half of the bytes down, so that a kill can tear it."""

        def wrapped(file: int, raw: bytes) -> int:
            self.tick()
            done = write(file, raw[: max(1, len(raw) // 2)])
            self.tick()
            return done

        return wrapped

    def install(self) -> None:
        os.write = self.half_write(os.write)  # type: ignore[assignment]
        for name in ("fsync", "replace", "open", "mkdir", "unlink"):
            setattr(os, name, self.around(getattr(os, name)))
        for name in ("begin", "before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(Engine, name, self.tick)


def live(home: Path, seed: int, moment: int) -> int:
    """A random life in one home; returns how many moments it had."""
    killer = Killer(moment)
    told = os.open(home / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write
    choose = random.Random(seed)
    ledger = new_home(home / "engrain")
    killer.install()

    def tell(kind: str, value: str) -> None:
        write(told, (json.dumps([kind, value]) + "\n").encode())

    tell("state", ledger.current().digest)
    killer.armed = True
    job = ""
    for number in range(STEPS):
        action = choose.random()
        if action < 0.2 and job:
            ledger.advance(job, choose.choice(["studied", "failed"]), {"x": "y" * 3000})
            job = ""
        elif action < 0.3:
            ledger.discard_garbage()
        elif action < 0.65 or len(ledger.current().lessons) < 2:
            job = ledger.create_job("learn", {"number": number})
            said = ledger.add_conversation(conversation(number))
            tell("conversation", said)
            ledger.advance(job, "logged", {"conversation": said})
            status = choose.choice(["active", "active", "quarantined", "rejected"])
            record = make_record(ledger, number, status, job=job)  # type: ignore[arg-type]
            tell("coming", record.state)
            ledger.commit(record)
            tell("state", record.state)
            tell("lesson", record.id)
            job = ledger.create_job("learn")
        else:
            lesson = choose.choice(ledger.current().lessons)
            from tests.ledger.ledger_tools import fold_digest

            status = choose.choice(["disabled", "undone"])
            plan = ledger.plan(lesson, status)  # type: ignore[arg-type]
            tell("coming", fold_digest(plan.adapters))
            tell("state", change(ledger, lesson, status).digest)  # type: ignore[arg-type]
    killer.armed = False
    ledger.close()
    return killer.passed


def main(folder: Path, seed: int, moments: list[int]) -> None:
    for moment in moments:
        home = folder / str(moment)
        home.mkdir(parents=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            passed = live(home, seed, moment)
            print(passed, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and os.waitstatus_to_exitcode(status) != 0:
            sys.exit(f"moment {moment}: the worker failed by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(item) for item in sys.argv[3:]])
