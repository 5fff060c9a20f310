"""Curation: which messages of a conversation may become a lesson.

A lesson is learned from what a user said. What came out of memory never counts as evidence for a
new memory (it would confirm itself), titles and summaries were written by a program, a pasted blob
is not talk, and a secret does not belong into weights, from which nobody could tell it again by
accident. Everything that is left out is reported in words, with secrets masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engrain.data.messages import Conversation, Message
from engrain.study.secrets import EXCERPT_LENGTH, Secret, find_secrets, masked

LONG_MESSAGE = 6000
"""Characters above which a message is taken for pasted text."""
LONG_PASTE = 1500
"""Characters above which text that does not read like talk is taken for pasted text."""

RECALL_TAGS = ("recalled", "recall", "memory", "memories", "retrieved", "context")
"""Names of the blocks, ``<recalled>...</recalled>``, that mark text out of memory."""

_NAMES = "|".join(RECALL_TAGS)
_BLOCK = re.compile(rf"<(?P<tag>{_NAMES})\b[^>]*>[\s\S]*?(?:</(?P=tag)>|\Z)", re.IGNORECASE)
_FLAG = re.compile(
    r"^\W{0,3}(?:\[(?:recalled|memory|from memory|retrieved)\]"
    r"|(?:recalled|retrieved|relevant|stored|saved) (?:memory|memories|notes|facts|context)\b"
    r".{0,40}:"
    r"|(?:from|out of) memory\s*:|notes? (?:about the user|from memory)\s*:"
    r"|what is known about the user\s*:)",
    re.IGNORECASE,
)
_AUTOMATIC = re.compile(
    r"^\W{0,3}(?:"
    r"#{1,4} ?task\s*:"
    r"|(?:please )?(?:generate|create|write|suggest|give)\b[^.\n]{0,40}"
    r"\b(?:title|headline|tags?|summary)\b[^.\n]{0,30}"
    r"\b(?:chat|conversation|dialogue|discussion|messages)\b"
    r"|(?:title|chat title|conversation title|summary|conversation summary|tl;?dr)\s*:"
    r"|(?:here is |this is )?(?:a |the )?summary of (?:the|this|our) (?:chat|conversation)"
    r"|(?:the )?(?:previous|earlier) conversation (?:summary|was summari[sz]ed)"
    r"|\{\s*\"(?:title|tags|summary|follow_ups|queries)\"\s*:)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Dropped:
    """One message, or a part of one, that no lesson is made of.

    ``index`` is its place in the conversation, from 0; ``excerpt`` has every secret masked.
    """

    index: int
    reason: str
    excerpt: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON-ready values."""
        return {"index": self.index, "reason": self.reason, "excerpt": self.excerpt}

    def __str__(self) -> str:
        return f"message {self.index + 1}: {self.reason} ({self.excerpt})"


@dataclass(frozen=True, slots=True)
class Curated:
    """What is left of a conversation: ``kept`` are the places of its messages in the original."""

    conversation: Conversation
    kept: tuple[int, ...]
    dropped: tuple[Dropped, ...]

    @property
    def has_user(self) -> bool:
        """Whether a message of the user is left to learn from."""
        return any(message.role == "user" for message in self.conversation.messages)

    def to_dict(self) -> dict[str, Any]:
        """What was kept (by place) and what was dropped, as JSON-ready values."""
        return {"kept": list(self.kept), "dropped": [entry.to_dict() for entry in self.dropped]}


def curate(conversation: Conversation) -> Curated:
    """Leave out what must not be learned, and say what and why.

    A user message that is left out takes the replies to it with it; so does a secret: any other
    message that repeats it is left out, too.

    Example:
        >>> from engrain.data.lessons import chat
        >>> said = Conversation(chat("My password is hunter22.", "Noted.", "I live in Oslo."))
        >>> [message.content for message in curate(said).conversation.messages]
        ['I live in Oslo.']
    """
    secrets = [s for message in conversation.messages for s in find_secrets(message.content)]
    kept: list[tuple[int, Message]] = []
    dropped: list[Dropped] = []
    unanswered = False  # the last user message was left out: what answers it goes as well
    for index, message in enumerate(conversation.messages):
        own, recalled = _without_recalled(message.content)
        reason = _reason(message.role, own, message.content, secrets)
        if not reason and message.role == "assistant" and unanswered:
            reason = "a reply to a message that was left out"
        if message.role == "user":
            unanswered = bool(reason)
        if reason:
            dropped.append(Dropped(index, reason, masked(message.content, known=secrets)))
            continue
        if recalled:
            said = "a part that was marked as recalled from memory: it is no new evidence"
            dropped.append(Dropped(index, said, masked(recalled, known=secrets)))
        kept.append((index, Message(message.role, own) if recalled else message))
    return Curated(
        Conversation(tuple(message for _, message in kept)),
        tuple(index for index, _ in kept),
        tuple(dropped),
    )


def _reason(role: str, own: str, content: str, secrets: Iterable[Secret]) -> str:
    """Why a message is left out; "" when it stays."""
    if found := find_secrets(content):
        kinds = sorted({secret.kind for secret in found})
        return f"it holds a secret: {', '.join(kinds)}"
    if any(secret.within(content) for secret in secrets):
        return "it repeats a secret"
    if role == "system":
        return "a system note: it was not said by the user and may come out of memory"
    if not own.strip() or _FLAG.match(own.strip()):
        return "it was recalled from memory: it is no new evidence"
    if _AUTOMATIC.match(own.strip()):
        return "a title or summary made by a program, not said by anyone"
    if len(own) > LONG_MESSAGE or (len(own) > LONG_PASTE and not _reads_like_talk(own)):
        return f"a pasted text of {len(own):,} characters: a lesson is learned from talk"
    return ""


def _without_recalled(content: str) -> tuple[str, str]:
    """The speaker's own words, and the blocks in it that were marked as recalled."""
    blocks = [found.group() for found in _BLOCK.finditer(content)]
    if not blocks:
        return content, ""
    return " ".join(_BLOCK.sub(" ", content).split()), " ".join(blocks)


def _reads_like_talk(text: str) -> bool:
    """Whether most of a long text is words in sentences rather than code, logs or data."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    words = text.split()
    ends = len(re.findall(r"[.!?](?:\s|$)", text))
    return (
        letters / len(text) > 0.9
        and max(map(len, words), default=0) <= EXCERPT_LENGTH
        and len(words) <= 60 * max(ends, 1)
    )
