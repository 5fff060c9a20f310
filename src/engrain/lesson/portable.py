"""A lesson as one file, to be carried from one home to another of the same base.

A zip of two members, stored as they are: ``lesson.json`` (base, recipe, card, texts and probes,
digests) and ``adapter.safetensors``. A reader takes these two and nothing else. It never unpacks:
a packed member is refused, so a small file can't grow in memory. Nothing of a file is used before
its digests agree. A lesson zero has no texts of its own; it is told by its card.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from engrain.data.lessons import Lesson, canonical_digest
from engrain.data.messages import ROLES
from engrain.errors import EngrainError, LessonFileError, OtherBaseError, UsageError

FORMAT = 2
TEXT, ADAPTER = "lesson.json", "adapter.safetensors"
LARGEST_TEXT = 64 << 20
"""Bytes of ``lesson.json``: thousands of texts have a few million."""
_FIXED = (1980, 1, 1, 0, 0, 0)
"""The time of every member: equal lessons are equal files."""
_DAMAGED = "Get the file again, or have it exported again."
_OTHER = "Give what `engrain lessons export` wrote; conversations are for `engrain learn`."


@dataclass(frozen=True)
class Portable:
    """A lesson as a file holds it.

    ``adapter`` are the bytes of its blob; ``card`` says in plain values what it is and what was
    measured where it was learned. ``lesson`` is None for a lesson zero.
    """

    base_digest: str
    recipe: Mapping[str, Any]
    card: Mapping[str, Any] = field(repr=False)
    adapter: bytes = field(repr=False)
    lesson: Lesson | None = field(default=None, repr=False)

    @property
    def adapter_digest(self) -> str:
        """SHA-256 of the adapter's bytes: the name of its blob in every home."""
        return hashlib.sha256(self.adapter).hexdigest()

    def to_bytes(self) -> bytes:
        """The file; equal lessons give equal bytes."""
        out = io.BytesIO()
        self._write(out)
        return out.getvalue()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UsageError: there is a file of that name already.
        """
        if path.exists():
            raise UsageError(
                f"{path} exists already.", remedy="Give another name, or delete it first."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with made.open("wb") as out:
                self._write(out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(made, path)
        finally:
            made.unlink(missing_ok=True)

    def _write(self, out: IO[bytes]) -> None:
        record: dict[str, Any] = {
            "format": FORMAT,
            "base_digest": self.base_digest,
            "recipe": dict(self.recipe),
            "card": dict(self.card),
            "adapter": self.adapter_digest,
        }
        if self.lesson is not None:
            record |= {"lesson": self.lesson.to_dict(), "content": self.lesson.digest}
        record["digest"] = canonical_digest(record)
        text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True).encode()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
            file.writestr(zipfile.ZipInfo(TEXT, _FIXED), text)
            file.writestr(zipfile.ZipInfo(ADAPTER, _FIXED), self.adapter)

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = "the lesson") -> Portable:
        """The lesson that :meth:`to_bytes` gave.

        Raises:
            LessonFileError: it can't be read, or a digest differs.
        """
        return _read(io.BytesIO(raw), len(raw), name, None)

    @classmethod
    def read(cls, path: Path, base_digest: str | None = None) -> Portable:
        """The lesson of a file.

        Raises:
            LessonFileError: there is none, it can't be read, or a digest differs.
            OtherBaseError: it was learned on another base than ``base_digest``.
        """
        try:
            with path.open("rb") as file:
                return _read(file, path.stat().st_size, str(path), base_digest)
        except OSError as error:
            raise LessonFileError(
                f"{path} can't be read: {error.strerror or error}.",
                remedy="Give the file that `engrain lessons export` wrote.",
            ) from error


def _read(file: IO[bytes], size: int, name: str, base_digest: str | None) -> Portable:
    try:
        if size and file.read(2) != b"PK":
            raise LessonFileError(f"{name} is no lesson: it is no archive.", remedy=_OTHER)
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, size, name)
            record = json.loads(archive.read(members[TEXT]))
            if not isinstance(record, dict):
                raise ValueError(f"{TEXT} is no object")
            _check_format(record, name)
            # Before the adapter, which may be as large as the base, is read at all.
            if base_digest is not None and record["base_digest"] != base_digest:
                raise _other_base(record, name, base_digest)
            adapter = archive.read(members[ADAPTER])
        return _taken(record, adapter)
    except EngrainError:
        raise
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        RecursionError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise LessonFileError(
            f"{name} is no whole lesson: {why or type(error).__name__}.", remedy=_DAMAGED
        ) from error


def _members(archive: zipfile.ZipFile, size: int, name: str) -> dict[str, zipfile.ZipInfo]:
    """The two members, if they are what they must be; nothing is read for that."""
    found = archive.infolist()
    if sorted(member.filename for member in found) != [ADAPTER, TEXT]:
        names = ", ".join(repr(member.filename) for member in found[:4]) or "nothing"
        raise LessonFileError(
            f"{name} is no lesson: it holds {names}, not {TEXT!r} and {ADAPTER!r}.", remedy=_OTHER
        )
    for member in found:
        stored = member.compress_type == zipfile.ZIP_STORED
        if not stored or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename!r} is packed, and a lesson's file never is")
    members = {member.filename: member for member in found}
    if sum(member.file_size for member in found) > size:
        raise ValueError("its members are larger than the file")
    if members[TEXT].file_size > LARGEST_TEXT:
        raise ValueError(f"{TEXT!r} has more than {LARGEST_TEXT >> 20} MB")
    return members


def _check_format(record: Mapping[str, Any], name: str) -> None:
    if record["format"] not in range(1, FORMAT + 1):
        raise LessonFileError(
            f"{name} has the format {record['format']!r}; formats up to {FORMAT} are read.",
            remedy="Update engrain, or have the lesson exported by this version.",
        )


def _other_base(record: Mapping[str, Any], name: str, base_digest: str) -> OtherBaseError:
    card = record["card"] if isinstance(record["card"], dict) else {}
    model = f" ({card['model']})" if card.get("model") else ""
    return OtherBaseError(
        f"{name} was learned on the base {str(record['base_digest'])[:12]}{model}; "
        f"this home has {base_digest[:12]}.",
        remedy="An adapter fits the base that it was learned on and no other; "
        "learn the conversation itself here.",
    )


def _taken(record: Mapping[str, Any], adapter: bytes) -> Portable:
    """The lesson of a record whose digests all agree."""
    if record["format"] > 1:
        told = {key: value for key, value in record.items() if key != "digest"}
        if canonical_digest(told) != record["digest"]:
            raise ValueError(f"the digest of {TEXT} differs")
    if hashlib.sha256(adapter).hexdigest() != record["adapter"]:
        raise ValueError("the adapter's digest differs")
    if not all(isinstance(record[key], dict) for key in ("recipe", "card")):
        raise ValueError("recipe and card must be objects")
    lesson = None
    if "lesson" in record:
        lesson = Lesson.from_dict(record["lesson"])
        _check_lesson(lesson, record)
    return Portable(str(record["base_digest"]), record["recipe"], record["card"], adapter, lesson)


def _check_lesson(lesson: Lesson, record: Mapping[str, Any]) -> None:
    # What reading changed was of another type than it must be.
    if lesson.to_dict() != record["lesson"]:
        raise ValueError("a text or a probe has values of a wrong type")
    if lesson.digest != record["content"]:
        raise ValueError("the digest of its texts and probes differs")
    asked = [probe.messages for probe in lesson.probes]
    for messages in (*asked, *(text.messages for text in lesson.texts)):
        if not any(message.role == "user" for message in messages):
            raise ValueError("a text or a probe asks nothing")
        for message in messages:
            if message.role not in ROLES or not isinstance(message.content, str):
                raise ValueError("a message has no text, or an unknown role")
    for probe in lesson.probes:
        if not all(isinstance(said, str) for said in (*probe.answers, *probe.not_answers)):
            raise ValueError("an answer of a probe is no text")
    if not all(isinstance(said, str) for said in (lesson.title, *lesson.corrects)):
        raise ValueError("the title is no text")
    for text in lesson.texts:
        if text.messages[-1].role != "assistant" or not isinstance(text.group, str):
            raise ValueError("a text does not end with an answer")
