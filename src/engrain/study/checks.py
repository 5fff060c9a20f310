"""The round trip: what a question and its answer must pass before anything is learned from them.

With the conversation in view the reader must give the answer twice, greedily and in a sample; the
answer must gain from the conversation; the question must belong to it; and the reader must hold
that it is so according to the user. Each check has one number, measured on development data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engrain.exam.probes import answer_tokens, fold, holds, says_unknown
from engrain.study.claims import Claim
from engrain.study.reader import Reader
from engrain.study.requests import CUT

GAIN = 0.3
"""Nats a token by which an answer must gain from the conversation."""
FITS = 1.0
"""Nats a token by which a question must gain from the conversation. The well-put questions of the
trial (:mod:`engrain.study.trial`) gain 1.1 and more on a model of 135M, 2.4 and more on larger
ones; "My pet has been waiting for a long time. What's our name?" gains .96 on the 0.5B."""
BELIEF = 0.0
"""Log-odds above which the reader holds an answer for so, where its own lean is not known."""

NOT_READ = "with the conversation in view the answer is another one"
CUT_OFF = "the answer is too long and ends within a letter"
UNSURE = "asked again, the answer is another one"
KNOWN = "the weights hold it already: the answer is as likely without the conversation"
FOREIGN = "the question does not belong to the conversation"
ELSEWHERE = "it asks about a thing of another message"
DOUBTED = "not told as true: supposed, heard, made up or taken back"


@dataclass(frozen=True, slots=True)
class Checked:
    """A question that passed, the answer as it was told, and the full answer that is learned."""

    question: str
    value: str
    target: str
    message: int
    gain: float


@dataclass
class Checks:
    """Judges questions of one window; ``refused`` keeps each refused question with its reason.

    ``belief`` is the log-odds above which the reader holds an answer for so.
    """

    reader: Reader
    belief: float = BELIEF
    refused: dict[str, str] = field(default_factory=dict)
    _likely: dict[str, float] = field(default_factory=dict)
    _owes: dict[tuple[str, int], float] = field(default_factory=dict)

    def claims(self, claims: Sequence[Claim]) -> list[Checked]:
        """The claims that pass every check."""
        return self.read([(c.question, c.value, c.message) for c in claims])

    def best(self, claims: Sequence[Sequence[Claim]]) -> list[Checked]:
        """Of each group the claim with the likeliest question that passes."""
        likely = self.likely([claim.question for group in claims for claim in group])
        left = [sorted(group, key=lambda one: likely[one.question]) for group in claims]
        found: list[Checked] = []
        while left := [group for group in left if group]:
            tried = [group.pop() for group in left]
            passed = {(one.question, one.value, one.message): one for one in self.claims(tried)}
            read = [passed.get((one.question, one.value, one.message)) for one in tried]
            found += [one for one in read if one]
            left = [group for group, one in zip(left, read, strict=True) if one is None]
        return found

    def likely(self, questions: Sequence[str]) -> dict[str, float]:
        """How likely each question is with the conversation in view, in nats a token."""
        new = [question for question in dict.fromkeys(questions) if question not in self._likely]
        self._likely |= dict(zip(new, self.reader.likely(new), strict=True))
        return self._likely

    def read(self, asked: Sequence[tuple[str, str, int]]) -> list[Checked]:
        """Of questions with the value that each must be answered with, those that pass.

        What is only scored comes first: answers cost the most.
        """
        believed = self.reader.believes([(question, value) for question, value, _ in asked])
        asked = self._kept(asked, [odds > self.belief for odds in believed], DOUBTED)
        questions = [question for question, _, _ in asked]
        likely, alone = self.likely(questions), self.reader.likely(questions, alone=True)
        fits = [likely[q] - guessed >= FITS for q, guessed in zip(questions, alone, strict=True)]
        asked = self._kept(asked, fits, FOREIGN)
        questions = [question for question, _, _ in asked]
        tokens = answer_tokens(*questions)
        first = self.reader.answers(questions, tokens=tokens)
        again = self.reader.answers(questions, temperature=0.7, turn=11, tokens=tokens)
        passed = []
        for (question, value, place), target, second in zip(asked, first, again, strict=True):
            if CUT in target:
                self.refused[question] = CUT_OFF
            elif not holds(target, value) or says_unknown(target):
                self.refused[question] = NOT_READ
            elif not holds(second, value):
                self.refused[question] = UNSURE
            else:
                passed.append((question, value, target, place))
        gains = self.reader.gains([(question, target) for question, _, target, _ in passed])
        found = []
        for (question, value, target, place), gain in zip(passed, gains, strict=True):
            if gain < GAIN:
                self.refused[question] = KNOWN
            else:
                found.append(Checked(question, value, target, place, gain))
        return found

    def _kept(
        self, asked: Sequence[tuple[str, str, int]], right: Sequence[bool], reason: str
    ) -> list[tuple[str, str, int]]:
        """The questions that a check lets through; the others are refused for a reason."""
        pairs = list(zip(asked, right, strict=True))
        self.refused |= {question: reason for (question, _, _), passed in pairs if not passed}
        return [one for one, passed in pairs if passed]

    def borrowed(self, place: int, questions: Sequence[str]) -> dict[str, float]:
        """By how many nats each question gains when more than one message comes into view."""
        new = [q for q in dict.fromkeys(questions) if (q, place) not in self._owes]
        own = replace(self.reader, view=(self.reader.view[place],)).said(new)
        likely = self.likely(new)
        self._owes |= {
            (q, place): likely[q] * tokens - total
            for q, (total, tokens) in zip(new, own, strict=True)
        }
        return {question: self._owes[question, place] for question in questions}

    def alone(self, asked: Sequence[tuple[str, str, int]]) -> list[bool]:
        """Whether each question is answered with its value where its message alone is in view."""
        answers: dict[tuple[str, int], str] = {}
        for place in dict.fromkeys(place for _, _, place in asked):
            new = [q for q, _, at in asked if at == place]
            reader = replace(self.reader, view=(self.reader.view[place],))
            found = reader.answers(new, tokens=answer_tokens(*new))
            answers |= {(q, place): a for q, a in zip(new, found, strict=True)}
        return [
            holds(answers[q, place], value) and not says_unknown(answers[q, place])
            for q, value, place in asked
        ]

    def untold(self, questions: Sequence[str]) -> list[tuple[str, str]]:
        """Of questions, those that the reader says were not told, with its words."""
        answers = self.reader.answers(questions, tokens=answer_tokens(*questions))
        return [(q, a) for q, a in zip(questions, answers, strict=True) if says_unknown(a)]

    def reasons(self) -> Counter[str]:
        """How many questions were refused for each reason."""
        return Counter(self.refused.values())


def shape(question: str) -> str:
    """A question however it is written: without case, and without the marks at its end."""
    return fold(question).rstrip("?.! …")


def once(questions: Sequence[str], known: set[str]) -> list[str]:
    """Questions that were not met before, however they are written; they are known from now on."""
    found = []
    for question in questions:
        if shape(question) not in known:
            known.add(shape(question))
            found.append(question)
    return found
