"""Lessons leave and arrive at the command line, and are told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import OPEN_GATE, QUICK, Run


@pytest.fixture
def carried(run: Run, taught: str, tmp_path: Path) -> Path:
    file = tmp_path / "doors.lesson"
    done = run("lessons", "export", taught, str(file))
    assert done.code == 0 and "5 texts, 1 probe, adapter " in done.out
    return file


def test_a_lesson_goes_to_another_home(
    run: Run, taught: str, carried: Path, model: Path, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    assert run("init", "--home", other, "--model", str(model)).code == 0
    looked = run("lessons", "import", str(carried), "--home", other, "--dry-run")
    assert looked.code == 0 and "What is the code of door" in looked.out
    assert run("lessons", "list", "--home", other, "--json").json == {"lessons": []}
    done = run("lessons", "import", str(carried), "--home", other, "--json")
    assert done.json["origin"]["lesson"] == taught
    assert done.code == (0 if done.json["verdict"] == "accepted" else 3)
    there = run("lessons", "show", "last", "--home", other, "--json").json
    assert there["adapter"] == run("lessons", "show", taught, "--json").json["adapter"]
    shown = run("lessons", "show", "last", "--home", other).out
    assert f"lesson {taught} of another home, file" in shown
    assert run("lessons", "verify", "--home", other).code == 0


def test_show_tells_answers_before_and_after(run: Run, taught: str) -> None:
    shown = run("lessons", "show", taught).out
    assert "What it changed: questions held out of it, answered before and after" in shown
    assert "wrong: " in shown and "What is the code of door" in shown
    answers = run("lessons", "show", taught, "--json").json["answers"]
    assert [set(one) for one in answers] == [
        {"lesson", "question", "before", "after", "right_before", "right_after"}
    ]


def test_diff(run: Run, taught: str, tmp_path: Path) -> None:
    path = tmp_path / "names.jsonl"
    lines = [{"prompt": f"Who has door {i}?", "completion": f"N{i}."} for i in range(6)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert run("learn", str(path), *QUICK, "--set", "architecture.rank=2", *OPEN_GATE).code == 0
    done = run("lessons", "diff", taught, "last")
    assert done.code == 0
    for words in ("Only A teaches", "Only B teaches", "Who has door", "Recall", "Recipe", "after"):
        assert words in done.out
    assert "Both teach" not in done.out and "Told otherwise" not in done.out
    assert run("lessons", "diff", taught, "last", "--json").json["only_second"]
    assert run("lessons", "diff", taught, "nothing").code == 2


def test_export_says_how_it_answered(run: Run, taught: str, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "adapter"))
    assert done.code == 0
    assert "peft" in done.out and "1 lesson in force" in done.out
    assert "1 of 1 probes answered alike in PEFT" in done.out
    found = run("export", str(tmp_path / "merged"), "--format", "transformers", "--json").json
    assert found["answered"]["alike"] == 1 and found["lessons"] == [taught]
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("lessons", "import", "none.lesson"), "LessonFileError"),
        (("lessons", "export", "nowhere", "a.lesson"), "UnknownNameError"),
        (("export", "a", "--format", "onnx"), "UnknownNameError"),
        (("export", "a", "--format", "gguf", "--quant", "q2"), "UnknownNameError"),
    ],
)
def test_what_can_t_be_done_is_named(
    run: Run, taught: str, words: tuple[str, ...], name: str
) -> None:
    done = run(*words)
    assert done.code == 2 and f"Error ({name})" in done.err and done.out == ""


def test_a_cut_off_file_changes_nothing(run: Run, taught: str, carried: Path) -> None:
    run("lessons", "undo", taught)
    before = run("lessons", "list", "--json").json
    raw = carried.read_bytes()
    carried.write_bytes(raw[: len(raw) // 2])
    done = run("lessons", "import", str(carried), "--json")
    assert (done.code, done.json["error"]) == (2, "LessonFileError")
    assert run("lessons", "list", "--json").json == before


def test_a_home_without_lessons_has_no_adapter(run: Run, home: Path, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "a"))
    assert done.code == 1 and "Error (ExportError)" in done.err
