"""``bench life`` and ``demo``: what reaches the library, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from tests.cli.conftest import Run

QUICK = ("--set", "min_steps=1", "--set", "epochs=1", "--set", "model.threads=1")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Two days, of which the second corrects the first."""
    days = []
    for number, value in enumerate(("Corvath", "Brellin"), start=1):
        said = [{"role": "user", "content": f"My boat is called {value}."}]
        asked = [{"role": "user", "content": "What is my boat called?"}]
        kind = "recall" if number == 1 else "correction"
        probe = {"id": f"p{number}", "kind": kind, "messages": asked, "answers": [value]}
        days.append(
            {
                "id": f"day-{number}",
                "conversations": [{"messages": said}],
                "probes": [{**probe, "not_answers": []}],
                "supersedes": ["p1"] if number == 2 else [],
            }
        )
    path = tmp_path / "days.jsonl"
    path.write_text("\n".join(map(json.dumps, days)))
    return path


@pytest.fixture
def studied_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-study that finds one fact, since a random model finds none."""
    from engrain.bench import life

    class Made:
        lesson = Lesson(
            "made",
            "a boat",
            (TrainingText(chat("What is my boat called?", "Corvath."), "fact", "boat"),),
            (Probe("q", "recall", chat("What is my boat called?"), ("Corvath",)),),
        )

    monkeypatch.setattr(life, "make_lesson", lambda *_, **__: Made())


def test_a_life(
    run: Run,
    model: Path,
    stream: Path,
    few_questions: None,
    studied_life: None,
    own_home: Path,
    tmp_path: Path,
) -> None:
    file, plots = tmp_path / "out" / "life.json", tmp_path / "plots"
    words = ("bench", "life", "--stream", str(stream), "--model", str(model), *QUICK)
    recipes = ("--recipe", "naive-lora", "--recipe", "joint", "--seeds", "2")
    done = run(*words, *recipes, "--json", str(file), "--plots", str(plots))
    assert done.code == 0, done.err
    assert "naive-lora" in done.out
    record = json.loads(file.read_text())
    assert set(record["recipes"]) == {"naive-lora", "joint"}
    for name in ("recall_final", "forgetting", "worst_drop", "bwt", "fwt", "abstention"):
        assert name in record["recipes"]["joint"]
    assert len(record["recipes"]["naive-lora"]["R"]) == 3
    assert record["recipes"]["naive-lora"]["seeds"] == [0, 1]
    assert record["base_digest"]
    assert record["machine"]["torch"]
    assert len(list(plots.glob("*.png"))) == 3
    assert not own_home.exists()

    # The second seed alone is the second seed of both: seeds can run side by side.
    alone = run(*words, "--recipe", "naive-lora", "--seed", "1", "--json")
    assert alone.json["stream_digest"] == record["stream_digest"]
    assert alone.json["recipes"]["naive-lora"]["seeds"] == [1]
    both = record["recipes"]["naive-lora"]["R_by_seed"]
    assert alone.json["recipes"]["naive-lora"]["R_by_seed"]["1"] == both["1"]


def test_a_life_goes_on_where_it_stopped(
    run: Run,
    model: Path,
    stream: Path,
    few_questions: None,
    studied_life: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engrain.bench import life

    ran: list[tuple[str, int]] = []
    whole = life.run_life

    def counted(loaded: Any, days: Any, recipe: Any, panel: Any, **given: Any) -> Any:
        ran.append((recipe.name, given["seed"]))
        return whole(loaded, days, recipe, panel, **given)

    monkeypatch.setattr(life, "run_life", counted)
    words = ("bench", "life", "--stream", str(stream), "--model", str(model), *QUICK)
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert run(*words, "--recipe", "naive-lora", "--json", str(first)).code == 0
    done = run(*words, "--recipe", "naive-lora", "--seeds", "2", "--json", str(first))
    assert done.code == 0, done.err
    assert ran == [("naive-lora", 0), ("naive-lora", 1)]
    assert json.loads(first.read_text())["recipes"]["naive-lora"]["seeds"] == [0, 1]
    added = run(*words, "--recipe", "joint", "--json", str(second), "--add", str(first))
    assert added.code == 0, added.err
    assert ran[2:] == [("joint", 0)]
    recipes = json.loads(second.read_text())["recipes"]
    assert recipes["naive-lora"]["seeds"] == [0, 1] and recipes["joint"]["seeds"] == [0]

    # Another setting of the same recipe is another life: nothing is run, and the file stays.
    before = second.read_bytes()
    other = ("--recipe", "joint", "--set", "epochs=2", "--json", str(second))
    refused = run(*words, *other)
    assert refused.code == 2 and "different settings" in refused.err
    assert second.read_bytes() == before
    refused = run(*words, "--add", str(stream))
    assert refused.code == 2 and "holds no runs" in refused.err
    assert len(ran) == 3


def test_a_life_that_is_only_planned(run: Run, stream: Path, tmp_path: Path) -> None:
    planned = run("bench", "life", "--dry-run", "--days", "4", "--seeds", "3", "--json").json
    assert planned == {"recipes": ["default"], "seeds": 3, "days": 4, "dry_run": True}
    stream.write_text('{"id": "day-1"}')
    done = run("bench", "life", "--stream", str(stream))
    assert done.code == 2
    assert "ConversationError" in done.err
    stream.write_text(json.dumps({"id": "d", "conversations": [], "supersedes": ["nothing"]}))
    assert "nothing" in run("bench", "life", "--stream", str(stream)).err


def test_the_demo_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain import demo

    seen: dict[str, Any] = {}

    def run_demo(folder: Path, *, say: Any, **given: Any) -> dict[str, Any]:
        seen.update(given, folder=folder)
        say("A person tells the model something.")
        given["on_progress"]("trained", 1, 2)
        return {"recall_before": 0.0, "recall_after": 1.0, "seconds": 1.5}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    file = tmp_path / "demo.json"
    told = run("demo", "--json", str(file), "--model", "some")
    assert told.code == 0
    assert "A person tells" in told.out and "All of it took 2 s." in told.out
    assert json.loads(file.read_text())["recall_after"] == 1.0
    assert seen["folder"].name == "home" and not seen["folder"].parent.exists(), "a passing home"
    assert seen["overrides"]["model.source"] == "some"
    monkeypatch.setenv("ENGRAIN_MODEL__SOURCE", "pocket")
    for words in (("demo", "--json"), ("--json", "demo"), ("demo", "--json", "-")):
        assert run(*words).json["seconds"] == 1.5
    assert run("demo", "--quiet").out == ""
    assert run("demo", "--home", str(tmp_path / "kept"), "--quiet").code == 0
    assert seen["folder"] == tmp_path / "kept"
    seen.clear()
    planned = run("demo", "--dry-run", "--json").json
    assert planned == {"model": "pocket", "home": None, "dry_run": True}
    assert not seen


def test_the_demo_gets_its_model_first(
    run: Run, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain import demo
    from engrain.model import acquire

    got: list[str] = []
    monkeypatch.setattr(acquire, "get", lambda item, **_: got.append(item.name) or tmp_path)
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: {"seconds": 0.0})
    # What the person's own home was made with is no business of the demo.
    own_home.mkdir()
    (own_home / "config.toml").write_text('[model]\nsource = "pocket"\n')
    assert "get qwen2.5-coder-0.5b (491 MB to download" in run("demo", "--dry-run").out
    assert not got
    assert run("demo").code == 0
    assert run("demo", "--model", "smollm2-135m").code == 0
    assert run("demo", "--model", "pocket").code == 0
    assert got == ["qwen2.5-coder-0.5b", "smollm2-135m"]
