"""Near misses: which words of a question are changed, to what, and what is held out of them."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from engrain.data.lessons import Lesson, Probe, chat
from engrain.data.messages import Conversation
from engrain.lesson.asked import corrects
from engrain.model.engine import Engine
from engrain.model.testing import byte_tokenizer, tiny_model
from engrain.study.lesson import make_lesson
from engrain.study.near_misses import EACH, changed, in_turn
from engrain.study.reader import Reader

TOLD = chat("Unser Welpe heißt Biskuit.", "Schöner Name!", "Er mag Kekse.", "Wer nicht?")
UNKNOWN = "Das weiß ich nicht. Das hast du mir nicht gesagt."


class Foreseeing:
    """A model for which the chat makes some words likely; it names what may stand for each."""

    def __init__(
        self,
        owed: dict[str, float],
        others: dict[str, tuple[list[str], list[str]]],
        *,
        unlikely: tuple[str, ...] = (),
        token: str = r"\s?\w+|\W",
    ) -> None:
        self.owed, self.others, self.unlikely, self.token = owed, others, unlikely, token
        self.loaded = SimpleNamespace(tokenizer=byte_tokenizer(), max_length=4096)
        self.lists = {
            "Notes": "Biskuit | Wie heißt unser Welpe?",
            "Other": "Welpe, Name?\nUnser Welpe heißt wie?",
        }

    def expected(self, prompt: str, texts: Any, *, most: int) -> list[list[Any]]:
        seen = "Biskuit" in prompt
        return [
            [self._place(match, seen, most) for match in re.finditer(self.token, text)]
            for text in texts
        ]

    def _place(self, match: re.Match[str], seen: bool, most: int) -> tuple[int, int, float, Any]:
        word = match.group().strip()
        nats = 1.0 if seen else 1.0 + self.owed.get(word, 0.0)
        told, alone = self.others.get(word, ([], []))
        return match.start(), match.end(), nats, (told if seen else alone)[:most]

    def log_likelihood(self, pairs: Any, **_: Any) -> list[tuple[float, int]]:
        found = []
        for prompt, text in pairs:
            if text in ("yes", "no"):
                found.append(
                    (
                        0.0
                        if (text == "yes") == ("Welpe" in prompt.rpartition("Is this so")[2])
                        else -5.0,
                        1,
                    )
                )
            else:
                found.append((-1.0 if "Biskuit" in prompt else -9.0 - (text in self.unlikely), 4))
        return found

    def surprise(self, text: str) -> list[tuple[int, int, float]]:
        return []

    def generate(self, prompts: Any, **_: Any) -> list[str]:
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Any) -> str:
        asked = prompt[-1].content
        for begins, text in self.lists.items():
            if asked.startswith(begins):
                return text if "Welpe" in asked else "none"
        told = len(prompt) > 1 and "Welpe" in prompt[0].content
        return "Er heißt Biskuit." if "Welpe" in asked and told else UNKNOWN


def near(engine: Foreseeing, *questions: str) -> list[list[str]]:
    return changed(Reader(engine, TOLD), questions)


PETS = {"Welpe": ([" Hund", " Kater"], [" Name", " Hof"]), "unser": ([" dein"], [" mein"])}


def test_the_word_that_the_chat_makes_likely_is_changed_and_no_other() -> None:
    engine = Foreseeing({"Welpe": 8.0}, PETS)
    assert near(engine, "Wie heißt unser Welpe?") == [
        [
            "Wie heißt unser Hund?",
            "Wie heißt unser Name?",
            "Wie heißt unser Kater?",
            "Wie heißt unser Hof?",
        ]
    ]


def test_of_several_words_the_one_that_owes_most_is_changed() -> None:
    engine = Foreseeing({"Welpe": 8.0, "unser": 5.0}, PETS)
    assert all("unser" in line for line in near(engine, "Wie heißt unser Welpe?")[0])
    engine = Foreseeing({"Welpe": 4.0, "unser": 5.0}, PETS)
    assert near(engine, "Wie heißt unser Welpe?") == [
        ["Wie heißt dein Welpe?", "Wie heißt mein Welpe?"]
    ]


def test_the_likelier_others_come_first_each_source_in_turn() -> None:
    class WellPut(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            likely = {"Wie heißt unser Kater?": -2.0, "Wie heißt unser Hof?": -3.0}
            return [
                (likely.get(text, total), tokens)
                for (_, text), (total, tokens) in zip(pairs, found, strict=True)
            ]

    assert near(WellPut({"Welpe": 8.0}, PETS), "Wie heißt unser Welpe?") == [
        [
            "Wie heißt unser Kater?",
            "Wie heißt unser Hof?",
            "Wie heißt unser Hund?",
            "Wie heißt unser Name?",
        ]
    ]


def test_what_a_question_begins_with_is_its_form_and_stays() -> None:
    engine = Foreseeing({"Welpe": 30.0}, {"Welpe": (["Hund"], ["Kater"])})
    assert near(engine, "Welpe, Name?") == [[]]


def test_nothing_is_changed_in_what_the_chat_makes_no_likelier() -> None:
    assert near(Foreseeing({"Welpe": 1.0}, PETS), "Wie heißt unser Welpe?") == [[]]
    assert near(Foreseeing({}, PETS)) == []


def test_what_is_less_likely_than_the_question_is_no_question() -> None:
    engine = Foreseeing({"Welpe": 8.0}, PETS, unlikely=("Wie heißt unser Name?",))
    assert "Wie heißt unser Name?" not in near(engine, "Wie heißt unser Welpe?")[0]
    assert len(near(engine, "Wie heißt unser Welpe?")[0]) == 3


def test_a_word_is_put_whole_and_marks_stay() -> None:
    others = {"Welpe": (["hund", " ,", " Hund", " welpe"], [" Hund"])}
    engine = Foreseeing({"Welpe": 8.0}, others)
    assert near(engine, "Heißt er, Welpe?!") == [["Heißt er, Hund?!"]]


def test_scripts_without_spaces_are_changed_token_by_token() -> None:
    engine = Foreseeing(
        {"小狗": 9.0}, {"小狗": (["小猫"], ["公司"])}, token="我们的|小狗|叫|什么|."
    )
    assert near(engine, "我们的小狗叫什么?") == [["我们的小猫叫什么?", "我们的公司叫什么?"]]


def test_the_first_of_each_list_comes_before_the_second_of_any() -> None:
    assert in_turn([["a", "b", "c"], [], ["d"]]) == ["a", "d", "b", "c"]
    assert in_turn([]) == []


@pytest.mark.parametrize(("others", "held"), [(2, 0), (3, 1), (6, 1)])
def test_of_three_near_misses_one_is_held_out_and_never_trained(others: int, held: int) -> None:
    things = [" Hund", " Kater", " Hof", " Vogel", " Bruder", " Nachbar"][:others]
    engine = Foreseeing({"Welpe": 8.0}, {"Welpe": (things, things)})
    engine.lists["Other"] = "Welpe, Name?"
    lesson = make_lesson(engine, [Conversation(TOLD)], name="l").lesson
    probes = [probe for probe in lesson.probes if probe.kind == "abstention"]
    contrast = {text.question for text in lesson.texts if text.kind == "contrast"}
    assert len(probes) == held and len(contrast) == min(others, EACH) - held
    for probe in probes:
        assert probe.answers == () and probe.not_answers == ("Biskuit",)
        assert probe.group == lesson.texts[0].group
        assert probe.messages[-1].content not in contrast


def test_a_wording_that_owes_much_to_another_message_is_dropped() -> None:
    mixed = "Welpe, welche Kekse mag sein Name?"

    class Mixing(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-20.0, 4) if text == mixed and "Kekse" not in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    kept = Foreseeing({}, {})
    kept.lists["Other"] += f"\n{mixed}"
    assert mixed in asked_of(kept)
    dropped = Mixing({}, {})
    dropped.lists["Other"] += f"\n{mixed}"
    assert mixed not in asked_of(dropped) and len(asked_of(dropped)) == 3


def test_near_misses_have_the_forms_of_what_is_trained_and_not_of_probes() -> None:
    things = [" Hund", " Kater", " Hof", " Vogel"]
    engine = Foreseeing({"Welpe": 8.0}, {"Welpe": (things, things)})
    ways = [f"Wie, Fall {i}, heißt unser Welpe?" for i in range(9)]
    engine.lists["Other"] = "\n".join(ways)
    lesson = make_lesson(engine, [Conversation(TOLD)], name="l").lesson
    held = [p.messages[-1].content for p in lesson.probes if p.kind != "abstention"]
    near = [text.question for text in lesson.texts if text.kind == "contrast"]
    near += [p.messages[-1].content for p in lesson.probes if p.kind == "abstention"]
    assert held and near
    for probe in held:
        begun = probe.partition("Welpe")[0]
        assert not any(question.startswith(begun) for question in near)
    for question in near:
        begun = question.rsplit(" ", 1)[0]
        assert any(text.question.startswith(begun) for text in lesson.facts())


def asked_of(engine: Foreseeing) -> set[str]:
    lesson = make_lesson(engine, [Conversation(TOLD)], name="l").lesson
    asked = {text.question for text in lesson.facts()}
    return asked | {probe.messages[-1].content for probe in lesson.probes}


def test_a_real_model_says_what_could_stand_in_each_place() -> None:
    engine = Engine(tiny_model())
    reader = Reader(engine, TOLD)
    found = changed(reader, ["what is our dog called?", "our dog?"])
    assert len(found) == 2
    places = reader.expected(["what is our dog?"], most=3)[0]
    assert places[0][0] == 0 and places[-1][1] == len("what is our dog?")
    assert all(len(others) == 3 for _, _, _, others in places)


def test_wordings_take_over_a_common_answer_that_fits_them_better() -> None:
    good, bad = "Unser Welpe heißt Biskuit.", "Unser Welpe Biskuit heißt."

    class Stumbling(Foreseeing):
        def _answer(self, prompt: Any) -> str:
            found = super()._answer(prompt)
            if found != "Er heißt Biskuit.":
                return found
            return bad if prompt[-1].content == "Wie heißt unser Welpe?" else good

        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-11.0, 4) if text == bad and "Kekse" not in prompt else one
                for (_, text), one, prompt in zip(pairs, found, (p for p, _ in pairs), strict=True)
            ]

    lesson = make_lesson(Stumbling({}, {}), [Conversation(TOLD)], name="l").lesson
    assert {text.target for text in lesson.facts()} == {good}


def test_what_is_held_out_is_of_the_likelier_half() -> None:
    ways = [f"Welpe, Name, Fall {i}?" for i in range(9)]

    class WellPut(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-1.1 - 0.1 * ways.index(text), 4) if text in ways and "Kekse" in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    for seed in range(5):
        engine = WellPut({}, {})
        engine.lists["Other"] = "\n".join(ways)
        lesson = make_lesson(engine, [Conversation(TOLD)], name="l", seed=seed).lesson
        held = {probe.messages[-1].content for probe in lesson.probes}
        assert len(held) == 2 and held <= set(ways[:4])


def test_lengths_are_weighed_by_what_the_whole_question_costs() -> None:
    """A rare word is many tokens: a shorter question may be likelier, and less so a token."""

    class Rare(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-24.0, 12) if "Welpe" in text and "Kekse" not in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    assert len(near(Rare({"Welpe": 8.0}, PETS), "Wie heißt unser Welpe?")[0]) == EACH


@pytest.mark.parametrize(("odds", "kept"), [(-3.0, True), (-0.5, True), (0.5, False)])
def test_even_odds_are_enough_for_what_the_reader_says_was_not_told(
    odds: float, kept: bool
) -> None:
    class Leaning(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            doubted = [
                "Is this so" in p and "Welpe" not in p.rpartition("Is this")[2] for p, _ in pairs
            ]
            return [
                (odds if text == "yes" else 0.0, 1) if near and text in ("yes", "no") else one
                for (_, text), near, one in zip(pairs, doubted, found, strict=True)
            ]

    engine = Leaning({"Welpe": 8.0}, PETS)
    lesson = make_lesson(engine, [Conversation(TOLD)], name="l", belief=-1.4).lesson
    assert any(text.kind == "contrast" for text in lesson.texts) == kept


def test_a_question_that_barely_fits_the_chat_is_refused() -> None:
    class Vague(Foreseeing):
        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-5.4, 4) if text == "Welpe, Name?" and "Kekse" in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    assert "Welpe, Name?" in asked_of(Foreseeing({}, {}))
    assert "Welpe, Name?" not in asked_of(Vague({}, {}))


def test_an_answer_that_stands_alone_is_not_taken_over() -> None:
    class Various(Foreseeing):
        def _answer(self, prompt: Any) -> str:
            found = super()._answer(prompt)
            asked = prompt[-1].content
            return f"Zu {asked}: Biskuit." if found == "Er heißt Biskuit." else found

        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-5.0, 4) if text.startswith("Zu Welpe") and "Kekse" not in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    lesson = make_lesson(Various({}, {}), [Conversation(TOLD)], name="l").lesson
    assert {text.target for text in lesson.facts()} == {
        f"Zu {text.question}: Biskuit." for text in lesson.facts()
    }


def test_two_claims_that_are_answered_together_become_one_fact() -> None:
    class Titled(Foreseeing):
        def _answer(self, prompt: Any) -> str:
            found = super()._answer(prompt)
            return "Er heißt Herr Biskuit." if found == "Er heißt Biskuit." else found

    told = chat("Unser Welpe heißt Herr Biskuit.", *(m.content for m in TOLD[1:]))
    engine = Titled({}, {})
    engine.lists["Notes"] = "Herr | Wie heißt unser Welpe?\nBiskuit | Unser Welpe heißt wie?"
    preview = make_lesson(engine, [Conversation(told)], name="l")
    assert [fact.value for fact in preview.facts] == ["Biskuit"]


def earlier(*questions: str) -> Lesson:
    probes = [Probe(q, "abstention", chat(q), (), ("Rex",), group="Hund: Rex") for q in questions]
    return Lesson("old", "a dog", (), tuple(probes))


def test_a_near_miss_that_is_told_later_is_no_probe_any_more() -> None:
    old = earlier("Wie heißt der Welpe?", "Wie heißt der Kater?")
    found = make_lesson(
        Foreseeing({}, {}), [Conversation(TOLD)], name="l", earlier=[old]
    ).lesson.corrects
    assert found == ("Wie heißt der Welpe?",)


def test_a_near_miss_that_the_chat_does_not_suggest_is_not_even_asked() -> None:
    class Vague(Foreseeing):
        asked: ClassVar[list[str]] = []

        def _answer(self, prompt: Any) -> str:
            self.asked.append(prompt[-1].content)
            return super()._answer(prompt)

        def log_likelihood(self, pairs: Any, **how: Any) -> list[tuple[float, int]]:
            found = super().log_likelihood(pairs, **how)
            return [
                (-9.0, 4) if text == "Wie heißt der Welpe?" else one
                for (_, text), one in zip(pairs, found, strict=True)
            ]

    engine = Vague({}, {})
    old = earlier("Wie heißt der Welpe?")
    assert make_lesson(engine, [Conversation(TOLD)], name="l", earlier=[old]).lesson.corrects == ()
    assert "Wie heißt der Welpe?" not in engine.asked


def test_what_is_told_now_is_no_probe_of_an_earlier_lesson() -> None:
    old, newer = earlier("Wie heißt der Welpe?", "Wie heißt der Kater?"), earlier()
    newer = replace(newer, corrects=("Wie heißt der Welpe?",))
    assert [corrects(newer, old, probe) for probe in old.probes] == [True, False]
