"""Random lives: whatever is learned, switched and undone, the state is the fold of the rest."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engrain.errors import UsageError
from engrain.ledger import Ledger, Status, replay
from engrain.ledger.records import TRANSITIONS
from tests.ledger.ledger_tools import (
    change,
    conversation,
    fold_digest,
    make_record,
    new_home,
    open_ledger,
)

STAGES = ("logged", "studied", "examined_before", "trained", "examined_after", "decided")


class Life(RuleBasedStateMachine):
    """The ledger against a model of it: a list of [id, adapter, status]."""

    ledger: Ledger

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.ledger = new_home(self.home)
        self.lessons: list[list[str]] = []
        self.said: set[str] = set()
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.verify(fold_digest) == []
            self.ledger.close()
            shutil.rmtree(self.home)

    def served(self) -> list[list[str]]:
        return [lesson for lesson in self.lessons if lesson[2] == "active"]

    @rule()
    def say(self) -> None:
        self.number += 1
        self.said.add(self.ledger.add_conversation(conversation(self.number)))

    @rule(
        status=st.sampled_from(["active", "active", "active", "quarantined", "rejected"]),
        reached=st.integers(0, len(STAGES)),
        repeat=st.booleans(),
    )
    def commit(self, status: Status, reached: int, repeat: bool) -> None:
        self.number += 1
        before = self.ledger.current()
        job = self.ledger.create_job("learn")
        for stage in STAGES[:reached]:
            self.ledger.advance(job, stage, {"number": self.number})
        record = make_record(self.ledger, self.number, status, job=job)
        self.said.update(record.lesson.sources)
        state = self.ledger.commit(record)
        if repeat:
            assert self.ledger.commit(record) == state
        self.lessons.append([record.id, str(record.adapter), status])
        if status == "active":
            # Undo of the last lesson gives back the digest before it.
            plan = self.ledger.plan("last", "undone")
            assert plan.lesson == record.id
            assert fold_digest(plan.adapters) == before.digest
        else:
            assert state == before

    @precondition(lambda self: self.lessons)
    @rule(data=st.data(), status=st.sampled_from(["active", "disabled", "undone"]))
    def change(self, data: st.DataObject, status: Status) -> None:
        lesson = data.draw(st.sampled_from(self.lessons))
        if status in TRANSITIONS[lesson[2]]:  # type: ignore[index]
            change(self.ledger, lesson[0], status)
            lesson[2] = status
        else:
            with pytest.raises(UsageError):
                self.ledger.plan(lesson[0], status)

    @precondition(lambda self: self.served())
    @rule()
    def undo_last(self) -> None:
        last = [lesson for lesson in self.lessons if lesson[2] in ("active", "disabled")][-1]
        change(self.ledger, "last", "undone")
        last[2] = "undone"

    @rule()
    def crash_before_the_end_of_a_plan(self) -> None:
        self.number += 1
        make_record(self.ledger, self.number)
        self.said.add(conversation(self.number).digest)
        self.crash()

    @rule()
    def crash(self) -> None:
        # What a kill leaves: the files as they are, with a log that was not folded in.
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(self.home, copy, dirs_exist_ok=True)
        self.ledger.close()
        shutil.rmtree(self.home)
        self.home = copy
        self.ledger = open_ledger(copy)

    @rule()
    def rebuild(self) -> None:
        self.ledger.rebuild()

    @rule()
    def clean_up(self) -> None:
        self.ledger.discard_garbage()
        assert self.ledger.garbage() == []

    @invariant()
    def the_state_is_the_fold_of_the_rest(self) -> None:
        if not hasattr(self, "ledger"):
            return
        served = self.served()
        state = self.ledger.current()
        assert state.lessons == tuple(lesson[0] for lesson in served)
        assert state.adapters == tuple(lesson[1] for lesson in served)
        assert state.digest == fold_digest([lesson[1] for lesson in served])

    @invariant()
    def the_tables_are_the_replay(self) -> None:
        if not hasattr(self, "ledger"):
            return
        projection = replay(self.ledger.events())
        assert projection.state == self.ledger.current()
        entries = self.ledger.list_lessons()
        assert list(projection.lessons.values()) == entries
        assert [[entry.id, entry.status] for entry in entries] == [
            [lesson[0], lesson[2]] for lesson in self.lessons
        ]
        assert set(projection.conversations) == self.said


def live(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_short_lives() -> None:
    live(examples=12, steps=14)


@pytest.mark.slow
def test_long_lives() -> None:
    live(examples=50, steps=30)
