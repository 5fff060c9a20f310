"""The model as a reader: what it answers with a conversation in view, and how likely it finds it.

A conversation stands before each question as the turns that it was, so one prefill serves all that
is asked about it. A conversation that is longer than a window is read in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from engrain.data.messages import Message
from engrain.data.templates import render
from engrain.errors import UsageError
from engrain.study import requests

ANSWER_TOKENS = 32
"""Longest answer to a question; the same as in an exam."""
LIST_TOKENS = 256
"""Longest list of claims, wordings or near misses."""
WINDOW_TOKENS = 1536
"""Longest piece of a conversation that is studied at once."""
ROOM = LIST_TOKENS + 128
"""Tokens of a context that are kept free for a request and what it yields."""
LEAST = 64
"""Fewest tokens of a conversation that are worth studying."""
BATCH = 24

Place = tuple[int, int, float, list[str]]
"""A token of a text: where it begins and ends, its nats, and the likeliest in its place."""

_BEFORE_ASSISTANT = Message("user", "Hello.")
_AFTER_USER = Message("assistant", "I see.")


class StudyEngine(Protocol):
    """What self-study needs of an engine (``engrain.model.engine.Engine`` has it)."""

    @property
    def loaded(self) -> Any:
        """The loaded model, of which the tokenizer and the longest input are used."""

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
        batch_size: int = ...,
        prefixes: Sequence[str] | None = ...,
        exact: bool = ...,
        lists: bool = ...,
        stop: Sequence[str] = ...,
    ) -> list[str]:
        """Answer each conversation, in order."""

    def log_likelihood(
        self, pairs: Sequence[tuple[str, str]], *, batch_size: int = ..., exact: bool = ...
    ) -> list[tuple[float, int]]:
        """Sum of log probabilities of each continuation, and its number of tokens."""

    def surprise(self, text: str) -> list[tuple[int, int, float]]:
        """Where each token of a text begins and ends, and its nats."""

    def expected(self, prompt: str, texts: Sequence[str], *, most: int) -> list[list[Place]]:
        """Each token of texts behind a prompt, with the likeliest that could stand there."""


@dataclass(frozen=True)
class Reader:
    """An engine with a window of a conversation in view.

    ``reading`` puts the weights in force that read, by default those that are: what lessons taught
    must not be mistaken for what stands in view.
    """

    engine: StudyEngine
    view: tuple[Message, ...]
    seed: int = 0
    reading: Callable[[], AbstractContextManager[Any]] = nullcontext

    def answers(
        self,
        questions: Sequence[str],
        *,
        temperature: float = 0.0,
        turn: int = 0,
        tokens: int = ANSWER_TOKENS,
        lists: bool = False,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        """What the model answers with the conversation in view; ``turn`` tells samplings apart.

        With ``lists`` the answers are lists, which have ended where a line comes again. What they
        have ``begun`` with is taken to the end of its line.
        """
        if not questions:
            return []
        with self.reading():
            found = self.engine.generate(
                [in_context(self.view, question) for question in questions],
                max_new_tokens=tokens,
                temperature=temperature,
                top_p=0.95 if temperature else 1.0,
                seed=(self.seed * 1009 + turn) % 2**31,
                batch_size=BATCH,
                prefixes=begun,
                exact=False,
                lists=lists,
                stop=() if begun is None else ("\n",),
            )
        return [text.strip() for text in found]

    def gains(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """By how many nats a token each answer to its question gains from the conversation.

        Without it the weights in force answer: what they were taught already gains nothing.
        """
        within = [(in_context(self.view, q), Message("assistant", a)) for q, a in pairs]
        with self.reading():
            seen = self._likelihood([self._pair(*pair) for pair in within])
        return [
            (told - guessed) / max(1, tokens)
            for (told, tokens), guessed in zip(seen, self.unaided(pairs), strict=True)
        ]

    def unaided(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The log-probability of each answer to its question without the conversation."""
        texts = [self._pair([Message("user", q)], Message("assistant", a)) for q, a in pairs]
        return [total for total, _ in self._likelihood(texts)]

    def likely(self, questions: Sequence[str], *, alone: bool = False) -> list[float]:
        """The log-probability of each question as what the user says next, in nats a token.

        ``alone``: without the conversation. Well-put questions about it are likelier than others.
        """
        return [total / max(1, tokens) for total, tokens in self.said(questions, alone=alone)]

    def said(self, questions: Sequence[str], *, alone: bool = False) -> list[tuple[float, int]]:
        """The same, but the sum over the tokens of each question, and how many they are."""
        before = [Message("user", "")] if alone else in_context(self.view, "")
        with self.reading():
            return self._likelihood([self._pair(before, Message("user", q)) for q in questions])

    def expected(
        self, questions: Sequence[str], *, most: int, alone: bool = False
    ) -> list[list[Place]]:
        """Each token of each question as what the user says next; ``alone``: without the chat."""
        if not questions:
            return []
        before = [Message("user", "")] if alone else in_context(self.view, "")
        # What stands before is the same for all of them.
        prompt, _ = self._pair(before, Message("user", questions[0]))
        with self.reading():
            return self.engine.expected(prompt, questions, most=most)

    def fits(self, questions: Sequence[str]) -> list[float]:
        """By how many nats a token each question gains from the conversation: does it belong?"""
        both = zip(self.likely(questions), self.likely(questions, alone=True), strict=True)
        return [told - guessed for told, guessed in both]

    def believes(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Log-odds that the answer to each question is so, according to the user."""
        asked = [
            in_context(self.view, requests.VERDICT.format(question=q, answer=a)) for q, a in pairs
        ]
        texts = [
            self._pair(prompt, Message("assistant", w)) for prompt in asked for w in ("yes", "no")
        ]
        with self.reading():
            scores = [total for total, _ in self._likelihood(texts)]
        return [yes - no for yes, no in zip(scores[::2], scores[1::2], strict=True)]

    def _likelihood(self, texts: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        return self.engine.log_likelihood(texts, batch_size=BATCH, exact=False)

    def _pair(self, before: Sequence[Message], message: Message) -> tuple[str, str]:
        """The rendered text up to a message, and the message with what ends it."""
        tokenizer = self.engine.loaded.tokenizer
        if message.role == "user":
            # The turn has begun: an empty question stands where this one would.
            whole = render(tokenizer, [*before[:-1], message], add_generation_prompt=False)
            at = whole.rfind(message.content)
            return whole[:at], message.content
        prompt = render(tokenizer, before, add_generation_prompt=True)
        return prompt, message.content


def in_context(messages: Sequence[Message], request: str) -> list[Message]:
    """Messages and a further request of the user, in strict turns as chat templates demand."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role:
            turns[-1] = Message(message.role, f"{turns[-1].content}\n\n{message.content}")
        elif message.role == "assistant" and (not turns or turns[-1].role == "system"):
            turns += [_BEFORE_ASSISTANT, message]
        else:
            turns.append(message)
    if turns and turns[-1].role == "user":
        turns.append(_AFTER_USER)
    return [*turns, Message("user", request)]


@dataclass(frozen=True)
class Room:
    """How many tokens of a conversation a model can take beside a request and what it yields."""

    tokenizer: Any
    tokens: int

    @classmethod
    def of(cls, loaded: Any, before: Sequence[Message] = ()) -> Room:
        """The room of a loaded model that sees other messages ``before`` each conversation.

        Raises:
            UsageError: there is too little for any conversation.
        """
        taken = ROOM + sum(_size(loaded.tokenizer, message) for message in before)
        if int(loaded.max_length) - taken < LEAST:
            raise UsageError(
                f"The model takes only {loaded.max_length} tokens: too few to study a "
                "conversation.",
                remedy="Use a model with a context of 512 tokens or more.",
            )
        return cls(loaded.tokenizer, int(loaded.max_length) - taken)

    def size(self, message: Message) -> int:
        """Tokens of a message, the marks of its turn included."""
        return _size(self.tokenizer, message)


def _size(tokenizer: Any, message: Message) -> int:
    return len(tokenizer(message.content, add_special_tokens=False)["input_ids"]) + 8


def windows(
    engine: StudyEngine, messages: Sequence[Message], writer: Room | None = None
) -> Iterator[tuple[Message, ...]]:
    """Pieces of a conversation that each fit the model's context with room for an answer.

    ``writer`` is the room of another model that sees them, too. A window begins with a message of
    the user where it can; a message that is longer than a window by itself is a window of its own
    and loses its beginning.

    Raises:
        UsageError: the model's context is too short for any conversation.
    """
    own = Room.of(engine.loaded)
    rooms = [Room(own.tokenizer, min(WINDOW_TOKENS, own.tokens)), *([writer] if writer else [])]
    piece: list[Message] = []
    lengths = [0] * len(rooms)
    for message in messages:
        sizes = [room.size(message) for room in rooms]
        full = any(n + k > r.tokens for n, k, r in zip(lengths, sizes, rooms, strict=True))
        over = any(n > room.tokens for n, room in zip(lengths, rooms, strict=True))
        if piece and full and (message.role == "user" or over):
            yield tuple(piece)
            piece, lengths = [], [0] * len(rooms)
        piece.append(message)
        lengths = [n + k for n, k in zip(lengths, sizes, strict=True)]
    if any(message.role == "user" for message in piece):
        yield tuple(piece)
