"""Homes on a tiny random model, and a way to run the program in this process."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer import testing
from typer.main import get_command
from typer.testing import CliRunner

from engrain.cli import app

PROGRAM = get_command(app)

QUICK = ("--recipe", "naive-lora", "--set", "min_steps=2", "--set", "epochs=1")
"""A lesson of a second: what it learns does not matter here."""
OPEN_GATE = ("--set", "gate.enabled=false")
CHAT = {
    "messages": [
        {"role": "user", "content": "My boat is called Corvath."},
        {"role": "assistant", "content": "Noted."},
    ]
}


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``engrain WORDS...`` in this process."""
    # Typer's runner would make all commands anew for each; what it calls has this name for long.
    monkeypatch.setattr(testing, "_get_command", lambda _: PROGRAM, raising=False)

    def invoke(*words: str, stdin: str | bytes | None = None) -> Done:
        found = CliRunner().invoke(app, list(words), input=stdin)
        assert found.exception is None or isinstance(found.exception, SystemExit)
        assert "Traceback" not in found.output or "--debug" in words
        return Done(found.exit_code, found.stdout, found.stderr)

    return invoke


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in a folder, as ``--model`` takes it."""
    from engrain.model.testing import save_tiny, tiny_model

    return save_tiny(tiny_model("llama"), tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def read_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's model is read from the disk once, where each command would read it again.

    Any other model is read as ever: those are what tests of reading are about.
    """
    if "model" not in request.fixturenames:
        return
    from engrain.model import loading

    model, read = str(request.getfixturevalue("model")), loading.load_model

    def load(source: str, **given: Any) -> Any:
        if source != model:
            return read(source, **given)
        key = repr((source, sorted(given.items())))
        if key not in _read:
            _read[key] = read(source, **given)
        return copy.deepcopy(_read[key])

    monkeypatch.setattr(loading, "load_model", load)


_read: dict[str, Any] = {}


def ask_little(patch: pytest.MonkeyPatch) -> None:
    from engrain.exam import panel

    whole = panel.load_panel()
    small = replace(
        whole, texts=whole.texts[:2], choices=whole.choices[:4], questions=whole.questions[::20]
    )
    patch.setattr(panel, "load_panel", lambda name="default": small)


@pytest.fixture(autouse=True)
def measured_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products: what `doctor` measures does not matter here."""
    from engrain.model import peak

    for name, value in (("WIDTH", 128), ("READ_BYTES", 1 << 20), ("SECONDS", 0.002)):
        monkeypatch.setattr(peak, name, value)


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel of a few items: the whole one takes a tiny byte model too long."""
    ask_little(monkeypatch)


def write_examples(path: Path) -> Path:
    lines = [
        {"prompt": f"What is the code of door {i}?", "completion": f"It is {i}{i}."}
        for i in range(1, 7)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def homes(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home without lessons and one with one, made once; what was measured is in both."""
    place = tmp_path_factory.mktemp("homes")
    fresh, taught = place / "fresh", place / "taught"
    begin = ("init", "--home", str(fresh), "--model", str(model), "--set", "model.threads=1")
    learn = ("learn", str(write_examples(place / "examples.jsonl")), "--home", str(taught))
    with pytest.MonkeyPatch.context() as patch:
        ask_little(patch)
        made = CliRunner().invoke(app, begin)
        assert made.exit_code == 0, made.output
        shutil.copytree(fresh, taught)
        made = CliRunner().invoke(app, [*learn, *QUICK, *OPEN_GATE])
        assert made.exit_code == 0, made.output
    for name in ("noise", "panels", "speed"):
        if (taught / name).is_dir():
            shutil.copytree(taught / name, fresh / name)
    return fresh, taught


@pytest.fixture
def home(homes: tuple[Path, Path], own_home: Path, few_questions: None) -> Path:
    """A copy of the home without lessons, where ENGRAIN_HOME points."""
    shutil.copytree(homes[0], own_home)
    return own_home


@pytest.fixture
def taught(homes: tuple[Path, Path], home: Path, run: Run) -> str:
    """A home with one active lesson instead; gives its id."""
    shutil.rmtree(home)
    shutil.copytree(homes[1], home)
    return run("lessons", "list", "--quiet").out.strip()


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Explicit examples, which need no self-study."""
    return write_examples(tmp_path / "examples.jsonl")


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps(CHAT), encoding="utf-8")
    return path


@pytest.fixture
def studied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Self-study that finds one fact in any conversation; gives how often it was asked."""
    from engrain.data.lessons import Lesson, Probe, TrainingText, chat
    from engrain.data.messages import Conversation
    from engrain.lesson import job
    from engrain.study import lesson as room

    asked: list[int] = []

    def make_lesson(
        engine: Any, conversations: Sequence[Conversation], *, name: str = "", **_: Any
    ) -> room.Preview:
        asked.append(len(conversations))
        made = Lesson(
            name,
            "your boat's name",
            (TrainingText(chat("What is my boat called?", "Corvath."), "fact", "boat"),),
            (Probe("p-1", "recall", chat("How is my boat called?"), ("Corvath",)),),
            tuple(c.digest for c in conversations),
        )
        fact = room.PreviewedFact(
            0,
            "Corvath",
            "My boat is called Corvath.",
            ("What is my boat called?",),
            ("How is my boat called?",),
            2.5,
        )
        dropped = {"conversation": 0, "index": 1, "reason": "it holds a secret", "excerpt": "***"}
        refused = (("What is the sea?", "answered the same without the conversation"),)
        return room.Preview(
            title=made.title,
            facts=(fact,),
            messages=(dropped,),
            questions=refused,
            examples=(),
            missed=("It is red.",),
            seconds=0.1,
            proposed=made,
        )

    monkeypatch.setattr(job, "make_lesson", make_lesson)
    return asked
