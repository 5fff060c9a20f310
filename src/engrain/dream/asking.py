"""Where the questions of self-study come from.

First the model is asked for them: lists over the whole conversation, then one for each sentence
of the user. What is still without a question after the checks gets a second round, with the one
message in view, that needs no skill in following instructions: the model goes on with the user's
next message, and plain sentences ("my ... is ...", "I ...") are turned into questions by rule. All
of it is only proposed; the checks decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from engrain.data.facts import QUESTION_INSTRUCTION_ABOUT, QUESTIONS_INSTRUCTION
from engrain.data.messages import Conversation
from engrain.dream.checks import Candidate
from engrain.dream.clauses import clauses_of
from engrain.dream.frames import lowered, parts_of
from engrain.dream.grounding import Sentence, UserWords
from engrain.dream.reader import LIST_TOKENS, QUESTION_TOKENS, Reader
from engrain.study.wording import question_lines, tidy

USER_OPENERS = ("What is", "Who is", "Where", "When", "Do you remember", "What")
"""Beginnings that the model goes on with in the second round."""

_THING = (
    r"(?:(?:[Mm]y|[Oo]ur)\s(?:(?!\bthat\b)[^,.;:?!]){2,60}?"
    r"|[A-Z][\w-]+(?:\s[A-Z][\w-]+)?['’]s\s[^,.;:?!]{2,50}?"
    r"|[Tt]he\s[^,.;:?!]{2,40}\sof\s[^,.;:?!]{2,30}?)"
)
_PLAIN = re.compile(
    rf"\b(?P<thing>{_THING})(?:,\s(?:it|that|this|he|she)(?:\swould\sbe)?)?"
    r"\s(?P<be>is|are|was|were|would be|will be)\s"
)
_NAMED = re.compile(rf"\b(?:about|as|for|on|of|call|called)\s(?P<thing>{_THING})(?=[,.:;]|$)")


def ask_for_questions(
    reader: Reader, said: UserWords, *, lists: int, about: int
) -> list[Candidate]:
    """Questions from whole windows (``lists`` sampled ones beside the greedy one) and sentences."""
    every = range(len(reader.windows))
    prompts = [reader.with_conversation(window, QUESTIONS_INSTRUCTION) for window in every]
    texts = reader.generate(prompts, max_new_tokens=LIST_TOKENS)
    texts += reader.generate(prompts * lists, max_new_tokens=LIST_TOKENS, temperature=0.8, round_=1)
    candidates = [
        Candidate(question, number % len(prompts), "list")
        for number, text in enumerate(texts)
        for question in question_lines(text)
    ]
    places = _windows(reader)
    about_whole = [(s, places[s.text]) for s in said.statements() if s.text in places]
    return candidates + _about(reader, about_whole, about, round_=2, greedy=True)


def ask_again(
    reader: Reader, missed: Sequence[Sentence], *, turns: int, about: int
) -> list[Candidate]:
    """The second round, for the sentences that no accepted question came from."""
    if not missed:
        return []
    alone = [(sentence, reader.narrow(sentence.message)) for sentence in missed]
    candidates = _about(reader, alone, about, round_=4, greedy=False)
    candidates += [
        Candidate(text, window, "rule", stem=parts_of(text).answer_stem)
        for sentence, window in alone
        for text in plain_questions(sentence.text)
    ]
    candidates += ask_for_deeds(reader, missed)
    windows = list(dict.fromkeys(window for _, window in alone))
    begun = [(w, opener) for w in windows for opener in USER_OPENERS for _ in range(turns)]
    texts = reader.continue_user(
        [opener for _, opener in begun],
        after=[window for window, _ in begun],
        temperature=0.8,
        round_=5,
    )
    candidates += [
        Candidate(tidy(text.split("\n", 1)[0]), window, "turn")
        for (window, _), text in zip(begun, texts, strict=True)
    ]
    return candidates


def ask_for_deeds(reader: Reader, sentences: Iterable[Sentence]) -> list[Candidate]:
    """By rule, what somebody does in some sentences, each seen alone."""
    return [
        Candidate(text, reader.narrow(sentence.message), "rule", stem=stem)
        for sentence in sentences
        for text, stem in clause_questions(sentence.text)
    ]


def plain_questions(sentence: str) -> list[str]:
    """Questions that a sentence of a plain form answers.

    Example:
        >>> plain_questions("Fun fact: my aunt's cat is Gorla.")
        ["What is my aunt's cat?", "Who is my aunt's cat?"]
    """
    made: list[str] = []
    for found in _PLAIN.finditer(sentence):
        be = found.group("be") if found.group("be") in ("is", "are", "was", "were") else "is"
        made += [f"{wh} {be} {lowered(found.group('thing'))}?" for wh in ("What", "Who")]
    if not made:  # "Put down Gorla as my aunt's cat."
        for found in _NAMED.finditer(sentence):
            made += [f"{wh} is {lowered(found.group('thing'))}?" for wh in ("What", "Who")]
    return list(dict.fromkeys(made))


def clause_questions(sentence: str) -> list[tuple[str, str]]:
    """Questions for what somebody does, each with the stem of its answer.

    Example:
        >>> clause_questions("Please note: I volunteer in Tampa.")[0]
        ('Where do I volunteer?', 'You volunteer in')
    """
    made: list[tuple[str, str]] = []
    for clause in clauses_of(sentence):
        for wh in ("where", "what") if clause.at_a_place else ("what",):
            if text := clause.direct(wh):
                made.append((f"{text[0].upper()}{text[1:]}?", clause.answer_stem))
            elif text := clause.inside(wh):
                made.append((f"Do you know {text}?", clause.answer_stem))
    return made


def _about(
    reader: Reader,
    sentences: Iterable[tuple[Sentence, int]],
    samples: int,
    *,
    round_: int,
    greedy: bool,
) -> list[Candidate]:
    """A question about each of some sentences, in their windows, greedily and in samples."""
    asked = [
        (window, QUESTION_INSTRUCTION_ABOUT.format(statement=sentence.text))
        for sentence, window in sentences
    ]
    prompts = [reader.with_conversation(window, request) for window, request in asked]
    texts = reader.generate(prompts, max_new_tokens=QUESTION_TOKENS) if greedy else []
    texts += reader.generate(
        prompts * samples, max_new_tokens=QUESTION_TOKENS, temperature=0.8, round_=round_
    )
    return [
        Candidate(tidy(text.split("\n", 1)[0]), asked[number % len(asked)][0], "about")
        for number, text in enumerate(texts)
    ]


def _windows(reader: Reader) -> dict[str, int]:
    """The first window in which each sentence of the user stands."""
    places: dict[str, int] = {}
    for number, window in enumerate(reader.windows[: reader.whole]):
        for sentence in UserWords.of(Conversation(window)).sentences:
            places.setdefault(sentence.text, number)
    return places
