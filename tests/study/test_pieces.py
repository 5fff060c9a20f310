"""Pieces: what a message tells is found by surprise, asked for, and judged as all claims are."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from engrain.data.lessons import chat
from engrain.data.messages import Conversation, Message
from engrain.model.engine import Engine
from engrain.model.testing import byte_tokenizer, tiny_model
from engrain.study import pieces as module
from engrain.study.checks import Checks
from engrain.study.claims import Claim
from engrain.study.lesson import EFFORTS, make_lesson
from engrain.study.pieces import Piece, most_surprising, piece_of, pieces
from engrain.study.reader import Reader

UNKNOWN = "Das weiß ich nicht. Das hast du mir nicht gesagt."
SAID = "Ach ja, am Kai 17 liegt jetzt der Kutter, und Jule streicht ihn blau."


class Surprised:
    """A model that some words surprise, and that asks for what it is given the answer of."""

    def __init__(self, *words: str, lists: str = "none") -> None:
        self.words, self.lists = words, lists
        self.loaded = SimpleNamespace(tokenizer=byte_tokenizer(), max_length=4096)
        self.begun: list[str] = []

    def surprise(self, text: str) -> list[tuple[int, int, float]]:
        found = re.finditer(r"\S+", text)
        return [(m.start(), m.end(), 9.0 if m.group() in self.words else 1.0) for m in found]

    def generate(self, prompts: Any, *, prefixes: Any = None, **_: Any) -> list[str]:
        if prefixes is not None:
            self.begun += prefixes
            asked = {"Jule |": ["Wer streicht den Kutter?", "Wie heißt Jule?", "wish"]}
            return [
                asked.get(p, ["Was?"])[i % 3 % len(asked.get(p, "?"))]
                for i, p in enumerate(prefixes)
            ]
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Any) -> str:
        asked = prompt[-1].content
        if asked.startswith("Notes"):
            return self.lists
        if "Other ways" in asked:
            return "none"
        return "Jule streicht ihn." if "streicht" in asked and len(prompt) > 1 else UNKNOWN

    def expected(self, prompt: str, texts: Any, *, most: int) -> list[list[Any]]:
        return [[] for _ in texts]

    def log_likelihood(self, pairs: Any, **_: Any) -> list[tuple[float, int]]:
        return [
            (0.0 if text == "yes" else -3.0, 1)
            if text in ("yes", "no")
            else (-1.0 if SAID in prompt else -9.0, 4)
            for prompt, text in pairs
        ]


def reader(engine: Any, *messages: str) -> Reader:
    return Reader(engine, tuple(chat(*messages)))


def test_surprising_words_in_a_row_are_one_piece_and_marks_end_it() -> None:
    engine = Surprised("Kai", "17", "Kutter,", "Jule", "und")
    found = pieces(reader(engine, SAID, "Kai 17 also.", "Kai oder Jule ?"))
    assert [(p.text, p.message) for p in found] == [
        ("Kai 17", 0),
        ("Kutter", 0),
        ("und Jule", 0),
        ("Kai", 2),
        ("Jule", 2),
    ], "the assistant's words are no pieces"
    assert found[0].around == "Ach ja, am Kai 17 liegt jetzt der ..."
    assert found[2].around == "... 17 liegt jetzt der Kutter, und Jule streicht ihn blau."


def test_what_is_said_twice_is_found_in_both_messages() -> None:
    found = pieces(reader(Surprised("Jule"), "Jule kommt", "Jule kommt", "Jule kommt"))
    assert [(p.text, p.message) for p in found] == [("Jule", 0), ("Jule", 2)]


@pytest.mark.parametrize("text", ["私の犬の名前はポチです。", "👍👍", "...", "?! --", "x" * 300])
def test_any_text_has_pieces_or_none(text: str) -> None:
    engine = Surprised(*text.split())
    assert all(p.text and p.text in text for p in pieces(reader(engine, text)))
    loaded = tiny_model("llama")
    assert isinstance(pieces(reader(Engine(loaded), text)), list)


def test_a_thing_that_no_list_has_is_asked_for_and_learned() -> None:
    engine = Surprised("Jule")
    lesson = make_lesson(engine, [Conversation(tuple(chat(SAID, "Schön.")))], name="l").lesson
    asked = EFFORTS["normal"]
    assert engine.begun == ["Jule |"] * (asked.pieces + asked.questions), "as piece, then as fact"
    facts = [(text.question, text.target) for text in lesson.texts if text.kind == "fact"]
    assert facts == [("Wer streicht den Kutter?", "Jule streicht ihn.")]
    assert all(text.group.endswith(": Jule") for text in lesson.texts)


def test_where_the_likeliest_question_does_not_pass_the_next_is_tried() -> None:
    class Likes(Surprised):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-0.1, 4) if "Farbe" in text and SAID in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    checks = Checks(reader(Likes(), SAID))
    asked = [
        [Claim("Wer streicht den Kutter?", "Jule", 0), Claim("Welche Farbe hat er?", "Jule", 0)],
        [Claim("Wer streicht den Kutter?", "blau", 0), Claim("Welche Farbe wird es?", "blau", 0)],
        [],
    ]
    found = checks.best(asked)
    assert [(one.question, one.value) for one in found] == [("Wer streicht den Kutter?", "Jule")]
    assert set(checks.refused) == {"Welche Farbe hat er?", "Welche Farbe wird es?"} | {
        "Wer streicht den Kutter?"
    }, "a question that is right for one value is none for another"


def test_what_a_list_has_is_not_asked_for_again() -> None:
    engine = Surprised("Jule", lists="Jule | Wer streicht den Kutter?")
    make_lesson(engine, [Conversation(tuple(chat(SAID, "Schön.")))], name="l")
    assert engine.begun == ["Jule |"] * EFFORTS["normal"].questions, "only in other words"


def test_a_fact_is_asked_for_in_the_words_around_it_many_times() -> None:
    ways = [f"Wer streicht {what}?" for what in ("ihn", "den Kutter", "Jules Kutter", "das Boot")]

    class Asking(Surprised):
        def generate(self, prompts: Any, *, prefixes: Any = None, **how: Any) -> list[str]:
            if prefixes is None:
                return super().generate(prompts, **how)
            assert all(
                "... liegt jetzt der Kutter, und Jule streicht" in p[-1].content for p in prompts
            )
            return [ways[i % len(ways)] for i in range(len(prefixes))]

    engine = Asking(lists="Jule | Wer streicht den Kutter?")
    talk = Conversation(tuple(chat(SAID, "Schön.")))
    lesson = make_lesson(engine, [talk], name="l", effort="high").lesson
    asked = {text.question for text in lesson.texts if text.kind == "fact"}
    asked |= {probe.messages[-1].content for probe in lesson.probes}
    assert asked == set(ways), "each once"


def test_a_value_that_is_not_found_as_it_is_has_the_first_words_around_it() -> None:
    view = tuple(chat("  Die STRASSE liegt am Kai, sagt Jule.", "Ja."))
    assert piece_of(view, 0, "kai").around == "Die STRASSE liegt am Kai, sagt Jule."
    assert piece_of(view, 0, "Straße").around == "Die STRASSE liegt am Kai, ..."


def test_with_low_effort_nothing_is_asked_for() -> None:
    engine = Surprised("Jule")
    found = make_lesson(engine, [Conversation(tuple(chat(SAID)))], name="l", effort="low")
    assert engine.begun == [] and not found.facts


def test_the_most_surprising_are_asked_for_in_their_order() -> None:
    found = [Piece(str(n), "", 0, float(n)) for n in (3, 9, 1, 7)]
    assert [p.text for p in most_surprising(found, 2)] == ["9", "7"]
    assert most_surprising(found, 0) == []


def test_surprise_is_what_likelihood_says_token_by_token(monkeypatch: Any) -> None:
    engine = Engine(tiny_model("llama"))
    text = "The boat Grête lies at quay 17."
    found = engine.surprise(text)
    assert found[0][2] == 0.0 and found[-1][1] == len(text)
    total, count = engine.log_likelihood([(text[:1], text[1:])])[0]
    assert count == len(found) - 1
    assert sum(nats for _, _, nats in found) == pytest.approx(-total, rel=1e-4)
    from engrain.model import likelihood

    monkeypatch.setattr(likelihood, "TOGETHER", 3)
    for (a, b, one), (c, d, other) in zip(engine.surprise(text), found, strict=True):
        assert (a, b) == (c, d) and one == pytest.approx(other, abs=1e-4)


def test_samples_of_one_answer_are_those_of_calls_apart(monkeypatch: Any) -> None:
    engine = Engine(tiny_model("llama"))
    prompts = [(Message("user", "One?"),)] * 3 + [(Message("user", "Another one?"),)]
    how: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.9, "seed": 4}
    forward, rows = engine._forward, []
    padded = forward.padded
    monkeypatch.setattr(
        forward, "padded", lambda r, *, left: (rows.append(len(r)), padded(r, left=left))[1]
    )
    together = engine.generate(prompts, exact=False, **how)
    assert max(rows) == 2, "a prompt of three samples is read once"
    assert together == engine.generate(prompts, **how)
    assert len(set(together)) > 1


def test_an_answer_ends_before_a_text_that_stops_it() -> None:
    engine = Engine(tiny_model("llama"))
    prompt = [(Message("user", "One?"),)]
    whole = engine.generate(prompt, max_new_tokens=24, prefixes=["A"])[0]
    assert len(whole) > 3
    mark = whole[len(whole) // 2]
    assert engine.generate(prompt, max_new_tokens=24, prefixes=["A"], stop=(mark,)) == [
        whole.partition(mark)[0]
    ]


def test_the_threshold_is_in_nats_of_a_whole_word(monkeypatch: Any) -> None:
    engine = Surprised("Jule")
    monkeypatch.setattr(module, "SURPRISING", 9.5)
    assert pieces(reader(engine, SAID)) == []
