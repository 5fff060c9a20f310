"""From conversations and examples to one lesson, with a dry run that shows what it would hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.data.messages import Conversation
from engrain.dream.earlier import EarlierFacts, still_untold
from engrain.dream.reader import StudyEngine
from engrain.dream.scoring import WORTH_LEARNING, Signal, training_signal
from engrain.dream.self_study import Progress, StudiedFact, Study, study
from engrain.errors import NothingToLearnError
from engrain.study.curation import Curated, curate
from engrain.study.explicit import (
    LeftOut,
    curate_examples,
    hold_out_examples,
)
from engrain.study.secrets import masked
from engrain.study.wording import jaccard, normal

TITLE_LENGTH = 60
SAME_THING = 0.7
"""Shared words from which facts of two conversations are about the same thing."""

NO_USER = "nothing that the user said is left after curation"
LOW_SIGNAL = "the weights hold it already: the answer is as likely without the conversation"
NEWER = "a later conversation says something newer about the same thing"


@dataclass(frozen=True, slots=True)
class PreviewedFact:
    """One fact that would be learned, with its training signal in nats a token."""

    conversation: int
    value: str
    said: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    signal: float

    def to_dict(self) -> dict[str, Any]:
        """The fact as JSON-ready values."""
        return {
            "conversation": self.conversation,
            "value": self.value,
            "said": self.said,
            "questions": list(self.questions),
            "held_out": list(self.held_out),
            "signal": round(self.signal, 4),
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """The dry run: the lesson, what it teaches, and what was left out, where and why.

    ``messages`` are left-out messages with the number of their conversation, ``questions`` refused
    questions, ``examples`` left-out examples, each with the reason in words. ``supersedes`` are ids
    of earlier lessons' probes whose answer this lesson corrects; ``missed`` are sentences of the
    user that nothing was learned from. Secrets are masked throughout.
    """

    title: str
    facts: tuple[PreviewedFact, ...]
    texts: dict[str, int]
    probes: int
    messages: tuple[dict[str, Any], ...]
    questions: tuple[tuple[str, str], ...]
    examples: tuple[LeftOut, ...]
    supersedes: tuple[str, ...]
    coverage: float
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
        return {
            "title": self.title,
            "lesson": None if lesson is None else {"id": lesson.id, "digest": lesson.digest},
            "facts": [fact.to_dict() for fact in self.facts],
            "texts": dict(self.texts),
            "probes": self.probes,
            "messages_left_out": list(self.messages),
            "questions_refused": [{"question": q, "reason": r} for q, r in self.questions],
            "reasons": self.reasons(),
            "examples_left_out": [entry.to_dict() for entry in self.examples],
            "supersedes": list(self.supersedes),
            "coverage": round(self.coverage, 4),
            "missed": list(self.missed),
            "seconds": round(self.seconds, 3),
        }


@dataclass
class _Part:
    """What one conversation gives."""

    original: Conversation
    curated: Curated
    study: Study
    signals: dict[str, Signal] = field(default_factory=dict)


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
    threshold: float = WORTH_LEARNING,
    on_progress: Progress | None = None,
) -> Preview:
    """Make one lesson from conversations, examples, or both.

    The engine answers with the weights in force. ``earlier`` are the lessons in them: no contrast
    unlearns what they taught, and probes that this lesson corrects are named. ``name`` becomes the
    lesson's id. Facts whose training signal is not above ``threshold`` are left out. Nothing is
    raised where nothing is found: ``preview.lesson`` does that.
    """
    parts: list[_Part] = []
    refused: list[tuple[str, str]] = []
    before = EarlierFacts.of(earlier)
    for conversation in conversations:
        curated = curate(conversation)
        result = Study()
        if curated.has_user:
            result = study(
                engine,
                curated.conversation,
                seed=seed,
                effort=effort,
                hold_out=hold_out,
                max_facts=max_facts,
                earlier=before,
                on_progress=on_progress,
            )
        part = _Part(conversation, curated, result)
        refused += result.dropped
        refused += _score(engine, part, threshold)
        parts.append(part)
    refused += _newest(parts)
    texts, probes = _merge(parts)
    given, left_out = curate_examples(explicit)
    trained, examined = hold_out_examples(given, seed=seed)
    texts += trained
    probes += examined
    contrast = sum(text.kind == "contrast" for text in texts)
    words = " ".join(m.content for talk in conversations for m in talk.messages)
    texts += still_untold(earlier, texts, words, count=contrast, seed=seed)
    topic = title or _title(parts, given)
    lesson = None
    if any(text.kind in ("fact", "explicit") for text in texts):
        sources = list(dict.fromkeys(part.original.digest for part in parts))
        kept = [part.curated.conversation for part in parts if part.curated.has_user]
        lesson = Lesson(name, topic, tuple(texts), tuple(probes), tuple(sources), tuple(kept))
        lesson = lesson if name else replace(lesson, id=f"lesson-{lesson.digest[:12]}")
    return _preview(lesson, topic, parts, texts, probes, refused, left_out, before)


def _score(engine: StudyEngine, part: _Part, threshold: float) -> list[tuple[str, str]]:
    """Measure the signal of each fact, on one text each, and drop facts without one."""
    if not part.study.facts:
        return []
    first: dict[str, TrainingText] = {}
    for text in part.study.texts:
        if text.kind == "fact":
            first.setdefault(text.group, text)
    signals = training_signal(engine, list(first.values()), part.curated.conversation)
    part.signals = dict(zip(first, signals, strict=True))
    low = {group for group, signal in part.signals.items() if not signal.worth_learning(threshold)}
    return _without(part, low, LOW_SIGNAL)


def _without(part: _Part, groups: set[str], reason: str) -> list[tuple[str, str]]:
    """Take facts out of a study; gives their questions with the reason."""
    if not groups:
        return []
    gone = [fact for fact in part.study.facts if fact.group in groups]
    questions = {q for fact in gone for q in fact.held_out}
    part.study = replace(
        part.study,
        facts=tuple(fact for fact in part.study.facts if fact.group not in groups),
        texts=tuple(text for text in part.study.texts if text.group not in groups),
        probes=tuple(
            probe for probe in part.study.probes if probe.messages[-1].content not in questions
        ),
    )
    return [(q, reason) for fact in gone for q in (*fact.questions, *fact.held_out)]


def _newest(parts: Sequence[_Part]) -> list[tuple[str, str]]:
    """Where two conversations speak of the same thing, the later one holds."""
    refused = []
    for number, earlier in enumerate(parts):
        for later in parts[number + 1 :]:
            old = {
                fact.group
                for fact in earlier.study.facts
                for newer in later.study.facts
                if _same_thing(fact, newer)
            }
            refused += _without(earlier, old, NEWER)
    return refused


def _same_thing(one: StudiedFact, other: StudiedFact) -> bool:
    asked = {normal(q) for q in (*one.questions, *one.held_out)}
    also = {normal(q) for q in (*other.questions, *other.held_out)}
    return bool(asked & also) or jaccard(one.about, other.about) >= SAME_THING


def _merge(parts: Sequence[_Part]) -> tuple[list[TrainingText], list[Probe]]:
    """All texts and probes; no contrast of one conversation asks what another one taught."""
    taught = {
        normal(question)
        for part in parts
        for fact in part.study.facts
        for question in (*fact.questions, *fact.held_out)
    }
    texts: list[TrainingText] = []
    probes: list[Probe] = []
    for part in parts:
        for text in part.study.texts:
            if text.kind == "contrast" and normal(text.question) in taught:
                continue
            texts.append(text)
        probes += part.study.probes
    return texts, probes


def _title(parts: Sequence[_Part], examples: Sequence[TrainingText]) -> str:
    """What the lesson is about: its facts, or else the user's first words."""
    topics = [fact.group.rsplit(":", 1)[0] for part in parts for fact in part.study.facts]
    if topics:
        shown = ", ".join(dict.fromkeys(topics))
        return shown if len(shown) <= TITLE_LENGTH else _shortened(topics)
    for part in parts:
        for message in part.curated.conversation.messages:
            if message.role == "user":
                return masked(message.content, TITLE_LENGTH)
    if examples:
        return masked(f"{len(examples)} examples: {examples[0].question}", TITLE_LENGTH)
    return "an empty lesson"


def _shortened(topics: Sequence[str]) -> str:
    """As many topics as fit, and how many more there are."""
    names = list(dict.fromkeys(topics))
    for count in range(len(names) - 1, 0, -1):
        shown = f"{', '.join(names[:count])} and {len(names) - count} more"
        if len(shown) <= TITLE_LENGTH:
            return shown
    return masked(names[0], TITLE_LENGTH)


def _preview(
    lesson: Lesson | None,
    title: str,
    parts: Sequence[_Part],
    texts: Sequence[TrainingText],
    probes: Sequence[Probe],
    refused: Sequence[tuple[str, str]],
    examples: Sequence[LeftOut],
    before: EarlierFacts,
) -> Preview:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text.kind] = counts.get(text.kind, 0) + 1
    studied = [part for part in parts if part.curated.has_user]
    coverage = sum(part.study.coverage for part in studied) / len(studied) if studied else 0.0
    messages = [
        {"conversation": number, **entry.to_dict()}
        for number, part in enumerate(parts)
        for entry in part.curated.dropped
    ]
    messages += [
        {"conversation": number, "index": -1, "reason": NO_USER, "excerpt": ""}
        for number, part in enumerate(parts)
        if not part.curated.has_user
    ]
    facts = tuple(
        PreviewedFact(
            number,
            fact.value,
            fact.said,
            fact.questions,
            fact.held_out,
            part.signals[fact.group].mean,
        )
        for number, part in enumerate(parts)
        for fact in part.study.facts
    )
    superseded = [
        probe
        for fact in facts
        for probe in before.superseded((*fact.questions, *fact.held_out), fact.value)
    ]
    return Preview(
        title,
        facts,
        counts,
        len(probes),
        tuple(messages),
        tuple(refused),
        tuple(examples),
        tuple(dict.fromkeys(superseded)),
        coverage,
        tuple(sentence for part in parts for sentence in part.study.missed),
        sum(part.study.seconds for part in parts),
        lesson,
    )


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
