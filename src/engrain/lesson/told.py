"""What a lesson changed, in words: answers before and after, and how two lessons differ.

Nothing is asked for this: the ledger keeps every answer of every exam.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from engrain.data.lessons import Lesson
from engrain.errors import EngrainError
from engrain.exam.exam import Exam
from engrain.exam.probes import ProbeResult
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonRecord
from engrain.lesson.contradiction import Contradiction, told


@dataclass(frozen=True)
class Answers:
    """What was said to one question before a lesson and after it, and whether that was right.

    ``lesson`` is the one that the question belongs to. What an exam did not ask is None.
    """

    lesson: str
    question: str
    before: str | None
    after: str | None
    right_before: bool | None
    right_after: bool | None

    @property
    def changed(self) -> bool:
        """Whether another answer was given."""
        return self.before != self.after

    def to_dict(self) -> dict[str, Any]:
        """The answers as JSON-ready values."""
        return asdict(self)


def answers(record: LessonRecord, ledger: Ledger) -> list[Answers]:
    """Every question of a lesson's exams with its answers, the lesson's own first."""
    before = Exam.from_dict(dict(record.exam_before)) if record.exam_before else Exam("", {})
    after = Exam.from_dict(dict(record.exam_after)) if record.exam_after else Exam("", {})
    others = [name for name in after.results if name != record.id]
    found = _asked(record.lesson, before, after)
    for name in others:
        # A lesson whose content is damaged has no questions to show; `verify` tells of it.
        with suppress(EngrainError):
            found += _asked(ledger.lesson(name), before, after, every=False)
    return found


def _asked(lesson: Lesson, before: Exam, after: Exam, *, every: bool = True) -> list[Answers]:
    then, now = _by_probe(before, lesson.id), _by_probe(after, lesson.id)
    found = []
    for probe in lesson.probes:
        one, two = then.get(probe.id), now.get(probe.id)
        if every or two:
            question = probe.messages[-1].content
            said = (one.answer if one else None), (two.answer if two else None)
            right = (one.passed if one else None), (two.passed if two else None)
            found.append(Answers(lesson.id, question, *said, *right))
    return found


def _by_probe(exam: Exam, lesson: str) -> dict[str, ProbeResult]:
    return {result.probe_id: result for result in exam.results.get(lesson, ())}


@dataclass(frozen=True)
class Difference:
    """How two lessons differ.

    ``only_first``, ``only_second`` and ``both`` are facts in words; ``otherwise`` is what both tell
    with other values; ``recipe`` has what was set otherwise. ``answers`` are the questions of the
    one that was learned first, as they were answered after each of the two.
    """

    first: str
    second: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    both: tuple[str, ...]
    otherwise: tuple[Contradiction, ...]
    recipe: dict[str, tuple[Any, Any]]
    recall: tuple[float | None, float | None]
    answers: tuple[Answers, ...]

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON-ready values."""
        return {
            "first": self.first,
            "second": self.second,
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "both": list(self.both),
            "otherwise": [one.to_dict() for one in self.otherwise],
            "recipe": {key: list(values) for key, values in self.recipe.items()},
            "recall": list(self.recall),
            "answers": [one.to_dict() for one in self.answers],
        }


def difference(first: LessonRecord, second: LessonRecord) -> Difference:
    """How a lesson differs from another."""
    one, two = facts(first.lesson), facts(second.lesson)
    return Difference(
        first.id,
        second.id,
        tuple(fact for fact in one if fact not in two),
        tuple(fact for fact in two if fact not in one),
        tuple(fact for fact in one if fact in two),
        tuple(told(second.lesson, [first.lesson])),
        _set_otherwise(dict(first.recipe), dict(second.recipe)),
        (_recall(first), _recall(second)),
        tuple(_after_each(first, second)),
    )


def facts(lesson: Lesson) -> list[str]:
    """What a lesson teaches, each fact once: as it was noted, or as question and answer."""
    words = (
        text.group
        if text.kind == "fact" and ": " in text.group
        else f"{text.question} -> {text.target}"
        for text in lesson.facts()
    )
    return list(dict.fromkeys(words))


def _set_otherwise(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*first, *second})
    return {k: (first.get(k), second.get(k)) for k in keys if first.get(k) != second.get(k)}


def _recall(record: LessonRecord) -> float | None:
    if not record.exam_after:
        return None
    return Exam.from_dict(dict(record.exam_after)).scores().get(record.id)


def _after_each(first: LessonRecord, second: LessonRecord) -> Sequence[Answers]:
    """The questions of the earlier lesson, answered after it and again after the later one."""
    earlier, later = sorted((first, second), key=lambda record: record.position)
    if not (earlier.exam_after and later.exam_after):
        return ()
    then, now = (Exam.from_dict(dict(record.exam_after)) for record in (earlier, later))
    found = _asked(replace(earlier.lesson, id=earlier.id), then, now, every=False)
    return [one for one in found if one.before is not None]
