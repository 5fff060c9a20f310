"""What a person brought, surveyed before any of it is learned: what is new, and on which day.

A survey reads a source once, conversation by conversation. It keeps what it needs to tell about
each, and the conversations themselves packed in a temporary file. They are worked off as lots, one
lesson each: the conversations of a day, since a day's are as many as a lesson can hold, and a run
that is stopped loses no more than a day. What was learned before is found by its digest, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypedDict

from engrain.data.lessons import TrainingText
from engrain.data.messages import Conversation, Message
from engrain.data.sources import Brought, Found, Place, Skip, read
from engrain.errors import ConversationError, UsageError
from engrain.study.explicit import are_examples, texts_of, with_answers

if TYPE_CHECKING:
    from engrain.ledger.ledger import Ledger

IN_MEMORY = 64 << 20
"""Bytes of packed conversations that are held in memory; more go into a temporary file."""
UNDATED = 50
"""Conversations without a time that are learned together at most."""
LEVEL = 1
"""How hard conversations are packed: reading must not take longer for it."""

UNIQUE = ("chatgpt", "claude", "open-webui", "llm")
"""Shapes whose ids name a conversation wherever it stands; elsewhere they count from one."""

Status = Literal["new", "learned", "under way", "twice", "older", "outside"]
"""What is to be done with a conversation. ``under way``: an interrupted job has it; ``twice``: it
stands in the source before; ``older``: a newer state of it does; ``outside``: of another time."""

WORDS: Mapping[str, str] = {
    "new": "to be learned",
    "learned": "learned before",
    "under way": "in an interrupted job",
    "twice": "the same as another one",
    "older": "an earlier state of another one",
    "outside": "of another time",
}


class Which(TypedDict, total=False):
    """Which conversations of a source are taken, and in which order.

    ``since`` and ``until`` are days that are taken, too, or times; ``again`` takes what was learned
    before.
    """

    since: datetime | date | None
    until: datetime | date | None
    newest_first: bool
    again: bool


@dataclass
class Entry:
    """A conversation of a source: what it is, and what is to be done with it.

    ``said`` counts messages of the user, ``left`` what was left out of it; ``continues`` how many
    of its messages were learned before, with what came before them; ``note`` says more.
    """

    place: Place
    shape: str
    digest: str
    messages: int
    said: int
    characters: int
    left: int
    example: bool
    status: Status = "new"
    note: str = ""
    continues: int = 0
    job: str = ""
    _packed: tuple[int, int] = field(default=(0, 0), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON-ready values."""
        return {
            **self.place.to_dict(),
            "where": str(self.place),
            "shape": self.shape,
            "digest": self.digest,
            "messages": self.messages,
            "said": self.said,
            "characters": self.characters,
            "status": self.status,
            "note": self.note,
            "continues": self.continues,
        }


@dataclass(frozen=True)
class Lot:
    """What becomes one lesson: the conversations of a day, or those without a time."""

    survey: Survey = field(repr=False)
    entries: tuple[Entry, ...]
    day: date | None = None

    @property
    def name(self) -> str:
        """The day."""
        return self.day.isoformat() if self.day else "undated"

    @property
    def job(self) -> str:
        """The interrupted job that has these conversations and no others, if there is one."""
        jobs = {entry.job for entry in self.entries}
        return jobs.pop() if len(jobs) == 1 else ""

    def read(self) -> tuple[list[Conversation], list[TrainingText]]:
        """The conversations to study, and the explicit examples."""
        found = [self.survey.brought(entry) for entry in self.entries]
        talks = [one.conversation for one in found if one.answers is None]
        return talks, [text for one in found for text in texts_of(one)]


@dataclass(frozen=True)
class Known:
    """What was learned before: digests of conversations, with the job that is under way or "".

    ``heads`` are the addresses of the last messages of what was learned, ``address`` gives that of
    a message behind another.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    heads: frozenset[str] = frozenset()
    address: Callable[[str | None, Message], str] | None = None

    @classmethod
    def of(cls, ledger: Ledger) -> Known:
        """What a ledger says."""
        from engrain.ledger.tables import message_digest

        digests: dict[str, str] = {}
        for job in ledger.list_jobs():
            given = job.payload.get("conversations", ())
            if job.stage == "committed" or _had_nothing(job.stages):
                digests.update(dict.fromkeys(given, ""))
            elif job.status == "interrupted" or (not job.finished and job.pid == os.getpid()):
                digests.update({digest: job.id for digest in given if digest not in digests})
        kept = ledger.list_conversations()
        heads = frozenset(entry.head for entry in kept if digests.get(entry.digest) == "")
        return cls(digests, heads, message_digest)

    def continues(self, conversation: Conversation) -> int:
        """How many of its first messages are a conversation that was learned."""
        if not self.heads or self.address is None:
            return 0
        found, parent = 0, None
        for number, message in enumerate(conversation.messages, 1):
            parent = self.address(parent, message)
            found = number if parent in self.heads else found
        return found


def _had_nothing(stages: Sequence[Any]) -> bool:
    """Whether a job ended since nothing was found in what it was given."""
    return any(
        s.stage == "failed" and (s.payload or {}).get("error") == "NothingToLearnError"
        for s in stages
    )


class Survey:
    """A source that was read: its conversations, what was left out, and the lots to learn.

    Example:
        >>> with survey(Path("export.zip"), Known()) as found:             # doctest: +SKIP
        ...     [lot.name for lot in found.lots]
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.entries: list[Entry] = []
        self.skips: list[Skip] = []
        self.lots: list[Lot] = []
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the conversations."""
        self._file.close()

    def add(self, found: Found) -> None:
        """Take what reading gave."""
        if isinstance(found, Skip):
            self.skips.append(found)
            return
        talk = found.conversation
        self.entries.append(
            Entry(
                found.place,
                found.shape,
                talk.digest,
                len(talk),
                sum(message.role == "user" for message in talk.messages),
                sum(len(message.content) for message in talk.messages),
                len(found.left),
                found.answers is not None,
                _packed=self._pack(found),
            )
        )

    def brought(self, entry: Entry) -> Brought:
        """A conversation of the survey, as it was read."""
        at, size = entry._packed
        self._file.seek(at)
        record = json.loads(zlib.decompress(self._file.read(size)))
        talk = Conversation(tuple(Message(role, content) for role, content in record["messages"]))
        left = tuple(
            Skip(Place(entry.place.file, entry.place.index, message, entry.place.lines), reason)
            for message, reason in record["left"]
        )
        answers = record["answers"]
        found = Brought(
            talk, entry.place, entry.shape, left, None if answers is None else tuple(answers)
        )
        return with_answers(found) if entry.example else found

    def counts(self) -> dict[str, int]:
        """How many conversations have each status."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            counts[entry.status] = counts.get(entry.status, 0) + 1
        return counts

    def _pack(self, found: Brought) -> tuple[int, int]:
        record = {
            "messages": [
                (message.role, message.content) for message in found.conversation.messages
            ],
            "left": [(skip.place.message, skip.reason) for skip in found.left],
            "answers": found.answers,
        }
        raw = zlib.compress(json.dumps(record).encode(), LEVEL)
        self._file.seek(self._end)
        self._file.write(raw)
        at, self._end = self._end, self._end + len(raw)
        return at, len(raw)

    def to_dict(self) -> dict[str, Any]:
        """The survey as JSON-ready values, with everything that was left out."""
        return {
            "source": self.source,
            "conversations": [
                {**entry.to_dict(), "left_out": [s.to_dict() for s in self.brought(entry).left]}
                for entry in self.entries
            ],
            "counts": self.counts(),
            "left_out": [skip.to_dict() for skip in self.skips],
            "lots": [
                {"day": lot.name, "conversations": [entry.digest for entry in lot.entries]}
                for lot in self.lots
            ],
        }


def survey(path: Path | str, known: Known | None = None, **which: Any) -> Survey:
    """Read a source and decide what of it is to be learned; ``which`` is as in :class:`Which`.

    Raises:
        ConversationError: it can't be read, or nothing in it is a conversation.
    """
    found = Survey(str(path))
    try:
        for one in read(path):
            found.add(one)
        if not found.entries:
            raise nothing_in(path, found.skips)
        _mark_examples(found.entries)
        _mark(found, known or Known(), which)
        found.lots = list(_lots(found, bool(which.get("newest_first"))))
    except BaseException:
        found.close()
        raise
    return found


def nothing_in(path: Path | str, skips: Sequence[Skip]) -> ConversationError:
    """The error of a source without any conversation: what was left out of it, first reasons."""
    if len(skips) == 1 and skips[0].place.file == str(path):
        message = f"{skips[0]}."
    else:
        told = "; ".join(map(str, skips[:3])) or "it is empty"
        more = f"; and {len(skips) - 3:,} more" if len(skips) > 3 else ""
        message = f"{path} holds no conversation that can be read: {told}{more}."
    return ConversationError(
        message,
        remedy='Expected a chat\'s export, or {"messages": [{"role": "user", "content": "..."}]}.',
    )


def _mark_examples(entries: Sequence[Entry]) -> None:
    """Of a file that holds explicit examples, whatever ends with an answer is one."""
    files: dict[str, list[Entry]] = {}
    for entry in entries:
        files.setdefault(entry.place.file, []).append(entry)
    for own in files.values():
        if are_examples([(e.example, e.place.time is not None, e.messages, e.said) for e in own]):
            for entry in own:
                entry.example = True


def _mark(found: Survey, known: Known, which: Mapping[str, Any]) -> None:
    since, until = _bound(which.get("since"), last=False), _bound(which.get("until"), last=True)
    talks = [entry for entry in found.entries if not entry.example]
    _mark_states(found, talks)
    many = len(talks) > 1
    for entry in talks:
        if entry.status != "new":
            continue
        at = entry.place.time
        if (since and (at is None or at < since)) or (until and (at is None or at > until)):
            entry.status = "outside"
        elif many and entry.digest in known.digests and not which.get("again"):
            entry.job = known.digests[entry.digest]
            entry.status = "under way" if entry.job else "learned"
        elif known.heads:
            count = known.continues(found.brought(entry).conversation)
            if 0 < count < entry.messages:
                entry.continues = count
                entry.note = f"goes on: {entry.messages - count} messages are new"


def _mark_states(found: Survey, talks: Sequence[Entry]) -> None:
    """Of each conversation that stands there more than once, keep the newest state alone."""
    by_id: dict[tuple[str, str], list[Entry]] = {}
    seen: dict[str, Entry] = {}
    for entry in talks:
        if entry.digest in seen:
            entry.status, entry.note = "twice", f"the same as {seen[entry.digest].place}"
            continue
        seen[entry.digest] = entry
        if entry.place.id and entry.shape in UNIQUE:
            by_id.setdefault((entry.shape, entry.place.id), []).append(entry)
    for states in by_id.values():
        if len(states) < 2:
            continue
        last = max(states, key=_state)
        words = _said(found, last)
        for entry in states:
            if entry is not last:
                lost = len([text for text in _said(found, entry) if text not in words])
                entry.status = "older"
                entry.note = f"an earlier state of {last.place}" + (
                    f"; messages of the user not in that: {lost}" if lost else ""
                )


def _state(entry: Entry) -> tuple[float, int]:
    return (entry.place.time.timestamp() if entry.place.time else 0.0, entry.messages)


def _said(found: Survey, entry: Entry) -> list[str]:
    talk = found.brought(entry).conversation
    return [message.content for message in talk.messages if message.role == "user"]


def _bound(day: date | None, *, last: bool) -> datetime | None:
    """A day as a bound, its beginning or its end; a time is one itself."""
    if day is None:
        return None
    if isinstance(day, datetime):
        return day if day.tzinfo else day.astimezone()
    clock = time.max if last else time.min
    return datetime.combine(day, clock).astimezone()


def day_of(entry: Entry) -> date | None:
    """The day of a conversation, where the person is."""
    return entry.place.time.astimezone().date() if entry.place.time else None


def _lots(found: Survey, newest_first: bool) -> Iterator[Lot]:
    """What is to be learned, by day; what has no time comes last, a number at a time."""
    days: dict[date, list[Entry]] = {}
    undated: list[Entry] = []
    for entry in found.entries:
        day = day_of(entry)
        if entry.status not in ("new", "under way"):
            continue
        if day is None or entry.example:
            undated.append(entry)
        else:
            days.setdefault(day, []).append(entry)
    for day in sorted(days, reverse=newest_first):
        own = sorted(days[day], key=_state)
        # What is under way is gone on with by itself.
        for job in sorted({entry.job for entry in own}, reverse=True):
            yield Lot(found, tuple(e for e in own if e.job == job), day)
    for job in sorted({entry.job for entry in undated}, reverse=True):
        own = [e for e in undated if e.job == job and not e.example]
        given = [e for e in undated if e.job == job and e.example]
        first = [*own[:UNDATED], *given]
        if first:
            yield Lot(found, tuple(first))
        for at in range(UNDATED, len(own), UNDATED):
            yield Lot(found, tuple(own[at : at + UNDATED]))


def read_all(path: Path | str) -> tuple[list[Conversation], list[TrainingText]]:
    """A source as one lesson: its conversations, and its explicit examples.

    Raises:
        ConversationError: it can't be read, or nothing in it is a conversation.
        UsageError: it holds more than a lesson can.
    """
    with survey(path) as found:
        talks = sum(not entry.example for lot in found.lots for entry in lot.entries)
        if talks > UNDATED:
            raise UsageError(
                f"{path} holds {talks:,} conversations; a lesson takes {UNDATED} at most.",
                remedy="Learn them by days: `engrain learn` does, and Home.survey gives the lots.",
            )
        lots = [lot.read() for lot in found.lots]
        return [t for talks, _ in lots for t in talks], [x for _, texts in lots for x in texts]
