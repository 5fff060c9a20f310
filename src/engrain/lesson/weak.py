"""What of a lesson is weak: what an exam found missing, and what no exam can ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engrain.data.lessons import Lesson, Probe
from engrain.exam.exam import Exam
from engrain.exam.gate import LEARNED_KINDS
from engrain.exam.probes import holds


def missed(lesson: Lesson, exam: Exam) -> list[Probe]:
    """The lesson's probes about what it taught that an exam finds unanswered."""
    outcomes = exam.outcomes(lesson.id, kinds=LEARNED_KINDS)
    return [probe for probe in lesson.probes if outcomes.get(probe.id) is False]


def mistaken(lesson: Lesson, exam: Exam) -> list[Probe]:
    """The lesson's held-out near misses that an exam finds answered, though they were not told."""
    outcomes = exam.outcomes(lesson.id, kinds=("abstention",))
    return [probe for probe in lesson.probes if outcomes.get(probe.id) is False]


def questions(probes: Iterable[Probe]) -> list[str]:
    """The probes in words."""
    return [probe.messages[-1].content for probe in probes]


def asked_for(lesson: Lesson, probes: Sequence[Probe]) -> list[str]:
    """The groups of a lesson's facts that probes ask for.

    Where a probe does not name its fact, those whose texts hold its answer.
    """
    groups: dict[str, None] = {}
    for text in lesson.facts():
        for probe in probes:
            if probe.group:
                meant = probe.group == text.group
            else:
                meant = any(holds(text.target, answer) for answer in probe.answers)
            if meant:
                groups[text.group] = None
    return list(groups)


def unexamined(lesson: Lesson) -> list[str]:
    """The self-studied facts, by group, that none of the lesson's probes asks for."""
    examined = set(asked_for(lesson, [p for p in lesson.probes if p.kind in LEARNED_KINDS]))
    groups = dict.fromkeys(text.group for text in lesson.facts() if text.kind == "fact")
    return [group for group in groups if group not in examined]
