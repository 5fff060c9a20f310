"""Who writes questions: the model that learns, another of the catalogue, or an endpoint nearby.

A writer gets the same requests as the reader (:mod:`engrain.study.requests`). One that was not
taught them by lesson zero sees worked examples first.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from engrain.data.messages import Message
from engrain.errors import ConfigError, UsageError
from engrain.study.reader import LIST_TOKENS, Reader, Room, in_context
from engrain.study.requests import WORKED

LOOPBACK = ("localhost", "127.0.0.1", "::1")
QUESTION_TOKENS = 32
"""Tokens of a question at most."""
SLOTS = 8
"""Requests that an endpoint is sent at once."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it could lead off this machine."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """No request."""


_NEARBY = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


class Writer(Protocol):
    """Writes lists: claims, wordings, requests to which a wish applies."""

    @property
    def room(self) -> Room | None:
        """What it can take of a conversation at once; None where that is not known."""

    def write(
        self,
        view: Sequence[Message],
        asked: Sequence[str],
        *,
        temperature: float,
        turn: int,
        answers: Sequence[str] | None = None,
    ) -> list[str]:
        """The list for each request after the conversation in view.

        With ``answers`` only the question that the list has for each of them.
        """


@dataclass(frozen=True)
class ModelWriter:
    """A loaded model as writer; ``taught`` says that it knows the requests by lesson zero."""

    reader: Reader
    taught: bool = True

    @property
    def examples(self) -> tuple[Message, ...]:
        """Worked examples, for a model that was not taught, if they leave it half of its room."""
        if self.taught:
            return ()
        room = Room.of(self.reader.engine.loaded)
        return WORKED if 2 * sum(map(room.size, WORKED)) <= room.tokens else ()

    @property
    def room(self) -> Room:
        """What the model can take beside the worked examples."""
        return Room.of(self.reader.engine.loaded, self.examples)

    def write(
        self,
        view: Sequence[Message],
        asked: Sequence[str],
        *,
        temperature: float,
        turn: int,
        answers: Sequence[str] | None = None,
    ) -> list[str]:
        """Answers of the model, all in one batch."""
        before = (*self.examples, *view)
        reader = Reader(self.reader.engine, before, self.reader.seed, self.reader.reading)
        return reader.answers(
            asked,
            temperature=temperature,
            turn=turn,
            tokens=LIST_TOKENS if answers is None else QUESTION_TOKENS,
            lists=answers is None,
            begun=None if answers is None else [f"{answer} |" for answer in answers],
        )


@dataclass(frozen=True)
class EndpointWriter:
    """An OpenAI-compatible server on this machine, such as llama.cpp's.

    Raises:
        ConfigError: the address is not on this machine: nothing leaves it.
    """

    address: str
    model: str = "default"
    seconds: float = 600.0

    def __post_init__(self) -> None:
        if urlsplit(self.address).hostname not in LOOPBACK:
            raise ConfigError(
                f"study.writer is {self.address!r}, which is not on this machine.",
                remedy="Give an address of localhost; conversations are sent nowhere else.",
            )

    @property
    def room(self) -> None:
        """Not known: the server says what is too long."""

    def write(
        self,
        view: Sequence[Message],
        asked: Sequence[str],
        *,
        temperature: float,
        turn: int,
        answers: Sequence[str] | None = None,
    ) -> list[str]:
        """Answers of the server, some at once.

        Raises:
            UsageError: it does not answer, or answers in another shape.
        """
        if answers is None:
            return self._all([(text, turn) for text in asked], view, temperature)
        # A server can't be given the beginning of an answer, so it is asked for it.
        texts = [f"{text}\nOnly: {a} | ..." for text, a in zip(asked, answers, strict=True)]
        numbered = [(text, turn + number) for number, text in enumerate(texts)]
        lines = [text.strip().partition("\n")[0] for text in self._all(numbered, view, temperature)]
        return [line.rpartition("|")[2].strip() for line in lines]

    def _all(
        self, asked: Sequence[tuple[str, int]], view: Sequence[Message], temperature: float
    ) -> list[str]:
        def one(asked: tuple[str, int]) -> str:
            return self._one(in_context((*WORKED, *view), asked[0]), temperature, asked[1])

        with ThreadPoolExecutor(SLOTS) as pool:
            return list(pool.map(one, asked))

    def _one(self, prompt: Sequence[Message], temperature: float, turn: int) -> str:
        body = {
            "model": self.model,
            "messages": [message.to_dict() for message in prompt],
            "temperature": temperature,
            "seed": turn,
            "max_tokens": LIST_TOKENS,
        }
        call = urllib.request.Request(
            self.address.rstrip("/") + "/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with _NEARBY.open(call, timeout=self.seconds) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UsageError(
                f"The writer at {self.address} gave no answer: {error}.",
                remedy="Start it, or set study.writer = self.",
            ) from error
