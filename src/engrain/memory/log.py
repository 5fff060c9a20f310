"""The verbatim log of chats: every message is on disk before the next one is asked for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from engrain.data.messages import Conversation, Message
from engrain.errors import DiskFullError, HomeReadOnlyError, UnknownNameError

_NAME = re.compile(r"^\d{8}T\d{6}(-\d+)?$")


class ChatLog:
    """One folder with a JSONL file for each chat, named by the time at which it began.

    Example:
        >>> log = ChatLog(Path("home/log"))                                # doctest: +SKIP
        >>> chat = log.begin()                                             # doctest: +SKIP
        >>> log.append(chat, Message("user", "My boat is red."))           # doctest: +SKIP
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> str:
        """A new chat's name; its file appears with its first message."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name, number = stamp, 1
        while self._path(name).exists():
            number += 1
            name = f"{stamp}-{number}"
        return name

    def append(self, name: str, message: Message) -> None:
        """Write one message and wait until the disk has it.

        Raises:
            DiskFullError, HomeReadOnlyError: the message could not be kept.
        """
        line = json.dumps(message.to_dict(), ensure_ascii=False) + "\n"
        path = self._path(name)
        before = path.stat().st_size if path.exists() else 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(line.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # Half a line would hide every message that is said after it.
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            if error.errno == errno.ENOSPC:
                raise DiskFullError(
                    "The disk is full: the last message is not in the log.",
                    remedy="Free some space and say it again.",
                ) from error
            raise HomeReadOnlyError(
                f"The log {self._folder} can't be written: {error.strerror}.",
                remedy="Give a home folder that you may write.",
            ) from error

    def names(self) -> list[str]:
        """All chats, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(p.stem for p in self._folder.glob("*.jsonl") if _NAME.match(p.stem))

    def read(self, name: str) -> Conversation:
        """A chat as a conversation; ``last`` names the newest.

        A line cut short by a crash ends the chat there: what was whole before it is kept.

        Raises:
            UnknownNameError: no such chat.
            ConversationError: it holds no message of a user.
        """
        known = self.names()
        if name == "last" and known:
            name = known[-1]
        if name not in known:
            raise UnknownNameError("chat", name, known, remedy="Begin one: engrain chat.")
        messages = []
        for line in self._path(name).read_bytes().split(b"\n"):
            try:
                messages.append(json.loads(line))
            except ValueError:
                break
        return Conversation.from_messages(messages, source=f"chat {name}")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"
