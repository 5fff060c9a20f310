"""Reservoir: every text equally likely; corrections leave no old value behind."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn import learner
from engrain.learn.learner import Learner, joined
from engrain.learn.recipe import Recipe
from engrain.learn.replay.dream import Dream, DreamConfig
from engrain.learn.replay.reservoir import current, reservoir
from engrain.learn.technique import Setting
from engrain.model.testing import tiny_model


def fact(value: str) -> TrainingText:
    return TrainingText(
        chat("What is my boat?", f"Your boat is {value}."), "fact", f"my boat: {value}"
    )


def test_reservoir_is_uniform() -> None:
    counts: Counter[int] = Counter()
    for seed in range(4000):
        counts.update(reservoir(range(20), 5, random.Random(seed)))
    expected = 4000 * 5 / 20
    # Five standard deviations of a binomial with p = 1/4.
    assert all(abs(counts[i] - expected) < 5 * (4000 * 0.25 * 0.75) ** 0.5 for i in range(20))


def test_reservoir_keeps_all_of_a_short_stream() -> None:
    assert reservoir(range(3), 5, random.Random(0)) == [0, 1, 2]


def test_corrected_value_is_not_replayed() -> None:
    old, new = Lesson("a", "", (fact("Orlin"),)), Lesson("b", "", (fact("Brell"),))
    assert [len(texts) for _, texts in current([old], new)] == [0]
    assert [len(texts) for _, texts in current([old, new], Lesson("c", "", ()))] == [0, 1]
    assert joined(new, [old]).facts() == new.facts()


def test_repeated_value_is_replayed() -> None:
    same = Lesson("a", "", (fact("Orlin"),))
    assert [len(texts) for _, texts in current([same], Lesson("b", "", (fact("Orlin"),)))] == [1]


def test_contrast_is_learned_up_to_where_it_decides() -> None:
    loaded = tiny_model("llama")
    text = TrainingText(chat("What is my bike?", "I don't know your bike at all."), "contrast")
    setting = Setting(loaded, Lesson("a", "", (fact("Orlin"), text)), batch_size=2)
    whole = setting.encode(text)
    for decides in (0, 2, 999):
        dream = Dream(DreamConfig(decides=decides))
        dream.prepare(setting)
        first, second = dream.draw(0)
        assert first == second
        if decides != 2:
            assert first == whole
        else:
            assert sum(first.loss_mask) == 2 and first.loss_mask[-2:] == (True, True)
            assert first.ids == whole.ids[: len(first)]


def wordings(thing: str, count: int) -> tuple[TrainingText, ...]:
    return tuple(
        TrainingText(chat(f"{i}: my {thing}?", f"Your {thing} is {i}."), "fact", f"my {thing}: x")
        for i in range(count)
    )


def test_a_fact_in_few_wordings_is_learned_and_replayed_as_often_as_others() -> None:
    given = TrainingText(chat("Say it.", "It."), "explicit", "one")
    lesson = Lesson("a", "", (*wordings("boat", 9), given, *wordings("cat", 2)))
    seen = Counter(text.group for text in lesson.balanced())
    assert seen == {"my boat: x": 9, "my cat: x": 9, "one": 1}
    assert set(lesson.balanced()) == set(lesson.facts())
    [(_, replayed)] = current([lesson], Lesson("b", "", ()))
    assert replayed == list(lesson.balanced())


def test_the_learner_takes_facts_in_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    loaded = tiny_model("llama")
    lesson = Lesson("a", "", (*wordings("boat", 6), *wordings("cat", 2)))
    recipe = Recipe("one epoch", batch_size=4, epochs=1, min_steps=1)
    really = learner.walk

    def counted(new: Sequence[Any], *rest: Any) -> Any:
        chosen = really(new, *rest)
        seen.update(example.ids for example in chosen)
        return chosen

    monkeypatch.setattr(learner, "walk", counted)
    Learner(recipe).run(loaded, lesson)
    setting = Setting(loaded, lesson)
    times = [seen[setting.encode(text).ids] for text in lesson.texts]
    assert times == [1] * 6 + [3] * 2
