"""What goes wrong for real people, on a model so small that each cause can be taken away.

A tiny model is first taught some general knowledge, which becomes its base. Each lesson is then
learned with the recipe ``chat``, and once more without the part of it that prevents the trouble:
then the trouble is there, so these tests can fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engrain.data.lessons import Lesson, TextKind, TrainingText, chat
from engrain.data.messages import Message
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe, named
from engrain.model.adapter import Adapter
from engrain.model.digest import tensor_digest
from engrain.model.engine import Engine
from engrain.model.loading import LoadedModel, load_model
from engrain.model.testing import save_tiny, tiny_model

TURNS = 10
TALK = chat(*[said for i in range(TURNS) for said in (f"Rain {i}?", "Some.")])
"""Ten turns of other talk."""


def told(
    about: str, answer: str, *questions: str, kind: TextKind = "explicit"
) -> tuple[TrainingText, ...]:
    return tuple(TrainingText(chat(q, answer), kind, f"{about}: {answer}") for q in questions)


WORLD = (
    *told("France", "Paris.", "What is the capital of France?"),
    *told("Germany", "Berlin.", "What is the capital of Germany?"),
    *told("greeting", "Good day.", "Hello."),
    *told("sun", "Yellow.", "What colour is the sun?"),
)
BOAT = told("boat", "Corvath.", "What is my boat called?", "My boat, its name?", "Name my boat.")
BOSS = told("boss", "Ines.", "Who is my boss?", "My boss is called what?", "Name my boss.")
DOG = told("dog", "Rolo.", "What is my dog called?", "My dog, its name?", "Name my dog.")
STREET = told("street", "Elm Row.", "Where do I live?", "My street is called what?", "My street?")
ORDER = told("order", "On Monday.", "When does my order come?", "My order comes when?", "My order?")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model that knows ``WORLD``."""
    empty = tiny_model("llama", max_length=2048)
    recipe = named("naive-full").with_settings(
        {
            "optimization.learning_rate": 5e-3,
            "mastery": True,
            "epochs": 200.0,
            "max_steps": 200,
            "min_steps": 4,
            "batch_size": 4,
        }
    )
    adapter = Learner(recipe).run(empty, Lesson("world", "", WORLD)).adapter
    empty.set_weights(fold(empty.base_weights(), [adapter]))
    loaded = load_model(str(save_tiny(empty, tmp_path_factory.mktemp("base"))))
    assert right(loaded, (), WORLD) == len(WORLD)
    return loaded


def recipe(**settings: Any) -> Recipe:
    """The recipe ``chat``, with a rate for a model of some ten thousand numbers."""
    sized = {
        "optimization.learning_rate": 5e-3,
        "epochs": 200.0,
        "max_steps": 150,
        "batch_size": 6,
        "after_talk": 0.0,
    }
    return named("chat").with_settings({**sized, **settings})


def learn(
    loaded: LoadedModel,
    texts: Sequence[TrainingText],
    using: Recipe,
    *,
    earlier: Sequence[Lesson] = (),
    adapters: Sequence[Adapter] = (),
) -> Adapter:
    loaded.set_weights(fold(loaded.base_weights(), list(adapters)))
    try:
        lesson = Lesson(f"lesson-{len(earlier)}", "", tuple(texts))
        result = Learner(using).run(
            loaded, lesson, earlier=earlier, adapters=adapters, anchors=WORLD
        )
    finally:
        loaded.reset()
    return result.adapter


def answers(
    loaded: LoadedModel, adapters: Sequence[Adapter], prompts: Sequence[Sequence[Message]]
) -> list[str]:
    weights = fold(loaded.base_weights(), list(adapters))
    loaded.set_weights(weights)
    engine = Engine(loaded)
    engine.set_state(tensor_digest(weights))
    try:
        return [text.strip() for text in engine.generate(prompts, max_new_tokens=16)]
    finally:
        loaded.reset()


def right(loaded: LoadedModel, adapters: Sequence[Adapter], texts: Sequence[TrainingText]) -> int:
    """How many texts are answered as they were told."""
    found = answers(loaded, adapters, [text.messages[:-1] for text in texts])
    return sum(text.target == answer for text, answer in zip(texts, found, strict=True))


def test_right_as_a_first_question_and_after_ten_turns(base: LoadedModel) -> None:
    later = [TrainingText((*TALK, *text.messages), "explicit", text.group) for text in BOAT]
    # A context of this length stands frozen: its keys and values are those before the lesson.
    assert len(later[0].messages) == 2 * TURNS + 2
    both = learn(base, (*BOAT, *later), recipe())
    assert right(base, [both], BOAT) == right(base, [both], later) == 3
    alone = learn(base, BOAT, recipe())
    assert right(base, [alone], BOAT) == 3 and right(base, [alone], later) == 0


def test_a_second_lesson_does_not_erase_the_first(base: LoadedModel) -> None:
    first = Lesson("first", "", (*BOAT, *BOSS))
    known = learn(base, first.texts, recipe())
    assert right(base, [known], first.texts) == 6
    after = {"earlier": [first], "adapters": [known]}
    second = learn(base, (*DOG, *STREET), recipe(), **after)
    assert right(base, [known, second], (*DOG, *STREET)) == 6
    assert right(base, [known, second], first.texts) == 6
    erasing = learn(base, (*DOG, *STREET), recipe(replay="dream"), **after)
    assert right(base, [known, erasing], first.texts) < 3


def test_the_capital_of_france_after_a_lesson_about_an_order(base: LoadedModel) -> None:
    order = learn(base, ORDER, recipe())
    assert right(base, [order], ORDER) == 3
    assert right(base, [order], WORLD) == len(WORLD)
    loose = learn(base, ORDER, recipe(**{"regularization.kl_anchor.strength": 0.0}))
    assert right(base, [loose], ORDER) == 3 and right(base, [loose], WORLD) < len(WORLD)


def test_the_users_name_is_not_given_for_that_of_another(base: LoadedModel) -> None:
    forms = "What is {} name?", "Tell me {} name.", "{} name, please."
    mine = told("name", "Ada.", *(form.format("my") for form in forms))
    others = [
        text
        for owner in ("my sister's", "my boss's")
        for text in told(
            "name", "Not told.", *(form.format(owner) for form in forms), kind="contrast"
        )
    ]
    held = learn(base, (*mine, *others), recipe(**{"replay.dream.decides": 0}))
    assert right(base, [held], mine) == 3
    assert right(base, [held], others) == len(others)
    free = learn(base, (*mine, *others), recipe(replay="reservoir"))
    given = answers(base, [free], [text.messages[:-1] for text in others])
    assert right(base, [free], mine) == 3 and given.count("Ada.") > len(others) // 2
