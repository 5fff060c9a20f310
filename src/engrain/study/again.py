"""Fresh wordings for a second round: facts whose held-out wording an exam found missing.

They are asked of the writer and make the round trip as those of the first study did. What the
lesson asks already, trained or held out, is never given again: a probe stays a probe.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.data.messages import Conversation
from engrain.exam.probes import holds
from engrain.study import requests
from engrain.study.checks import Checked, Checks, shape
from engrain.study.claims import Claim
from engrain.study.curation import curate
from engrain.study.lesson import EFFORTS, WISHED, Effort
from engrain.study.questions import Fact, add_wordings
from engrain.study.reader import Reader, StudyEngine, windows
from engrain.study.wishes import follow
from engrain.study.writer import ModelWriter, Writer

FRESH = 6
"""Fresh wordings of a fact at most."""
TURNS = {"wordings": 31, "wishes": 61}
"""What tells these samplings from those of the first study."""


def more_wordings(
    engine: StudyEngine,
    conversations: Sequence[Conversation],
    lesson: Lesson,
    groups: Collection[str],
    *,
    seed: int = 0,
    effort: str = "normal",
    writer: Writer | None = None,
    taught: bool = True,
) -> list[TrainingText]:
    """Texts that ask for facts of a lesson, by group, in wordings that it does not hold yet."""
    asked = EFFORTS[effort]
    writer = writer or ModelWriter(Reader(engine, (), seed), taught)
    met = asked_already(lesson)
    values = {p.group: p.answers[0] for p in lesson.probes if p.group in groups and p.answers}
    found: dict[str, list[TrainingText]] = {group: [] for group in values}
    for conversation in map(curate, conversations if values else ()):
        if not conversation.has_user:
            continue
        for view in windows(engine, conversation.conversation.messages, writer.room):
            checks = Checks(Reader(engine, view, seed))
            for text in [
                *_reworded(lesson, values, writer, checks, asked, met),
                *_followed(values, writer, checks, 1 + asked.rewordings),
            ]:
                if shape(text.question) not in met and len(found[text.group]) < FRESH:
                    met.add(shape(text.question))
                    found[text.group].append(text)
    return [text for texts in found.values() for text in texts]


def asked_already(lesson: Lesson) -> set[str]:
    """The shapes of all questions of a lesson, trained or held out."""
    questions = [text.question for text in lesson.texts]
    questions += [probe.messages[-1].content for probe in lesson.probes]
    return {shape(question) for question in questions}


def _reworded(
    lesson: Lesson,
    values: dict[str, str],
    writer: Writer,
    checks: Checks,
    effort: Effort,
    met: Collection[str],
) -> list[TrainingText]:
    """The facts that a message in view tells, asked for in other words."""
    facts: dict[str, Fact] = {}
    for group, value in values.items():
        places = (
            place
            for place, message in enumerate(checks.reader.view)
            if message.role == "user" and holds(message.content, value)
        )
        place = next(places, None)
        if place is None or group.startswith(WISHED):
            continue
        texts = [t for t in lesson.facts() if t.group == group and len(t.messages) == 2]
        # The first study asked from the first wordings on, so this one does from the last.
        wordings = [Checked(t.question, value, t.target, place, 0.0) for t in reversed(texts)]
        if wordings:
            facts[group] = Fact(wordings)
    known = {group: [w.question for w in fact.wordings] for group, fact in facts.items()}
    add_wordings(
        list(facts.values()),
        writer,
        checks,
        questions=effort.questions,
        samples=1 + effort.rewordings,
        most=FRESH + max(map(len, known.values()), default=0),
        known=met,
        turn=TURNS["wordings"],
    )
    return [
        TrainingText(chat(one.question, one.target), "fact", group)
        for group, fact in facts.items()
        for one in fact.wordings
        if one.question not in known[group]
    ]


def _followed(
    values: dict[str, str], writer: Writer, checks: Checks, samples: int
) -> list[TrainingText]:
    """Further requests to which a wish applies, where its mark is in the answer."""
    wishes = {group.removeprefix(WISHED): group for group in values if group.startswith(WISHED)}
    claims = [Claim(requests.WISH, wish, 0, wish=True) for wish in wishes]
    if not claims:
        return []
    return [
        TrainingText(chat(question, answer), "fact", wishes[one.wish])
        for one in follow(claims, writer, checks, samples=samples, turn=TURNS["wishes"])
        for question, answer in one.pairs
        if holds(answer, values[wishes[one.wish]])
    ]
