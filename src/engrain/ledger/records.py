"""What the ledger holds, as frozen values: lessons, states, conversations, jobs and events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from engrain.data.lessons import Lesson, Probe, TrainingText, canonical_digest
from engrain.errors import BlobCorruptError, LedgerError

Status = Literal["active", "disabled", "undone", "quarantined", "rejected"]
STATUSES: tuple[Status, ...] = get_args(Status)
COMMIT_STATUSES: tuple[Status, ...] = ("active", "quarantined", "rejected")
"""What a gate can decide: only an ``active`` lesson changes the served state."""

TRANSITIONS: Mapping[Status, tuple[Status, ...]] = {
    "active": ("disabled", "undone"),
    "disabled": ("active", "undone"),
    "quarantined": ("active", "undone"),
    "rejected": (),
    "undone": (),
}
"""Which changes a person can ask for. An undone lesson stays in the record, but never returns."""

STAGES = (
    "logged",
    "studied",
    "examined_before",
    "trained",
    "examined_after",
    "studied_again",
    "trained_again",
    "examined_again",
    "decided",
)
"""The stages of a job, in order, that end in ``committed`` or ``failed``; ``..._again`` are those
of a second round, which most lessons do without."""
END_STAGES = ("committed", "failed")

EventKind = Literal[
    "begun",
    "conversation_added",
    "job_created",
    "job_advanced",
    "lesson_committed",
    "status_changed",
]
GENESIS = "0" * 64
"""The digest that the first event names as its predecessor."""


def canonical_bytes(value: Any) -> bytes:
    """The bytes that ``canonical_digest`` hashes: JSON with sorted keys and no spaces.

    Raises:
        LedgerError: the value holds something that JSON can't.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"A value can't be kept in the ledger: {error}.",
            remedy="Give numbers, text, lists and objects only; convert arrays to lists.",
        ) from error


def sha256(raw: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the append-only record; ``digest`` covers all else and so every line before."""

    sequence: int
    at: str
    kind: EventKind
    payload: Mapping[str, Any]
    previous: str
    digest: str = ""

    def derived_digest(self) -> str:
        """The digest that the other fields give."""
        return canonical_digest(
            {
                "sequence": self.sequence,
                "at": self.at,
                "kind": self.kind,
                "payload": self.payload,
                "previous": self.previous,
            }
        )


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that all states of the ledger stand on."""

    source: str
    digest: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """A weight state that was in force: the fold of the base and some lessons' adapters.

    ``lessons`` are ids and ``adapters`` the digests of their adapters, both in commit order;
    ``event`` is the sequence number of the event that made it.
    """

    digest: str
    lessons: tuple[str, ...]
    adapters: tuple[str, ...]
    event: int
    at: str


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """A conversation of the verbatim log, without its text."""

    digest: str
    head: str
    length: int
    event: int
    at: str


@dataclass(frozen=True, slots=True)
class JobStage:
    """One stage that a job has reached; a large payload is a blob named by ``blob``."""

    stage: str
    at: str
    payload: Mapping[str, Any] | None = None
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work as seen from outside.

    ``status`` is ``running``, ``interrupted`` (not finished, and its process is gone),
    ``committed`` or ``failed``; ``pid`` is the process that works on it, or worked last.
    """

    id: str
    kind: str
    stage: str
    payload: Mapping[str, Any]
    stages: tuple[JobStage, ...]
    at: str
    status: str = ""
    pid: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.stage in END_STAGES

    def reached(self, stage: str) -> bool:
        """Whether the stage is recorded, so that a resume can skip it."""
        return any(item.stage == stage for item in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonRecord:
    """A lesson with everything that proves it: what ``commit`` takes and ``get_lesson`` gives.

    ``adapter`` is the digest of a blob. ``parent_state`` and ``state`` are digests of weights
    before and after; they are equal unless the lesson was accepted. ``at`` and ``position`` are
    set by the ledger.
    """

    lesson: Lesson
    status: Status
    adapter: str | None
    parent_state: str
    state: str
    base_digest: str
    recipe: Mapping[str, Any]
    exam_before: Mapping[str, Any] = field(default_factory=dict)
    exam_after: Mapping[str, Any] = field(default_factory=dict)
    decision: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    estimated_seconds: float | None = None
    measured_seconds: float = 0.0
    peak_memory_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    job: str | None = None
    at: str = ""
    position: int = 0

    @property
    def id(self) -> str:
        """The lesson's id."""
        return self.lesson.id

    @property
    def recipe_digest(self) -> str:
        """SHA-256 over the canonical JSON of the recipe."""
        return canonical_digest(dict(self.recipe))

    def entry(self) -> LessonEntry:
        """The record with digests in the place of texts, probes and exams."""
        return LessonEntry(
            id=self.lesson.id,
            title=self.lesson.title,
            status=self.status,
            content=sha256(lesson_content(self.lesson)),
            sources=self.lesson.sources,
            adapter=self.adapter,
            recipe=dict(self.recipe),
            recipe_digest=self.recipe_digest,
            exam_before=sha256(canonical_bytes(self.exam_before)),
            exam_after=sha256(canonical_bytes(self.exam_after)),
            decision=dict(self.decision),
            parent_state=self.parent_state,
            state=self.state,
            base_digest=self.base_digest,
            seed=self.seed,
            estimated_seconds=self.estimated_seconds,
            measured_seconds=self.measured_seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            versions=dict(self.versions),
            job=self.job,
            at=self.at,
            position=self.position,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonEntry:
    """A line of the list of lessons: small, and readable when blobs are damaged.

    ``content``, ``exam_before`` and ``exam_after`` are digests of blobs; ``position`` is the
    sequence number of the event that committed it and gives the order of the fold.
    """

    id: str
    title: str
    status: Status
    content: str
    sources: tuple[str, ...]
    adapter: str | None
    recipe: Mapping[str, Any]
    recipe_digest: str
    exam_before: str
    exam_after: str
    decision: Mapping[str, Any]
    parent_state: str
    state: str
    base_digest: str
    seed: int
    estimated_seconds: float | None
    measured_seconds: float
    peak_memory_bytes: int
    versions: Mapping[str, str]
    job: str | None
    at: str
    position: int

    def payload(self) -> dict[str, Any]:
        """The entry as an event's payload: all but what the event itself says."""
        skip = ("at", "position")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {**values, "sources": list(self.sources)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], *, at: str, position: int) -> LessonEntry:
        """The entry that :meth:`payload` gave."""
        values = {**payload, "sources": tuple(payload["sources"])}
        return cls(**values, at=at, position=position)

    def blobs(self) -> tuple[str, ...]:
        """Digests of all blobs that the lesson needs."""
        named = (self.content, self.exam_before, self.exam_after)
        return (*named, self.adapter) if self.adapter else named


@dataclass(frozen=True, slots=True)
class Plan:
    """A change of a lesson's status, thought through but not done.

    The caller folds ``adapters`` over the base and gives the digest to ``Ledger.apply``.
    """

    lesson: str
    status: Status
    before: State
    lessons: tuple[str, ...]
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that ``verify`` found: ``kind`` is an error's class name, ``where`` names it."""

    kind: str
    where: str
    message: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """The problem as JSON-ready values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def lesson_content(lesson: Lesson) -> bytes:
    """A lesson's texts, probes and sources as the bytes of its content blob.

    Their SHA-256 is ``Lesson.digest``, so the blob's name proves the lesson.
    """
    return canonical_bytes(
        {
            "texts": [text.to_dict() for text in lesson.texts],
            "probes": [probe.to_dict() for probe in lesson.probes],
            "sources": list(lesson.sources),
            **({"corrects": list(lesson.corrects)} if lesson.corrects else {}),
        }
    )


def lesson_from_content(entry: LessonEntry, raw: bytes) -> Lesson:
    """The lesson that :func:`lesson_content` gave.

    Raises:
        BlobCorruptError: the content does not give back the digest that the entry says.
    """
    try:
        content = json.loads(raw)
        lesson = Lesson(
            id=entry.id,
            title=entry.title,
            texts=tuple(TrainingText.from_dict(text) for text in content["texts"]),
            probes=tuple(Probe.from_dict(probe) for probe in content["probes"]),
            sources=tuple(content["sources"]),
            corrects=tuple(content.get("corrects", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BlobCorruptError(
            f"The content of lesson {entry.id} can't be read: {error}.",
            remedy="Restore the blobs folder from a backup.",
        ) from error
    if lesson.digest != entry.content or lesson.sources != entry.sources:
        raise BlobCorruptError(
            f"The content of lesson {entry.id} does not give back its digest.",
            remedy="Restore the blobs folder from a backup.",
        )
    return lesson
