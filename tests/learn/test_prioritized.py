"""Prioritized replay: what the model has lost comes most often, and nothing else decides."""

from collections import Counter

import pytest

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.replay.prioritized import Prioritized, PrioritizedConfig, priorities
from engrain.learn.technique import Setting
from engrain.model.testing import tiny_model


def about(thing: str, value: str, wordings: int = 3) -> Lesson:
    texts = [
        TrainingText(
            chat(f"{i}: what is my {thing}?", f"It is {value}."), "fact", f"my {thing}: {value}"
        )
        for i in range(wordings)
    ]
    return Lesson(thing, thing, tuple(texts))


BOAT, CAT, CAR = about("boat", "Corvath"), about("cat", "Brellin", 6), about("car", "Moosh")


def test_equation_1() -> None:
    """P(i) = p^alpha / sum, with p the loss and the floor (arXiv 1511.05952)."""
    assert priorities([1.0, 3.0], 1.0, 0.0) == pytest.approx([0.25, 0.75])
    assert priorities([1.0, 4.0], 0.5, 0.0) == pytest.approx([1 / 3, 2 / 3])
    assert priorities([0.0, 4.0], 1.0, 0.5) == pytest.approx([1 / 6, 5 / 6])
    assert priorities([1.0, 9.0, 5.0], 0.0, 0.25) == pytest.approx([1 / 3] * 3)
    assert priorities([0.0, 0.0], 1.0, 0.25) == pytest.approx([0.5, 0.5])
    assert priorities([], 1.0, 0.25) == []


def test_what_was_lost_comes_most_often() -> None:
    """A fact in the weights has a low priority, one that is not has a high one."""
    loaded = tiny_model("llama")
    recipe = Recipe("long", batch_size=3, min_steps=60, max_steps=60)
    recipe = recipe.with_settings({"optimization.learning_rate": 0.02})
    adapter = Learner(recipe).run(loaded, BOAT).adapter
    loaded.set_weights(fold(loaded.base_weights(), [adapter]))
    replay = Prioritized(PrioritizedConfig(alpha=1.0, floor=0.0, share=2.0))
    replay.prepare(Setting(loaded, CAR, earlier=[BOAT, CAT], batch_size=4))
    known, lost = replay.weights
    assert lost > 3 * known
    drawn = Counter(e.lesson for step in range(200) for e in replay.draw(step))
    assert sum(drawn.values()) == 200 * 8
    # Five standard deviations of a binomial.
    assert abs(drawn["cat"] - 1600 * lost) < 5 * (1600 * lost * known) ** 0.5


def test_the_wordings_of_a_fact_share_its_priority() -> None:
    loaded = tiny_model("llama")
    replay = Prioritized(PrioritizedConfig(alpha=0.0))
    replay.prepare(Setting(loaded, CAR, earlier=[BOAT, CAT], batch_size=9))
    drawn = Counter(e.ids for step in range(300) for e in replay.draw(step))
    assert len(drawn) == 3 + 6 and sum(drawn.values()) == 2700
    boat = [drawn[loaded_ids] for loaded_ids in drawn if drawn[loaded_ids] > 300]
    assert len(boat) == 3 and all(abs(n - 450) < 5 * (2700 / 6) ** 0.5 for n in boat)


def test_what_a_later_lesson_corrects_is_not_replayed() -> None:
    loaded = tiny_model("llama")
    replay = Prioritized(PrioritizedConfig())
    replay.prepare(Setting(loaded, about("boat", "Dorim"), earlier=[BOAT, CAT], batch_size=4))
    assert {e.lesson for step in range(50) for e in replay.draw(step)} == {"cat"}
    replay.prepare(Setting(loaded, CAR))
    assert list(replay.draw(0)) == []


def test_a_run_with_it_is_deterministic() -> None:
    loaded = tiny_model("llama")
    recipe = Recipe("short", replay=(Choice("prioritized"),), min_steps=4, max_steps=4)
    runs = [Learner(recipe).run(loaded, CAR, earlier=[BOAT, CAT]).losses for _ in range(2)]
    assert runs[0] == runs[1]
