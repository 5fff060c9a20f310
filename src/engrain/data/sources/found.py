"""What reading gives: conversations, each with its place in the source, and what was left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from engrain.data.messages import Conversation

TITLE_LENGTH = 80
SECONDS_AT_MOST = 253_402_300_800
"""The year 10000: a larger number counts parts of a second."""


def printable(text: str) -> str:
    """A name as a terminal may show it: what moves the cursor or hides text is written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in what a person brought.

    ``file`` is a path, with the member's name behind it where the file is an archive. ``index`` is
    the number of the record in the file and ``message`` that of the message in the record, both
    from 1; 0 stands for the whole. ``lines`` says that records are lines. ``id``, ``title`` and
    ``time`` are what the record says of itself.
    """

    file: str
    index: int = 0
    message: int = 0
    lines: bool = False
    id: str = ""
    title: str = ""
    time: datetime | None = None

    def __str__(self) -> str:
        at = printable(self.file)
        if self.index:
            at += f":{self.index}" if self.lines else f"[{self.index}]"
        return f"{at}, message {self.message}" if self.message else at

    def to_dict(self) -> dict[str, Any]:
        """The place as JSON-ready values."""
        return {
            "file": self.file.encode("utf-8", "backslashreplace").decode(),
            "index": self.index,
            "message": self.message,
            "id": self.id,
            "title": self.title,
            "time": self.time.isoformat() if self.time else None,
        }


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that was left out: where it stands, and why."""

    place: Place
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """The skip as JSON-ready values."""
        return {**self.place.to_dict(), "where": str(self.place), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Brought:
    """One conversation of a source.

    ``left`` is what of it was left out. ``answers`` are the places of the messages that are learned
    as they stand, if it is an explicit example; None if it is a talk to be studied.
    """

    conversation: Conversation
    place: Place
    shape: str
    left: tuple[Skip, ...] = ()
    answers: tuple[int, ...] | None = None


def named(place: Place, *, id: Any, title: Any, time: datetime | None) -> Place:
    """A place with what the record says of itself, whatever types that has."""
    return replace(place, id=_word(id), title=_word(title)[:TITLE_LENGTH], time=time)


def _word(value: Any) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value).encode("utf-8", "replace").decode()
    return ""


def moment(value: Any) -> datetime | None:
    """A time as exports write it, in UTC; None if it is none.

    That is a number of seconds since 1970, or of thousandths, millionths, ... of one, also as a
    string, or a date in ISO 8601, in UTC if it names no zone.

    Example:
        >>> moment(1700000000.5) == moment(1700000000500) == moment("2023-11-14T22:13:20.5Z")
        True
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text)
        except ValueError:
            try:
                found = datetime.fromisoformat(text)
            except ValueError:
                return None
            try:
                return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
            except OverflowError:
                return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    while seconds >= SECONDS_AT_MOST:
        seconds /= 1000
    return datetime.fromtimestamp(seconds, UTC)
