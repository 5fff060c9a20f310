import json
from dataclasses import replace

import pytest

from engrain.data.lessons import TrainingText, chat
from engrain.data.messages import Conversation, Message
from engrain.data.sources import Brought, Place
from engrain.study.explicit import (
    are_examples,
    curate_examples,
    hold_out_examples,
    with_answers,
)
from engrain.study.explicit import texts_of as texts_of_brought


def example(question: str, answer: str, where: str) -> TrainingText:
    return TrainingText(chat(question, answer), "explicit", where)


def test_each_answer_that_is_learned_is_a_text() -> None:
    talk = Conversation(chat("What is my motto?", "Go.", "And my cat?", "Gorla."))
    found = Brought(talk, Place("f", 1, lines=True), "messages", answers=(1, 3))
    texts = texts_of_brought(found)
    assert [text.target for text in texts] == ["Go.", "Gorla."]
    assert [len(text.messages) for text in texts] == [2, 4]
    assert {text.group for text in texts} == {"f:1"}
    assert texts_of_brought(replace(found, answers=(3,))) == texts[1:]
    assert texts_of_brought(replace(found, answers=None)) == []


def test_a_talk_as_an_example_teaches_every_answer() -> None:
    greeted = Conversation((Message("assistant", "Hello!"), *chat("My motto?", "Go.")))
    found = with_answers(Brought(greeted, Place("f"), "messages"))
    assert found.answers == (2,), "a greeting answers nothing"
    assert with_answers(replace(found, answers=(0,))).answers == (0,), "chosen ones stay"


def test_secrets_and_repetitions_are_left_out() -> None:
    texts = [
        example("What is my motto?", "Go.", "f:1"),
        example("Key?", "sk-" + "a1" * 16, "f:2"),
        example("What is my motto?", "Go.", "f:3"),
    ]
    kept, left_out = curate_examples(texts)
    assert [text.group for text in kept] == ["f:1"]
    assert [(e.where, e.reason) for e in left_out] == [
        ("f:2", "it holds a secret: API key"),
        ("f:3", "the same example twice"),
    ]
    assert "a1a1" not in json.dumps([entry.to_dict() for entry in left_out])


def texts_of(*pairs: tuple[str, str]) -> list[TrainingText]:
    return [TrainingText(chat(q, a), "explicit", f"f:{i}") for i, (q, a) in enumerate(pairs)]


@pytest.mark.parametrize(("count", "held"), [(1, 0), (4, 0), (5, 1), (10, 2), (20, 3), (100, 15)])
def test_share_that_is_held_out(count: int, held: int) -> None:
    texts = texts_of(*[(f"Question {i}?", f"Answer number {i}.") for i in range(count)])
    trained, probes = hold_out_examples(texts)
    assert (len(trained), len(probes)) == (count - held, held)
    asked = {probe.messages for probe in probes}
    assert not asked & {text.messages[:-1] for text in trained}
    assert len({probe.id for probe in probes}) == held


def test_answers_taught_in_other_words_are_held_out_first() -> None:
    pairs = [(f"Question {i}?", f"Answer {i}.") for i in range(8)]
    pairs += [("What is my cat?", "Gorla."), ("Who is my cat?", "gorla")]
    trained, probes = hold_out_examples(texts_of(*pairs), share=0.1)
    assert [probe.kind for probe in probes] == ["paraphrase"]
    assert sum("orla" in text.target for text in trained) == 1


def test_long_answers_are_examined_by_what_is_new_in_them() -> None:
    pairs = [("What is my cat?", "I think I remember it well, your cat is Gorla Minora.")] * 5
    pairs = [(f"{q[:-1]} {i}?", a) for i, (q, a) in enumerate(pairs)]
    _, probes = hold_out_examples(texts_of(*pairs))
    assert probes[0].answers == ("Gorla Minora",)


def test_no_probe_asks_what_is_trained() -> None:
    texts = texts_of(*[("What is my cat?", f"Gorla {i}.") for i in range(6)])
    trained, probes = hold_out_examples(texts)
    assert probes == [] and len(trained) == 6


def test_what_counts_as_a_file_of_examples() -> None:
    talk, exchange, weighted = (False, False, 4, 2), (False, False, 2, 1), (True, False, 2, 1)
    assert not are_examples([exchange])
    assert are_examples([exchange] * 10)
    assert not are_examples([talk] * 20)
    assert not are_examples([(False, True, 2, 1)] * 20), "an account's chats have times"
    assert are_examples([weighted]) and are_examples([talk, weighted])
