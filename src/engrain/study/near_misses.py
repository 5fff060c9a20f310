"""Near misses: questions in a fact's own form that ask for another thing, which was not told.

    What is our new puppy called?        the words that the chat makes likely: "puppy"
    What is our new dog called?          what else could stand there, to the model

A lesson that answers these as it answers the fact has taught a form of words. No list of words is
needed, of any language: the model that reads says what a word owes to the chat (its pointwise
mutual information with it, in nats), and what else could stand there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from engrain.data.lessons import Lesson
from engrain.exam.probes import answer_tokens, holds, says_unknown, spaced
from engrain.study.checks import FITS, Checks, once, shape
from engrain.study.questions import Fact
from engrain.study.reader import Place, Reader
from engrain.study.requests import CUT

CHANGED = 4
"""Wordings of a fact in which words are changed."""
OWED = 2.0
"""Nats that a word must owe to the chat to be changed."""
OTHERS = 8
"""Tokens that could stand in the place of a word, with the chat in view, and as many without it."""
EVEN = 0.0
"""Log-odds up to which a near miss that the reader answers with "I don't know" may be believed. A
lean to "no" lets facts pass that are doubted a little; of 48 proposals the eight between that and
even odds were all untold ("the web server" -.7)."""
EACH = 4
"""Near misses that are read of one wording at most."""


def add_near_misses(facts: Sequence[Fact], checks: Checks, *, most: int) -> None:
    """Change wordings of facts to near misses, at most so many; what was told is dropped."""
    asked = [[one.question for one in fact.wordings[:CHANGED]] for fact in facts]
    lines = iter(changed(checks.reader, list(chain.from_iterable(asked))))
    known = {shape(w.question) for fact in facts for w in (*fact.wordings, *fact.held)}
    proposals: list[tuple[Fact, str]] = []
    for fact, wordings in zip(facts, asked, strict=True):
        # Some pass and some don't: no more are read than are wanted and half as many again.
        own = in_turn(next(lines) for _ in wordings)
        own = once([line for line in own if not holds(line, fact.value)], known)
        proposals += [(fact, line) for line in own[: most + most // 2]]
    told = dict(checks.untold([line for _, line in proposals]))
    beside = [(fact, line) for fact, line in proposals if line in told]
    # A question that the value would answer, so the verdict, or that it answers where nothing else
    # is in view, is no near miss but a misread wording.
    odds = checks.reader.believes([(line, fact.value) for fact, line in beside])
    even = max(EVEN, checks.belief)
    beside = [one for one, believed in zip(beside, odds, strict=True) if believed <= even]
    answered = checks.alone([(line, f.value, f.wordings[0].message) for f, line in beside])
    for (fact, line), read in zip(beside, answered, strict=True):
        if not read and len(fact.near) < most:
            fact.near.append((line, told[line]))


def told_since(facts: Sequence[Fact], checks: Checks, earlier: Sequence[Lesson]) -> list[str]:
    """Held-out near misses of earlier lessons that this conversation answers with one of its facts.

    Their dog was never told, and now it is: "I don't know" is no right answer any more.
    """
    asked = [
        probe.messages[-1].content
        for lesson in earlier
        for probe in lesson.probes
        if probe.kind == "abstention" and len(probe.messages) == 1
    ]
    asked = list(dict.fromkeys(asked)) if facts else []
    near = [q for q, fit in zip(asked, checks.reader.fits(asked), strict=True) if fit >= FITS]
    answers = checks.reader.answers(near, tokens=answer_tokens(*near))
    told = [
        (question, fact.value)
        for question, answer in zip(near, answers, strict=True)
        for fact in facts
        if holds(answer, fact.value) and not says_unknown(answer)
    ]
    odds = checks.reader.believes(told)
    found = [one for (one, _), believed in zip(told, odds, strict=True) if believed > checks.belief]
    return list(dict.fromkeys(found))


def changed(reader: Reader, questions: Sequence[str]) -> list[list[str]]:
    """Each question with the word that it owes most to the chat changed to others.

    Only what is no less likely than the question itself to someone who does not know the chat; what
    could stand there with the chat in view and what could without it, in turn.
    """
    told = reader.expected(questions, most=OTHERS)
    alone = reader.expected(questions, most=OTHERS, alone=True)
    proposed: list[list[list[str]]] = []
    for question, seen, guessed in zip(questions, told, alone, strict=True):
        # What stands first has nothing before it that it could be a form of.
        words = [word for word in _owed(question, seen, guessed)[1:] if word[2] >= OWED]
        if words:
            start, end, _ = max(words, key=lambda word: word[2])
            at = next(i for i, (_, stop, _, _) in enumerate(seen) if stop > start)
            proposed.append(
                [_others(question, start, end, places[at][3]) for places in (seen, guessed)]
            )
        else:
            proposed.append([])
    flat = [line for lists in proposed for lines in lists for line in lines]
    both = list(dict.fromkeys((*questions, *flat)))
    said = reader.said(both, alone=True)
    likely = {line: total for line, (total, _) in zip(both, said, strict=True)}
    found = []
    for question, lists in zip(questions, proposed, strict=True):
        kept = [[line for line in lines if likely[line] >= likely[question]] for lines in lists]
        kept = [sorted(lines, key=lambda line: -likely[line]) for lines in kept]
        found.append(list(dict.fromkeys(in_turn(kept)))[:EACH])
    return found


def in_turn(lists: Iterable[Sequence[str]]) -> list[str]:
    """The first of each list, then the second of each, and so on."""
    return [line for row in zip_longest(*lists) for line in row if line]


def _owed(
    question: str, seen: Sequence[Place], guessed: Sequence[Place]
) -> list[tuple[int, int, float]]:
    """The words of a question, and their pointwise mutual information with the chat, in nats.

    In scripts that put no space between words each token is one.
    """
    found: list[tuple[int, int, float]] = []
    for (start, end, nats, _), (_, _, alone, _) in zip(seen, guessed, strict=True):
        start += len(question[start:end]) - len(question[start:end].lstrip())
        goes_on = found and start == found[-1][1] and start and _joined(question[start - 1 : end])
        if goes_on:
            begun, _, owed = found.pop()
            found.append((begun, end, owed + alone - nats))
        elif question[start:end]:
            found.append((start, end, alone - nats))
    return [one for one in found if question[one[0]].isalnum()]


def _joined(letters: str) -> bool:
    """Whether a token goes on with the word that ends with its first letter."""
    return all(spaced(letter) for letter in letters[:2])


def _others(question: str, start: int, end: int, others: Sequence[str]) -> list[str]:
    """A question with each of some tokens in the place of a word."""
    begun, rest = question[:start], question[end:]
    apart = begun[-1:].isspace()
    words = [
        other.strip()
        for other in others
        if other.strip()[:1].isalnum() and CUT not in other and other[:1].isspace() == apart
    ]
    lines = dict.fromkeys(f"{begun}{word}{rest}" for word in words)
    return [line for line in lines if shape(line) != shape(question)]
