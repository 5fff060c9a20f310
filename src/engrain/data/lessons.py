"""The unit that is learned, examined, served and undone: a lesson, its texts and its probes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, Literal

from engrain.data.messages import Conversation, Message

ProbeKind = Literal["recall", "paraphrase", "locality", "abstention", "norm", "correction"]
TextKind = Literal["fact", "contrast", "reading", "explicit"]

_WORD = re.compile(r"\w+(?:-\w+)*")
_LITTLE = frozenset(("a", "an", "the", "my", "of", "s", "is", "in", "at"))


@dataclass(frozen=True, slots=True)
class Probe:
    """A question with its scorer: the free greedy answer must hold one of ``answers``.

    It passes if the answer contains one of ``answers`` (case-folded, whole words) and none of
    ``not_answers``. With empty ``answers`` it passes if none of ``not_answers`` occurs and the
    model says that it does not know (kind ``abstention``). ``group`` names the fact that it asks
    for, as in :class:`TrainingText`, where that is known.
    """

    id: str
    kind: ProbeKind
    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    not_answers: tuple[str, ...] = ()
    group: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The probe as JSON-ready values, in the shape of a life stream."""
        return {
            "id": self.id,
            "kind": self.kind,
            "messages": [message.to_dict() for message in self.messages],
            "answers": list(self.answers),
            "not_answers": list(self.not_answers),
            **({"group": self.group} if self.group else {}),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Probe:
        """The probe that :meth:`to_dict` gave."""
        return cls(
            id=str(record["id"]),
            kind=record.get("kind", "recall"),
            messages=tuple(Message(m["role"], m["content"]) for m in record["messages"]),
            answers=tuple(record.get("answers", ())),
            not_answers=tuple(record.get("not_answers", ())),
            group=record.get("group", ""),
        )


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A training example before tokenisation: messages that end in the assistant's target.

    ``kind`` is ``fact`` (target given *with* the conversation, input without it), ``contrast``
    (a neighbouring question whose answer must not change), ``reading`` (the same with the
    conversation in context) or ``explicit`` (given by the user). ``group`` names the fact that
    it belongs to ("my sister's cheese: Brellin"); all wordings of one fact share it. ``answers``
    says how many of the assistant's messages, counted from the end, are targets.
    """

    messages: tuple[Message, ...]
    kind: TextKind = "fact"
    group: str = ""
    answers: int = 1

    @property
    def question(self) -> str:
        """The last user message."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def target(self) -> str:
        """The assistant's answer that is learned."""
        return self.messages[-1].content

    @property
    def about(self) -> frozenset[str]:
        """The words that say what the fact is about, without its value; empty if not known."""
        return _about(self.group)

    def to_dict(self) -> dict[str, Any]:
        """The text as JSON-ready values."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            "kind": self.kind,
            "group": self.group,
            **({"answers": self.answers} if self.answers != 1 else {}),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainingText:
        """The text that :meth:`to_dict` gave."""
        return cls(
            tuple(Message(m["role"], m["content"]) for m in record["messages"]),
            record.get("kind", "fact"),
            record.get("group", ""),
            int(record.get("answers", 1)),
        )


@lru_cache(maxsize=65_536)
def _about(group: str) -> frozenset[str]:
    # Kept: with many lessons, each fact is compared with those of every other lesson.
    thing, colon, _ = group.rpartition(": ")
    return frozenset(_WORD.findall(thing.casefold())) - _LITTLE if colon else frozenset()


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one run of the learner learns: training texts, probes that were held out, sources.

    ``id`` is chosen by the ledger (ULID-like, sortable by time) or derived from the content.
    ``sources`` are digests of the conversations that it came from; ``corrects`` are groups of
    earlier lessons' texts that are no longer true, and questions of theirs that it answers now.
    """

    id: str
    title: str
    texts: tuple[TrainingText, ...]
    probes: tuple[Probe, ...] = ()
    sources: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = field(default=(), repr=False)
    corrects: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of texts and probes, as hex."""
        return canonical_digest(
            {
                "texts": [text.to_dict() for text in self.texts],
                "probes": [probe.to_dict() for probe in self.probes],
                "sources": list(self.sources),
                **({"corrects": list(self.corrects)} if self.corrects else {}),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The lesson as JSON-ready values, without the conversations that it came from."""
        return {
            "id": self.id,
            "title": self.title,
            "texts": [text.to_dict() for text in self.texts],
            "probes": [probe.to_dict() for probe in self.probes],
            "sources": list(self.sources),
            "corrects": list(self.corrects),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Lesson:
        """The lesson that :meth:`to_dict` gave."""
        return cls(
            record["id"],
            record["title"],
            tuple(TrainingText.from_dict(text) for text in record["texts"]),
            tuple(Probe.from_dict(probe) for probe in record["probes"]),
            tuple(record["sources"]),
            corrects=tuple(record.get("corrects", ())),
        )

    def facts(self) -> tuple[TrainingText, ...]:
        """The texts that carry what is new: kinds ``fact`` and ``explicit``."""
        return tuple(text for text in self.texts if text.kind in ("fact", "explicit"))

    def balanced(self) -> tuple[TrainingText, ...]:
        """What is new, each self-studied fact equally often.

        A fact that the model read in few wordings gets them repeated: it would be learned the least
        of all, though it is the hardest.
        """
        groups: dict[str, list[TrainingText]] = {}
        for text in self.facts():
            if text.kind == "fact":
                groups.setdefault(text.group, []).append(text)
        most = max(map(len, groups.values()), default=0)
        repeated = [text for texts in groups.values() for text in islice(cycle(texts), most)]
        return (*repeated, *(text for text in self.facts() if text.kind == "explicit"))

    def groups(self) -> dict[str, frozenset[str]]:
        """What each fact is about, by its group."""
        return {text.group: text.about for text in self.facts()}

    def supersedes(self, earlier: TrainingText) -> bool:
        """Whether this lesson gives the fact of an earlier text another value."""
        return earlier.group in self.corrects or corrected(
            earlier.group, earlier.about, self.groups()
        )


def corrected(group: str, about: frozenset[str], newer: Mapping[str, frozenset[str]]) -> bool:
    """Whether newer groups give a fact another value."""
    return bool(about) and any(of == about and name != group for name, of in newer.items())


def canonical_digest(value: Any) -> str:
    """SHA-256 over JSON with sorted keys and no spaces, as hex."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def chat(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """Messages from alternating user and assistant contents.

    Example:
        >>> [m.role for m in chat("Hi", "Hello!")]
        ['user', 'assistant']
    """
    messages: Sequence[Message] = [
        Message("user" if i % 2 == 0 else "assistant", content)
        for i, content in enumerate(contents)
    ]
    return (*((Message("system", system),) if system else ()), *messages)
