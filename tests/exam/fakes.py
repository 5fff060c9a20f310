"""An engine that answers from a table, and helpers to make exams by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from engrain.data.messages import Message
from engrain.exam.exam import Exam
from engrain.exam.panel import ItemOutcome, PanelResult, TextLoss
from engrain.exam.probes import ProbeResult


class FakeTokenizer:
    chat_template = "yes"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


class FakeEngine:
    """Answers by the last message; the loss of a text is its length over 100."""

    def __init__(
        self,
        answer: Callable[[str], str] | Mapping[str, str] = lambda question: "I don't know.",
        likelihood: Callable[[str, str], float] = lambda prompt, rest: -float(len(rest)),
        loss: float = 0.01,
    ) -> None:
        self.answer = answer if callable(answer) else (lambda q: answer.get(q, "no"))
        self.likelihood, self.nats = likelihood, loss
        self.loaded = SimpleNamespace(tokenizer=FakeTokenizer(), max_length=512)
        self.state_digest = "state"
        self.asked: list[list[str]] = []

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        batch_size: int = 32,
    ) -> list[str]:
        assert temperature == 0
        assert batch_size == 32
        self.asked.append([messages[-1].content for messages in prompts])
        return [self.answer(messages[-1].content) for messages in prompts]

    def log_likelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        return [(self.likelihood(*pair), len(pair[1].split())) for pair in pairs]

    def loss(self, texts: Sequence[str], *, max_length: int = 256) -> float:
        return sum(self.nats * min(len(text), max_length) for text in texts) / len(texts)

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())


def results(passed: int, total: int, name: str = "q", kind: str = "recall") -> list[ProbeResult]:
    """The first ``passed`` of ``total`` probes pass."""
    return [ProbeResult(f"{name}-{i}", kind, i < passed, "answer") for i in range(total)]


def panel(loss: float = 3.0, digest: str = "panel", **passed: tuple[int, int]) -> PanelResult:
    """A panel result with so many of so many items passed in each part."""
    items = {
        f"{part}-{i}": ItemOutcome(part, part, i < right, "answer")
        for part, (right, total) in passed.items()
        for i in range(total)
    }
    return PanelResult("1", digest, {f"t{i}": TextLoss(loss, 100) for i in range(4)}, items)


def exam(
    lessons: Mapping[str, list[ProbeResult]], result: PanelResult | None = None, state: str = "s"
) -> Exam:
    return Exam(state, {name: tuple(found) for name, found in lessons.items()}, result)
