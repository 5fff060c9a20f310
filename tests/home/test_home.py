"""A home from its making to its damages: digests, undo, resume, refusals, and named errors."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Message
from engrain.errors import (
    BaseChangedError,
    BlobCorruptError,
    BlobMissingError,
    ConfigError,
    ConversationError,
    DiskFullError,
    DivergedError,
    EngrainError,
    GateRefused,
    HomeExistsError,
    HomeLockedError,
    HomeNotFoundError,
    HomeReadOnlyError,
    ModelNotFoundError,
    NothingToLearnError,
    ResumeError,
    UnknownNameError,
    UsageError,
)
from engrain.exam.decision import Decision
from engrain.exam.probes import RECALL_KINDS
from engrain.home import Home
from engrain.learn.checkpoint import Checkpoint
from engrain.ledger import Ledger
from engrain.lesson import asked as asking
from engrain.lesson import changes as changing
from engrain.lesson import job as jobbing
from engrain.lesson import stages
from engrain.memory.log import ChatLog
from tests.home.home_tools import (
    SETTINGS,
    conversation,
    examples_file,
    folded,
    live_digest,
    new_home,
    open_home,
)
from tests.ledger.test_ledger_disk import mounted, needs_mount

Opened = Callable[..., Home]

QUESTION = [Message("user", "What is my thing 1?")]
LONG = {
    "learn.recipe": "default",
    "learn.settings.max_steps": 24,
    "learn.settings.min_steps": 24,
}
"""With replay and an anchor, and enough steps for one checkpoint."""


class StoppedError(Exception):
    """What a test raises in the place of a kill."""


def ids(home: Home) -> list[str]:
    return [entry.id for entry in home.lessons()]


def told(monkeypatch: pytest.MonkeyPatch, number: int = 1) -> Lesson:
    """What self-study would make of a conversation; a random model can't read."""
    talk = conversation(number)
    lesson = Lesson(
        "",
        f"thing {number}",
        (
            TrainingText(
                chat(f"What is my thing {number}?", f"W{number}."), "fact", f"thing: W{number}"
            ),
            TrainingText(chat("What is my lamp?", "I don't know your lamp."), "contrast"),
        ),
        (Probe(f"p{number}", "recall", chat(f"Name my thing {number}."), (f"W{number}",)),),
        (talk.digest,),
    )

    class Preview:
        def __init__(self, name: str) -> None:
            self.lesson = replace(lesson, id=name)

    monkeypatch.setattr(jobbing, "make_lesson", lambda *_, name, **__: Preview(name))
    return lesson


# ---------------------------------------------------------------------------- making and opening
def test_a_new_home(tmp_path: Path, model: Path) -> None:
    with new_home(tmp_path / "home", model) as home:
        assert home.state.digest == folded(home, []) == live_digest(home)
        assert home.state.lessons == ()
        assert home.ledger.base().digest == home.loaded.base_digest
        assert home.verify() == []
        made = home.config
    with Home.open(tmp_path / "home") as again:
        # What was given when it was made holds for every later command.
        assert again.config == made
        assert again.served.refresh() == again.state.digest


def test_a_home_is_made_once(taught: Home, model: Path) -> None:
    before = taught.state
    with pytest.raises(HomeExistsError) as caught:
        new_home(taught.path, model)
    assert caught.value.remedy
    assert taught.state == before


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(HomeNotFoundError, match="no home"):
        Home.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_planning_writes_nothing(tmp_path: Path, model: Path) -> None:
    plan = Home.plan(tmp_path / "home", overrides={"model.source": str(model)})
    assert set(plan) == {"home", "model", "base_digest"}
    assert not (tmp_path / "home").exists()


def test_an_unknown_model_makes_no_home(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Home.create(tmp_path / "home", overrides={"model.source": str(tmp_path / "none")})
    assert not (tmp_path / "home").exists()


def test_a_home_in_the_place_of_a_file(tmp_path: Path, model: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(HomeReadOnlyError):
        new_home(tmp_path / "home", model)
    assert (tmp_path / "home").read_text() == "a file"


def test_making_that_was_killed_begins_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "begin", killed)
        with pytest.raises(StoppedError):
            new_home(tmp_path / "home", model)
    with new_home(tmp_path / "home", model) as home:
        assert home.verify() == []


# ---------------------------------------------------------------------------- learning
def test_learning_examples(tmp_path: Path, reopen: Opened) -> None:
    home = reopen()
    before = home.state
    seen: set[str] = set()
    outcome = home.learn(
        examples_file(tmp_path, 4), on_progress=lambda stage, done, total: seen.add(stage)
    )
    assert outcome.accepted and outcome.decision.reasons[0] == "The gate is off."
    assert {"examined_before", "trained", "examined_after"} <= seen
    assert (outcome.state_before, outcome.state_after) == (before.digest, home.state.digest)
    assert home.state.lessons == (*before.lessons, outcome.lesson.id)
    assert home.state.digest == folded(home, home.state.lessons) == live_digest(home)
    assert json.loads(json.dumps(outcome.to_dict()))["lesson"] == outcome.lesson.id

    record = home.show("last")
    assert record.id == outcome.lesson.id and record.job == outcome.job
    assert record.lesson.digest == outcome.lesson.digest
    assert record.exam_after == outcome.exam_after.to_dict()
    assert record.decision["verdict"] == "accepted"
    assert record.recipe == home.recipe().to_dict()
    assert record.measured_seconds > 0 and record.estimated_seconds
    assert home.jobs()[-1].status == "committed"
    assert not list(home.path.glob("jobs/*"))
    assert home.verify() == []

    again = reopen()
    assert again.served.refresh() == outcome.state_after == live_digest(again)


def test_learning_conversations(taught: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = told(monkeypatch)
    outcome = taught.learn(conversation(1))
    assert outcome.accepted and outcome.lesson.sources == lesson.sources
    assert [entry.digest for entry in taught.ledger.list_conversations()] == list(lesson.sources)
    assert taught.ledger.get_conversation(lesson.sources[0]) == conversation(1)
    assert taught.verify() == []


def test_a_chat_of_the_log_is_learned_by_its_name(
    taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = taught.log.begin()
    for message in conversation(1).messages:
        taught.log.append(name, message)
    told(monkeypatch)
    assert taught.learn("last").lesson.sources == (conversation(1).digest,)
    with pytest.raises(ConversationError):
        taught.learn(taught.path / "no-such-file.json")


def test_a_correction_supersedes_the_old_questions(
    taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, 1)
    old = taught.learn(conversation(1)).lesson
    newer = replace(
        old, id="newer", texts=tuple(replace(t, group="thing: Other") for t in old.facts())
    )
    chosen, superseded = taught.asked.questions(newer)
    assert superseded == ["p1"] and chosen[old.id] == ()
    assert set(chosen) == {*taught.state.lessons, "newer"}


def test_nothing_to_learn(taught: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise NothingToLearnError("Nothing is in it.", remedy="Say something.")

    monkeypatch.setattr(jobbing, "make_lesson", nothing)
    before = taught.state
    with pytest.raises(NothingToLearnError):
        taught.learn(conversation(5))
    assert taught.jobs()[-1].status == "failed"
    assert taught.state == before
    # What was said stays, even if nothing was learned from it.
    assert [e.digest for e in taught.ledger.list_conversations()] == [conversation(5).digest]
    with pytest.raises(UsageError):
        taught.resume("last")


def test_a_loss_that_diverges_fails_the_job(
    tmp_path: Path, taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: Any, **__: Any) -> None:
        raise DivergedError("The loss is nan.", remedy="Lower the rate.")

    before = taught.state
    monkeypatch.setattr(stages.Learner, "run", diverges)
    with pytest.raises(DivergedError):
        taught.learn(examples_file(tmp_path, 4))
    assert taught.jobs()[-1].status == "failed"
    assert taught.state == before and live_digest(taught) == before.digest


def test_recipes_that_restart_are_refused(tmp_path: Path, taught: Home) -> None:
    jobs = len(taught.jobs())
    with pytest.raises(ConfigError, match="joint"):
        taught.learn(examples_file(tmp_path, 4), recipe="joint")
    with pytest.raises(UnknownNameError, match="defualt") as caught:
        taught.learn(examples_file(tmp_path, 4), recipe="defualt")
    assert "'default'" in caught.value.remedy
    assert len(taught.jobs()) == jobs


def test_preview_writes_nothing(tmp_path: Path, taught: Home) -> None:
    events = taught.ledger.events()
    preview = taught.preview(examples_file(tmp_path, 4))
    assert preview.lesson.facts()
    assert taught.ledger.events() == events


def test_the_exam_of_a_home(taught: Home) -> None:
    first, second = taught.eval(), taught.eval()
    assert first.digest == second.digest
    assert first.state_digest == taught.state.digest
    assert list(first.results) == list(taught.state.lessons)
    assert first.panel is not None and first.panel.digest == taught.panel.digest


# ---------------------------------------------------------------------------- undo and its like
def test_undo_gives_back_the_digests_before(taught: Home) -> None:
    digests = [state.digest for state in taught.ledger.history()]
    assert len(set(digests)) == 4
    for before in reversed(digests[:-1]):
        change = taught.undo("last")
        assert change.state_after == before == taught.state.digest == live_digest(taught)
    with pytest.raises(UsageError, match="no lesson"):
        taught.undo("last")
    assert taught.verify() == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_any_lesson_can_leave_and_return(taught: Home, position: int) -> None:
    names, whole = ids(taught), taught.state.digest
    rest = [name for name in names if name != names[position]]
    without = folded(taught, rest)
    plan = taught.disable(names[position], dry_run=True)
    assert plan.state_after == without and taught.state.digest == whole
    assert taught.disable(names[position]).state_after == without == live_digest(taught)
    assert taught.disable(rest[0]).state_after == folded(taught, rest[1:])
    taught.enable(rest[0])
    assert taught.enable(names[position]).state_after == whole == live_digest(taught)
    assert taught.undo(names[position]).state_after == without == live_digest(taught)
    with pytest.raises(UsageError):
        taught.enable(names[position])
    assert taught.verify() == []


def test_a_lesson_learned_after_an_undo(tmp_path: Path, taught: Home) -> None:
    taught.undo(ids(taught)[1])
    outcome = taught.learn(examples_file(tmp_path, 4))
    left = [ids(taught)[0], ids(taught)[2], outcome.lesson.id]
    assert outcome.state_after == folded(taught, left)
    assert taught.verify() == []


def test_what_the_others_lose_is_told(taught: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked with the weights before and after, of the lessons that stay, and of no one else."""
    names, whole = ids(taught), taught.state.digest
    asked: list[tuple[str, Any]] = []

    def answered(engine: Any, probes: list[Probe]) -> int:
        asked.append((engine.state_digest, [p.messages for p in probes]))
        return 5 if engine.state_digest == whole else 3

    monkeypatch.setattr(changing, "passed", answered)
    probes = {
        name: [p.messages for p in taught.ledger.lesson(name).probes if p.kind in RECALL_KINDS]
        for name in names
    }
    assert all(probes.values())
    wanted = [*probes[names[1]], *probes[names[2]]]
    plan = taught.undo(names[0], dry_run=True)
    assert plan.later == tuple(names[1:]) and taught.state.digest == whole == live_digest(taught)
    assert plan.others is not None and (plan.others.before, plan.others.after) == (5, 3)
    assert plan.others.lost == pytest.approx(200 / plan.others.asked)
    assert [state for state, _ in asked] == [whole, plan.state_after]
    assert all(sorted(map(str, found)) == sorted(map(str, wanted)) for _, found in asked)
    change = taught.disable(names[0])
    assert change.others == plan.others and change.to_dict()["others"]["after"] == 3
    # It comes back, or the last one leaves: nobody can lose anything.
    assert taught.enable(names[0]).others is None and taught.undo("last").others is None


def test_a_middle_lesson_leaves_and_the_later_are_learned_again(
    tmp_path: Path, taught: Home
) -> None:
    """The weights are those of a home that never learned it."""
    first, second, third = ids(taught)
    states = [state.digest for state in taught.ledger.history()]
    change = taught.undo(second, relearn=True)
    (again,) = change.relearned
    assert again.accepted and again.state_before == states[1]
    assert change.state_after == again.state_after == taught.state.digest == live_digest(taught)
    assert taught.state.lessons == (first, again.lesson.id)
    assert [entry.status for entry in taught.lessons()] == ["active", "undone", "undone", "active"]
    assert again.lesson.texts == taught.ledger.lesson(third).texts
    assert change.others is not None and change.later == (third,)
    # Learned on other weights, so it is another adapter, and to the bit the same each time.
    assert taught.show(again.lesson.id).adapter != taught.show(third).adapter
    taught.undo("last")
    adapter = taught.show(taught.relearn(third).lesson.id).adapter
    assert adapter == taught.show(again.lesson.id).adapter
    taught.undo("last")
    never = taught.learn(examples_file(tmp_path, 3))
    assert never.state_before == states[1] and never.state_after == change.state_after
    assert taught.verify() == []


def test_later_lessons_can_be_learned_again_after_the_undo(
    taught: Home, reopen: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = ids(taught)
    taught.undo(first)
    plan = taught.undo(second, relearn=True, dry_run=True)
    assert plan.later == (third,) and not plan.relearned
    # Another process: its model holds the base weights as yet.
    again, asked = reopen(), []
    before = again.state.digest
    monkeypatch.setattr(
        changing, "passed", lambda engine, _: asked.append(engine.state_digest) or 1
    )
    change = again.undo(first, relearn=True)
    assert asked[0] == before and asked[-1] == change.state_after
    assert [outcome.accepted for outcome in change.relearned] == [True, True]
    assert change.later == (second, third) and len(again.state.lessons) == 2
    assert change.state_after == again.state.digest
    assert again.verify() == []


def test_what_the_gate_refuses_to_learn_again_stays_as_it_was(
    taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = ids(taught)
    refused = Decision("quarantined", ["It was not learned."], [], {})
    monkeypatch.setattr(stages.Stages, "_decided", lambda *_: refused)
    change = taught.undo(second, relearn=True)
    assert [outcome.accepted for outcome in change.relearned] == [False]
    assert taught.state.lessons == (first, third)
    assert change.state_after == taught.state.digest == folded(taught, [first, third])


def test_learning_again_that_is_stopped_loses_nothing(
    taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = ids(taught)

    def stopped(*_: Any) -> None:
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stages.Stages, "_decided", stopped)
        taught.undo(first, relearn=True)
    assert [entry.status for entry in taught.lessons()] == ["undone", "disabled", "disabled"]
    resumed = taught.resume("last")
    assert resumed.accepted and resumed.lesson.texts == taught.ledger.lesson(second).texts
    assert taught.ledger.get_entry(second).status == "undone"
    assert taught.relearn(third).accepted and len(taught.state.lessons) == 2
    assert taught.verify() == []


def test_it_is_learned_again_with_the_recipe_of_the_first_time(reopen: Opened) -> None:
    home = reopen(**{"learn.recipe": "naive-full"})
    last = ids(home)[-1]
    first = home.show(last)
    home.undo("last")
    again = home.show(home.relearn(last).lesson.id)
    assert again.recipe["name"] == "naive-lora" and again.recipe == first.recipe
    assert again.adapter == first.adapter


def test_only_what_is_out_of_service_is_learned_again(taught: Home) -> None:
    last = ids(taught)[-1]
    with pytest.raises(UsageError, match="in service"):
        taught.relearn(last)
    taught.undo("last")
    outcome = taught.relearn(last, recipe="naive-full")
    assert taught.show(outcome.lesson.id).recipe["name"] == "naive-full"
    assert taught.ledger.get_entry(last).status == "undone"


# ---------------------------------------------------------------------------- chat
def test_chat_answers_with_the_weights_in_force(taught: Home) -> None:
    (answer,) = taught.served.engine.generate([QUESTION], max_new_tokens=16)
    assert "".join(taught.chat(QUESTION)).strip() == answer
    assert live_digest(taught) == taught.state.digest
    # Another process takes a lesson out: the next answer is without it.
    plan = taught.ledger.plan("last", "disabled")
    taught.ledger.apply(plan, taught.served.fold_digest(plan.adapters))
    list(taught.chat(QUESTION))
    assert live_digest(taught) == taught.state.digest == folded(taught, plan.lessons)


def test_the_chat_log(taught: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    log = taught.log
    first = log.begin()
    log.append(first, Message("user", "My boat is red."))
    second = log.begin()
    assert second != first
    path = taught.path / "log" / f"{first}.jsonl"
    whole = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError):
            log.append(first, Message("assistant", "Noted."))
    assert path.read_bytes() == whole
    log.append(first, Message("assistant", "Noted again."))
    assert [m.content for m in log.read("last").messages] == ["My boat is red.", "Noted again."]
    # A kill in the middle of a line costs that line only.
    with path.open("ab") as file:
        file.write(b'{"role": "user", "cont')
    assert len(ChatLog(taught.path / "log").read(first)) == 2
    with pytest.raises(UnknownNameError):
        log.read("20200101T000000")


# ---------------------------------------------------------------------------- bad homes
def test_the_base_weights_have_changed(
    tmp_path: Path, taught: Home, model: Path, other_model: Path
) -> None:
    config = taught.path / "config.toml"
    config.write_text(config.read_text().replace(str(model), str(other_model)))
    before = taught.state
    with open_home(taught.path) as home:
        for action in (
            lambda: list(home.chat(QUESTION)),
            lambda: home.learn(examples_file(tmp_path, 4)),
            lambda: home.undo(),
            lambda: home.verify(),
        ):
            with pytest.raises(BaseChangedError) as caught:
                action()
            assert caught.value.remedy
        assert home.state == before and len(home.lessons()) == 3


def test_in_use_by_another_process(
    taught: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told(monkeypatch)
    taught.lock.wait_seconds = 0.0
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(taught.lock.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        before = taught.state
        for action in (
            lambda: taught.learn(conversation(7)),
            lambda: taught.undo(),
            lambda: taught.resume(taught.jobs()[-1].id),
        ):
            with pytest.raises(HomeLockedError) as caught:
                action()
            assert caught.value.remedy
        assert taught.state == before and taught.verify() == []
        assert "".join(taught.chat(QUESTION)) is not None
        # What was said is kept, although it can't be learned now.
        assert [e.digest for e in taught.ledger.list_conversations()] == [conversation(7).digest]
        other.stdin.close()
    assert taught.undo().state_after != before.digest


@needs_mount
def test_a_home_that_can_only_be_read(tmp_path: Path, taught: Home) -> None:
    taught.close()
    with (
        mounted("--bind", "-o", "ro", str(taught.path), on=tmp_path / "mounted"),
        open_home(tmp_path / "mounted") as home,
    ):
        assert home.verify() == []
        assert home.served.refresh() == home.state.digest == live_digest(home)
        assert home.eval().state_digest == home.state.digest
        assert "".join(home.chat(QUESTION)) is not None
        name = home.log.begin()
        for action in (
            lambda: home.learn(examples_file(tmp_path, 4)),
            lambda: home.undo(),
            lambda: home.log.append(name, Message("user", "Hello.")),
        ):
            with pytest.raises(HomeReadOnlyError) as caught:
                action()
            assert caught.value.remedy


# ---------------------------------------------------------------------------- full disks
def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def fill_blobs(home: Home, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "write", refuse)


def fill_checkpoints(home: Home, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Checkpoint, "save", refuse)


def fill_ledger(home: Home, patch: pytest.MonkeyPatch) -> None:
    with home.ledger._database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


@pytest.mark.parametrize("fill", [fill_blobs, fill_checkpoints, fill_ledger])
def test_the_disk_is_full_in_the_middle_of_a_lesson(
    tmp_path: Path,
    reopen: Opened,
    fill: Callable[[Home, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = LONG if fill is fill_checkpoints else {}
    home = reopen(**settings)
    before, source = home.state, examples_file(tmp_path, 4)
    with monkeypatch.context() as patch:

        def on_progress(stage: str, done: int, total: int) -> None:
            if (stage, done) == ("trained", 1):
                fill(home, patch)

        with pytest.raises(DiskFullError) as caught:
            # A ledger grows by pages: it takes some lessons to need one more.
            for number in range(20):
                home.learn(
                    source if not number else examples_file(tmp_path, 100 + number),
                    on_progress=on_progress,
                )
                before = home.state
        assert "space" in caught.value.remedy
    assert home.state == before
    home.close()

    again = reopen(**settings)
    assert again.state == before and again.verify() == []
    outcome = again.resume("last")
    assert outcome.state_after == folded(again, again.state.lessons) == live_digest(again)
    assert again.verify() == []


def test_no_space_for_the_commit(
    tmp_path: Path, reopen: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = reopen()
    before = home.state
    with monkeypatch.context() as patch:
        commit = Ledger.commit

        def full(ledger: Ledger, record: Any) -> Any:
            patch.setattr(os, "write", refuse)
            return commit(ledger, record)

        patch.setattr(Ledger, "commit", full)
        with pytest.raises(DiskFullError):
            home.learn(examples_file(tmp_path, 4))
    assert home.state == before and live_digest(home) == before.digest
    assert home.jobs()[-1].stage == "decided"
    # The same process may go on as soon as there is space.
    assert home.resume("last").accepted
    assert home.verify() == []


def test_measurements_that_can_not_be_kept_stop_nothing(tmp_path: Path, taught: Home) -> None:
    for name in ("panels", "speed"):
        for path in (taught.path / name).iterdir():
            path.write_text("{")
        (taught.path / name).rename(taught.path / f"{name}-old")
        (taught.path / name).write_text("a file in the place of the folder")
    assert taught.learn(examples_file(tmp_path, 4)).accepted


def test_no_space_for_a_new_home(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        with pytest.raises(DiskFullError):
            new_home(tmp_path / "home", model)
    with new_home(tmp_path / "home", model) as home:
        assert home.verify() == []


# ---------------------------------------------------------------------------- damaged lessons
@pytest.mark.parametrize(("gone", "kind"), [(True, BlobMissingError), (False, BlobCorruptError)])
def test_a_damaged_adapter(
    reopen: Opened, tmp_path: Path, gone: bool, kind: type[EngrainError]
) -> None:
    home = reopen()
    damaged = home.lessons()[1]
    path = home.blobs.path(str(damaged.adapter))
    raw = path.read_bytes()
    home.close()
    if gone:
        path.unlink()
    else:
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))

    home = reopen()
    for action in (
        lambda: list(home.chat(QUESTION)),
        lambda: home.learn(examples_file(tmp_path, 4)),
        lambda: home.eval(),
    ):
        with pytest.raises(kind) as caught:
            action()
        assert str(damaged.adapter)[:12] in caught.value.message and caught.value.remedy
    problems = home.verify()
    assert {problem.kind for problem in problems} == {kind.__name__}
    assert any(problem.where == damaged.adapter for problem in problems)
    # The other lessons can be served without it.
    rest = [name for name in ids(home) if name != damaged.id]
    assert home.disable(damaged.id).state_after == folded(home, rest) == live_digest(home)
    assert "".join(home.chat(QUESTION)) is not None
    if gone:
        path.write_bytes(raw)
    else:
        home.blobs.put(raw)
    assert home.enable(damaged.id).state_after == home.ledger.history()[3].digest
    assert home.verify() == []


# ---------------------------------------------------------------------------- interruptions
@pytest.fixture(scope="session")
def uninterrupted() -> dict[str, Any]:
    """What the lesson of the tests below comes to; filled by the first that needs it."""
    return {}


def whole_lesson(reopen: Opened, tmp_path: Path, known: dict[str, Any]) -> tuple[str, str]:
    """The state and the exam after the lesson without any interruption."""
    if not known:
        with reopen(**LONG) as home:
            outcome = home.learn(examples_file(tmp_path, 4))
            known["state"] = outcome.state_after
            known["panel"] = outcome.exam_after.panel
            # The copy is taken by the interrupted run: as if nothing had been.
            home.undo()
    return known["state"], known["panel"]


@pytest.mark.parametrize(
    "stage",
    ["studied", "examined_before", "trained", "examined_after", "decided", "committed", "step"],
)
def test_an_interrupted_lesson_goes_on(
    tmp_path: Path,
    reopen: Opened,
    stage: str,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, panel = whole_lesson(reopen, tmp_path, uninterrupted)
    home = reopen(**LONG)
    before = home.state.digest
    advance, commit = Ledger.advance, Ledger.commit
    with monkeypatch.context() as patch:

        def stop(ledger: Ledger, job: str, name: str, payload: Any = None) -> Any:
            if name == stage:
                raise StoppedError
            return advance(ledger, job, name, payload)

        def stop_commit(ledger: Ledger, record: Any) -> Any:
            if stage == "committed":
                raise StoppedError
            return commit(ledger, record)

        def on_progress(name: str, done: int, total: int) -> None:
            if stage == "step" and (name, done) == ("trained", 22):
                raise StoppedError

        patch.setattr(Ledger, "advance", stop)
        patch.setattr(Ledger, "commit", stop_commit)
        with pytest.raises(StoppedError):
            home.learn(examples_file(tmp_path, 4), on_progress=on_progress)
    assert home.state.digest == before == live_digest(home)
    assert home.verify() == []
    home.close()

    again = reopen()
    steps: list[int] = []
    outcome = again.resume(
        "last", on_progress=lambda name, done, _: steps.append(done) if name == "trained" else None
    )
    assert outcome.state_after == state == again.state.digest == live_digest(again)
    assert outcome.exam_after.panel == panel
    if stage == "step":
        assert steps == [21, 22, 23, 24]
    assert again.jobs()[-1].status == "committed"
    assert not list(again.path.glob("jobs/*"))
    assert again.verify() == []
    with pytest.raises(UsageError, match="ended"):
        again.resume("last")
    with pytest.raises(UnknownNameError):
        again.resume("no-such-job")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_is_gone_on_with_by_another(
    tmp_path: Path, reopen: Opened, uninterrupted: dict[str, Any]
) -> None:
    state, _ = whole_lesson(reopen, tmp_path, uninterrupted)
    home = reopen(**LONG)
    home.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:

        def kill(name: str, done: int, total: int) -> None:
            if (name, done) == ("trained", 23):
                os.kill(os.getpid(), signal.SIGKILL)

        with suppress(BaseException):
            home.learn(examples_file(tmp_path, 4), on_progress=kill)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = reopen()
    assert again.jobs()[-1].status == "interrupted"
    assert again.verify() == []
    assert again.resume(again.jobs()[-1].id[:8]).state_after == state
    assert again.verify() == []


def test_a_job_on_a_state_of_yesterday(tmp_path: Path, reopen: Opened) -> None:
    home = reopen()

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("trained", 2):
            raise StoppedError

    with pytest.raises(StoppedError):
        home.learn(examples_file(tmp_path, 4), on_progress=stop)
    after = home.undo("last")
    with pytest.raises(ResumeError) as caught:
        home.resume("last")
    assert "again" in caught.value.remedy
    assert home.jobs()[-1].status == "failed"
    assert home.state.digest == after.state_after == live_digest(home)
    with pytest.raises(UsageError):
        home.resume("last")
    assert home.verify() == []


def test_thresholds_and_panel_are_those_of_the_beginning(
    tmp_path: Path, reopen: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = reopen()

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("trained", 2):
            raise StoppedError

    for _ in range(2):
        with pytest.raises(StoppedError):
            home.learn(examples_file(tmp_path, 4), on_progress=stop)
    first, second = (job.id for job in home.jobs()[-2:])
    gate = home.ledger.get_job(second).payload["gate"]
    strict = dataclasses.replace(home.config.gate, enabled=True, min_recall=1.0)
    home.config = dataclasses.replace(home.config, gate=strict)
    outcome = home.resume(second)
    assert outcome.accepted and not gate["enabled"]
    home.__dict__["panel"] = home.panel.smaller({"loss": 1})
    with pytest.raises(ResumeError):
        home.resume(first)
    assert home.verify() == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path, reopen: Opened) -> None:
    home = reopen(**LONG)

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("trained", 22):
            raise StoppedError

    with pytest.raises(StoppedError):
        home.learn(examples_file(tmp_path, 4), on_progress=stop)
    (checkpoint,) = home.path.glob("jobs/*.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    with pytest.raises(ResumeError, match="damaged"):
        home.resume("last")
    checkpoint.unlink()
    assert home.resume("last").accepted


# ---------------------------------------------------------------------------- the gate
def test_a_lesson_that_was_not_learned_is_quarantined(tmp_path: Path, reopen: Opened) -> None:
    home = reopen(
        **{
            "gate.enabled": True,
            "gate.max_panel_loss_percent": 100.0,
            "gate.max_total_panel_loss_percent": 100.0,
        }
    )
    before = home.state
    outcome = home.learn(examples_file(tmp_path, 4))
    assert outcome.decision.verdict == "quarantined"
    assert outcome.state_after == outcome.state_before == before.digest
    assert home.state == before and live_digest(home) == before.digest
    entry = home.lessons()[-1]
    assert (entry.status, entry.state) == ("quarantined", before.digest)
    assert home.show(entry.id).decision["reasons"] == outcome.decision.reasons
    # A person may let it in: it is folded where it was decided.
    home.disable(before.lessons[0])
    home.enable(before.lessons[0])
    assert home.enable(entry.id).state_after == folded(home, ids(home)) == live_digest(home)
    assert home.verify() == []


def test_a_lesson_that_does_harm_is_rejected(
    tmp_path: Path, reopen: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = reopen(**{"gate.enabled": True})
    before, asked = home.state, {}

    def harm(*_: Any, **options: Any) -> Decision:
        asked.update(options)
        return Decision("rejected", ["It forgot everything."], [], "")

    monkeypatch.setattr(stages, "decide", harm)
    with pytest.raises(GateRefused) as caught:
        home.learn(examples_file(tmp_path, 4), require=True)
    assert caught.value.exit_code == 3 and "It forgot everything." in caught.value.message
    assert json.loads(caught.value.details["outcome"])["verdict"] == "rejected"
    assert home.state == before and live_digest(home) == before.digest
    assert home.lessons()[-1].status == "rejected"
    with pytest.raises(UsageError):
        home.enable(home.lessons()[-1].id)
    assert home.verify() == []
    # The gate was told everything by which it compares.
    assert set(asked["peaks"]) == set(before.lessons)
    assert asked["lesson"] == home.lessons()[-1].id
    assert asked["origin"].digest == home.panel.digest


def test_the_best_recall_so_far(taught: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = ids(taught)
    right = {
        (first, first): 1.0,
        (second, first): 0.5,
        (second, second): 0.5,
        (third, first): 0.0,
        (third, second): 1.0,
        (third, third): 0.0,
    }

    def exam(record: dict[str, Any]) -> Any:
        learned = next(i for i in reversed(ids(taught)) if i in record["results"])

        class Known:
            results = dict.fromkeys(record["results"])

            def outcomes(self, lesson: str, **_: Any) -> dict[str, bool]:
                share = right[learned, lesson]
                return {"a": share > 0, "b": share > 0.5}

        return Known()

    monkeypatch.setattr(asking.Exam, "from_dict", exam)
    assert taught.asked.peaks() == {first: 1.0, second: 1.0, third: 0.0}
    taught.disable(third)
    # The state with it was in force: what was known then counts, but of active lessons only.
    assert taught.asked.peaks() == {first: 1.0, second: 1.0}


# ---------------------------------------------------------------------------- measured once
@pytest.fixture
def panel_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The states on which a panel was run, as they come."""
    from engrain.exam import exam as exams

    runs: list[str] = []
    really = exams.run_panel

    def counted(engine: Any, panel: Any, **options: Any) -> Any:
        runs.append(engine.state_digest)
        return really(engine, panel, **options)

    monkeypatch.setattr(exams, "run_panel", counted)
    monkeypatch.setattr(asking, "run_panel", counted)
    return runs


def test_panels_are_run_once_and_no_lesson_waits_for_the_noise(
    tmp_path: Path, taught: Home, panel_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a lesson measured the noise band")

    monkeypatch.setattr(asking, "measure_noise", never)
    runs = panel_runs
    assert not (taught.path / "noise").exists() and not taught.asked.known_noise().measured
    outcome = taught.learn(examples_file(tmp_path, 4))
    # Before: known from the lesson before it. So only the candidate is examined.
    assert runs == [outcome.state_after]
    taught.undo()
    runs.clear()
    outcome = taught.learn(examples_file(tmp_path, 5))
    assert runs == [outcome.state_after]
    # A damaged file of measurements is made again, not believed.
    for path in (taught.path / "panels").iterdir():
        path.write_text("{")
    origin = taught.ledger.history()[0].digest
    runs.clear()
    assert taught.asked.origin().digest == taught.panel.digest
    assert taught.asked.origin().digest == taught.panel.digest
    assert runs == [origin] and live_digest(taught) == taught.state.digest


def test_the_first_lesson_runs_the_panel_before_and_after_alone(
    tmp_path: Path, model: Path, panel_runs: list[str]
) -> None:
    runs = panel_runs
    with new_home(tmp_path / "home", model) as home:
        told = home.estimate(examples_file(tmp_path, 1))
        outcome = home.learn(examples_file(tmp_path, 1))
        assert runs == [outcome.state_before, outcome.state_after]
        assert told.once_seconds == 0, "there is no lesson zero, so nothing else is examined"
        assert set(outcome.parts) == set(told.parts) and all(v > 0 for v in outcome.parts.values())
        job = home.ledger.get_job(outcome.job)
        assert job.payload["estimated_parts"] == dict(told.parts)


def test_settings_of_the_tests_are_known(model: Path) -> None:
    assert Home.plan("/nowhere", overrides={"model.source": str(model), **SETTINGS})
