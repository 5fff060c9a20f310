from typing import Any

from engrain.dream import checks, lexicon
from engrain.dream.lexicon import Lexicon
from engrain.dream.self_study import study
from engrain.study.wording import topic

from .scripted import ABOUT, FakeTokenizer, Scripted, conversation
from .test_self_study import TWO

TALK = conversation("My aunt's cat is Gorla.", "Noted.")


class Pieces(FakeTokenizer):
    """Cuts words that it does not hold into letters."""

    HELD = "would there which about where their please know what is my aunt cat car"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids: list[int] = []
        for word in text.split():
            ids += [1] if word.lower() in self.HELD.split() else [2] * len(word)
        return {"input_ids": ids}


def test_words_of_the_talk_and_of_the_tokenizer_are_words() -> None:
    words = Lexicon.of(Pieces(), TALK)
    assert words.garbled("What is my aunt's cat? Gorla. A car?") == []
    assert words.garbled("What is my aunt's catol?") == ["catol"]
    assert words.garbled("Your catol is Gorla.", ["What is my catol?"]) == []


def test_letters_tell_nothing() -> None:
    class Letters(FakeTokenizer):
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [1] * len(text)}

    assert Lexicon.of(Letters(), TALK).garbled("catol") == []


def test_one_new_word_may_be_a_paraphrase_and_several_are_not() -> None:
    words = Lexicon.of(FakeTokenizer(), TALK)
    assert not words.strayed(topic("What is my aunt's pet?"))
    assert words.strayed(topic("What is my uncle's boat?"))


def test_garbled_questions_and_answers_are_refused() -> None:
    question, bad = "What is my aunt's cat?", "What is my aunt's catol?"
    for about, said, asked in (
        (bad, "Your aunt's catol is Gorla.", bad),
        (question, "Your aunt'safol is Gorla.", question),
    ):
        engine = Scripted(TWO, overrides={f"{ABOUT}My aunt's cat is Gorla.": about, asked: said})
        engine.loaded.tokenizer = Pieces()
        result = study(engine, TALK)
        assert dict(result.dropped)[asked] == lexicon.GARBLED
        assert asked not in {text.question for text in result.texts}
    assert checks.NOT_KNOWN != lexicon.GARBLED
