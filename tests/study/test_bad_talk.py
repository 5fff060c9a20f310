"""Conversations that are hard to study: of thousands of messages, or in scripts of many bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engrain.data.lessons import chat
from engrain.data.messages import Conversation
from engrain.errors import NothingToLearnError
from engrain.model.testing import byte_tokenizer
from engrain.study import checks, requests
from engrain.study.lesson import make_lesson

UNKNOWN = "I don't know. You haven't told me."


class Reading:
    """A model that reads what ``told`` holds: values by a word of the question, in their message.

    It writes the pairs of the message that it is asked about, and nothing else.
    """

    def __init__(self, told: dict[str, tuple[str, str, str]], *, room: int = 4096) -> None:
        self.told = told
        self.loaded = SimpleNamespace(tokenizer=byte_tokenizer(), max_length=room)
        self.longest = 0
        self.lists = 0

    def generate(self, prompts: Any, *, max_new_tokens: int = 32, **_: Any) -> list[str]:
        return [self._answer(prompt, max_new_tokens) for prompt in prompts]

    def _answer(self, prompt: Any, most: int) -> str:
        asked, seen = prompt[-1].content, "\n".join(m.content for m in prompt[:-1])
        self.longest = max(self.longest, len(seen.encode()))
        if asked.startswith("Notes on this"):
            self.lists += 1
            pairs = [
                f"{value} | {question}"
                for said, (question, value, _) in self.told.items()
                if said[:9] in asked
            ]
            return "\n".join(pairs) or requests.NONE
        if asked.startswith("Other ways"):
            return requests.NONE
        for said, (question, _, answer) in self.told.items():
            if asked == question and said in seen:
                return answer.encode()[:most].decode(errors="replace")
        return UNKNOWN

    def surprise(self, text: str) -> list[tuple[int, int, float]]:
        return []

    def expected(self, prompt: str, texts: Any, *, most: int) -> list[list[Any]]:
        return [[] for _ in texts]

    def log_likelihood(self, pairs: Any, **_: Any) -> list[tuple[float, int]]:
        found = []
        for prompt, text in pairs:
            if text in ("yes", "no"):
                found.append((0.0 if text == "yes" else -5.0, 1))
            else:
                seen = any(said in prompt for said in self.told)
                found.append((-1.0 if seen else -9.0, 4))
        return found


def test_two_thousand_messages() -> None:
    """Read in windows, each message of the user asked about once; what is told last is found."""
    said = "By the way, my boat is called Corvath."
    contents = [text for i in range(1000) for text in (f"Line {i} of talk.", "I see.")]
    contents[-2] = said
    talk = Conversation(chat(*contents))
    assert len(talk) == 2000
    engine = Reading({said: ("What is my boat called?", "Corvath", "Your boat is Corvath.")})
    preview = make_lesson(engine, [talk], name="l", effort="low")
    lesson = preview.lesson
    assert [text.target for text in lesson.facts()] == ["Your boat is Corvath."]
    assert lesson.sources == (talk.digest,) and lesson.conversations == (talk,)
    assert engine.lists == 1000 and len(preview.missed) == 999
    # No window outgrows what a model can read, nor does the text that is read in training.
    assert engine.longest < 4096
    reading = [text for text in lesson.texts if text.kind == "reading"]
    assert sum(len(m.content) for text in reading for m in text.messages) < 4096


def test_two_thousand_messages_in_which_nothing_is_told() -> None:
    talk = Conversation(chat(*["Hello.", "Hello!"] * 1000))
    preview = make_lesson(Reading({}), [talk], effort="low")
    with pytest.raises(NothingToLearnError) as caught:
        preview.lesson.facts()
    assert caught.value.remedy and len(preview.missed) == 1000
    assert len(caught.value.message) < 500


SCRIPTS = {
    "Georgian": (
        "ჩემი ნავი არის კორვათი და ის წითელია.",
        "რა ჰქვია ჩემს ნავს?",
        "კორვათი",
        "შენს ნავს ჰქვია კორვათი.",
    ),
    "Thai": ("เรือของผมชื่อคอร์วัธและเป็นสีแดง", "เรือของผมชื่ออะไร?", "คอร์วัธ", "เรือของคุณชื่อคอร์วัธ"),
    "Amharic": ("የጀልባዬ ስም ኮርቫት ነው።", "የጀልባዬ ስም ማን ነው?", "ኮርቫት", "የጀልባህ ስም ኮርቫት ነው።"),
    "Chinese": (
        "我的船叫科尔瓦特号，是红色的。",
        "我的船叫什么?",
        "科尔瓦特",
        "你的船叫科尔瓦特号，是红色的。",
    ),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_the_tokenizer_knows_only_as_bytes(script: str) -> None:
    """Three tokens a letter: the answer is read whole, in the user's own letters."""
    said, question, value, answer = SCRIPTS[script]
    assert len(answer.encode()) > 32, "more bytes than an English answer may have tokens"
    preview = make_lesson(
        Reading({said: (question, value, answer)}), [Conversation(chat(said, "👍"))], effort="low"
    )
    (text,) = preview.lesson.facts()
    assert (text.question, text.target) == (question, answer)


def test_an_answer_that_ends_within_a_letter_is_not_learned() -> None:
    said, question, value, _ = SCRIPTS["Georgian"]
    long = "შენს ნავს ჰქვია " + value + ", " + "და ის ძალიან ლამაზია, " * 9
    preview = make_lesson(
        Reading({said: (question, value, long)}), [Conversation(chat(said, "👍"))], effort="low"
    )
    assert preview.questions == ((question, checks.CUT_OFF),)
    with pytest.raises(NothingToLearnError, match="ends within a letter"):
        preview.lesson.facts()


def test_a_line_that_ends_within_a_letter_is_dropped() -> None:
    cut = "რა ჰქვია ჩემს ნავს?".encode()[:-5].decode(errors="replace")
    assert cut.endswith(requests.CUT)
    assert requests.lines_of(f"რა ჰქვია?\n{cut}") == ["რა ჰქვია?"]
