"""The shapes of a conversation that are known, each a function with one decorator.

A shape is told by what a record holds, never by a file's name. To add one, write a function that
puts a record down in a :class:`~engrain.data.sources.draft.Draft`::

    @shape("mine", "my tool's export", looks=lambda r: isinstance(r.get("turns"), list))
    def mine(draft: Draft, record: Mapping[str, Any]) -> None:
        draft.named(record, "id", "title", "begun")
        for turn in draft.each(record["turns"]):
            draft.say(turn.get("by"), turn.get("words"), time=turn.get("at"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engrain.data.sources.draft import Draft

Record = Mapping[str, Any]
Write = Callable[[Draft, Record], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape: its name, what it is, how it is told, and how it is read.

    ``account`` says that it is a whole account's: what lies beside it in an archive was attached.
    """

    name: str
    title: str
    looks: Callable[[Record], bool]
    write: Write
    account: bool = False


_shapes: dict[str, Shape] = {}


def shape(
    name: str, title: str, *, looks: Callable[[Record], bool], account: bool = False
) -> Callable[[Write], Write]:
    """Register a function as the reader of a shape; the first that fits a record reads it."""

    def decorate(write: Write) -> Write:
        _shapes[name] = Shape(name, title, looks, write, account)
        return write

    return decorate


def shape_of(record: Any) -> Shape | None:
    """The shape of a record; None if no shape is like it."""
    if not isinstance(record, Mapping):
        return None
    return next((known for known in shapes() if known.looks(record)), None)


def shapes() -> Iterator[Shape]:
    """All shapes, in the order in which they are tried: those of accounts say the most."""
    for account in (True, False):
        yield from (known for known in _shapes.values() if known.account is account)
