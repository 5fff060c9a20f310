"""Lesson zero: the manners of a base, which come with the product and stand first in a home's list.

It teaches a chat model to read a conversation, to say what it was not told, to ask and to judge
(``training/manners/``). It is a lesson like any other: listed, disabled, undone. What differs is
that nothing is replayed of it, no later lesson is learned without it, and what later lessons must
leave alone is the base *with* it.

A portable lesson is one file, a zip of ``lesson.json`` (base, recipe, card, digest of the adapter)
and ``adapter.safetensors``.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from engrain.data.lessons import Lesson
from engrain.errors import BlobCorruptError, UsageError
from engrain.exam.exam import Exam
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonEntry, LessonRecord, State
from engrain.lesson.effect import check_weights
from engrain.lesson.served import MANNERS, Served
from engrain.study.checks import BELIEF

FORMAT = 1
LARGEST = 16_000_000
"""Bytes of one file: every installation carries all of them."""
_FIXED = (1980, 1, 1, 0, 0, 0)
"""The time of every member: equal lessons are equal files."""


@dataclass(frozen=True)
class Portable:
    """Lesson zero of a base, as one file holds it."""

    base_digest: str
    recipe: Mapping[str, Any]
    card: Mapping[str, Any] = field(repr=False)
    adapter: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """The file; equal lessons give equal bytes."""
        record = {
            "format": FORMAT,
            "base_digest": self.base_digest,
            "recipe": dict(self.recipe),
            "card": dict(self.card),
            "adapter": hashlib.sha256(self.adapter).hexdigest(),
        }
        text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True).encode()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
            file.writestr(zipfile.ZipInfo("lesson.json", _FIXED), text)
            file.writestr(zipfile.ZipInfo("adapter.safetensors", _FIXED), self.adapter)
        return out.getvalue()

    @property
    def file_name(self) -> str:
        """The name under which :func:`shipped` finds it."""
        return file_name(self.base_digest)

    def save(self, folder: Path) -> Path:
        """Write it where the package's own lie.

        Raises:
            UsageError: it is too large to be shipped.
        """
        raw = self.to_bytes()
        if len(raw) > LARGEST:
            raise UsageError(
                f"The lesson has {len(raw) / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} are shipped.",
                remedy="Give its adapter a lower rank, or fewer of the matrices.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / self.file_name
        file.write_bytes(raw)
        return file

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = "the lesson") -> Portable:
        """The lesson that :meth:`to_bytes` gave.

        Raises:
            BlobCorruptError: it can't be read, or the adapter is not the one that it names.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as file:
                record = json.loads(file.read("lesson.json"))
                adapter = file.read("adapter.safetensors")
            if hashlib.sha256(adapter).hexdigest() != record["adapter"]:
                raise ValueError("the adapter's digest differs")
            return cls(record["base_digest"], record["recipe"], record["card"], adapter)
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise BlobCorruptError(
                f"{name} can't be read: {error}.", remedy="Install engrain again."
            ) from error


def file_name(base_digest: str) -> str:
    """The name of the file of a base's lesson zero."""
    return f"{base_digest[:16]}.lesson"


def shipped(base_digest: str) -> Portable | None:
    """Lesson zero of a base, if the package has one."""
    entry = resources.files("engrain.lesson") / "manners" / file_name(base_digest)
    if not entry.is_file():
        return None
    found = Portable.from_bytes(entry.read_bytes(), entry.name)
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
