"""What the ledger's tests share: a home folder, and lessons with fake adapters and a fake fold.

Imported by the crash worker as well, which runs outside of pytest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Conversation
from engrain.ledger import BlobStore, HomeLock, Ledger, LessonRecord, State, Status

BASE = "b" * 64


def fold_digest(adapters: Sequence[str]) -> str:
    """A fold that depends on the base, on every adapter and on their order."""
    return hashlib.sha256("|".join([BASE, *adapters]).encode()).hexdigest()


def open_ledger(home: Path, *, create: bool = False, **options: object) -> Ledger:
    return Ledger(
        home / "ledger.db",
        BlobStore(home / "blobs"),
        lock=HomeLock(home / "lock", wait_seconds=0.0),
        create=create,
        **options,  # type: ignore[arg-type]
    )


def new_home(home: Path) -> Ledger:
    ledger = open_ledger(home, create=True)
    ledger.begin(
        source="pocket", base_digest=BASE, state=fold_digest(()), versions={"engrain": "0"}
    )
    return ledger


def conversation(number: int) -> Conversation:
    return Conversation(chat(f"My number is {number}.", f"Noted: {number}."))


def make_record(
    ledger: Ledger, number: int, status: Status = "active", *, job: str | None = None
) -> LessonRecord:
    """A lesson on the state in force, with its conversation logged and its adapter put."""
    source = ledger.add_conversation(conversation(number))
    adapter = ledger.blobs.put(f"adapter {number}".encode())
    now = ledger.current()
    lesson = Lesson(
        id=ledger.new_lesson_id(),
        title=f"Number {number}",
        texts=(TrainingText(chat("What is my number?", str(number)), group="number"),),
        probes=(Probe(f"p{number}", "recall", chat("My number?"), (str(number),)),),
        sources=(source,),
    )
    accepted = status == "active"
    return LessonRecord(
        lesson=lesson,
        status=status,
        adapter=None if status == "rejected" else adapter,
        parent_state=now.digest,
        state=fold_digest([*now.adapters, adapter]) if accepted else now.digest,
        base_digest=BASE,
        recipe={"name": "default", "rank": 8, "rate": 1e-3},
        exam_before={"recall": 0.0},
        exam_after={"recall": 1.0, "panel": [0.1, 0.2]},
        decision={"verdict": "accepted" if accepted else status, "reasons": []},
        seed=number,
        estimated_seconds=1.5,
        measured_seconds=1.25,
        peak_memory_bytes=2**33,
        versions={"torch": "2"},
        job=job,
    )


def learn(ledger: Ledger, number: int, status: Status = "active") -> str:
    record = make_record(ledger, number, status)
    ledger.commit(record)
    return record.id


def change(ledger: Ledger, name: str, status: Status) -> State:
    plan = ledger.plan(name, status)
    return ledger.apply(plan, fold_digest(plan.adapters))
