"""Messages and conversations in the OpenAI chat shape, and how they are read from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engrain.errors import ConversationError

ROLES = ("system", "user", "assistant")
MAX_MESSAGE_BYTES = 1_000_000
"""Longest message taken, in UTF-8 bytes; far above any context window that a CPU can serve."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation: who said what."""

    role: str
    content: str

    def to_dict(self) -> dict[str, str]:
        """The message in the OpenAI chat shape."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Conversation:
    """An ordered sequence of messages.

    Example:
        >>> Conversation.from_messages([{"role": "user", "content": "Hi"}]).messages[0].role
        'user'
    """

    messages: tuple[Message, ...]

    @classmethod
    def from_messages(
        cls, messages: Sequence[Mapping[str, Any]], *, source: str = "the conversation"
    ) -> Conversation:
        """Check and take messages in the OpenAI chat shape.

        Raises:
            ConversationError: empty, wrong roles, content that is not text, or a message over
                ``MAX_MESSAGE_BYTES``.
        """
        if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
            raise ConversationError(
                f"{source}: 'messages' is not a list.",
                remedy='Expected {"messages": [{"role": "user", "content": "..."}, ...]}.',
            )
        taken = [_message(item, f"{source}, message {i + 1}") for i, item in enumerate(messages)]
        if not any(message.role == "user" for message in taken):
            raise ConversationError(
                f"{source} holds no message of a user.",
                remedy="A lesson is learned from what a user said: add at least one user message.",
            )
        return cls(tuple(taken))

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the messages, as hex."""
        text = json.dumps(self.to_list(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_list(self) -> list[dict[str, str]]:
        """The messages in the OpenAI chat shape."""
        return [message.to_dict() for message in self.messages]

    def __len__(self) -> int:
        return len(self.messages)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise ConversationError(
            f"{where} is not an object.", remedy='Expected {"role": "user", "content": "..."}.'
        )
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise ConversationError(
            f"{where} has the role {role!r}.", remedy=f"Use one of: {', '.join(ROLES)}."
        )
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [p.get("text") for p in content if isinstance(p, Mapping)]
        if len(parts) != len(content) or not all(isinstance(part, str) for part in parts):
            raise ConversationError(
                f"{where} has content parts that are not text.",
                remedy="Only text can be learned: leave out images, audio and files.",
            )
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str) or not content.strip():
        raise ConversationError(
            f"{where} has no text.", remedy="Give 'content' as a string that is not empty."
        )
    try:
        size = len(content.encode())
    except UnicodeEncodeError as error:
        raise ConversationError(
            f"{where} holds characters that are not valid Unicode.",
            remedy="Save the file as UTF-8 and remove lone surrogates.",
        ) from error
    if size > MAX_MESSAGE_BYTES:
        raise ConversationError(
            f"{where} has {size:,} bytes; the most is {MAX_MESSAGE_BYTES:,}.",
            remedy="Split it into several messages or conversations.",
        )
    return Message(str(role), content)


def read_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read a ``.json`` or ``.jsonl`` file as (where, object) pairs.

    A JSON file may hold one object, a list of objects, or one list of messages.

    Raises:
        ConversationError: missing, unreadable, not UTF-8, not JSON, or empty.
    """
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConversationError(
            f"{path} can't be read: {reason}.",
            remedy="Give the path of a .json or .jsonl file.",
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversationError(
            f"{path} is not UTF-8 (byte {error.start}).", remedy="Save the file as UTF-8."
        ) from error
    if not text.strip():
        raise ConversationError(f"{path} is empty.", remedy="Give a file with a conversation.")
    yield from _objects(path, text)


def _objects(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if path.suffix == ".json" and "\n{" not in text.strip():
            raise ConversationError(
                f"{path} is not JSON: {error}.", remedy="Check the file with a JSON validator."
            ) from error
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as line_error:
                raise ConversationError(
                    f"{where} is not JSON: {line_error}.",
                    remedy="A .jsonl file holds one JSON object a line.",
                ) from line_error
            yield where, _object(record, where)
        return
    if isinstance(whole, list) and whole and all("role" in m for m in whole if isinstance(m, dict)):
        yield str(path), {"messages": whole}
    elif isinstance(whole, list):
        for number, record in enumerate(whole, start=1):
            yield f"{path}[{number}]", _object(record, f"{path}[{number}]")
    else:
        yield str(path), _object(whole, str(path))


def _object(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ConversationError(
            f"{where} is not an object.",
            remedy='Expected {"messages": [...]} or {"prompt": "...", "completion": "..."}.',
        )
    return record
