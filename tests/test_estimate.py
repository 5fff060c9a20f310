"""Prices of a lesson in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from engrain.data.messages import Conversation, Message
from engrain.exam.panel import Panel, load_panel
from engrain.learn.recipe import named
from engrain.lesson import cost
from engrain.lesson.asked import SHORT_PANEL
from engrain.lesson.cost import Prices, Source, Speed, telling_sentences
from engrain.lesson.fit import expected_lesson, stock_texts
from engrain.lesson.served import Served
from engrain.lesson.writers import Chosen

SPEED = Speed(0.01, 0.3, 5.0, 0.02, 1e-4, 2.0, 0.1)
TOLD = Conversation(
    (
        Message("user", "My boat is called Corvath. It is red and old. What is the sea?"),
        Message("assistant", "Noted. I like the sea."),
    )
)


def test_questions_and_replies_tell_nothing() -> None:
    assert telling_sentences([TOLD]) == 2


def test_seconds_by_part() -> None:
    recipe = named("default")
    parts = SPEED.parts(recipe, Source((TOLD,)))
    assert set(parts) == {"self_study", "exams", "training"}
    steps = recipe.steps_for(60)
    assert parts["training"] == 2.0 + steps * 0.3
    low, high = (SPEED.parts(recipe, Source((TOLD,), effort=e)) for e in ("low", "high"))
    assert low["self_study"] < parts["self_study"] < high["self_study"]


def test_a_second_round_is_told_apart() -> None:
    recipe = named("chat")
    parts = SPEED.parts(recipe, Source((TOLD,)))
    further = SPEED.further(recipe, parts)
    assert 0 < further < sum(parts.values())
    assert SPEED.further(recipe.with_settings({"rounds": 1}), parts) == 0
    assert SPEED.further(recipe, {}) == 0
    # An exam more runs the panel, and half of the steps are prepared as a whole round is.
    steps = parts["training"] - SPEED.prepare_seconds
    assert further > SPEED.panel_seconds + SPEED.prepare_seconds + steps / 2


def test_weak_texts_of_earlier_lessons_take_steps() -> None:
    recipe = named("chat").with_settings({"max_steps": 1000})
    few, many = (SPEED.parts(recipe, Source((TOLD,), weak=count)) for count in (0, 40))
    assert many["training"] > few["training"]


def test_examples_need_no_study() -> None:
    recipe, texts = named("default"), stock_texts(40)
    parts = SPEED.parts(recipe, Source((), texts))
    assert parts["self_study"] == 0
    assert parts["training"] == 2.0 + recipe.steps_for(80) * 0.3


def test_a_second_model_is_loaded_and_paid_for_each_list() -> None:
    recipe, source = named("default"), Source((TOLD,))
    alone = SPEED.parts(recipe, source)
    loaded = replace(SPEED, loading_seconds=7.0).parts(recipe, source)
    assert loaded["self_study"] == pytest.approx(alone["self_study"] + 7.0)
    assert loaded["training"] == alone["training"] and loaded["exams"] == alone["exams"]
    writing = replace(SPEED, writing_seconds=1.0)
    few, many = (
        writing.parts(recipe, Source((TOLD,), effort=effort))["self_study"]
        - SPEED.parts(recipe, Source((TOLD,), effort=effort))["self_study"]
        for effort in ("low", "high")
    )
    assert 1 < few < many
    examples = replace(writing, loading_seconds=7.0).parts(recipe, Source((), stock_texts(4)))
    assert examples["self_study"] == 0, "nobody is loaded for examples"


def test_what_was_measured_with_another_writer_is_kept_apart(tmp_path: Path) -> None:
    recipe, panel = named("default"), load_panel()

    def path(*writer: Chosen) -> Path:
        return Prices(tmp_path, recipe, "a", panel, False, True, *writer).path

    assert path() == path(Chosen()) != path(Chosen("x")) != path(Chosen("y"))


def test_a_finished_lesson_corrects_all_parts() -> None:
    slower = SPEED.learned(10.0, 40.0)
    recipe, source = named("default"), Source((TOLD,))
    for name, value in SPEED.parts(recipe, source).items():
        assert abs(slower.parts(recipe, source)[name] - 2 * value) < 1e-9
    assert SPEED.learned(0.0, 4.0) == SPEED


def test_what_stands_for_a_lesson() -> None:
    lesson = expected_lesson((TOLD,), (), 6)
    kinds = {text.kind for text in lesson.texts}
    assert kinds == {"fact", "contrast", "reading"} and len(lesson.facts()) >= 6
    given = stock_texts(1)
    assert expected_lesson((), given, 6).texts == tuple(given)


@pytest.mark.parametrize("short", [False, True])
def test_a_piece_of_the_panel_is_timed_and_never_most_of_it(
    short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = load_panel().smaller(SHORT_PANEL) if short else load_panel()
    timed: dict[str, int] = {}

    def watched(engine: object, few: Panel, *, parts: list[str]) -> None:
        timed.update({part: few.counts()[part] for part in parts})

    monkeypatch.setattr(cost, "run_panel", watched)
    cost._panel_seconds(cast(Served, SimpleNamespace(engine=None)), panel)
    assert timed.keys() == panel.counts().keys()
    for part, count in panel.counts().items():
        assert 1 <= timed[part] <= max(1, count / 3), part
