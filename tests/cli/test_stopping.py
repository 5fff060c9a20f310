"""Ctrl-C, pipes that close, and errors that nobody foresaw."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import OPEN_GATE, QUICK, Run


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_a_lesson_that_is_stopped_can_be_resumed(
    run: Run, home: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.learn.learner import Learner

    words = ("learn", str(examples), *QUICK, *OPEN_GATE)
    # What it will cost is measured once, with the learner itself.
    assert run(*words, "--dry-run").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "run", stop)
        done = run(*words)
        assert (done.code, done.out) == (130, "")
        job = run("jobs", "list", "--quiet").out.strip()
        told, _, rest = done.err.partition("\n")
        assert told.startswith("About ")
        assert rest == (
            f"Stopped: Nothing was changed.\n  Continue with `engrain jobs resume {job}`.\n"
        )
        as_json = run(*words, "--json")
        assert as_json.code == 130
        assert as_json.json["error"] == "Stopped"
    assert run("lessons", "list", "--json").json == {"lessons": []}
    planned = run("jobs", "resume", job, "--dry-run", "--json").json
    assert planned["stage"] == "examined_before"
    resumed = run("jobs", "resume", job, "--json")
    # The gate was open when the job began, and so it is in the resumed run.
    assert resumed.code == 0
    assert resumed.json["job"] == job
    again = run("jobs", "resume", job)
    assert again.code == 2
    assert "has ended" in again.err


CODE = """
import signal, sys, time
# A suite that a shell runs in the background ignores the signal, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
from dataclasses import replace
from engrain.cli import main
from engrain.exam import panel
from engrain.lesson.cost import Estimate
from engrain.lesson.fit import Memory
from engrain.learn.learner import Learner
from engrain.lesson.job import Jobs

def slow(*_, **__):
    print("learning", file=sys.stderr, flush=True)
    time.sleep(60)

whole = panel.load_panel()
small = replace(whole, texts=whole.texts[:2], choices=(), questions=())
panel.load_panel = lambda name="default": small
fits = Memory({"training": {"program": 1}}, 2)
Jobs._estimate = lambda *_: Estimate("quick", {"training": 1.0}, fits)
Learner.run = slow
main(sys.argv[1:])
"""


def test_a_real_ctrl_c(run: Run, home: Path, examples: Path) -> None:
    command = [sys.executable, "-c", CODE, "learn", str(examples), *QUICK]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as other:
        assert other.stderr is not None
        assert other.stderr.readline().startswith("About 1 s")
        assert other.stderr.readline() == "learning\n"
        other.send_signal(signal.SIGINT)
        out, err = other.communicate(timeout=60)
    assert (other.returncode, out) == (130, "")
    (job,) = run("jobs", "list", "--json").json["jobs"]
    assert (job["status"], job["stage"]) == ("interrupted", "examined_before")
    assert err.endswith(f"Continue with `engrain jobs resume {job['job']}`.\n")
    assert job["job"] in run("doctor").out
    assert run("jobs", "resume", "--dry-run", "--quiet").out == f"{job['job']}\n"
    # The panel of that process was another, so its exam before can't be compared.
    assert run("jobs", "resume", "--json").code != 0


def test_ctrl_c_elsewhere(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain.home import Home

    monkeypatch.setattr(Home, "eval", stop)
    done = run("eval")
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("Stopped: ")


def test_ctrl_c_in_an_answer_keeps_what_was_said(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.home import Home

    def chat(*_: Any, **__: Any) -> Any:
        yield "half an"
        raise KeyboardInterrupt

    monkeypatch.setattr(Home, "chat", chat)
    done = run("chat", "--once", "Hello")
    assert done.code == 130
    (path,) = (home / "log").glob("*.jsonl")
    assert "half an" in path.read_text()
    assert "Hello" in path.read_text()


def test_what_nobody_foresaw(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain.home import Home

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(Home, "lessons", broken)
    done = run("lessons", "list")
    assert done.code == 1
    assert "ZeroDivisionError: by nought" in done.err
    assert "--debug" in done.err
    assert "Traceback" in run("lessons", "list", "--debug").err
    as_json = run("lessons", "list", "--debug", "--json")
    assert "Traceback" in as_json.err
    assert as_json.json["exit_code"] == 1


def test_a_pipe_that_closes(home: Path) -> None:
    command = f"{sys.executable} -m engrain config schema | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_a_library_that_prints_does_not_spoil_the_json(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.home import Home

    lessons = Home.lessons

    def talkative(self: Home) -> Any:
        print("Loading things...")
        return lessons(self)

    monkeypatch.setattr(Home, "lessons", talkative)
    done = run("lessons", "list", "--json")
    assert done.json == {"lessons": []}
    assert "Loading" in done.err
