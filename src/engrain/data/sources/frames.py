"""JSON values one after the other from a text of any length, holding no more than one of them.

A list is read element by element, lines one by one. Where the text is damaged, what is damaged is
named, and reading goes on with the next value that is known to be whole: a streaming parser would
end there. The end of a value is found by its brackets; the parsing is that of :mod:`json`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from zipfile import BadZipFile

PIECE = 1 << 20
"""Characters that are read at a time, at least."""
MAX_RECORD = 64 << 20
"""Characters of one value at most."""
MAX_DEPTH = 200
"""Levels of brackets within each other at most; no tool nests a conversation deeper than ten."""
FAR = 4 << 20
"""Characters that a value may have which is looked for behind damage."""
TRIES = 2_000
"""How often a value behind damage may be looked for in vain."""
MAX_BLANK = 1 << 20
"""Blanks between two values at most."""
MAX_TAIL = 4096
"""Characters at the end of a piece that may belong before a value of the next."""
TOO_DEEP = "it is not JSON that can be read: it is nested too deep"
UNREADABLE = (OSError, EOFError, zlib.error, BadZipFile, ValueError, RuntimeError)
"""What reading a damaged file or archive raises."""

_PLAIN = re.compile(r'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)
"""All up to the next bracket, or to a string that does not end in the text at hand."""
_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string."""
_SCALAR = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^,\[\]{}\s"]+', re.DOTALL)
_BLANK = re.compile(r"[\s,\x1e]*")
_BEHIND = re.compile(r"[\[,\n]\s*+(?=\{)")
"""What stands before a value in a list or on a line."""


class Readable(Protocol):
    """A text that is read piece by piece."""

    def read(self, size: int, /) -> str:
        """About so many characters more; "" at the end."""


class NotJSON(Exception):
    """A text that does not begin as JSON does."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A value with its number, and what is wrong with it, "" if nothing is.

    Numbers count from 1; 0 is the only value of a text. ``lines`` says that values stand on lines
    and the number is that of the line.
    """

    number: int
    value: Any
    problem: str = ""
    lines: bool = False


class _Damaged(Exception):
    """A value that is not as it should be; ``end`` is where it ends, if that is sure."""

    def __init__(self, reason: str, end: int | None = None) -> None:
        super().__init__(reason)
        self.end = end


def frames(stream: Readable, known: Callable[[Any], bool]) -> Iterator[Frame]:
    """The values of a text: of a list, on lines, one after the other, or a single one.

    ``known`` says whether a value is a whole record; behind damage reading goes on with the next.

    Raises:
        NotJSON: the text is empty, or does not begin with an object or a list.
    """
    text = _Text(stream)
    first = text.first()
    if first == "[":
        yield from _elements(text, known)
    elif first == "{":
        yield from _values(text, known)
    else:
        raise NotJSON(text.trouble or ("it is not JSON" if first else "it is empty"))


def _elements(text: _Text, known: Callable[[Any], bool]) -> Iterator[Frame]:
    text.start += 1
    number = 0
    while True:
        while (first := text.first()) and first != "]":
            number += 1
            if first in "{[":
                end, value, problem = text.value()
            else:
                end, scalar = None, text.scalar()
                value, problem = parsed(scalar) if scalar else (None, "it is not JSON")
            yield Frame(number, value, problem)
            text.go_on(end, problem, known)
        if not first:
            yield Frame(number + 1, None, text.trouble or "it is not JSON: the list is cut off")
            return
        text.start += 1
        if not text.first():
            return
        # A bracket that damage has put there ends a list of which most is still to come.
        rest = text.text[text.start : text.start + 20]
        problem = f"the list ends, and more follows: {rest!a}"
        number += 1
        yield Frame(number, None, problem)
        text.go_on(None, problem, known)
        if not text.first():
            return


def _values(text: _Text, known: Callable[[Any], bool]) -> Iterator[Frame]:
    line, end = text.line(whole=True)
    value, problem = parsed(line)
    if not problem and isinstance(value, dict):
        number = text.newlines + 1
        text.start, text.newlines = end, number
        if text.first():
            yield Frame(number, value, lines=True)
            yield from _lines(text)
        else:
            yield Frame(1 if text.trouble else 0, value, text.trouble)
        return
    number = 0
    while text.first():
        end_, value, problem = text.value()
        number += 1
        if number == 1 and problem and text.has_lines():
            yield from _lines(text)
            return
        if not problem:
            text.start = end_ or 0
        more = text.first() if not problem else "?"
        yield Frame(number if more or number > 1 else 0, value, problem)
        if not problem and more and more not in "{[":
            problem, end_ = "what follows is not JSON", None
            yield Frame(number + 1, None, problem)
        if problem:
            text.go_on(end_, problem, known)
    if text.trouble:
        yield Frame(number + 1, None, text.trouble)


def _lines(text: _Text) -> Iterator[Frame]:
    """Values on lines, from the one at hand on."""
    number = text.newlines + 1
    while True:
        line, end = text.line()
        if not line and end == text.start:
            break
        if line.strip(" \t\r\x1e"):
            yield Frame(number, *parsed(line.lstrip("\x1e")), lines=True)
        text.start = end
        number += 1
    if text.trouble:
        yield Frame(number, None, text.trouble, lines=True)


def parsed(text: str) -> tuple[Any, str]:
    """The value of a JSON text, or what is wrong with it."""
    if len(text) > MAX_RECORD:
        return None, f"it has more than {MAX_RECORD:,} characters"
    try:
        return json.loads(text, strict=False), ""
    except RecursionError:
        return None, TOO_DEEP
    except ValueError as error:
        return None, f"it is not JSON: {str(error).partition(';')[0]}"


class _Text:
    """A text of which one value after the other is taken; ``start`` is where the next begins.

    ``base`` is the place of the text at hand in the whole, ``newlines`` counts the line breaks that
    were skipped between values, ``trouble`` is why the text could not be read to its end.
    """

    def __init__(self, stream: Readable) -> None:
        self.stream, self.text, self.start, self.base = stream, "", 0, 0
        self.trouble, self.ended, self.newlines = "", False, 0
        self._tries = 0

    def more(self) -> int:
        """Read on; gives by how much the places in the text have moved."""
        if self.ended:
            return 0
        try:
            piece = self.stream.read(max(PIECE, (len(self.text) - self.start) // 2))
        except UNREADABLE as error:
            self.trouble, piece = f"it is damaged from here on: {error}", ""
        if not piece:
            self.ended = True
            return 0
        moved, self.text, self.start = self.start, self.text[self.start :] + piece, 0
        self.base += moved
        return moved

    def first(self) -> str:
        """The first character of the next value; "" at the end."""
        blank = 0
        while True:
            at = end_of(_BLANK, self.text, self.start)
            self.newlines += self.text.count("\n", self.start, at)
            blank += at - self.start
            self.start = at
            if at < len(self.text):
                return self.text[at]
            if blank > MAX_BLANK:
                self.trouble = self.trouble or "it is not JSON: it is nothing but blanks"
                return ""
            self.more()
            if self.ended:
                return ""

    def value(self) -> tuple[int | None, Any, str]:
        """The value that begins here: where it ends, if that is sure, itself, and its problem."""
        try:
            end = self.end()
        except _Damaged as damage:
            return damage.end, None, str(damage)
        return (end, *parsed(self.text[self.start : end]))

    def end(self, limit: int = MAX_RECORD) -> int:
        """Where the value ends that begins here.

        Raises:
            _Damaged: it does not, or is too large.
        """
        stack: list[str] = []
        at, inside, deep = self.start, False, False
        while True:
            at = end_of(_STRING if inside else _PLAIN, self.text, at)
            mark = self.text[at] if at < len(self.text) else ""
            if mark == "" or mark == "\\":
                if at - self.start > limit:
                    raise _Damaged(f"it has more than {limit:,} characters")
                at -= self.more()
                if self.ended:
                    raise _Damaged(self.trouble or "it is not JSON: it is cut off")
                continue
            at += 1
            if mark == '"':
                inside = not inside
            elif mark in "[{":
                stack.append(mark)
                deep = deep or len(stack) > MAX_DEPTH
            elif not stack or (stack.pop() == "[") != (mark == "]"):
                raise _Damaged("it is not JSON: its brackets do not match")
            if not stack and not inside:
                if deep:
                    raise _Damaged(TOO_DEEP, at)
                return at

    def scalar(self) -> str:
        """A number, a string or a word, taken; "" if there is none."""
        while True:
            end = end_of(_SCALAR, self.text, self.start)
            if end < len(self.text) or self.ended or end - self.start > PIECE:
                found, self.start = self.text[self.start : end], end
                return found
            self.more()

    def line(self, *, whole: bool = False) -> tuple[str, int]:
        """The next line, and where the one after it begins; of one that is too long, the beginning.

        With ``whole`` nothing is passed over, even where the line is too long.
        """
        at = self.start
        while (end := self.text.find("\n", at)) < 0:
            at = len(self.text)
            if at - self.start > MAX_RECORD:
                head = self.text[self.start : self.start + MAX_RECORD + 1]
                return (head, at) if whole else (head, self._behind_line())
            at -= self.more()
            if self.ended:
                return self.text[self.start :], len(self.text)
        return self.text[self.start : end], end + 1

    def _behind_line(self) -> int:
        while True:
            self.start = len(self.text)
            self.more()
            end = self.text.find("\n", self.start)
            if end >= 0 or self.ended:
                return end + 1 if end >= 0 else len(self.text)

    def has_lines(self) -> bool:
        """Whether a second line begins with an object, as those of JSON lines do."""
        return re.compile(r"\n\{").search(self.text, self.start) is not None

    def go_on(self, end: int | None, problem: str, known: Callable[[Any], bool]) -> None:
        """Go behind a value: to its end, or behind damage to the next record that is whole.

        What is damaged may hold whole records, so they are looked for from its beginning on.
        """
        if not problem:
            self.start = end if end is not None else self.start
            return
        stop = self.base + end if end is not None else None
        at = self.start
        while self._tries < TRIES:
            found = _BEHIND.search(self.text, at)
            if stop is not None and (not found or self.base + found.end() >= stop):
                self.start = stop - self.base
                return
            if not found:
                # What may stand before a value is kept: the value itself may be in the next piece.
                tail = self.text[-MAX_TAIL:]
                kept = len(tail) - len(tail.rstrip()) + 1
                self.start = max(self.start, len(self.text) - kept)
                self.more()
                at = self.start
                if self.ended:
                    break
                continue
            self._tries += 1
            self.start = found.end()
            try:
                end = self.end(FAR)
            except _Damaged:
                pass
            else:
                if known(parsed(self.text[self.start : end])[0]):
                    return
            at = self.start + 1
        self.start, self.ended = len(self.text), True


def end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match ends that begins there; its beginning if there is none."""
    found = pattern.match(text, start)
    return found.end() if found else start
