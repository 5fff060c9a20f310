"""Random lives of a home: whatever happens, the served weights are the fold of the active lessons.

The whole pipeline runs, but for what takes long: the learner draws an adapter at random, and exams
ask nothing.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
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

from engrain.data.lessons import Lesson, TrainingText, canonical_digest, chat
from engrain.errors import ResumeError, UsageError
from engrain.exam.decision import Decision, Verdict
from engrain.exam.exam import Exam
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import PanelResult
from engrain.home import Home
from engrain.learn.learner import LearnResult
from engrain.ledger import Ledger
from engrain.ledger.records import TRANSITIONS, Status
from engrain.lesson import asked, effect, stages
from engrain.lesson import job as jobbing
from engrain.lesson.asked import Asked
from engrain.model.adapter import Adapter
from tests.home.home_tools import conversation, folded, live_digest, new_home, open_home

STAGES = ("studied", "examined_before", "trained", "examined_after", "decided", "committed")
NONE = PanelResult("none", "none", {}, {})


class StoppedError(Exception):
    """What stands for a kill."""


class DrawnLearner:
    """Learns nothing, but gives an adapter that depends on the lesson and on those before it."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    def run(self, loaded: Any, lesson: Lesson, *, earlier: Any, seed: int, **_: Any) -> LearnResult:
        drawn = canonical_digest([lesson.digest, [old.digest for old in earlier], seed])
        generator = torch.Generator().manual_seed(int(drawn[:12], 16))
        path = random.Random(drawn).choice(loaded.profile.lora_targets)
        rows, columns = dict(loaded.model.named_modules())[path].weight.shape
        prefix = f"base_model.model.{path}.lora"
        tensors = {
            f"{prefix}_A.weight": torch.randn(2, columns, generator=generator),
            f"{prefix}_B.weight": torch.randn(rows, 2, generator=generator) * 0.01,
        }
        return LearnResult(Adapter("lora", tensors, {"r": 2, "lora_alpha": 4}), (0.5,))


def no_questions(engine: Any, probes: Any, panel: Any, **_: Any) -> Exam:
    return Exam(engine.state_digest, {lesson: () for lesson in probes}, NONE)


def told(*arguments: Any, name: str, **_: Any) -> Any:
    talks = arguments[1]
    texts = tuple(
        TrainingText(chat("What did I say?", talk.messages[0].content), "fact", f"it: {i}")
        for i, talk in enumerate(talks)
    )

    class Preview:
        lesson = Lesson(name, "what was said", texts, (), tuple(t.digest for t in talks))

    return Preview


class Life(RuleBasedStateMachine):
    """A home against a list of [id, status] in the order of their commits."""

    model: ClassVar[Path]
    verdict: ClassVar[Verdict] = "accepted"
    home: Home

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.home = new_home(self.folder / "home", self.model, **{"gate.enabled": True})
        self.lessons: list[list[str]] = []
        self.said: set[str] = set()
        self.digests = {(): self.home.state.digest}
        self.job: tuple[str, str, Verdict] | None = None
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "home"):
            assert self.home.verify() == []
            self.home.close()
            shutil.rmtree(self.folder)

    def active(self) -> tuple[str, ...]:
        return tuple(name for name, status in self.lessons if status == "active")

    def committed(self, outcome: Any, verdict: Verdict) -> None:
        assert outcome.decision.verdict == verdict
        self.lessons.append([outcome.lesson.id, stages.STATUS[verdict]])
        assert (outcome.state_before != outcome.state_after) == outcome.accepted

    @rule(verdict=st.sampled_from(["accepted", "accepted", "accepted", "quarantined", "rejected"]))
    def learn(self, verdict: Verdict) -> None:
        self.number += 1
        talk = conversation(self.number)
        self.said.add(talk.digest)
        Life.verdict = verdict
        self.committed(self.home.learn(talk), verdict)

    @rule(
        verdict=st.sampled_from(["accepted", "accepted", "quarantined"]),
        stage=st.sampled_from(STAGES),
        before=st.booleans(),
    )
    def crash(self, verdict: Verdict, stage: str, before: bool) -> None:
        """A lesson dies right before or after a stage is on the disk; the home is opened again."""
        self.number += 1
        talk = conversation(self.number)
        self.said.add(talk.digest)
        state = self.home.state.digest
        Life.verdict = verdict
        with pytest.raises(StoppedError), dying(stage, before):
            self.home.learn(talk)
        self.home.close()
        self.home = open_home(self.folder / "home", **{"gate.enabled": True})
        job = self.home.jobs()[-1]
        if job.finished:
            entry = self.home.lessons()[-1]
            self.lessons.append([entry.id, entry.status])
        else:
            self.job = (job.id, state, verdict)

    @precondition(lambda self: self.job is not None)
    @rule()
    def resume(self) -> None:
        assert self.job is not None
        (job, state, verdict), self.job = self.job, None
        Life.verdict = verdict
        if self.home.state.digest == state:
            self.committed(self.home.resume(job), verdict)
            return
        with pytest.raises(ResumeError):
            self.home.resume(job)
        assert self.home.ledger.get_job(job).status == "failed"

    @precondition(lambda self: self.lessons)
    @rule(
        pick=st.integers(0, 99),
        status=st.sampled_from(["disabled", "disabled", "active", "active", "undone"]),
        dry_run=st.booleans(),
    )
    def change(self, pick: int, status: Status, dry_run: bool) -> None:
        verbs: dict[str, Callable[..., Any]] = {
            "disabled": self.home.disable,
            "active": self.home.enable,
            "undone": self.home.undo,
        }
        lesson = self.lessons[pick % len(self.lessons)]
        if status not in TRANSITIONS[lesson[1]]:  # type: ignore[index]
            with pytest.raises(UsageError):
                verbs[status](lesson[0], dry_run=dry_run)
            return
        change = verbs[status](lesson[0], dry_run=dry_run)
        if not dry_run:
            lesson[1] = status
            assert change.state_after == self.home.state.digest

    @precondition(lambda self: self.lessons and self.lessons[-1][1] == "active")
    @rule()
    def undo_last(self) -> None:
        """The digest before the lesson comes back, whatever was learned and undone before."""
        parent = self.home.show("last").parent_state
        others = self.home.ledger.get_entry(self.lessons[-1][0])
        same = self.digests.get(self.active()[:-1])
        change = self.home.undo("last")
        assert change.lesson == others.id
        if same is not None:
            assert change.state_after == same
        if self.home.ledger.history()[-2].event == others.position:
            assert change.state_after == parent
        self.lessons[-1][1] = "undone"

    @rule()
    def reopen(self) -> None:
        self.home.close()
        self.home = open_home(self.folder / "home", **{"gate.enabled": True})

    @invariant()
    def the_state_is_the_fold_of_the_active_lessons(self) -> None:
        if not hasattr(self, "lessons"):
            return
        state = self.home.state
        assert state.lessons == self.active()
        assert state.digest == folded(self.home, state.lessons)
        assert self.digests.setdefault(state.lessons, state.digest) == state.digest
        assert self.home.served.refresh() == state.digest == live_digest(self.home)
        assert {(e.id, e.status) for e in self.home.lessons()} == {
            (name, status) for name, status in self.lessons
        }
        assert self.said == {e.digest for e in self.home.ledger.list_conversations()}


@contextmanager
def dying(stage: str, before: bool) -> Iterator[None]:
    """Raise right before or right after a stage is recorded."""
    advance, commit = Ledger.advance, Ledger.commit

    def advancing(ledger: Ledger, job: str, name: str, payload: Any = None) -> Any:
        if name == stage and before:
            raise StoppedError
        done = advance(ledger, job, name, payload)
        if name == stage:
            raise StoppedError
        return done

    def committing(ledger: Ledger, record: Any) -> Any:
        if stage == "committed" and before:
            raise StoppedError
        commit(ledger, record)
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "advance", advancing)
        patch.setattr(Ledger, "commit", committing)
        yield


def test_random_lives(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = Decision("accepted", ["Decided by the test."], [], "")
    monkeypatch.setattr(stages, "Learner", DrawnLearner)
    monkeypatch.setattr(stages, "run_exam", no_questions)
    # What the drawn weights answer is not what this is about.
    monkeypatch.setattr(effect, "heard", lambda *_: True)
    monkeypatch.setattr(asked, "run_panel", lambda *_, **__: NONE)
    monkeypatch.setattr(stages, "decide", lambda *_, **__: replace(decided, verdict=Life.verdict))
    monkeypatch.setattr(Asked, "noise", lambda *_: NoiseBand.assumed())
    monkeypatch.setattr(jobbing, "make_lesson", told)
    Life.model = model
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=8,
            stateful_step_count=14,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
