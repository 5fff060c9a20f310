"""Where a lesson from another home tells otherwise than the lessons in force.

A lesson that is learned here corrects earlier ones: a person said so. A lesson of somebody else
corrects nothing by itself. What it tells otherwise is found in two ways and told, and a person
decides:

* **told**: both lessons answer the same question, or state the same fact, with other values;
* **heard**: a question of a lesson in force is answered right before, and with a value of the
  arrived lesson after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.exam.decision import Decision
from engrain.exam.exam import Exam
from engrain.exam.gate import LEARNED_KINDS
from engrain.exam.probes import fold, holds
from engrain.study.checks import shape

TOLD = 5
"""Contradictions that a decision's reasons tell in words; its origin has all."""


@dataclass(frozen=True)
class Contradiction:
    """A question that a lesson in force (``lesson``) and the arrived one answer otherwise."""

    lesson: str
    question: str
    here: str
    there: str

    @property
    def words(self) -> str:
        """It as a sentence."""
        there = f'it says "{self.there}"' if self.there else "it takes that back"
        return f'"{self.question}": lesson {self.lesson} says "{self.here}", {there}'

    def to_dict(self) -> dict[str, Any]:
        """It as JSON-ready values."""
        return {
            "lesson": self.lesson,
            "question": self.question,
            "here": self.here,
            "there": self.there,
        }


def told(arrived: Lesson, earlier: Sequence[Lesson]) -> list[Contradiction]:
    """What texts and probes of an arrived lesson tell otherwise than those of earlier ones."""
    said, found = _answered(arrived), []
    for old in earlier:
        for question, answers in _asked(old):
            other = said.get(shape(question))
            if other and not _agree(answers, other):
                found.append(Contradiction(old.id, question, answers[0], other[0]))
        for text in old.facts():
            if arrived.supersedes(text):
                there = _value(arrived, text)
                found.append(Contradiction(old.id, text.question, text.target, there))
    return once(found)


def heard(
    arrived: Lesson, earlier: Sequence[Lesson], before: Exam, after: Exam
) -> list[Contradiction]:
    """Questions of earlier lessons to which an exam hears a value of the arrived lesson."""
    values = [answer for answers in _answered(arrived).values() for answer in answers]
    found = []
    for old in earlier:
        right = before.outcomes(old.id, kinds=LEARNED_KINDS)
        probes = {probe.id: probe for probe in old.probes}
        for result in after.results.get(old.id, ()):
            probe = probes.get(result.probe_id)
            if probe is None or result.passed or not right.get(result.probe_id):
                continue
            if any(holds(result.answer, value) for value in values):
                question = probe.messages[-1].content
                here = next(iter(probe.answers), "")
                found.append(Contradiction(old.id, question, here, result.answer))
    return found


def beside(
    chosen: Mapping[str, Sequence[Probe]], arrived: Lesson, earlier: Sequence[Lesson]
) -> dict[str, tuple[Probe, ...]]:
    """An exam's probes by lesson, with those that an arrived lesson answers otherwise."""
    found = told(arrived, earlier)
    more = {name: tuple(probes) for name, probes in chosen.items()}
    for old in earlier:
        named = {shape(one.question) for one in found if one.lesson == old.id}
        denied = {text.group for text in old.facts() if arrived.supersedes(text)}
        more[old.id] = tuple(
            probe
            for probe in old.probes
            if probe in more.get(old.id, ())
            or shape(probe.messages[-1].content) in named
            or (probe.group and probe.group in denied)
        )
    return more


def found(
    arrived: Lesson, earlier: Sequence[Lesson], before: Exam, after: Exam
) -> list[Contradiction]:
    """All that is told or heard otherwise, each question of each lesson once."""
    return once([*told(arrived, earlier), *heard(arrived, earlier, before, after)])


def decided(
    decision: Decision, origin: Mapping[str, Any], against: Sequence[Contradiction]
) -> Decision:
    """A decision with where the lesson came from; kept aside where it tells otherwise."""
    reasons, verdict = list(decision.reasons), decision.verdict
    if against:
        verdict = "quarantined" if decision.accepted else verdict
        words = [f"It contradicts what is served: {one.words}." for one in against[:TOLD]]
        if len(against) > TOLD:
            words.append(f"It does so in {len(against) - TOLD} questions more.")
        reasons = [*words, *reasons]
    if not origin["same_weights"]:
        reasons.append("It was learned on other weights than those in force here.")
    noted = {**origin, "contradictions": [one.to_dict() for one in against]}
    return replace(decision, verdict=verdict, reasons=reasons, origin=noted)


def once(found: Sequence[Contradiction]) -> list[Contradiction]:
    """Each question of each lesson once, as it was found first."""
    return list({(one.lesson, shape(one.question)): one for one in reversed(found)}.values())[::-1]


def _answered(lesson: Lesson) -> dict[str, tuple[str, ...]]:
    """What a lesson answers, by the shape of its questions."""
    said: dict[str, tuple[str, ...]] = {}
    for question, answers in _asked(lesson):
        said.setdefault(shape(question), answers)
    return said


def _asked(lesson: Lesson) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every question of a lesson with its answers, those of its probes first."""
    for probe in lesson.probes:
        if probe.answers:
            yield probe.messages[-1].content, probe.answers
    for text in lesson.facts():
        if sum(message.role == "user" for message in text.messages) == 1:
            yield text.question, (text.target,)


def _value(arrived: Lesson, old: TrainingText) -> str:
    """What the arrived lesson says about the fact of an old text; "" where it only denies it."""
    return next((t.target for t in arrived.facts() if old.about and t.about == old.about), "")


def _agree(answers: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two sets of answers share one, be it within a sentence."""
    return any(
        holds(one, other) or holds(other, one) or fold(one) == fold(other)
        for one in map(_bare, answers)
        for other in map(_bare, others)
    )


def _bare(answer: str) -> str:
    return answer.strip().rstrip(".!?")
