"""Lesson zero: the manners of a base, which come with the product and stand first in a home's list.

It teaches a chat model to read a conversation, to say what it was not told, to ask and to judge
(``training/manners/``). It is a lesson like any other: listed, disabled, undone. What differs is
that nothing is replayed of it, no later lesson is learned without it, and what later lessons must
leave alone is the base *with* it.

In the package it is a file of :mod:`engrain.lesson.portable`, as every lesson that travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from engrain.data.lessons import Lesson
from engrain.errors import BlobCorruptError, LessonFileError, UsageError
from engrain.exam.exam import Exam
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonEntry, LessonRecord, State
from engrain.lesson.effect import check_weights
from engrain.lesson.portable import Portable as Portable
from engrain.lesson.served import MANNERS, Served
from engrain.study.checks import BELIEF

LARGEST = 16_000_000
"""Bytes of one file: every installation carries all of them. It binds no other lesson."""


def ship(lesson: Portable, folder: Path) -> Path:
    """Write a lesson zero where the package's own lie.

    Raises:
        UsageError: it is too large to be shipped.
    """
    raw = lesson.to_bytes()
    if len(raw) > LARGEST:
        raise UsageError(
            f"The lesson has {len(raw) / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} are shipped.",
            remedy="Give its adapter a lower rank, or fewer of the matrices.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / file_name(lesson.base_digest)
    file.write_bytes(raw)
    return file


def file_name(base_digest: str) -> str:
    """The name of the file of a base's lesson zero."""
    return f"{base_digest[:16]}.lesson"


def shipped(base_digest: str) -> Portable | None:
    """Lesson zero of a base, if the package has one.

    Raises:
        BlobCorruptError: its file is damaged.
    """
    entry = resources.files("engrain.lesson") / "manners" / file_name(base_digest)
    if not entry.is_file():
        return None
    try:
        found = Portable.from_bytes(entry.read_bytes(), entry.name)
    except LessonFileError as error:
        raise BlobCorruptError(error.message, remedy="Install engrain again.") from error
    return found if found.base_digest == base_digest else None


def belief(served: Served) -> float:
    """The log-odds above which a reader holds a thing for so: measured when its lesson was made."""
    lesson = shipped(served.loaded.base_digest) if served.mannered else None
    return float(lesson.card.get("belief", BELIEF)) if lesson else BELIEF


def take(ledger: Ledger, served: Served, versions: Mapping[str, str]) -> State:
    """Make lesson zero the first lesson of a new ledger, if the package has one of its base.

    Raises:
        NoEffectError: its adapter changes nothing.
    """
    lesson = shipped(served.loaded.base_digest)
    if lesson is None:
        return ledger.current()
    adapter = ledger.blobs.put(lesson.adapter)
    before = ledger.current().digest
    after = served.fold_digest((adapter,))
    check_weights(after != before)
    reason = "It comes with the base; what was measured is in its card (`engrain lessons show`)."
    record = LessonRecord(
        lesson=Lesson(ledger.new_lesson_id(), "lesson zero: manners", ()),
        status="active",
        adapter=adapter,
        parent_state=before,
        state=after,
        base_digest=lesson.base_digest,
        recipe={**lesson.recipe, "name": MANNERS},
        exam_before=Exam(before, {}).to_dict(),
        exam_after=Exam(after, {}).to_dict(),
        decision={
            "verdict": "accepted",
            "reasons": [reason],
            "checks": [],
            "thresholds": "",
            "card": dict(lesson.card),
        },
        versions=versions,
    )
    return ledger.commit(record)


def is_zero(entry: LessonEntry | LessonRecord) -> bool:
    """Whether a lesson is lesson zero."""
    return entry.recipe.get("name") == MANNERS
