"""A conversation while a shape writes it down: what was said goes in, all else is left out, named.

What was thought, called or returned by a tool, or attached by the platform was never said by the
user, whatever role it stands under.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from engrain.data.messages import MAX_MESSAGE_BYTES, Conversation, Message
from engrain.data.sources.found import Brought, Place, Skip, moment, named

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "bing", "bard", "claude"),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        "tool function ipython observation function_call function_response tool_call tool_calls "
        "tool_response tool_result".split(),
        "tool",
    ),
}
"""What the roles of other tools are called here; ``tool`` is never said by anyone."""

SPOKEN = ("text", "input_text", "output_text")
"""Types of a part that hold what was said."""

NO_USER = "it holds no message of a user"
NO_TEXT = "it has no text"
TOOL = "called or returned by a tool: nobody said it"
THOUGHT = "what the model thought is no part of what was said"

_TAGS = "think|thinking|thought|thoughts|reasoning|analysis"
_PASTED = re.compile(r"<(think|thinking)>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_CLOSED = re.compile(rf"<({_TAGS})>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_DETAILS = re.compile(r"<details\b[^>]*\btype=.*?(?:</details\s*>|\Z)", re.IGNORECASE | re.DOTALL)
# Templates that end in the opening tag leave the closing one alone, a cut answer the opening one.
_BEGUN = re.compile(rf"\A.*?</(?:{_TAGS})\s*>", re.IGNORECASE | re.DOTALL)
_UNENDED = re.compile(rf"<(?:{_TAGS})>.*\Z", re.IGNORECASE | re.DOTALL)
_CHANNEL = re.compile(
    r"<\|channel\|>(?!final).*?(?=<\|channel\|>|<\|start\|>|\Z)"
    r"|<\|start\|>(?:assistant)?|<\|channel\|>final|<\|(?:message|end|return)\|>",
    re.DOTALL,
)


class NotRead(Exception):
    """A record that is of a shape, but of which nothing can be taken; told as a skip."""


class Draft:
    """One conversation, written down message by message."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.id: Any = ""
        self.title: Any = ""
        self.began: datetime | None = None
        self.number = 0
        self.messages: list[Message] = []
        self.left: list[Skip] = []
        self.weights: list[int | None] = []
        self.last: datetime | None = None

    def named(self, record: Mapping[str, Any], id: str, title: str, time: str) -> None:
        """Take id, title and time from a record's keys."""
        self.id, self.title = record.get(id), record.get(title)
        self.began = moment(record.get(time))

    def each(self, items: Any) -> Iterator[Mapping[str, Any]]:
        """The messages of a list, numbered; what is no object is left out."""
        for self.number, item in enumerate(items, 1):
            if isinstance(item, Mapping):
                yield item
            else:
                self.leave("it is not an object")
        self.number = 0

    def leave(self, reason: str) -> None:
        """Leave out the message at hand, or a part of it."""
        self.left.append(Skip(replace(self.place, message=self.number), reason))

    def say(self, role: Any, content: Any, *, time: Any = None, weight: Any = None) -> None:
        """Put down what someone said; content is a text, or a list of parts."""
        who = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        if who is None:
            self.leave("it has no role" if role is None else f"it has the role {_short(role)}")
            return
        if who == "tool":
            self.leave(TOOL)
            return
        text = self._own_words(who, self.text(content))
        if text is None or self._unfit(text):
            return
        self.messages.append(Message(who, text))
        self.weights.append(self._weight(weight, who))
        self.last = moment(time) or self.last

    def text(self, content: Any) -> str | None:
        """The text of a content; None if it has none, which is told."""
        if isinstance(content, str):
            return content
        if isinstance(content, Mapping):
            content = [content]
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            self.leave(NO_TEXT if content is None else f"it is a {_kind(content)}, not text")
            return None
        parts = [part for item in content if (part := self._part(item)) is not None]
        if not parts and not content:
            self.leave(NO_TEXT)
        return "\n".join(parts) if parts else None

    def finish(self, shape: str) -> Brought:
        """The conversation as it was written down.

        Raises:
            NotRead: a user said nothing in it.
        """
        time = self.last or self.began
        place = named(self.place, id=self.id, title=self.title, time=time)
        self.left = [Skip(replace(place, message=s.place.message), s.reason) for s in self.left]
        if not any(message.role == "user" for message in self.messages):
            raise NotRead(f"{NO_USER}{_told(self.left)}")
        talk = Conversation(tuple(self.messages))
        return Brought(talk, place, shape, tuple(self.left), self._answers())

    # ------------------------------------------------------------------ what is in a content
    def _part(self, part: Any) -> str | None:
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            self.leave(f"a part of it is a {_kind(part)}, not text")
            return None
        kind, text = part.get("type"), part.get("text")
        if part.get("thought") is True:
            self.leave(THOUGHT)
        elif (kind is None or kind in SPOKEN) and isinstance(text, str):
            return text
        else:
            self.leave(f"a part of it is not text ({_short(kind or 'without a type')})")
        return None

    def _own_words(self, who: str, text: str | None) -> str | None:
        """The text without what its speaker only thought, or a tool of theirs did."""
        if text is None:
            return None
        own = _DETAILS.sub("", _PASTED.sub("", text))
        if who == "assistant":
            for thought in (_CLOSED, _BEGUN, _UNENDED, _CHANNEL):
                own = thought.sub("", own)
        if own == text:
            return text
        self.leave(THOUGHT)
        own = own.strip()
        return own or None

    def _unfit(self, text: str) -> bool:
        """Whether a text can't be taken, which is told."""
        if not text.strip():
            self.leave(NO_TEXT)
            return True
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            bad = text[error.start]
            raw = "\udc80" <= bad <= "\udcff"
            self.leave(
                "it is not UTF-8" if raw else "it holds characters that are not valid Unicode"
            )
            return True
        if size > MAX_MESSAGE_BYTES:
            self.leave(f"it has {size:,} bytes; the most is {MAX_MESSAGE_BYTES:,}")
            return True
        return False

    # ------------------------------------------------------------------ explicit examples
    def _weight(self, weight: Any, who: str) -> int | None:
        if weight is None:
            return None
        if who != "assistant":
            raise NotRead(
                f"message {self.number} is by the {who} and has a weight: "
                "only messages of the assistant have one"
            )
        if weight not in (0, 1) or isinstance(weight, bool):
            raise NotRead(
                f"message {self.number} has the weight {_short(weight)}: a weight is 1 (learned) "
                "or 0 (only context)"
            )
        return int(weight)

    def _answers(self) -> tuple[int, ...] | None:
        if all(weight is None for weight in self.weights):
            return None
        first = next(i for i, message in enumerate(self.messages) if message.role == "user")
        found = tuple(
            i
            for i, message in enumerate(self.messages)
            # What comes before the user answers nothing.
            if message.role == "assistant" and self.weights[i] != 0 and i > first
        )
        if self.messages[-1].role != "assistant":
            raise NotRead(
                f"it ends with a message of the {self.messages[-1].role}: an example ends with the "
                "assistant's answer"
            )
        if not found:
            raise NotRead("it has no answer of the assistant to learn")
        return found


def _told(left: Sequence[Skip]) -> str:
    """The first reasons, for a conversation of which nothing is left."""
    shown = [f"message {s.place.message}: {s.reason}" for s in left if s.place.message][:3]
    return f" ({'; '.join(shown)})" if shown else ""


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, (int, float)):
        return "number"
    return {type(None): "null", dict: "object", list: "list"}.get(type(value), "value")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
