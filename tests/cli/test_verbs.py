"""What each verb does, says and leaves, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engrain
from engrain.ledger.blobs import BlobStore
from tests.cli.conftest import OPEN_GATE, QUICK, Run


def test_version(run: Run) -> None:
    assert run("--version").out == f"engrain {engrain.__version__}\n"


def test_init_makes_a_home_and_says_so_in_one_line(run: Run, model: Path, own_home: Path) -> None:
    words = ("init", "--model", str(model), "--set", "learn.effort=low")
    planned = run(*words, "--dry-run", "--json").json
    assert planned["dry_run"]
    assert not own_home.exists()

    done = run(*words)
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert str(own_home) in done.out
    assert planned["base_digest"][:12] in done.out
    text = (own_home / "config.toml").read_text()
    assert 'effort = "low"' in text
    assert str(model) in text

    again = run(*words)
    assert again.code == 1
    assert "HomeExistsError" in again.err


def test_init_after_a_kill_in_the_middle(run: Run, model: Path, home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "ledger.db") as database:
        for table in ("events", "states"):
            database.execute(f"DROP TRIGGER IF EXISTS {table}_no_delete")
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            database.execute(f'DROP TRIGGER "{name}"')
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%version%' "
            "AND name NOT LIKE '%migration%' AND name NOT LIKE 'sqlite%'"
        ).fetchall():
            database.execute(f'DELETE FROM "{name}"')
    assert run("lessons", "list", "--json").json == {"lessons": []}
    assert run("init", "--model", str(model)).code == 0
    assert run("chat", "--once", "Hello").code == 0


def test_a_model_folder_is_kept_by_its_whole_path(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert run("init", "--model", model.name).code == 0
    monkeypatch.chdir(tmp_path)
    assert run("chat", "--once", "Hello").code == 0


def test_a_model_folder_may_move(run: Run, model: Path, own_home: Path, tmp_path: Path) -> None:
    import shutil

    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(model, first)
    assert run("init", "--model", str(first)).code == 0
    first.rename(second)
    assert run("chat", "--once", "Hello").code == 1
    settings = own_home / "config.toml"
    settings.write_text(settings.read_text().replace(str(first), str(second)))
    assert run("chat", "--once", "Hello").code == 0


def test_learn_examples_then_switch_and_undo(run: Run, home: Path, examples: Path) -> None:
    before = run("chat", "--once", "Hi", "--json").json["state"]
    done = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json")
    assert done.code == 0
    found = done.json
    assert found["verdict"] == "accepted"
    assert found["state_before"] == before != found["state_after"]

    listed = run("lessons", "list", "--json").json["lessons"]
    assert [item["lesson"] for item in listed] == [found["lesson"]]
    assert found["lesson"] in run("lessons", "list").out
    assert run("lessons", "list", "--quiet").out == f"{found['lesson']}\n"

    shown = run("lessons", "show", "last")
    assert "What is the code of door" in shown.out
    record = run("lessons", "show", found["lesson"][:9], "--json").json
    assert record["recipe"]["name"] == "naive-lora"
    assert record["recipe"]["min_steps"] == 2
    assert len(record["texts"]) == 5
    assert record["decision"]["reasons"][0] == "The gate is off."

    would = run("lessons", "disable", "last", "--dry-run", "--json").json
    assert (would["dry_run"], would["state_after"]) == (True, before)
    assert run("chat", "--once", "Hi", "--json").json["state"] == found["state_after"]
    assert run("lessons", "disable", "last", "--json").json["state_after"] == before
    enabled = run("lessons", "enable", "last")
    assert enabled.out.count("\n") == 1
    assert found["state_after"][:12] in enabled.out
    undone = run("lessons", "undo", "last", "--json").json
    assert (undone["status"], undone["state_after"]) == ("undone", before)

    verified = run("lessons", "verify", "--json")
    assert verified.code == 0
    assert verified.json["clean"]
    assert run("lessons", "undo").code == 2


def test_a_middle_lesson_is_undone_and_the_later_learned_again(
    run: Run, home: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.lesson import changes

    base = run("chat", "--once", "Hi", "--json").json["state"]
    first = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json").json
    second = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json").json
    answers = iter((4, 1) * 3)
    monkeypatch.setattr(changes, "passed", lambda *_: next(answers))
    would = run("lessons", "undo", first["lesson"], "--dry-run")
    assert "questions about the other lessons 4 were right, and 1 without it" in would.out
    assert f"`engrain lessons undo {first['lesson']} --relearn` learns 1 later lesson" in would.out
    would = run("lessons", "undo", first["lesson"], "--dry-run", "--relearn")
    assert f"Would be learned again: {second['lesson']}." in would.out
    answers = iter((4, 1, 3))
    monkeypatch.setenv("ENGRAIN_GATE__ENABLED", "false")
    done = run("lessons", "undo", first["lesson"], "--relearn", "--json").json
    (again,) = done["relearned"]
    assert (done["others"]["before"], done["others"]["after"]) == (4, 3)
    assert (again["verdict"], again["state_before"]) == ("accepted", base)
    assert done["state_after"] == again["state_after"]
    assert run("lessons", "relearn", again["lesson"]).code == 2
    assert run("lessons", "disable", "last").code == 0
    third = run("lessons", "relearn", again["lesson"][:12], second["lesson"], "--json").json
    assert [lesson["verdict"] for lesson in third["lessons"]] == ["accepted", "accepted"]
    assert run("lessons", "verify").code == 0


def test_learning_again_that_is_stopped_says_what_waits(
    run: Run, home: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.learn.learner import Learner

    first = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json").json["lesson"]
    second = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json").json["lesson"]

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "run", stop)
    stopped = run("lessons", "undo", first, "--relearn")
    assert stopped.code == 130
    assert f"engrain lessons relearn {second}" in stopped.err
    statuses = [item["status"] for item in run("lessons", "list", "--json").json["lessons"]]
    assert statuses == ["undone", "disabled"]


def test_a_refused_lesson_ends_with_3(run: Run, home: Path, examples: Path) -> None:
    done = run("learn", str(examples), *QUICK)
    assert done.code == 3
    assert done.out.startswith("Quarantined: lesson ")
    assert "needed" in done.out
    assert "served weights are unchanged" in done.out
    assert done.out.count("\n") == 1
    as_json = run("learn", str(examples), *QUICK, "--json")
    assert as_json.code == 3
    assert as_json.json["verdict"] == "quarantined"
    assert as_json.json["state_before"] == as_json.json["state_after"]
    # The lesson before told how long this one would take.
    assert as_json.json["estimated_seconds"] > 0
    required = run("learn", str(examples), *QUICK, "--require", "--json")
    assert required.code == 3
    assert required.json["error"] == "GateRefused"
    assert required.json["exit_code"] == 3


def test_learn_a_conversation(run: Run, home: Path, conversation: Path, studied: list[int]) -> None:
    preview = run("learn", str(conversation), "--dry-run")
    assert preview.code == 0
    for words in (
        "Corvath",
        "it holds a secret",
        "answered the same without",
        "missed    It is red",
    ):
        assert words in preview.out
    assert run("jobs", "list", "--json").json == {"jobs": []}
    assert run("learn", str(conversation), "--dry-run", "--json").json["probes"] == 1

    done = run("learn", str(conversation), *QUICK, *OPEN_GATE)
    assert done.code == 0
    assert done.out.startswith("Accepted: lesson ")
    assert studied == [1, 1, 1]
    shown = run("lessons", "show", "last", "--json").json
    assert len(shown["sources"]) == 1
    jobs = run("jobs", "list", "--json").json["jobs"]
    assert [job["status"] for job in jobs] == ["committed"]
    assert run("jobs", "list").out.count("committed") == 2


def test_a_chat_can_be_learned(run: Run, home: Path, studied: list[int]) -> None:
    said = run("chat", "--json", stdin="My boat is called Corvath.\n\nIt is red.\n")
    assert said.code == 0
    chat = said.json["chat"]
    assert [m["content"] for m in said.json["messages"] if m["role"] == "user"] == [
        "My boat is called Corvath.",
        "It is red.",
    ]
    log = (home / "log" / f"{chat}.jsonl").read_text("utf-8")
    logged = [json.loads(line) for line in log.splitlines()]
    assert logged == said.json["messages"]
    for name in ("last", chat):
        assert run("learn", name, "--dry-run", "--json").json["dry_run"]


def test_chat_once(run: Run, home: Path) -> None:
    answered = run("chat", "--once", "What is my boat called?", "--json").json
    assert set(answered) == {"chat", "answer", "state"}
    plain = run("chat", "--once", "-", stdin="What is my boat\ncalled?\n")
    quiet = run("chat", "--once", "What is my boat called?", "--quiet")
    assert quiet.out.strip() == answered["answer"]
    assert plain.code == 0
    assert len(list((home / "log").glob("*.jsonl"))) == 3


def test_commands_in_a_chat(run: Run, home: Path, studied: list[int]) -> None:
    script = "My boat is called Corvath.\n/learn\n/lessons\n/undo\n/new\n/help\n/quit\nnever said\n"
    done = run("chat", *OPEN_GATE, "--set", "learn.recipe=naive-lora", stdin=script)
    assert done.code == 0, done.err
    for words in ("Accepted: lesson", "active", "Undone: lesson", "/lessons"):
        assert words in done.out
    logs = "".join(path.read_text("utf-8") for path in (home / "log").glob("*.jsonl"))
    assert "never said" not in logs
    quick = ("--set", "learn.recipe=naive-lora", *QUICK[2:])
    refused = run("chat", *quick, stdin="My boat is red.\n/learn\n")
    assert refused.code == 3
    mistyped = run("chat", stdin="/lern\n")
    assert mistyped.code == 2
    assert "'learn'" in mistyped.err
    assert run("chat", stdin="/learn\n").code == 2
    assert run("chat", stdin="/learn now\n").code == 2


def test_eval_is_the_same_twice(run: Run, taught: str) -> None:
    first, second = (run("eval", "--json").json for _ in range(2))
    assert first["digest"] == second["digest"]
    assert list(first["results"]) == [taught]
    assert "Panel" in run("eval").out


def test_methods_come_from_the_registry(run: Run) -> None:
    listed = run("methods", "list", "--json").json
    names = {item["name"]: item for item in listed["techniques"]}
    rate = {s["name"]: s for s in names["adamw"]["settings"]}["learning_rate"]
    assert rate["low"] == 0
    assert rate["help"]
    words = run("methods", "list").out
    assert "learning_rate = " in words
    assert "default: " in words
    assert "kl_anchor\n" in run("methods", "list", "--quiet").out
    assert "Kullback-Leibler" in run("methods", "show", "kl_anchor").out
    assert run("methods", "show", "regularization/kl_anchor").code == 0
    recipe = run("methods", "show", "default", "--json").json
    assert recipe["recipe"]["optimization"]["name"] == "adamw"
    assert recipe["digest"] in run("methods", "show", "default").out


def test_config_show_names_origins(
    run: Run, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAIN_LEARN__EFFORT", "high")
    own_home.mkdir()
    (own_home / "config.toml").write_text("[chat]\ntemperature = 0.5\n")
    words = ("config", "show", "--set", "gate.min_recall=0.9", "--set", "batch_size=4")
    found = run(*words, "--json").json["settings"]
    assert found["learn.effort"] == {"value": "high", "origin": "environment ENGRAIN_LEARN__EFFORT"}
    assert found["chat.temperature"]["origin"].startswith("home file")
    assert found["gate.min_recall"] == {"value": 0.9, "origin": "flag"}
    assert found["learn.settings.batch_size"]["value"] == 4
    assert found["model.source"]["origin"] == "default"
    assert "home file" in run(*words).out


def test_config_schema_is_one(run: Run) -> None:
    assert run("config", "schema").out == run("config", "schema", "--json").out
    assert "learn" in run("config", "schema").json["properties"]


def test_doctor_deletes_what_nothing_refers_to(run: Run, taught: str, home: Path) -> None:
    def left_over() -> dict[str, str]:
        findings = run("doctor", "--json").json["findings"]
        return next(f for f in findings if f["name"] == "left over")

    assert left_over()["status"] == "ok"
    orphan = BlobStore(home / "blobs").put(b"of a run that was killed")
    assert left_over()["status"] == "warn" and "--clean" in left_over()["remedy"]
    assert "1 file deleted" in run("doctor", "--clean").out
    assert left_over()["status"] == "ok" and not BlobStore(home / "blobs").has(orphan)
    assert run("lessons", "verify").code == 0


def test_doctor(run: Run, taught: str, home: Path) -> None:
    well = run("doctor", "--json")
    assert well.code == 0, well.out
    names = [item["name"] for item in well.json["findings"]]
    for name in (
        "machine",
        "threads",
        "compute",
        "kernels",
        "speed",
        "versions",
        "disk",
        "home",
        "lock",
        "ledger",
    ):
        assert name in names
    assert names[-3:] == ["model", "weights", "writer"]
    for blob in (home / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    ill = run("doctor")
    assert ill.code == 1
    assert "BlobMissingError" in ill.out
    assert "backup" in ill.out


def few_talks(patch: pytest.MonkeyPatch) -> None:
    from engrain.study import trial

    two = trial.talks()[:2]
    patch.setattr(trial, "talks", lambda: two)


def manners(run: Run, *words: str) -> dict[str, Any]:
    found = run("doctor", "--manners", "--json", *words)
    assert found.code == 0, found.out
    return next(item for item in found.json["findings"] if item["name"] == "manners")


def test_doctor_tries_the_model_when_asked_and_keeps_the_result(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.study import trial

    few_talks(monkeypatch)
    assert "manners" not in [f["name"] for f in run("doctor", "--json").json["findings"]]
    first = manners(run)
    assert first["status"] == "warn" and "python -m training.manners.train" in first["remedy"]
    figures = first["figures"]
    assert figures["talks"] == 2 and figures["asks"] == 0 and not figures["taught"]
    assert len(list((home / "manners").glob("*.json"))) == 1

    def again(*_: Any, **__: Any) -> trial.Trial:
        return trial.Trial(2, 2, 2, 2, taught=False)

    monkeypatch.setattr(trial, "run_trial", again)
    assert manners(run) == first
    anew = manners(run, "--measure")
    assert (anew["status"], anew["remedy"]) == ("ok", "")
    assert "asks rightly in 2" in anew["words"]


def test_doctor_tries_another_model(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.model.testing import save_tiny, tiny_model

    few_talks(monkeypatch)
    other = save_tiny(tiny_model("qwen3"), tmp_path / "other")
    found = manners(run, "--model", str(other))
    assert str(other) in found["remedy"]
    assert len(list((home / "manners").glob("*.json"))) == 1
    assert run("doctor", "--model", "/nowhere/model").code == 1


def test_doctor_tells_who_asks_and_when_the_one_that_is_set_is_not_here(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writer() -> dict[str, Any]:
        found = run("doctor", "--json").json["findings"]
        return next(item for item in found if item["name"] == "writer")

    found = writer()
    assert found["figures"]["writer"] == "self"
    assert "engrain models get qwen2.5-coder-1.5b" in found["words"]
    monkeypatch.setenv("ENGRAIN_STUDY__WRITER", "smollm2-135m")
    found = writer()
    assert found["status"] == "fail" and "engrain models get smollm2-135m" in found["remedy"]


def test_doctor_without_a_home_warns(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAIN_MODEL__SOURCE", str(model))
    done = run("doctor")
    assert done.code == 0
    assert "engrain init" in done.out
    monkeypatch.setenv("ENGRAIN_MODEL__SOURCE", "/nowhere/model")
    assert run("doctor").code == 1


def test_common_options_stand_before_or_after_the_verb(
    run: Run, home: Path, tmp_path: Path
) -> None:
    after = run("lessons", "list", "--json").out
    for words in (("--json", "lessons", "list"), ("lessons", "--json", "list")):
        assert run(*words).out == after
    for words in (("--home", str(tmp_path / "x"), "jobs", "list"),):
        assert "HomeNotFoundError" in run(*words).err


def test_a_dry_run_shows_some_wordings_and_counts_the_others() -> None:
    from engrain.cli.learn import SHOWN, previewed
    from engrain.lesson.cost import Estimate
    from engrain.lesson.fit import Memory

    asked = [f"What is my boat, {i}?" for i in range(SHOWN + 3)]
    fact = {"value": "Gorla", "said": "My boat is Gorla.", "questions": asked, "held_out": []}
    keys = ("messages_left_out", "examples_left_out", "questions_refused", "missed", "supersedes")
    record = {"title": "a", "texts": {"fact": 9}, "probes": 2, "facts": [fact]}
    found = record | {key: [] for key in keys}
    estimate = Estimate("default", {"training": 60.0}, Memory({"training": {"weights": 1}}, 2))
    answer = previewed(SimpleNamespace(to_dict=lambda: found), "default", estimate)  # type: ignore
    assert str(answer.text).count("asked: ") == SHOWN
    assert "and 3 wordings more" in str(answer.text)
    assert answer.data["facts"][0]["questions"] == asked


def test_a_dry_run_says_what_is_weak_and_what_a_second_round_would_take() -> None:
    from engrain.cli.learn import previewed
    from engrain.lesson.cost import Estimate
    from engrain.lesson.fit import Memory

    shown = {"questions": ["What?"], "held_out": [], "said": "So it is."}
    facts = [{"value": "a", **shown, "weak": "it is stated"}, {"value": "b", **shown, "weak": ""}]
    keys = ("messages_left_out", "examples_left_out", "questions_refused", "missed", "supersedes")
    found = {"title": "a", "texts": {}, "probes": 0, "facts": facts} | {key: [] for key in keys}
    memory = Memory({"training": {"weights": 1}}, 2)
    estimate = Estimate("chat", {"training": 60.0}, memory, 0.0, 30.0)
    answer = previewed(SimpleNamespace(to_dict=lambda: found), "chat", estimate)  # type: ignore
    assert str(answer.text).count("weak:") == 1 and "it is stated" in str(answer.text)
    assert "if a second round is needed" in str(answer.text)
    assert answer.data["further_seconds"] == 30.0


def test_a_second_round_is_told(
    run: Run, home: Path, conversation: Path, studied: list[int]
) -> None:
    twice = ("--set", "learn.rounds=2", "--set", "mastery=true")
    done = run("learn", str(conversation), *QUICK, *OPEN_GATE, *twice, "--json")
    assert done.code == 0
    first, second = done.json["rounds"]
    assert first["missing"] == ["How is my boat called?"] and first["kept"]
    assert second["steps"] <= max(1, first["steps"] // 2)
    shown = run("lessons", "show", "last")
    assert "Rounds\n" in shown.out and "missed in the exam: How is my boat called?" in shown.out
    record = run("lessons", "show", "last", "--json").json
    assert record["weak"] == {"missed": ["How is my boat called?"], "unexamined": []}
    assert record["decision"]["rounds"] == [first, second]


def test_what_would_be_learned_is_edited_first(
    run: Run, home: Path, conversation: Path, studied: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/Corvath/Brellin/")
    done = run("learn", str(conversation), "--edit", *QUICK, *OPEN_GATE, "--json")
    assert done.code == 0 and len(studied) == 1, "studied once, learned as it was edited"
    shown = run("lessons", "show", "last").out
    assert "Brellin" in shown and "Corvath" not in shown


def test_an_editor_that_saves_nothing_learns_nothing(
    run: Run, home: Path, conversation: Path, studied: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "true")
    done = run("learn", str(conversation), "--edit", *QUICK, *OPEN_GATE)
    assert done.code == 2 and "nothing is learned" in done.err
    assert run("jobs", "list", "--json").json == {"jobs": []}
    monkeypatch.setenv("VISUAL", "sed -i d")
    done = run("learn", str(conversation), "--edit", *QUICK, *OPEN_GATE)
    assert done.code == 1 and "Nothing is left to learn" in done.err
