"""Damage of every kind is found, named, and never served."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engrain.errors import BlobCorruptError, BlobMissingError, LedgerError, StateMismatchError
from engrain.ledger import Ledger, Problem, check_chain, replay
from engrain.ledger.records import Event
from tests.ledger.ledger_tools import (
    change,
    conversation,
    fold_digest,
    learn,
    make_record,
    open_ledger,
)


@pytest.fixture
def lived(ledger: Ledger) -> Ledger:
    """A home with a bit of everything."""
    ledger.add_conversation(conversation(50))
    job = ledger.create_job("learn")
    ledger.advance(job, "studied", {"texts": "x" * 5000})
    ledger.commit(make_record(ledger, 1, job=job))
    learn(ledger, 2)
    learn(ledger, 3, "quarantined")
    learn(ledger, 4, "rejected")
    change(ledger, "last", "disabled")
    assert ledger.verify(fold_digest) == []
    return ledger


def edit(home: Path, statement: str) -> None:
    """Change the file behind the ledger's back."""
    connection = sqlite3.connect(home / "ledger.db")
    with connection:
        changed = connection.execute(statement).rowcount
    connection.close()
    assert changed > 0


def found(ledger: Ledger) -> list[tuple[str, str]]:
    problems = ledger.verify(fold_digest)
    assert all(problem.message and problem.remedy for problem in problems)
    return [(problem.kind, problem.where) for problem in problems]


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE lesson SET status = 'active' WHERE status = 'disabled'", "lesson"),
        ("UPDATE lesson SET measured_seconds = 0.5", "lesson"),
        ("UPDATE lesson SET recipe = '{}'", "lesson"),
        ("UPDATE state SET digest = substr(digest, 2) || 'x' WHERE event > 5", "state of event"),
        ("UPDATE state SET lessons = '[]'", "state of event"),
        ("DELETE FROM state WHERE event = (SELECT max(event) FROM state)", "state of event"),
        ("UPDATE job SET stage = 'failed'", "job"),
        ("UPDATE job_stage SET stage = 'trained' WHERE stage = 'studied'", "job"),
        ("UPDATE base SET source = 'other'", "base"),
        ("DELETE FROM lesson_source", "lesson"),
        ("UPDATE conversation SET at = 'x'", "conversation"),
    ],
)
def test_tables_that_contradict_the_events(
    lived: Ledger, tmp_path: Path, statement: str, where: str
) -> None:
    edit(tmp_path, statement)
    problems = found(lived)
    assert problems
    assert all(kind == "LedgerError" and place.startswith(where) for kind, place in problems)
    lived.rebuild()
    assert lived.verify(fold_digest) == []


def test_rebuilding_keeps_the_owner_of_a_job(ledger: Ledger) -> None:
    job = ledger.create_job("learn")
    learn(ledger, 1)
    before = ledger.get_job(job)
    ledger.rebuild()
    assert ledger.get_job(job) == before
    assert ledger.verify(fold_digest) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET payload = replace(payload, 'pocket', 'packet') WHERE sequence = 1",
        "UPDATE event SET at = 'x' WHERE sequence = 3",
        "UPDATE event SET kind = 'job_created' WHERE sequence = 2",
        "UPDATE event SET payload = '{' WHERE sequence = 2",
        "UPDATE event SET digest = '0' || substr(digest, 1, 63) WHERE sequence = 4",
    ],
)
def test_an_event_that_was_changed(lived: Ledger, tmp_path: Path, statement: str) -> None:
    edit(tmp_path, statement)
    assert "LedgerError" in [kind for kind, _ in found(lived)]


@pytest.mark.parametrize("number", [1, 4, None])
def test_an_event_that_is_gone(lived: Ledger, tmp_path: Path, number: int | None) -> None:
    which = number or "(SELECT max(sequence) FROM event)"
    edit(tmp_path, f"DELETE FROM event WHERE sequence = {which}")
    assert found(lived)


def test_a_consistent_forgery_of_the_chain_is_found_by_what_it_says(lived: Ledger) -> None:
    events = lived.events()
    assert check_chain(events) == []
    forged: list[Event] = []
    previous = events[0].previous
    for event in events:
        payload = dict(event.payload)
        if event.kind == "status_changed":
            payload["from"] = "quarantined"
        new = Event(event.sequence, event.at, event.kind, payload, previous)
        new = replace(new, digest=new.derived_digest())
        previous = new.digest
        forged.append(new)
    assert check_chain(forged) == []
    with pytest.raises(LedgerError, match="the lesson was active"):
        replay(forged)


def test_events_that_can_not_follow(lived: Ledger) -> None:
    events = lived.events()
    for wrong in (
        [*events, replace(events[0])],
        [*events, replace(events[1])],
        [*events, replace(events[2])],
        [*events, replace(events[-1], payload={})],
        [*events, replace(events[-1], payload={**events[-1].payload, "lesson": "x"})],
        events[1:-1],
    ):
        with pytest.raises(LedgerError):
            replay(wrong)
    again = next(event for event in events if event.kind == "lesson_committed")
    with pytest.raises(LedgerError, match="committed before"):
        replay([*events, again])
    with pytest.raises(StateMismatchError):
        payload = {**events[-1].payload, "status": "active", "from": "disabled", "state": "0" * 64}
        replay([*events, replace(events[-1], payload=payload)])


def test_the_replay_is_what_the_tables_say(lived: Ledger) -> None:
    projection = replay(lived.events())
    assert list(projection.lessons.values()) == lived.list_lessons()
    assert projection.states == lived.history()
    assert projection.state == lived.current()
    assert [entry.id for entry in projection.active()] == list(lived.current().lessons)
    assert list(projection.conversations.values()) == lived.list_conversations()
    assert projection.base == lived.base()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE message SET content = 'My number is 51.' WHERE content = 'My number is 50.'",
        "UPDATE message SET role = 'assistant' WHERE content = 'My number is 50.'",
        "UPDATE message SET parent = NULL WHERE content = 'Noted: 50.'",
        "DELETE FROM message WHERE content = 'My number is 50.'",
    ],
)
def test_a_message_that_was_changed(lived: Ledger, tmp_path: Path, statement: str) -> None:
    edit(tmp_path, statement)
    digest = conversation(50).digest
    assert found(lived)
    with pytest.raises(LedgerError, match="damaged"):
        lived.get_conversation(digest)


@pytest.mark.parametrize("field", ["content", "adapter", "exam_before", "exam_after"])
def test_a_blob_that_is_damaged_or_gone(lived: Ledger, field: str) -> None:
    entry = lived.list_lessons(status="active")[0]
    path = lived.blobs.path(getattr(entry, field))
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + b"?")
    assert found(lived) == [("BlobCorruptError", getattr(entry, field))]
    if field != "adapter":
        with pytest.raises(BlobCorruptError):
            lived.get_lesson(entry.id)
    path.unlink()
    assert found(lived) == [("BlobMissingError", getattr(entry, field))]
    if field != "adapter":
        with pytest.raises(BlobMissingError):
            lived.get_lesson(entry.id)
    # The list and the change of status need no blob but the adapters that the caller folds.
    assert lived.get_entry(entry.id) == entry
    path.write_bytes(raw)
    assert lived.verify(fold_digest) == []


def test_the_blob_of_a_stage(lived: Ledger) -> None:
    blob = lived.get_job("last").stages[0].blob
    assert blob is not None
    lived.blobs.discard(blob)
    assert found(lived) == [("BlobMissingError", blob)]
    with pytest.raises(BlobMissingError):
        lived.stage_payload("last", "studied")


def test_damage_among_the_garbage_is_named_too(lived: Ledger) -> None:
    digest = lived.blobs.put(b"lost")
    lived.blobs.path(digest).write_bytes(b"x")
    assert found(lived) == [("BlobCorruptError", digest)]


def test_weights_that_fold_into_something_else(lived: Ledger) -> None:
    problems = lived.verify(lambda adapters: fold_digest([*adapters, "x"]))
    assert {problem.kind for problem in problems} == {"StateMismatchError"}
    assert len(problems) == len(lived.history())
    assert set(problems[0].to_dict()) == {"kind", "where", "message", "remedy"}


def test_every_list_of_adapters_is_folded_once(lived: Ledger) -> None:
    asked: list[tuple[str, ...]] = []

    def fold(adapters: Sequence[str]) -> str:
        asked.append(tuple(adapters))
        return fold_digest(adapters)

    assert lived.verify(fold) == []
    assert len(asked) == len(set(asked)) == 3


def test_a_fold_that_fails_is_a_problem(lived: Ledger) -> None:
    def fold(adapters: Sequence[str]) -> str:
        raise BlobMissingError("gone", remedy="restore")

    problems = lived.verify(fold)
    assert problems[0] == Problem("BlobMissingError", "state of event 1", "gone", "restore")


def test_a_value_that_is_no_json(lived: Ledger, tmp_path: Path) -> None:
    edit(tmp_path, "UPDATE lesson SET decision = '{'")
    assert [kind for kind, _ in found(lived)] == ["LedgerError"]
    with pytest.raises(LedgerError, match="not JSON"):
        lived.list_lessons()
    lived.rebuild()
    assert lived.verify(fold_digest) == []


def test_verify_works_beside_a_writer(lived: Ledger, tmp_path: Path) -> None:
    with open_ledger(tmp_path) as other:

        def fold(adapters: Sequence[str]) -> str:
            other.add_conversation(conversation(1000 + len(adapters)))
            return fold_digest(adapters)

        assert lived.verify(fold) == []


def test_json_of_a_problem(lived: Ledger) -> None:
    lived.blobs.discard(lived.list_lessons()[0].content)
    json.dumps([problem.to_dict() for problem in lived.verify(fold_digest)])
