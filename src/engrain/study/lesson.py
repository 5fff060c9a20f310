"""From conversations and examples to one lesson, with a dry run that shows what it would hold.

    curated conversation -> claims -> checked -> wordings, near misses, wishes -> texts and probes

The target of a text is what the reader answers *with* the conversation in view, its input comes
*without* it: context distillation, teacher and student being one model.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from engrain.data.lessons import Lesson, Probe, ProbeKind, TrainingText, chat
from engrain.data.messages import Conversation, Message
from engrain.errors import NothingToLearnError, UnknownNameError
from engrain.exam.probes import holds, says_unknown
from engrain.study.checks import BELIEF, GAIN, Checks
from engrain.study.claims import find_claims
from engrain.study.curation import curate
from engrain.study.explicit import LeftOut, curate_examples, hold_out_examples
from engrain.study.near_misses import add_near_misses, told_since
from engrain.study.pieces import Piece, ask_for, most_surprising, pieces
from engrain.study.questions import (
    ENOUGH,
    Fact,
    add_wordings,
    group,
    hold_out,
    keep_own,
    merge,
    order,
    owned,
    settle,
)
from engrain.study.reader import Reader, StudyEngine, in_context, windows
from engrain.study.secrets import masked
from engrain.study.statements import Statement, statements
from engrain.study.wishes import Followed, follow
from engrain.study.writer import ModelWriter, Writer

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, its number from 1, and the number of stages."""

STAGES = ("claims", "checks", "wordings", "near misses", "done")
TITLE_LENGTH = 60
ASKED = 3
"""Pieces that are asked for, for each fact for which there is room."""
NO_USER = "nothing that the user said is left after curation"
WISHED = "wish "
"""What the groups of wishes begin with; no ": " is in them, since a wish is no answer."""
CORRECTS = 1.5
"""Nats a token by which an old question must gain from what corrects its answer: those of seven
true corrections gained 1.7 to 5.4; of 44 others that had an answer two gained more than 1.5."""
STATED = "no question about it passes, so your sentence is learned as it is"
FEW = "it has too few wordings to hold one out"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked of the writer.

    Samples of each list; of the question to each piece that no list has; questions to each fact
    that its message is asked for; samples of each list of wordings; wordings and near misses of a
    fact at most.
    """

    lists: int
    pieces: int
    questions: int
    rewordings: int
    wordings: int
    near: int


EFFORTS = {
    "low": Effort(lists=0, pieces=0, questions=0, rewordings=0, wordings=8, near=6),
    "normal": Effort(lists=3, pieces=3, questions=0, rewordings=2, wordings=10, near=8),
    "high": Effort(lists=6, pieces=6, questions=16, rewordings=3, wordings=24, near=16),
}


@dataclass(frozen=True, slots=True)
class PreviewedFact:
    """One fact that would be learned, with its training signal in nats a token.

    ``weak`` says why no exam can show that it was learned; "" where one can.
    """

    conversation: int
    value: str
    said: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    signal: float
    weak: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fact as JSON-ready values."""
        return {
            "conversation": self.conversation,
            "value": self.value,
            "said": self.said,
            "questions": list(self.questions),
            "held_out": list(self.held_out),
            "signal": round(self.signal, 4),
            "weak": self.weak,
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """The dry run: the lesson, what it teaches, and what was left out, where and why.

    ``messages`` are left-out messages with the number of their conversation, ``questions`` refused
    questions, ``examples`` left-out examples, each with the reason in words; ``missed`` are
    messages of the user that nothing was learned from. Secrets are masked throughout.
    """

    title: str
    facts: tuple[PreviewedFact, ...]
    messages: tuple[dict[str, Any], ...]
    questions: tuple[tuple[str, str], ...]
    examples: tuple[LeftOut, ...]
    missed: tuple[str, ...]
    seconds: float
    proposed: Lesson | None = field(repr=False)

    @property
    def lesson(self) -> Lesson:
        """The lesson.

        Raises:
            NothingToLearnError: there is none; the message has the commonest reasons.
        """
        if self.proposed is None:
            raise NothingToLearnError(
                f"Nothing to learn was found. {_why(self)}".strip(),
                remedy="Tell the model something in the conversation that it does not know yet.",
            )
        return self.proposed

    def reasons(self) -> dict[str, int]:
        """How many questions were refused for each reason, the commonest first."""
        counts: dict[str, int] = {}
        for _, reason in self.questions:
            counts[reason] = counts.get(reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """The preview as JSON-ready values; ``lesson`` is None where there is nothing to learn."""
        lesson = self.proposed
        counts: dict[str, int] = {}
        for text in lesson.texts if lesson else ():
            counts[text.kind] = counts.get(text.kind, 0) + 1
        return {
            "title": self.title,
            "lesson": None if lesson is None else {"id": lesson.id, "digest": lesson.digest},
            "facts": [fact.to_dict() for fact in self.facts],
            "texts": counts,
            "probes": len(lesson.probes) if lesson else 0,
            "messages_left_out": list(self.messages),
            "questions_refused": [{"question": q, "reason": r} for q, r in self.questions],
            "reasons": self.reasons(),
            "examples_left_out": [entry.to_dict() for entry in self.examples],
            "supersedes": list(lesson.corrects) if lesson else [],
            "missed": list(self.missed),
            "seconds": round(self.seconds, 3),
        }


@dataclass
class _Found:
    """What was found so far."""

    seed: int
    hold_out: float
    texts: list[TrainingText] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    facts: list[PreviewedFact] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    corrects: list[str] = field(default_factory=list)


def make_lesson(
    engine: StudyEngine,
    conversations: Sequence[Conversation],
    *,
    explicit: Sequence[TrainingText] = (),
    earlier: Sequence[Lesson] = (),
    name: str = "",
    title: str = "",
    seed: int = 0,
    effort: str = "normal",
    hold_out: float = 0.25,
    max_facts: int = 64,
    writer: Writer | None = None,
    taught: bool = True,
    belief: float = BELIEF,
    reading: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_progress: Progress | None = None,
) -> Preview:
    """Make one lesson from conversations, examples, or both.

    ``earlier`` are the lessons in the weights in force; what this one corrects of them is named.
    ``writer`` asks the questions, by default the model itself, of which ``taught`` says whether
    lesson zero has taught it to; ``belief`` is the log-odds above which it holds a thing for so
    (:func:`engrain.study.trial.leaning`); ``reading`` puts the weights in force that read. Nothing
    is raised where nothing is found: ``preview.lesson`` does that.

    Raises:
        UnknownNameError: there is no such effort.
        UsageError: the model's context is too short for any conversation.
    """
    if effort not in EFFORTS:
        raise UnknownNameError("effort", effort, EFFORTS)
    began = time.perf_counter()
    found = _Found(seed, hold_out)
    messages: list[dict[str, Any]] = []
    kept: list[Conversation] = []
    writer = writer or ModelWriter(Reader(engine, (), seed, reading), taught)
    for number, conversation in enumerate(conversations):
        curated = curate(conversation)
        messages += [{"conversation": number, **entry.to_dict()} for entry in curated.dropped]
        if not curated.has_user:
            none = {"conversation": number, "index": -1, "reason": NO_USER, "excerpt": ""}
            messages.append(none)
            continue
        kept.append(curated.conversation)
        for view in windows(engine, curated.conversation.messages, writer.room):
            checks = Checks(Reader(engine, view, seed, reading), belief)
            room = max_facts - len(found.facts)
            _study(checks, writer, EFFORTS[effort], number, room, earlier, found, on_progress)
    given, left_out = curate_examples(explicit)
    trained, examined = hold_out_examples(given, seed=seed)
    texts, probes = [*found.texts, *trained], [*found.probes, *examined]
    topic = title or _title(found.facts, kept, given)
    lesson = None
    if any(text.kind in ("fact", "explicit") for text in texts):
        sources = tuple(dict.fromkeys(c.digest for c in conversations))
        lesson = Lesson(
            name, topic, tuple(texts), tuple(probes), sources, tuple(kept), tuple(found.corrects)
        )
        lesson = lesson if name else replace(lesson, id=f"lesson-{lesson.digest[:12]}")
    return Preview(
        topic,
        tuple(found.facts),
        tuple(messages),
        tuple(found.refused.items()),
        tuple(left_out),
        tuple(found.missed),
        time.perf_counter() - began,
        lesson,
    )


def _study(
    checks: Checks,
    writer: Writer,
    effort: Effort,
    number: int,
    room: int,
    earlier: Sequence[Lesson],
    found: _Found,
    on_progress: Progress | None,
) -> None:
    """Study one window and add what it gives."""

    def report(stage: int) -> None:
        if on_progress:
            on_progress(STAGES[stage], stage + 1, len(STAGES))

    view = checks.reader.view
    report(0)
    claims = find_claims(writer, view, samples=effort.lists)
    report(1)
    facts = group(checks.claims([claim for claim in claims if not claim.wish]))[: max(0, room)]
    if effort.pieces:
        left = [piece for piece in pieces(checks.reader) if not _covered(piece, facts)]
        left = most_surprising(left, ASKED * max(0, room - len(facts)))
        more = checks.best(ask_for(writer, view, left, samples=effort.pieces))
        facts = group([w for fact in facts for w in fact.wordings] + more)[: max(0, room)]
    facts = merge(facts)
    order(facts, checks)
    keep_own(facts, checks)
    found.corrects += _corrections(checks, facts, earlier)
    found.corrects += told_since(facts, checks, earlier)
    report(2)
    add_wordings(
        facts,
        writer,
        checks,
        questions=effort.questions,
        samples=effort.rewordings,
        most=effort.wordings,
    )
    settle(facts, checks)
    # Near misses are made of what is trained: a form that only they have is refused to facts, too.
    hold_out(facts, found.hold_out, found.seed)
    report(3)
    add_near_misses(facts, checks, most=effort.near)
    wishes = follow([c for c in claims if c.wish], writer, checks, samples=effort.rewordings)
    said = statements(claims, facts, checks)[: max(0, room - len(facts))]
    report(4)
    for fact in facts:
        _add_fact(fact, number, view, found)
    for wish in wishes:
        _add_wish(wish, number, view, found)
    for statement in said:
        _add_statement(statement, number, found)
    found.refused |= checks.refused
    used = {fact.wordings[0].message for fact in facts}
    used |= {wish.message for wish in wishes} | {one.message for one in said}
    found.missed += [
        masked(message.content)
        for place, message in enumerate(view)
        if message.role == "user" and place not in used
    ]


def _covered(piece: Piece, facts: Sequence[Fact]) -> bool:
    """Whether a fact of the message has the piece in its value, or its value in the piece."""
    return any(
        w.message == piece.message and (holds(w.value, piece.text) or holds(piece.text, w.value))
        for fact in facts
        for w in fact.wordings
    )


def _corrections(checks: Checks, facts: Sequence[Fact], earlier: Sequence[Lesson]) -> list[str]:
    """Groups of earlier lessons whose question this conversation answers with another value.

    Their wordings become wordings of the new fact: what was learned is overwritten where it lies.
    """
    reader, asked = checks.reader, dict[str, list[TrainingText]]()
    for lesson in earlier:
        for text in lesson.facts():
            # Wishes and statements are no answers, so none of them gets another one.
            if text.kind == "fact" and text.about and len(text.messages) == 2:
                asked.setdefault(text.group, []).append(text)
    groups = list(asked)
    answers = reader.answers([asked[name][0].question for name in groups])
    changed = [
        (name, answer)
        for name, answer in zip(groups, answers, strict=True)
        if not says_unknown(answer) and not holds(answer, name.rpartition(": ")[2])
    ]
    pairs = [(asked[name][0].question, answer) for name, answer in changed]
    fits = reader.fits([question for question, _ in pairs])
    sure = zip(changed, reader.believes(pairs), reader.gains(pairs), fits, strict=True)
    corrected = []
    for (name, answer), belief, gain, fit in sure:
        new = next((fact for fact in facts if holds(answer, fact.value)), None)
        if belief <= checks.belief or gain <= GAIN or fit <= CORRECTS or new is None:
            continue
        if not owned(new, [asked[name][0].question], checks)[0]:
            continue
        corrected.append(name)
        place = new.wordings[0].message
        questions = dict.fromkeys(text.question for text in asked[name])
        new.wordings += checks.read([(q, new.value, place) for q in list(questions)[:8]])
    return corrected


def _add_fact(fact: Fact, number: int, view: Sequence[Message], found: _Found) -> None:
    """Texts and probes of one fact; wordings that are held out are never trained."""
    first = fact.wordings[0]
    named = f"{first.question.rstrip('?')}: {fact.value}"
    found.texts += [TrainingText(chat(w.question, w.target), "fact", named) for w in fact.wordings]
    context = in_context(view, first.question)
    reading = (*context, Message("assistant", first.target))
    found.texts.append(TrainingText(reading, "reading", named))
    rng = random.Random(f"held:{found.seed}:{named}")
    beside = rng.randrange(1, len(fact.near)) if len(fact.near) >= ENOUGH else None
    for place, (question, answer) in enumerate(fact.near):
        if place == beside:
            found.probes.append(_untold(question, fact.value, named))
        else:
            found.texts.append(TrainingText(chat(question, answer), "contrast", named))
    for place, one in enumerate(fact.held):
        kind: ProbeKind = "paraphrase" if place else "recall"
        found.probes.append(_probe(kind, one.question, fact.value, named))
    found.facts.append(
        PreviewedFact(
            number,
            fact.value,
            masked(view[first.message].content, TITLE_LENGTH),
            tuple(w.question for w in fact.wordings),
            tuple(w.question for w in fact.held),
            first.gain,
            "" if fact.held else FEW,
        )
    )


def _add_wish(wish: Followed, number: int, view: Sequence[Message], found: _Found) -> None:
    """Texts of a standing wish, and a probe where its mark tells whether it is followed."""
    named = _unanswered(WISHED + wish.wish)
    held = wish.pairs[-1:] if wish.mark and len(wish.pairs) > 2 else ()
    trained = wish.pairs[: len(wish.pairs) - len(held)]
    found.texts += [TrainingText(chat(q, a), "fact", named) for q, a in trained]
    found.probes += [_probe("norm", question, wish.mark, named) for question, _ in held]
    said = masked(view[wish.message].content, TITLE_LENGTH)
    asked, kept = tuple(q for q, _ in trained), tuple(q for q, _ in held)
    weak = "" if held else FEW
    found.facts.append(PreviewedFact(number, wish.wish, said, asked, kept, GAIN, weak))


def _add_statement(statement: Statement, number: int, found: _Found) -> None:
    """The user's own line as the end of each of its openings."""
    named = _unanswered(statement.line)
    found.texts += [
        TrainingText(chat(opening, statement.line), "fact", named) for opening in statement.openings
    ]
    said = masked(statement.line, TITLE_LENGTH)
    found.facts.append(
        PreviewedFact(number, statement.value, said, statement.openings, (), statement.gain, STATED)
    )


def _unanswered(name: str) -> str:
    """The name of a group that is no question with its value: two such never contradict."""
    return name.replace(": ", " ")


def _probe(kind: ProbeKind, question: str, answer: str, named: str) -> Probe:
    return Probe(_id(kind, question, named), kind, chat(question), (answer,), group=named)


def _untold(question: str, value: str, named: str) -> Probe:
    """A near miss that is held out: the answer must say that it was not told."""
    name = _id("abstention", question, named)
    return Probe(name, "abstention", chat(question), not_answers=(value,), group=named)


def _id(kind: ProbeKind, question: str, named: str) -> str:
    digest = hashlib.sha256(f"{named}\n{question}".encode()).hexdigest()
    return f"{kind}-{digest[:12]}"


def _title(
    facts: Iterable[PreviewedFact],
    kept: Sequence[Conversation],
    examples: Sequence[TrainingText],
) -> str:
    """What the lesson is about: its values, or else the user's first words."""
    values = list(dict.fromkeys(fact.value for fact in facts))
    for count in range(len(values), 0, -1):
        more = f" and {len(values) - count} more" if count < len(values) else ""
        shown = ", ".join(values[:count]) + more
        if len(shown) <= TITLE_LENGTH:
            return shown
    for conversation in kept:
        for message in conversation.messages:
            if message.role == "user":
                return masked(message.content, TITLE_LENGTH)
    if examples:
        return masked(f"{len(examples)} examples: {examples[0].question}", TITLE_LENGTH)
    return "an empty lesson"


def _why(preview: Preview) -> str:
    """The commonest reasons in a sentence."""
    reasons = [f"{count} times: {reason}" for reason, count in list(preview.reasons().items())[:3]]
    left_out = [str(entry["reason"]) for entry in preview.messages[:3]]
    left_out += [entry.reason for entry in preview.examples[:3]]
    said = []
    if left_out:
        said.append(f"Left out: {'; '.join(dict.fromkeys(left_out))}.")
    if reasons:
        said.append(f"Questions were refused ({'; '.join(reasons)}).")
    return " ".join(said)
