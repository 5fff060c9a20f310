"""The checks that a question passes before anything is learned from it.

The model proposes, and these checks dispose: what it answers the same without the conversation,
what it answers differently when asked again, what the user never said, or said of something else,
or took back. Each refusal is kept with its reason, in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from engrain.data.messages import Conversation
from engrain.dream.frames import parts_of
from engrain.dream.grounding import Mention, Sentence, UserWords
from engrain.dream.lexicon import GARBLED, STRAYED, Lexicon
from engrain.dream.reader import Reader
from engrain.exam.probes import says_unknown
from engrain.study.wording import holds, key_runs, normal, question_fault, topic, words

CONSISTENCY_TEMPERATURE = 0.7

NEUTRAL = "neutral"
"""The origin of wordings from frames which are not the model's own."""

VOTES = 5
"""Sampled answers to a question that gets a second chance."""
VOTED_QUESTIONS = 3
"""Most questions about one sentence that get a second chance."""

NOT_KNOWN = "the model found no answer in the conversation"
NOTHING_NEW = "the answer says nothing that the question does not say"
NOT_SAID = "the answer is not in the user's own words"
NO_VALUE = "the answer is what something was said of, not what was said"
OTHER_FACT = "the answer belongs to something else that the user said"
TAKEN_BACK = "the user took that value back"
INCONSISTENT = "asked again, the model answered something else"
KNOWN = "answered the same without the conversation: nothing to learn"
OTHER_MEANING = "the rewording asks for something else"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question that might be learned.

    ``wanted`` is the key that a rewording must keep; ``stem`` begins the answer in a second try. A
    small model that garbles what it is asked for ("Your lawnmother's mower") still finds the value.
    """

    question: str
    window: int
    origin: str
    wanted: tuple[str, ...] = ()
    stem: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A question that passed: its answer with the conversation, and where the user said it.

    ``stem`` is what the answer had to be begun with, "" where the model needed no help.
    """

    question: str
    window: int
    origin: str
    answer: str
    key: tuple[str, ...]
    mention: Mention
    stem: str = ""


Outcome = tuple[tuple[str, ...], Mention] | str
"""The key of an answer and where the user said it, or why there is none."""


@dataclass
class Checker:
    """Runs the checks over batches of candidates, and keeps what was refused and why."""

    reader: Reader
    said: UserWords
    lexicon: Lexicon
    refused: dict[str, str]
    seen: set[str]
    failed: list[Candidate] = field(default_factory=list)
    rounds: int = 0

    @classmethod
    def of(cls, reader: Reader, conversation: Conversation) -> Checker:
        """A checker that has seen no question yet."""
        lexicon = Lexicon.of(reader.engine.loaded.tokenizer, conversation)
        return cls(reader, UserWords.of(conversation), lexicon, {}, set())

    def refuse(self, question: str, reason: str) -> None:
        """Note a refusal; the first reason stays."""
        self.refused.setdefault(question, reason)

    def fresh(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """Candidates that are questions and were not seen before.

        What stands in a neutral frame is not looked at again: people wrote the frame, and what it
        asks for has passed.
        """
        for candidate in candidates:
            shape = normal(candidate.question)
            if shape in self.seen:
                continue
            self.seen.add(shape)
            known = candidate.origin == NEUTRAL
            fault = question_fault(candidate.question) or self._strange(candidate.question)
            if fault and not known:
                self.refuse(candidate.question or "(empty)", fault)
            else:
                yield candidate

    def check(self, candidates: Iterable[Candidate]) -> list[Checked]:
        """Ask all candidates and give those that pass every check.

        A rewording whose answer keeps the key has agreed with an answer that passed all checks:
        it is asked once, or once more with the stem of its answer.
        """
        todo = list(self.fresh(candidates))
        self.rounds += 1
        found: list[Checked] = []
        for candidate, answer, outcome in self._answered(todo):
            if isinstance(outcome, str):
                self.refuse(candidate.question, outcome)
                self.failed.append(candidate)
            else:
                where = (candidate.question, candidate.window, candidate.origin)
                found.append(Checked(*where, answer, *outcome, candidate.stem))
        agreed = {c.question for c in todo if c.wanted}
        same = self._consistent([f for f in found if f.question not in agreed])
        wavering = {f.question for f in found} - agreed - {f.question for f in same}
        self.failed += [c for c in todo if c.question in wavering]
        passed = agreed | {f.question for f in self._unknown(same)}
        return [f for f in found if f.question in passed]

    def _answered(self, todo: Sequence[Candidate]) -> list[tuple[Candidate, str, Outcome]]:
        """Each candidate with its answer and what that is worth; the stem goes if not needed."""
        answers = self.reader.read([(c.window, c.question) for c in todo])
        outcomes = [self._ground(c, answer) for c, answer in zip(todo, answers, strict=True)]
        again = [i for i, c in enumerate(todo) if c.stem and isinstance(outcomes[i], str)]
        begun = self.reader.read(
            [(todo[i].window, todo[i].question) for i in again],
            begun=[todo[i].stem for i in again],
        )
        tried = [replace(candidate, stem="") for candidate in todo]
        for i, answer in zip(again, begun, strict=True):
            tried[i], answers[i], outcomes[i] = todo[i], answer, self._ground(todo[i], answer)
        return list(zip(tried, answers, outcomes, strict=True))

    def vote(self, missed: Iterable[Sentence]) -> list[Checked]:
        """A second chance for questions about sentences that nothing was learned from.

        The model answers each several times, with that one message in view and from the stem of
        the answer on where there is one; what most of the answers say, and passes every other
        check, counts. The first answer of a weak reader is often not its most common one.
        """
        places = {sentence.place for sentence in missed}
        chosen: dict[int, list[Candidate]] = {}
        for candidate in self.failed:
            sentence = self.said.told_in(candidate.question)
            if sentence is not None and sentence.place in places and not candidate.wanted:
                again = replace(
                    candidate,
                    window=self.reader.narrow(sentence.message),
                    stem=candidate.stem or parts_of(candidate.question).answer_stem,
                )
                chosen.setdefault(sentence.place, []).append(again)
        todo = [
            candidate
            for found in chosen.values()
            for candidate in sorted(found, key=lambda c: not c.stem)[:VOTED_QUESTIONS]
        ]
        answers = self.reader.read(
            [(c.window, c.question) for c in todo for _ in range(VOTES)],
            temperature=CONSISTENCY_TEMPERATURE,
            round_=700,
            begun=[c.stem for c in todo for _ in range(VOTES)],
        )
        won = []
        for number, candidate in enumerate(todo):
            found = self._most(candidate, answers[number * VOTES : (number + 1) * VOTES])
            won += [found] if found else []
        passed = self._unknown(won)
        for pair in passed:
            self.refused.pop(pair.question, None)
        return passed

    def _most(self, candidate: Candidate, answers: Sequence[str]) -> Checked | None:
        """The pair of the key that most answers give, None without a majority."""
        by_key: dict[tuple[str, ...], list[Checked]] = {}
        for answer in answers:
            outcome = self._ground(candidate, answer)
            if not isinstance(outcome, str):
                where = (candidate.question, candidate.window, candidate.origin)
                found = Checked(*where, answer, *outcome, candidate.stem)
                by_key.setdefault(outcome[0], []).append(found)
        best = max(by_key.values(), key=len, default=[])
        if 2 * len(best) <= len(answers):
            return None
        texts = [pair.answer for pair in best]
        return max(best, key=lambda pair: texts.count(pair.answer))

    def _strange(self, question: str) -> str:
        """Why the words of a question are not to be trusted; "" when they are."""
        if self.lexicon.garbled(question):
            return GARBLED
        return STRAYED if self.lexicon.strayed(topic(question)) else ""

    def _ground(self, candidate: Candidate, answer: str) -> Outcome:
        """The key of an answer and where the user said it, or why there is none."""
        if not answer or says_unknown(answer):
            return NOT_KNOWN
        if self.lexicon.garbled(answer, [candidate.question]):
            return GARBLED
        runs = key_runs(answer, [candidate.question])
        if not runs:
            return NOTHING_NEW
        if candidate.wanted:
            # A rewording that keeps the value keeps the fact, however its answer is put.
            if not holds(answer, candidate.wanted):
                return OTHER_MEANING
            if holds(candidate.question, candidate.wanted):
                return NOTHING_NEW
            runs = [candidate.wanted]
        said = [run for run in runs if self.said.mentions(run)]
        if not said:
            return NOT_SAID
        for run in said:
            mention = self.said.evidence(candidate.question, run)
            if mention is None:
                continue
            if mention.told_of:
                return NO_VALUE
            if self.said.retracted(run) or (mention.negated and not _denies(answer)):
                return TAKEN_BACK
            return run, mention
        return OTHER_FACT

    def _consistent(self, found: Sequence[Checked]) -> list[Checked]:
        """Those whose key is in a second, sampled answer as well."""
        again = self.reader.read(
            [(pair.window, pair.question) for pair in found],
            temperature=CONSISTENCY_TEMPERATURE,
            round_=500 + self.rounds,
            begun=[pair.stem for pair in found],
        )
        same = [
            holds(second, pair.key) and not says_unknown(second)
            for pair, second in zip(found, again, strict=True)
        ]
        return self._split(found, same, INCONSISTENT)

    def _unknown(self, found: Sequence[Checked]) -> list[Checked]:
        """Those that the model does not answer the same without the conversation."""
        without = self.reader.closed_book([pair.question for pair in found])
        new = [not holds(said, pair.key) for pair, said in zip(found, without, strict=True)]
        return self._split(found, new, KNOWN)

    def _split(self, found: Sequence[Checked], keep: Sequence[bool], reason: str) -> list[Checked]:
        for pair, stays in zip(found, keep, strict=True):
            if not stays:
                self.refuse(pair.question, reason)
        return [pair for pair, stays in zip(found, keep, strict=True) if stays]


def _denies(answer: str) -> bool:
    return bool({"not", "never", "no"} & set(words(answer))) or "n't" in answer
