"""The shell of the program: start, help, output, progress."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from engrain.cli import app
from engrain.cli.command import WIDTH, wants_json
from engrain.cli.progress import Course, bar, seconds_left
from engrain.cli.session import Answer, Flags, Session, dumps
from tests.cli.conftest import Run

SNAPSHOT = Path(__file__).parent / "help.txt"
HEAVY = {"torch", "transformers", "peft", "numpy", "sqlalchemy", "matplotlib", "rich"}


def start(*words: str) -> tuple[float, set[str]]:
    """Seconds of work until the program has ended, and the modules that it imported."""
    code = (
        "import sys\nfrom engrain.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    # Work, not time: other programs on a busy machine are no business of this test.
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime
    return seconds, set(done.stderr.split())


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("learn", "--help"), ("config", "show")]
)
def test_a_fast_start(words: tuple[str, ...]) -> None:
    first, modules = start(*words)
    assert not (HEAVY | {"pydantic"}) & modules
    # The least of some: what else the machine does can only add to it.
    runs = [first]
    while min(runs) >= 0.5 and len(runs) < 4:
        runs.append(start(*words)[0])
    assert min(runs) < 0.5


def helps(command: Any, ctx: Any = None, name: str = "engrain") -> Iterator[tuple[str, str]]:
    with command.context_class(command, info_name=name, parent=ctx) as inner:
        yield inner.command_path, command.get_help(inner)
        for child, below in getattr(command, "commands", {}).items():
            yield from helps(below, inner, child)


def test_help_is_what_it_was() -> None:
    found = "\n\n".join(f"$ {path} --help\n{text}" for path, text in helps(get_command(app)))
    if os.environ.get("ENGRAIN_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(f"{found}\n", encoding="utf-8")
    # After a wanted change: ENGRAIN_UPDATE_SNAPSHOTS=1 pytest tests/cli/test_shell.py
    assert f"{found}\n" == SNAPSHOT.read_text(encoding="utf-8")


def test_every_help_is_narrow_and_shows_an_example() -> None:
    for path, text in helps(get_command(app)):
        assert max(map(len, text.splitlines())) <= WIDTH < 80
        words = path.split()
        if not text.count("Commands:"):
            assert f"\n  engrain {' '.join(words[1:])}" in text
            for option in ("--json", "--quiet", "--home", "--debug"):
                assert option in text


def test_help_of_a_verb(run: Run) -> None:
    done = run("lessons", "undo", "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: engrain lessons undo [LESSON] [OPTIONS]\n")


def test_python_m_engrain() -> None:
    command = [sys.executable, "-m", "engrain", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("engrain ")


@pytest.mark.parametrize(
    ("words", "shown"),
    [([], "warning: rank 9\n"), (["--quiet"], ""), (["--debug"], "warning: rank 9\nFutureWarning")],
)
def test_our_warnings_are_one_line_and_those_of_libraries_none(
    words: list[str], shown: str
) -> None:
    code = (
        "import warnings\nfrom engrain.cli import main\nfrom engrain.errors import EngrainWarning\n"
        f"try:\n    main(['--version', *{words}])\nexcept SystemExit:\n    pass\n"
        "warnings.warn('rank 9', EngrainWarning)\nwarnings.warn('soon', FutureWarning)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.replace("<string>:9: ", "").partition(": soon")[0] == shown


def test_version_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "engrain", "--version", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith('{"version": ')


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("lessons list --json", True),
        ("--json lessons list", True),
        ("lessons list", False),
        ("demo --json", True),
        ("demo --json demo.json", False),
        ("demo --json -", True),
        ("--json demo", True),
        ("bench life --json --days 3", True),
        ("bench life --json life.json --days 3", False),
        ("chat --once hello -- --json", False),
    ],
)
def test_where_json_goes(line: str, wanted: bool) -> None:
    assert wants_json(line.split()) is wanted


class Ascii(io.TextIOWrapper):
    """A terminal of the old days."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", errors="replace")

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode("ascii")


def test_output_without_unicode() -> None:
    from engrain.cli.sheets import tables
    from engrain.exam.report import Sheet

    file = Ascii()
    sheet = Sheet("Gate: accepted", ("check", "after"), (("recall", "–"),))
    Session(Flags(), file).show(Answer({}, tables(sheet)))
    Session(Flags(), file).show(Answer({}, "naïve – done"))
    Session(Flags(json=True), file).show(Answer({"title": "naïve", "share": float("nan")}))
    assert "recall" in file.text()
    assert "na?ve" in file.text()
    assert '"title": "na\\u00efve"' in file.text()
    assert '"share": null' in file.text()


def test_json_keeps_unicode_where_it_can() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert dumps({"title": "naïve"}, file) == '{\n  "title": "naïve"\n}'


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_no_colours_in_a_pipe(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engrain", "lern"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", **variables},
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("Error (UnknownNameError): ")


def test_colours_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain.cli import command

    monkeypatch.setattr(command, "colourful", lambda: True)
    assert "\x1b[" in run("lern").err


def test_a_lesson_fills_the_bar_once() -> None:
    course = Course()
    shares = []
    stages = [("noise", 1, 4), ("noise", 4, 4)]
    for stage, done, total in stages:
        course.reach(stage, done, total)
    assert course.share == 1.0
    lesson = [("studied", 1, 5), ("studied", 5, 5), ("examined_before", 0, 1)]
    lesson += [("trained", step, 40) for step in range(41)]
    lesson += [("examined_after", 0, 1), ("examined_after", 1, 1)]
    for stage, done, total in lesson:
        course.reach(stage, done, total)
        shares.append(course.share)
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == pytest.approx(1.0)
    course.reach("studied", 1, 5)
    assert course.share < 0.1
    course.reach("noise", 4, 4)
    course.reach("examined_before", 0, 1)
    assert course.share == pytest.approx(0.25)
    course.reach("a stage of tomorrow", 1, 2)
    assert course.words == "a stage of tomorrow 1/2"


def test_time_left() -> None:
    assert seconds_left(10, 0.5, None) == 10
    assert seconds_left(10, 0.0, None) is None
    assert seconds_left(10, 0.1, 40) == 30
    # An estimate that was too low holds no longer than it lasts.
    assert seconds_left(50, 0.5, 40) == 50


def test_the_bar_is_drawn_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("Learning", 30.0) as on_progress:
        on_progress("trained", 3, 40)
    assert capsys.readouterr().out == ""


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Session(Flags()).progress("Learning") as on_progress:
        on_progress("trained", 3, 40)
    assert capsys.readouterr().err == ""
