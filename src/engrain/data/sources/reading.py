"""Reading what a person brought: conversations one by one, and what was left out, where and why."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from engrain.data.sources import accounts, chats, llm_log, pairs, transcript
from engrain.data.sources.chats import is_message
from engrain.data.sources.draft import Draft, NotRead
from engrain.data.sources.files import ZIP as ARCHIVE
from engrain.data.sources.files import Decoded, Item, contents, is_binary, on_disk
from engrain.data.sources.found import Brought, Place, Skip
from engrain.data.sources.frames import UNREADABLE, Frame, NotJSON, frames
from engrain.data.sources.registry import shape_of
from engrain.data.sources.transcript import is_transcript

SHAPES = (accounts, llm_log, chats, pairs, transcript)
"""Where the shapes are; to import them registers them, in this order."""
MAX_TRANSCRIPT = 16 << 20
"""Characters of a plain transcript at most."""
SNIFFED = 3
"""Records by which it is told whether a file is an account's export."""
MAX_NAMED = 100
"""Damaged records of a file that are named one by one."""
ATTACHED = "it lies in an account's export and is no conversation of it"
NO_SHAPE = "it holds no conversation of a known shape"

Found = Brought | Skip


def read(path: Path | str) -> Iterator[Found]:
    """Read a file, an archive or a folder, conversation by conversation.

    The shape is told by what is in a file. What is left out comes as skips: whole files and records
    by themselves, messages and their parts with the conversation that they stand in.

    Raises:
        ConversationError: there is nothing at the path, or it can't be read.

    Example:
        >>> found = list(read("conversations.zip"))                        # doctest: +SKIP
        >>> [f.conversation for f in found if isinstance(f, Brought)]      # doctest: +SKIP
    """
    with contents(path) as groups:
        account = ""
        for group in groups:
            items = [item for item in group if isinstance(item, Item)]
            own = {id(item) for item in items if len(items) > 1 and _of_account(item)}
            archive = bool(items) and bool(items[0].archive)
            if own and not archive:
                account = str(Path(items[0].name).parent)
            within = bool(own) or (account != "" and bool(items) and _below(items[0], account))
            for item in group:
                if isinstance(item, Skip):
                    yield item
                elif own and archive and id(item) not in own:
                    # What lies beside the conversations was attached to them, or is about them.
                    yield Skip(item.place, ATTACHED)
                else:
                    yield from _read_item(item, attached=within and id(item) not in own)


def _below(item: Item, folder: str) -> bool:
    return not item.archive and Path(item.name).is_relative_to(folder)


def _of_account(item: Item) -> bool:
    """Whether a file holds conversations of an account's export."""
    with suppress(NotJSON, sqlite3.Error, *UNREADABLE), item.open() as file:
        for frame in islice(frames(Decoded(file), _known), SNIFFED):
            shape = shape_of(frame.value)
            if shape is not None:
                return shape.account
    return False


def _known(value: Any) -> bool:
    return shape_of(value) is not None


def _read_item(item: Item, *, attached: bool) -> Iterator[Found]:
    try:
        head = item.head()
        if head.startswith(llm_log.MAGIC):
            yield from _read_log(item)
        elif head.startswith(ARCHIVE):
            yield Skip(item.place, "an archive within an archive: unpack it to read it")
        elif is_binary(head):
            yield Skip(item.place, "it is no text")
        else:
            yield from _read_text(item, attached)
    except (sqlite3.Error, *UNREADABLE) as error:
        yield Skip(item.place, f"it can't be read: {error}")


def _read_log(item: Item) -> Iterator[Found]:
    with on_disk(item) as path:
        number = 0
        for number, record in enumerate(llm_log.conversations(path), 1):
            yield written(replace(item.place, index=number), record)
    if not number:
        yield Skip(item.place, NO_SHAPE)


def _read_text(item: Item, attached: bool) -> Iterator[Found]:
    held: list[Found] = []
    try:
        with item.open() as file:
            found = _Records(item.place).read(frames(Decoded(file), _known))
            # A transcript may begin as a list does: with the time in brackets.
            for one in found:
                held.append(one)
                if isinstance(one, Brought):
                    yield from held
                    yield from found
                    return
    except NotJSON as error:
        empty = str(error).endswith("empty")
        told = str(error) if empty else f"{error}, and no transcript either"
        held = [Skip(item.place, told)]
    if attached:
        yield Skip(item.place, ATTACHED)
        return
    with item.open() as file:
        text = Decoded(file).read(MAX_TRANSCRIPT)
    yield from [written(item.place, {"transcript": text})] if is_transcript(text) else held


def written(place: Place, record: Mapping[str, Any]) -> Found:
    """A record as a conversation, or why it is none."""
    shape = shape_of(record)
    if shape is None:
        return Skip(place, NO_SHAPE)
    draft = Draft(place)
    try:
        shape.write(draft, record)
        return draft.finish(shape.name)
    except NotRead as error:
        return Skip(place, str(error))


class _Records:
    """The values of one file as conversations; single messages in a row are one."""

    def __init__(self, file: Place) -> None:
        self.file = file
        self.row: list[Any] = []
        self.row_place = file
        self.count = self.damaged = self.strange = 0
        self.first_strange = file

    def read(self, found: Iterator[Frame]) -> Iterator[Found]:
        """The conversations of a file, and what of it was left out."""
        for frame in found:
            place = replace(self.file, index=frame.number, lines=frame.lines)
            self.count += 1
            if frame.problem:
                self.damaged += 1
                if self.damaged <= MAX_NAMED:
                    yield Skip(place, frame.problem)
            if frame.value is None and frame.problem:
                continue
            if is_message(frame.value) or (self.row and not _known(frame.value)):
                self.row_place = self.row_place if self.row else place
                self.row.append(frame.value)
                continue
            yield from self._end_row(whole=False)
            yield from self._record(place, frame.value)
        yield from self._end_row(whole=len(self.row) + self.damaged == self.count)
        if self.damaged > MAX_NAMED:
            yield Skip(self.file, f"{self.damaged - MAX_NAMED:,} more records are damaged")
        if self.strange == self.count:
            yield Skip(self.file, NO_SHAPE)
        elif self.strange:
            more = f"and {self.strange - 1:,} more are" if self.strange > 1 else "is"
            yield Skip(self.first_strange, f"this record {more} of no known shape")

    def _end_row(self, *, whole: bool) -> Iterator[Found]:
        if self.row:
            place = self.file if whole else self.row_place
            yield written(place, {"messages": self.row})
            self.row = []

    def _record(self, place: Place, value: Any) -> Iterator[Found]:
        if _known(value):
            yield written(place, value)
        elif isinstance(value, list) and any(is_message(item) for item in value):
            yield written(place, {"messages": value})
        elif inner := _inner(value):
            for number, record in enumerate(inner, 1):
                within = replace(place, index=place.index or number)
                yield from self._record(within, record)
        else:
            self.strange += 1
            self.first_strange = place if self.strange == 1 else self.first_strange


def _inner(value: Any) -> list[Any]:
    """The records of a list that an object wraps, with whatever stands beside it."""
    if isinstance(value, list):
        return value if any(map(_known, value)) else []
    for item in value.values() if isinstance(value, Mapping) else ():
        if isinstance(item, list) and any(map(_known, item)):
            return item
        if isinstance(item, Mapping) and item and any(map(_known, item.values())):
            return list(item.values())
    return []
