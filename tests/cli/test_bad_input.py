"""Every bad input has a name, a remedy, an exit code, no traceback, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import OPEN_GATE, QUICK, Done, Run

USER = {"role": "user", "content": "My boat is called Corvath."}


def refused(run: Run, *words: str, name: str, code: int, **given: Any) -> Done:
    """The command fails by that name, in words and in JSON alike."""
    said = run(*words, **given)
    assert (said.code, said.out) == (code, ""), said
    # A lesson that fits is announced before it begins, and may fail after that.
    lines = said.err.splitlines(keepends=True)
    told = lines[:1] if lines[0].startswith("About ") and "of memory" in lines[0] else []
    head, _, remedy = "".join(lines[len(told) :]).partition("\n")
    assert head.startswith(f"Error ({name}): ")
    assert remedy.strip(), said.err
    as_json = run(*words, "--json", **given)
    assert as_json.code == code
    assert as_json.json["error"] == name
    assert as_json.json["exit_code"] == code
    assert as_json.json["remedy"]
    return said


def state(run: Run) -> tuple[Any, ...]:
    """What must not change: lessons, jobs that ended well, and that all digests agree."""
    verified = run("lessons", "verify", "--json")
    assert verified.code == 0, verified.out
    return run("lessons", "list", "--json").json["lessons"], verified.json["states"]


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.json", b"", "is empty"),
    "blank": ("a.json", b" \n ", "is empty"),
    "no messages": ("a.json", b'{"messages": []}', "no message of a user"),
    "not JSON": ("a.json", b'{"messages": [', "not JSON"),
    "bad lines": ("a.jsonl", b'{"messages": [{"role": "user"}]}\n{oops\n', "a.jsonl:2"),
    "a number": ("a.json", b"7", "not JSON"),
    "wrong role": ("a.json", b'[{"role": "robot", "content": "x"}]', "robot"),
    "no role": ("a.json", b'{"messages": [{"content": "x"}]}', "role"),
    "only assistant": (
        "a.json",
        b'{"messages": [{"role": "assistant", "content": "x"}]}',
        "no message of a user",
    ),
    "an image": (
        "a.json",
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        "not text",
    ),
    "not UTF-8": ("a.json", b'[{"role": "user", "content": "caf\xe9"}]', "not UTF-8"),
    "no chat": ("a.txt", b"Dear Anna, all is well.", "no transcript"),
    "a damaged archive": ("a.zip", b"PK\x03\x04 and no more", "damaged archive"),
    "a damaged log": ("logs.db", b"SQLite format 3\0" + b"x" * 2000, "can't be read"),
    "10 MB": (
        "a.json",
        json.dumps({"messages": [{**USER, "content": "x" * 10_000_000}]}).encode(),
        "10,000,000 bytes",
    ),
    "lone surrogate": (
        "a.json",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "Unicode",
    ),
    "deep": ("a.json", b"[" * 100_000, "not JSON"),
    "null bytes": ("a.json", b"\0\0\0\0", "no text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_conversations(case: str, run: Run, home: Path, tmp_path: Path) -> None:
    name, raw, words = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(raw)
    said = refused(run, "learn", str(path), name="ConversationError", code=2)
    assert words in said.err
    assert len(said.err) < 2000
    assert run("jobs", "list", "--json").json == {"jobs": []}


def test_files_that_can_not_be_read(run: Run, home: Path, tmp_path: Path) -> None:
    before = state(run)
    for path in ("/nowhere/a.json", str(tmp_path), "", "a\0b"):
        refused(run, "learn", path, name="ConversationError", code=2)
    assert state(run) == before


def test_there_is_no_chat_yet(run: Run, home: Path) -> None:
    assert "engrain chat" in refused(run, "learn", "last", name="UnknownNameError", code=2).err


def test_a_conversation_in_which_nothing_is_told(run: Run, home: Path, tmp_path: Path) -> None:
    before = state(run)
    path = tmp_path / "greeting.json"
    path.write_text('[{"role": "user", "content": "Hello."}]')
    words = ("learn", str(path), "--set", "learn.effort=low")
    said = refused(run, *words, name="NothingToLearnError", code=1)
    assert "Nothing to learn was found" in said.err
    assert state(run) == before


def test_messages_in_a_chat(run: Run, home: Path) -> None:
    name = "ConversationError"
    refused(run, "chat", "--once", " ", name=name, code=2)
    refused(run, "chat", "--once", "-", stdin=b"caf\xe9", name=name, code=2)
    refused(run, "chat", "--once", "-", stdin="x" * 10_000_000, name=name, code=2)
    refused(run, "chat", stdin=b"caf\xe9\n", name=name, code=2)
    assert not (home / "log").exists()


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("words", "name", "hint"),
    [
        (("lern",), "UnknownNameError", "'learn'"),
        (("lessons", "lsit"), "UnknownNameError", "'list'"),
        (("learn", "--recpie", "x", "y"), "UsageError", "--recipe"),
        (("learn",), "UsageError", "CONVERSATION"),
        (("learn", "a.json", "b.json"), "UsageError", "b.json"),
        (("bench", "life", "--seeds", "many"), "UsageError", "--seeds"),
        (("learn", "x", "--recipe", "defualt"), "UnknownNameError", "'default'"),
        (("learn", "x", "--recipe", "joint"), "ConfigError", "bench life"),
        (("learn", "x", "--set", "restart=true"), "ConfigError", "bench life"),
        (("learn", "x", "--set", "optimization.learning_rat=1"), "UnknownNameError", "_rate'"),
        (("learn", "x", "--set", "optimization.learning_rate=fast"), "ConfigError", "a number"),
        (("learn", "x", "--set", "optimization.learning_rate=7"), "ConfigError", "outside"),
        (("learn", "x", "--set", "architecture.targets=some"), "ConfigError", "attention"),
        (("learn", "x", "--set", "replay.dram.share=1"), "UnknownNameError", "dream"),
        (("learn", "x", "--set", "epochs=nan"), "ConfigError", "a number"),
        (("learn", "x", "--set", "batch_size=0"), "ConfigError", "above 0"),
        (("learn", "x", "--set", "epoch=3"), "UnknownNameError", "'epochs'"),
        (("learn", "x", "--set", "learn.efort=low"), "ConfigError", "learn.effort"),
        (("learn", "x", "--set", "learn.effort=lots"), "ConfigError", "normal"),
        (("learn", "x", "--set", "gate.min_recall=2"), "ConfigError", "outside"),
        (("learn", "x", "--set", "nonsense"), "ConfigError", "KEY=VALUE"),
        (("methods", "show", "resevoir"), "UnknownNameError", "'reservoir'"),
        (("bench", "life", "--recipe", "joynt"), "UnknownNameError", "'joint'"),
        (("lessons", "show", "zzz"), "UnknownNameError", "last"),
        (("lessons", "undo"), "UsageError", "lessons list"),
        (("jobs", "resume", "zzz"), "UnknownNameError", "last"),
        (("jobs", "resume"), "UsageError", "jobs list"),
    ],
)
def test_unknown_names_and_bad_values(
    words: tuple[str, ...], name: str, hint: str, run: Run, home: Path
) -> None:
    assert hint in refused(run, *words, name=name, code=2).err


def test_an_option_without_its_value(run: Run) -> None:
    done = run("lessons", "list", "--home")
    assert done.code == 2
    assert "--home" in done.err


def test_a_group_without_a_verb_shows_its_help(run: Run) -> None:
    for words in ((), ("lessons",), ("--quiet",)):
        done = run(*words)
        assert (done.code, done.out) == (2, "")
        assert "Commands:" in done.err
    assert run("--json").json["error"] == "NoCommand"


def test_settings_files(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text("[learn]\neffrot = 'low'\n")
    assert "learn.effort" in refused(run, "config", "show", name="ConfigError", code=2).err
    (home / "config.toml").write_text("[learn\n")
    refused(run, "lessons", "list", name="ConfigError", code=2)
    (home / "config.toml").unlink()
    monkeypatch.setenv("ENGRAIN_CHAT__TEMPERATURE", "hot")
    refused(run, "chat", "--once", "x", name="ConfigError", code=2)


# ---------------------------------------------------------------------------- models


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def no_template(folder: Path) -> None:
    for path in folder.glob("*.jinja"):
        path.unlink()
    change_json(folder / "tokenizer_config.json", lambda r: r.pop("chat_template", None))


def more_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)


BAD_MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no template": (no_template, "NoChatTemplateError"),
    "another tokenizer": (more_tokens, "TokenizerMismatchError"),
    "no config": (lambda f: (f / "config.json").unlink(), "ModelNotFoundError"),
    "damaged weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"oops"),
        "CorruptModelError",
    ),
    "an encoder": (
        lambda f: change_json(
            f / "config.json", lambda r: r.update(architectures=["BertForMaskedLM"])
        ),
        "UnsupportedModelError",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models(case: str, run: Run, model: Path, tmp_path: Path, own_home: Path) -> None:
    spoil, name = BAD_MODELS[case]
    folder = tmp_path / "spoilt"
    shutil.copytree(model, folder)
    spoil(folder)
    refused(run, "init", "--model", str(folder), name=name, code=1)
    assert not own_home.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def another_family(path: Path) -> None:
    from tests.model.gguf_files import random_model, write

    write(path, random_model("llama"), family="mamba")


def another_quantisation(path: Path) -> None:
    raw, name = path.read_bytes(), b"token_embd.weight"
    # Behind the name: how many sides the matrix has, the two sides, and how it is stored.
    at = raw.index(name) + len(name) + 4 + 16
    path.write_bytes(raw[:at] + (777).to_bytes(4, "little") + raw[at + 4 :])


def no_gguf(path: Path) -> None:
    path.write_bytes(b"PK and no GGUF")


BAD_GGUF: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (cut, "CorruptModelError"),
    "another format": (no_gguf, "CorruptModelError"),
    "another family": (another_family, "UnsupportedModelError"),
    "another quantisation": (another_quantisation, "UnsupportedModelError"),
    "gone": (Path.unlink, "ModelNotFoundError"),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_gguf_files(
    case: str, run: Run, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.model.gguf_files import random_model, write

    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    spoil, name = BAD_GGUF[case]
    path = write(tmp_path / "mine.gguf", random_model("llama"))
    spoil(path)
    refused(run, "init", "--model", str(path), name=name, code=1)
    assert not own_home.exists()
    assert not list((tmp_path / "models").glob("[!.]*"))


def test_a_disk_without_room_for_a_model(
    run: Run, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from engrain.model import disk
    from tests.model.gguf_files import random_model, write

    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    path = write(tmp_path / "mine.gguf", random_model("llama"))
    said = refused(run, "init", "--model", str(path), name="DiskFullError", code=1)
    assert "ENGRAIN_MODELS" in said.err and not own_home.exists()


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "nobody/nothing-of-that-name"])
def test_models_that_are_not_there(source: str, run: Run, own_home: Path) -> None:
    words = ("init", "--model", source, "--set", "model.local_only=true")
    refused(run, *words, name="ModelNotFoundError", code=1)
    assert not own_home.exists()


def test_base_weights_that_changed(run: Run, model: Path, own_home: Path, tmp_path: Path) -> None:
    from engrain.model.testing import save_tiny, tiny_model

    folder = tmp_path / "mine"
    shutil.copytree(model, folder)
    assert run("init", "--model", str(folder)).code == 0
    save_tiny(tiny_model("llama", seed=1), folder)
    for words in (("chat", "--once", "Hello"), ("lessons", "verify"), ("eval",)):
        refused(run, *words, name="BaseChangedError", code=1)
    assert "BaseChangedError" in run("doctor").out
    shutil.rmtree(folder)
    shutil.copytree(model, folder)
    assert run("lessons", "verify").code == 0


# ---------------------------------------------------------------------------- homes


def test_there_is_no_home(run: Run, own_home: Path) -> None:
    for words in (("chat", "--once", "x"), ("learn", "x.json"), ("lessons", "list"), ("eval",)):
        said = refused(run, *words, name="HomeNotFoundError", code=1)
        assert "engrain init" in said.err
    assert not own_home.exists()


def test_damaged_and_missing_blobs(
    run: Run, home: Path, taught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = run("lessons", "show", "last", "--json").json["adapter"]
    path = home / "blobs" / adapter[:2] / adapter[2:]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    refused(run, "chat", "--once", "Hello", name="BlobCorruptError", code=1)
    found = run("lessons", "verify", "--json")
    assert found.code == 1
    assert {p["kind"] for p in found.json["problems"]} == {"BlobCorruptError"}
    path.unlink()
    refused(run, "chat", "--once", "Hello", name="BlobMissingError", code=1)
    found = run("lessons", "verify")
    assert found.code == 1
    assert "BlobMissingError" in found.out
    assert "backup" in found.out
    # What was said meanwhile is in the log, and the lesson can be taken out without its file.
    assert len(list((home / "log").glob("*.jsonl"))) == 4
    assert run("lessons", "disable", taught).code == 0
    assert run("chat", "--once", "Hello").code == 0
    path.write_bytes(whole)
    assert run("lessons", "enable", taught).code == 0
    assert state(run)[0][0]["status"] == "active"


def test_a_damaged_ledger(run: Run, home: Path) -> None:
    (home / "ledger.db").write_bytes(b"not a database, but long enough to look at" * 100)
    refused(run, "lessons", "list", name="LedgerError", code=1)
    assert "LedgerError" in run("doctor").out
    # A new home must not cover it up.
    refused(run, "init", name="LedgerError", code=1)


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_learning(
    run: Run,
    home: Path,
    taught: str,
    examples: Path,
    conversation: Path,
    studied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engrain.home import Home
    from engrain.learn.checkpoint import Checkpoint
    from engrain.ledger import blobs

    before = state(run)
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "_write_durably", full)
        words = ("learn", str(conversation), *QUICK, *OPEN_GATE)
        refused(run, *words, name="DiskFullError", code=1)
    with Home.open() as opened:
        assert len(opened.ledger.list_conversations()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", full)
        words = ("learn", str(examples), "--recipe", "naive-lora", "--set", "min_steps=20")
        refused(run, *words, *OPEN_GATE, name="DiskFullError", code=1)
    assert state(run) == before
    waiting = [
        j["job"] for j in run("jobs", "list", "--json").json["jobs"] if j["stage"] != "committed"
    ]
    # The first goes on where the disk was full, by the gate of its beginning; it is accepted, so
    # the second stands on a state that is no longer served.
    assert run("jobs", "resume", waiting[0]).code == 0
    stale = run("jobs", "resume", waiting[1])
    assert (stale.code, "Error (ResumeError)" in stale.err) == (1, True)


def test_a_full_disk_in_a_chat(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    refused(run, "chat", "--once", "Hello", name="DiskFullError", code=1)


def test_a_full_disk_at_init(
    run: Run, model: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        refused(run, "init", "--model", str(model), name="DiskFullError", code=1)
    assert run("init", "--model", str(model)).code == 0


HOLD = """
import sys
from engrain.ledger.lock import HomeLock
with HomeLock(sys.argv[1]).hold("learn a lesson"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_home_in_use(
    run: Run, home: Path, taught: str, conversation: Path, studied: list[int]
) -> None:
    from engrain.home import Home

    command = [sys.executable, "-c", HOLD, str(home / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        said = refused(run, "learn", str(conversation), name="HomeLockedError", code=1)
        assert str(other.pid) in said.err
        refused(run, "lessons", "undo", name="HomeLockedError", code=1)
        assert run("lessons", "list", "--quiet").out == f"{taught}\n"
        assert run("chat", "--once", "Hello").code == 0
        doctor = run("doctor", "--json")
        assert doctor.code == 0
        assert [f["status"] for f in doctor.json["findings"] if f["name"] == "lock"] == ["warn"]
        other.communicate(b"")
    with Home.open() as opened:
        assert len(opened.ledger.list_conversations()) == 1
    assert run("lessons", "undo").code == 0


def read_only(home: Path, patch: pytest.MonkeyPatch) -> None:
    """As on a disk mounted for reading only: permissions would not stop root."""
    from engrain.ledger import database

    opened, path_open = os.open, Path.open

    def open_(path: Any, flags: int, *rest: Any, **given: Any) -> int:
        if str(path).startswith(str(home)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **given)

    def path_open_(self: Path, mode: str = "r", *rest: Any, **given: Any) -> Any:
        if str(self).startswith(str(home)) and set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return path_open(self, mode, *rest, **given)

    patch.setattr(database, "_writable", lambda path: False)
    patch.setattr(os, "open", open_)
    patch.setattr(Path, "open", path_open_)


def test_a_home_that_can_only_be_read(
    run: Run, home: Path, taught: str, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(run)
    with monkeypatch.context() as patch:
        read_only(home, patch)
        refused(run, "learn", str(examples), *QUICK, name="HomeReadOnlyError", code=1)
        refused(run, "lessons", "undo", name="HomeReadOnlyError", code=1)
        refused(run, "chat", "--once", "Hello", name="HomeReadOnlyError", code=1)
        assert run("lessons", "list", "--quiet").out == f"{taught}\n"
        assert run("eval").code == 0
        assert run("lessons", "verify").code == 0
        assert "read only" in run("doctor").out
    assert state(run) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(run: Run, model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    words = ("init", "--model", str(model), "--home", str(locked / "home"))
    refused(run, *words, name="HomeReadOnlyError", code=1)


def test_a_home_that_is_a_file(run: Run, model: Path, own_home: Path) -> None:
    own_home.write_text("mine")
    assert run("init", "--model", str(model)).code == 1
    assert own_home.read_text() == "mine"
    refused(run, "lessons", "list", name="HomeNotFoundError", code=1)
