"""The demo: its story is one, and what it says of the gate, the ledger and the undo is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.demo import EVERYDAY, SIMPLE, Answers, Story, run_demo
from engrain.errors import NothingToLearnError
from engrain.exam.decision import Decision
from engrain.exam.probes import RECALL_KINDS, holds
from engrain.home import Home
from engrain.lesson import asked, job, stages, zero
from engrain.study.lesson import Preview
from tests.home.home_tools import SETTINGS, small_panel

KINDS = ["correction", "recall", "abstention"]


@pytest.mark.parametrize("story", [EVERYDAY, SIMPLE])
def test_what_is_asked_was_told_and_what_was_not_told_was_not(story: Story) -> None:
    said = [m.content for m in story.told.messages if m.role == "user"]
    assert [m.role for m in story.told.messages] == ["user", "assistant"] * len(said)
    for probe in story.questions:
        (question,) = (m.content for m in probe.messages)
        values = [*probe.answers, *probe.not_answers]
        assert not any(holds(question, value) for value in values), "the question gives it away"
        assert all(any(holds(line, value) for line in said) for value in values)
    kinds = [probe.kind for probe in story.questions]
    assert set(kinds) == set(KINDS) and kinds.count("correction") == 1
    corrected = next(probe for probe in story.questions if probe.kind == "correction")
    then, now = (
        max(i for i, line in enumerate(said) if holds(line, value))
        for value in (*corrected.not_answers, *corrected.answers)
    )
    assert then < now, "what is right was said last"
    assert len([kind for kind in kinds if kind in RECALL_KINDS]) == len(said) - (story is SIMPLE)


def test_answers_are_counted_by_kind() -> None:
    texts = {probe.id: "I don't know. You have not told me." for probe in EVERYDAY.questions}
    untold = Answers(EVERYDAY, texts)
    assert untold.right() == (0, 5) and untold.right(("abstention",)) == (2, 2)
    texts = {**texts, EVERYDAY.questions[0].id: "She is called Biscotti."}
    assert Answers(EVERYDAY, texts).share() == 0.2
    assert Answers(EVERYDAY, texts).of()[0].endswith("-> She is called Biscotti.")


@pytest.fixture
def settings(model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a tiny home; self-study finds one thing, since a random model finds none."""

    def found(_: Any, conversations: Any, *, name: str = "", **__: Any) -> Preview:
        question = "What is our puppy called?"
        text = TrainingText(chat(question, "Biscotti."), "fact", "puppy: Biscotti")
        probe = Probe("p", "recall", chat("The puppy's name?"), ("Biscotti",))
        sources = tuple(c.digest for c in conversations)
        lesson = Lesson(name, "Biscotti", (text,), (probe,), sources)
        return Preview("Biscotti", (), (), (), (), (), 0.0, lesson)

    monkeypatch.setattr(job, "make_lesson", found)
    monkeypatch.setattr(asked.panels, "load_panel", small_panel)
    return {**SETTINGS, "model.source": str(model)}


def told(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    lines: list[str] = []
    record = run_demo(folder, say=lines.append, overrides=settings)
    assert record["story"] == lines and max(map(len, lines)) < 100
    json.dumps(record, allow_nan=False)
    return record, "\n".join(lines)


def test_the_story_is_told_and_everything_is_undone(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    record, text = told(tmp_path / "home", settings)
    for number in range(1, 7):
        assert f"\n{number}. " in f"\n{text}"
    assert "Meine neue Zahnärztin" in text and "accepted" in text
    assert record["undo_digest_equal"] is True and record["verify_problems"] == 0
    assert "the very bytes of before" in text and "word for word as in step 2" in text
    assert record["lesson_zero"] is False and record["lessons"][0]["verdict"] == "accepted"
    answers = {probe["question"]: probe for probe in record["questions"]}
    assert len(answers) == 7
    assert all(probe["before"] == probe["undone"] for probe in answers.values())
    assert any(probe["before"] != probe["after"] for probe in answers.values()), "it learned"
    assert record["recall_before"] == record["recall_undone"]
    with Home.open(tmp_path / "home") as kept:
        assert [lesson.status for lesson in kept.lessons()] == ["undone"]


@pytest.mark.parametrize(
    ("verdict", "status"), [("quarantined", "undone"), ("rejected", "rejected")]
)
def test_what_the_gate_refuses_is_told(
    verdict: Any,
    status: str,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        stages, "decide", lambda *_, **__: Decision(verdict, ["It recalls too little."], [])
    )
    record, text = told(tmp_path / "home", {**settings, "gate.enabled": True})
    assert f"The gate: {verdict}. It recalls too little." in text
    with Home.open(tmp_path / "home") as kept:
        assert [lesson.status for lesson in kept.lessons()] == [status]
    if verdict == "quarantined":
        assert "engrain lessons enable" in text and record["undo_digest_equal"] is True
    else:
        assert "nothing to undo" in text and record["undo_digest_equal"] is None
        assert record["recall_after"] == record["recall_before"]


def test_lesson_zero_is_listed_and_stays(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import named
    from engrain.learn.testing import sample_lesson
    from engrain.model.loading import load_model

    loaded = load_model(settings["model.source"])
    recipe = named("naive-lora").with_settings({"min_steps": 2, "max_steps": 2})
    adapter = Learner(recipe).run(loaded, sample_lesson()).adapter
    manners = zero.Portable(loaded.base_digest, recipe.to_dict(), {}, adapter.to_bytes())
    monkeypatch.setattr(zero, "shipped", lambda digest: manners)
    record, text = told(tmp_path / "home", settings)
    assert record["lesson_zero"] is True and record["undo_digest_equal"] is True
    assert "active  lesson zero: manners" in text
    with Home.open(tmp_path / "home") as kept:
        assert [lesson.status for lesson in kept.lessons()] == ["active", "undone"]


def test_a_model_that_finds_nothing_is_an_error_with_a_way_out(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = Preview("", (), (), (), (), (), 0.0, None)
    monkeypatch.setattr(job, "make_lesson", lambda *_, **__: none)
    with pytest.raises(NothingToLearnError, match="in the demo's chat") as caught:
        told(tmp_path / "home", settings)
    assert "engrain demo --model" in caught.value.remedy


@pytest.mark.slow
def test_the_pocket_model_tells_its_story(tmp_path: Path) -> None:
    record = run_demo(tmp_path / "home", overrides={"model.source": "pocket"})
    assert record["recall_before"] == 0.0 and record["recall_after"] >= 0.75
    assert record["undo_digest_equal"] and record["verify_problems"] == 0
