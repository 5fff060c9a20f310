"""The model as a reader: questions asked with the conversation in view, and without it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from engrain.data.messages import Conversation, Message
from engrain.data.templates import render
from engrain.errors import UsageError

ANSWER_TOKENS = 32
"""Longest answer in self-study; the same as in an exam."""
QUESTION_TOKENS = 32
LIST_TOKENS = 192
ROOM = LIST_TOKENS + 64
"""Tokens of a context window that are kept free for an instruction and what it yields."""
WINDOW_TOKENS = 1536
"""Longest piece of a conversation that is studied at once."""

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
        prefixes: Sequence[str] | None = ...,
    ) -> list[str]:
        """Answer each conversation, in order; with prefixes, what follows those."""

    def complete(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        stop: Sequence[str] = ...,
    ) -> list[str]:
        """Continue raw texts, in order."""

    def log_likelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """Sum of log probabilities of each continuation, and its number of tokens."""

    def untaught(self) -> AbstractContextManager[None]:
        """Answer with the weights from before all lessons, for a while."""


@dataclass
class Reader:
    """An engine with a conversation to read, in windows that fit its context.

    The first ``whole`` windows make up the conversation; :meth:`narrow` adds single messages.
    ``asked`` counts the prompts that were sent, for the report.
    """

    engine: StudyEngine
    windows: list[tuple[Message, ...]]
    seed: int = 0
    asked: int = field(default=0)
    messages: tuple[Message, ...] = ()
    whole: int = 0

    @classmethod
    def of(cls, engine: StudyEngine, conversation: Conversation, seed: int) -> Reader:
        """Cut a conversation into windows and make a reader of them."""
        found = windows(engine, conversation)
        return cls(engine, found, seed, 0, conversation.messages, len(found))

    def narrow(self, number: int) -> int:
        """The window that holds one message, the question before it and the reply to it.

        A weak reader mixes up what stands close together; in one message there is less to mix up.
        """
        first, last = number, number + 1
        before = self.messages[max(0, number - 1)]
        if number and before.role == "assistant" and "?" in before.content:
            first -= 1
        if last < len(self.messages) and self.messages[last].role == "assistant":
            last += 1
        piece = windows(self.engine, Conversation(self.messages[first:last]))[-1]
        if piece not in self.windows:
            self.windows.append(piece)
        return self.windows.index(piece)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = ANSWER_TOKENS,
        temperature: float = 0.0,
        round_: int = 0,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        """Answer prompts with the untaught weights; ``round_`` tells samplings of them apart.

        What lessons cost a small model first is its reading: a taught reader would make each lesson
        poorer than the one before. ``begun`` are the first words of the answers, which stand in
        what is given.
        """
        with self.engine.untaught():
            return self._generate(prompts, max_new_tokens, temperature, round_, begun)

    def _generate(
        self,
        prompts: Sequence[Sequence[Message]],
        max_new_tokens: int,
        temperature: float,
        round_: int,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        if not prompts:
            return []
        self.asked += len(prompts)
        texts = self.engine.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=0.95 if temperature else 1.0,
            seed=(self.seed * 1009 + round_) % 2**31,
            prefixes=begun,
        )
        if begun:
            texts = [first + text for first, text in zip(begun, texts, strict=True)]
        return [text.strip() for text in texts]

    def with_conversation(self, window: int, request: str) -> list[Message]:
        """The prompt that makes a request at the end of a window."""
        return in_context(self.windows[window], request)

    def read(
        self,
        questions: Sequence[tuple[int, str]],
        *,
        temperature: float = 0.0,
        round_: int = 0,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        """Answer questions, each with the window of the conversation that it belongs to."""
        prompts = [self.with_conversation(window, question) for window, question in questions]
        return self.generate(prompts, temperature=temperature, round_=round_, begun=begun)

    def closed_book(
        self, questions: Sequence[str], *, temperature: float = 0.0, round_: int = 0
    ) -> list[str]:
        """Answer questions without the conversation, with the weights in force."""
        prompts = [[Message("user", question)] for question in questions]
        return self._generate(prompts, ANSWER_TOKENS, temperature, round_)

    def continue_user(
        self,
        openers: Sequence[str],
        *,
        after: Sequence[int] | None = None,
        temperature: float = 1.0,
        round_: int = 0,
    ) -> list[str]:
        """Let the model go on with user messages that have begun with ``openers``.

        With ``after`` each message follows a window of the conversation; else it is the first one.
        """
        if not openers:
            return []
        self.asked += len(openers)
        views = [self.windows[window] for window in after] if after else [()] * len(openers)
        begun = [
            _user_turn(self.engine, in_context(view, opener))
            for view, opener in zip(views, openers, strict=True)
        ]
        with self.engine.untaught():
            texts = self.engine.complete(
                begun,
                max_new_tokens=QUESTION_TOKENS,
                temperature=temperature,
                seed=(self.seed * 1009 + round_) % 2**31,
                stop=("\n",),
            )
        return [opener + text for opener, text in zip(openers, texts, strict=True)]


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


def windows(engine: StudyEngine, conversation: Conversation) -> list[tuple[Message, ...]]:
    """Pieces of a conversation that each fit the model's context with room for an answer.

    A window begins with a message of the user where it can; a message that is longer than a
    window by itself is a window of its own and loses its beginning.
    """
    loaded = engine.loaded
    limit = min(WINDOW_TOKENS, int(loaded.max_length) - ROOM)
    if limit < 64:
        raise UsageError(
            f"The model takes only {loaded.max_length} tokens: too few to study a conversation.",
            remedy="Use a model with a context of 512 tokens or more.",
        )
    pieces: list[tuple[Message, ...]] = []
    piece: list[Message] = []
    length = 0
    for message in conversation.messages:
        size = len(loaded.tokenizer(message.content, add_special_tokens=False)["input_ids"]) + 8
        if piece and length + size > limit and (message.role == "user" or length > limit):
            pieces.append(tuple(piece))
            piece, length = [], 0
        piece.append(message)
        length += size
    if piece:
        pieces.append(tuple(piece))
    return [p for p in pieces if any(message.role == "user" for message in p)]


def _user_turn(engine: StudyEngine, messages: Sequence[Message]) -> str:
    """A rendered conversation whose last message, of the user, has only begun."""
    opener = messages[-1].content
    text = render(engine.loaded.tokenizer, messages, add_generation_prompt=False)
    at = text.rfind(opener)
    return text[: at + len(opener)] if at >= 0 else opener
