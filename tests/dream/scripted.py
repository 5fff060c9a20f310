"""A reader without weights: it knows the true facts and plays a model that reads its context."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from engrain.data.facts import (
    QUESTION_INSTRUCTION_ABOUT,
    QUESTIONS_INSTRUCTION,
    REPHRASE_INSTRUCTION,
    Attribute,
    Fact,
)
from engrain.data.messages import Conversation, Message
from engrain.study.wording import content, stem, words

ABOUT = QUESTION_INSTRUCTION_ABOUT.split("{")[0]
REPHRASE = REPHRASE_INSTRUCTION.split("{")[0]
WORDINGS = (
    "{Q}?",
    "Do you remember {e}?",
    "Can you tell me {e}?",
    "Quick question: {q}?",
    "Remind me {e}.",
    "I wonder {e}.",
    "Do you still know {e}?",
    "By the way, {q}?",
    "Tell me {e}.",
    "Let me ask you something: {q}?",
    "Do you recall {e}?",
    "I would like to know {e}.",
)


class FakeTokenizer:
    """Renders ChatML and counts words."""

    chat_template = "chatml"
    eos_token = "<|im_end|>"

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool, **_: Any
    ) -> str:
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [zlib.crc32(word.encode()) for word in text.split()]}


THINGS = ("my sister's birthday", "my motto", "my car", "my aunt's dog")


class Scripted:
    """Answers by the facts whose value stands in the prompt.

    ``overrides`` maps a question (or instruction) to the answer, or to a function of
    (temperature, whether the conversation is in view).
    """

    def __init__(
        self,
        facts: Sequence[Fact] = (),
        *,
        known: Sequence[Fact] = (),
        overrides: dict[str, str | Callable[[float, bool], str]] | None = None,
        max_length: int = 2048,
    ) -> None:
        self.facts = list(facts)
        self.known = list(known)
        self.overrides = overrides or {}
        self.loaded = SimpleNamespace(tokenizer=FakeTokenizer(), max_length=max_length)
        self.calls: list[list[Message]] = []
        self.stems: dict[str, str] = {}
        self.taught = True

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        prefixes: Sequence[str] | None = None,
    ) -> list[str]:
        out = []
        for number, prompt in enumerate(prompts):
            roles = [m.role for m in prompt if m.role != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], roles
            self.calls.append(list(prompt))
            rng = random.Random(f"{seed}:{number}") if temperature else random.Random("greedy")
            begun = prefixes[number] if prefixes else ""
            answer = self.stems.get(begun) or self.say(list(prompt), rng, temperature)
            out.append(answer.removeprefix(begun) if answer.startswith(begun) else " unclear.")
        return out

    def complete(
        self, texts: Sequence[str], *, seed: int = 0, stop: Sequence[str] = (), **_: Any
    ) -> list[str]:
        out = []
        for i, text in enumerate(texts):
            thing = random.Random(f"{seed}:{i}").choice(THINGS).removeprefix("my ")
            out.append(f" {thing}?" if " is my" in text or " is " in text else f" {thing} is.")
        return out

    def log_likelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """-1 a word that stands in the prompt, -3 for any other."""
        out = []
        for prompt, continuation in pairs:
            seen, said = set(words(prompt)), words(continuation)
            out.append((float(sum(-1 if word in seen else -3 for word in said)), len(said)))
        return out

    @contextmanager
    def untaught(self) -> Iterator[None]:
        before, self.taught = self.taught, False
        yield
        self.taught = before

    def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
        request = prompt[-1].content
        told = " ".join(m.content for m in prompt[:-1] if m.role == "user")
        if request in self.overrides:
            value = self.overrides[request]
            return value if isinstance(value, str) else value(temperature, bool(told))
        here = [fact for fact in self.facts if fact.value in told]
        if request == QUESTIONS_INSTRUCTION:
            wording = rng.choice(WORDINGS)
            return "\n".join(f"{i}. {fact.fill(wording)}" for i, fact in enumerate(here, start=1))
        if request.startswith(ABOUT):
            fact = self.find(request.removeprefix(ABOUT), here, by_value=True)
            return fact.fill(rng.choice(WORDINGS)) if fact else "What is new?"
        if request.startswith(REPHRASE):
            fact = self.find(request.removeprefix(REPHRASE), here)
            return fact.fill(rng.choice(WORDINGS)) if fact else "What else?"
        fact = self.find(request, [*self.known, *here])
        return fact.answer() if fact else "I don't know. You have not told me."

    def find(self, text: str, facts: Sequence[Fact], by_value: bool = False) -> Fact | None:
        for fact in reversed(facts):
            if by_value and fact.value in text:
                return fact
            about = content(fact.relation.asked(fact.owner))
            asked = {stem(w) for w in words(text)}
            if not by_value and about <= asked and self._owner_fits(fact, text):
                return fact
        return None

    @staticmethod
    def _owner_fits(fact: Fact, text: str) -> bool:
        if fact.owner.sort == "self" and isinstance(fact.relation, Attribute):
            return f"my {fact.relation.noun}" in text.lower()
        return True


def conversation(*contents: str) -> Conversation:
    """User and assistant in turn."""
    return Conversation.from_messages(
        [
            {"role": "user" if i % 2 == 0 else "assistant", "content": text}
            for i, text in enumerate(contents)
        ]
    )
