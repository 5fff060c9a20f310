"""Streams: an ordered sequence of days, each with conversations to learn and probes to ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engrain.data.lessons import Probe, ProbeKind, canonical_digest
from engrain.data.messages import Conversation, read_records
from engrain.errors import ConversationError

SHAPE = '{"id": "day-01", "conversations": [{"messages": [...]}], "probes": [...]}'


@dataclass(frozen=True, slots=True)
class Day:
    """One lesson of a stream: what is told, what is asked from now on, what is no longer true.

    ``supersedes`` are ids of earlier days' probes that a correction of this day makes wrong.
    """

    id: str
    conversations: tuple[Conversation, ...]
    probes: tuple[Probe, ...]
    supersedes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The day as one line of a stream file."""
        return {
            "id": self.id,
            "conversations": [{"messages": c.to_list()} for c in self.conversations],
            "probes": [probe.to_dict() for probe in self.probes],
            "supersedes": list(self.supersedes),
        }


def read_stream(path: Path) -> list[Day]:
    """Read a stream from a JSONL file, one day a line.

    Raises:
        ConversationError: a line that is no day, a repeated id, or an unknown superseded probe.
    """
    return parse_stream(read_records(path))


def parse_stream(records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Day]:
    """Check and take (where, day) pairs; errors as in :func:`read_stream`."""
    days: list[Day] = []
    seen: set[str] = set()
    for where, record in records:
        day = _day(record, where)
        for name in day.supersedes:
            if name not in seen:
                raise ConversationError(
                    f"{where} supersedes {name!r}, which no earlier day asks.",
                    remedy="Name a probe id of an earlier day.",
                )
        for name in (day.id, *(probe.id for probe in day.probes)):
            if name in seen:
                raise ConversationError(
                    f"{where} repeats the id {name!r}.",
                    remedy="Give every day and every probe an id of its own.",
                )
            seen.add(name)
        days.append(day)
    if not days:
        raise ConversationError("The stream holds no day.", remedy=f"Expected lines like {SHAPE}.")
    return days


def stream_digest(days: Sequence[Day]) -> str:
    """SHA-256 over a stream's canonical JSON, as hex."""
    return canonical_digest([day.to_dict() for day in days])


def _day(record: Mapping[str, Any], where: str) -> Day:
    try:
        chats, probes = record["conversations"], record.get("probes", [])
        return Day(
            str(record["id"]),
            tuple(
                Conversation.from_messages(chat["messages"], source=f"{where}, conversation {i}")
                for i, chat in enumerate(chats, start=1)
            ),
            tuple(_probe(probe, where) for probe in probes),
            tuple(str(name) for name in record.get("supersedes", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConversationError(
            f"{where} is not a day of a stream: {error}.", remedy=f"Expected a line like {SHAPE}."
        ) from error


def _probe(record: Mapping[str, Any], where: str) -> Probe:
    probe = Probe.from_dict(dict(record))
    if probe.kind not in get_args(ProbeKind):
        raise ConversationError(
            f"{where}: probe {probe.id!r} has the kind {probe.kind!r}.",
            remedy=f"Use one of: {', '.join(get_args(ProbeKind))}.",
        )
    Conversation.from_messages(
        [message.to_dict() for message in probe.messages], source=f"{where}, probe {probe.id!r}"
    )
    return probe
