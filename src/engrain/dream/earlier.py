"""What earlier lessons taught, as far as a new lesson must respect or correct it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.exam.probes import holds
from engrain.study.wording import owners, topic

Asked = tuple[frozenset[str], frozenset[str]]
"""What a question asks for, whatever its wording: its topic and its owners."""


def asked(question: str) -> Asked:
    """What a question asks for, to compare questions in different wordings."""
    return frozenset(topic(question)), frozenset(owners(question))


@dataclass(frozen=True)
class EarlierFacts:
    """The facts of earlier lessons by what they are asked for; a later lesson overrides."""

    _targets: dict[Asked, str]
    _probes: dict[Asked, list[Probe]]

    @classmethod
    def of(cls, lessons: Iterable[Lesson] = ()) -> EarlierFacts:
        """Collect the facts and probes of lessons, the earliest first."""
        targets: dict[Asked, str] = {}
        probes: dict[Asked, list[Probe]] = {}
        for lesson in lessons:
            for text in lesson.facts():
                targets[asked(text.question)] = text.target
            for probe in lesson.probes:
                if probe.answers:
                    probes.setdefault(asked(probe.messages[-1].content), []).append(probe)
        return cls(targets, probes)

    def target(self, question: str) -> str:
        """What an earlier lesson taught as the answer to a question, "" if nothing."""
        return self._targets.get(asked(question), "")

    def may_answer(self, question: str) -> bool:
        """Whether an earlier lesson taught something that the question, in its words, holds."""
        topic_of_it, owners_of_it = asked(question)
        return any(
            about and about <= topic_of_it and holders <= owners_of_it
            for about, holders in self._targets
        )

    def old_values(self, questions: Sequence[str], value: str) -> list[str]:
        """Values that earlier probes expect for the same questions and that differ from this."""
        found = [
            answer
            for probe in self._at(questions)
            for answer in probe.answers
            if not holds(value, answer) and not holds(answer, value)
        ]
        return list(dict.fromkeys(found))

    def superseded(self, questions: Sequence[str], value: str) -> list[str]:
        """Ids of earlier probes for the same questions that the value does not pass."""
        return [
            probe.id
            for probe in self._at(questions)
            if not any(holds(value, answer) for answer in probe.answers)
        ]

    def _at(self, questions: Sequence[str]) -> list[Probe]:
        places = dict.fromkeys(asked(question) for question in questions)
        return [probe for place in places for probe in self._probes.get(place, [])]


def anchors_beside(lessons: Iterable[Lesson]) -> list[TrainingText]:
    """The packaged anchors in which the user asks for nothing that lessons taught.

    An anchor holds the untaught model's prediction; "I don't know your moving day" must not be
    held once the moving day was told.
    """
    taught = EarlierFacts.of(lessons)
    return [
        text
        for text in anchors()
        if not any(m.role == "user" and taught.may_answer(m.content) for m in text.messages)
    ]


def still_untold(
    earlier: Sequence[Lesson], texts: Sequence[TrainingText], said: str, *, count: int, seed: int
) -> list[TrainingText]:
    """Contrast of earlier lessons that holds still, at most ``count`` drawn at random.

    A lesson's contrast lies around its own facts; without that of the lessons before it the model
    would answer again what it has learned not to know. What a lesson has taught since, or this
    conversation (``said``) may tell, is left out.
    """
    taught = {asked(text.question) for lesson in earlier for text in lesson.facts()}
    taught |= {asked(text.question) for text in texts if text.kind != "contrast"}
    seen = {text.question for text in texts}
    told = topic(said)
    pool: list[TrainingText] = []
    for lesson in earlier:
        for text in lesson.texts:
            if text.kind != "contrast" or text.question in seen:
                continue
            seen.add(text.question)
            if asked(text.question) not in taught and not topic(text.question) <= told:
                pool.append(text)
    return random.Random(f"untold:{seed}").sample(pool, min(count, len(pool)))
