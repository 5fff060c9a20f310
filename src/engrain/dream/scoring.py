"""The training signal: how much more likely an answer is with the conversation than without it.

For the tokens y of an answer to a question x, with a conversation c in view or not::

    D = (1 / |y|) * sum_t [ log p(y_t | c, x, y_<t)  -  log p(y_t | x, y_<t) ]      (nats a token)

An answer is worth learning while D is above a threshold: the weights do not hold yet what the
conversation holds. After the lesson the same D, now small, is the proof that it was learned. D is
0 for an empty conversation, and the sums (not the means) of the parts of an answer add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engrain.data.lessons import TrainingText
from engrain.data.messages import Conversation, Message
from engrain.data.templates import render
from engrain.dream.reader import Reader, StudyEngine, in_context
from engrain.errors import UsageError

WORTH_LEARNING = 0.1
"""Nats a token above which an answer is worth learning."""
LEARNED_SHARE = 0.25
"""An answer is learned when its signal is below this share of the threshold."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The gap of one answer: its sum over the tokens, and how many they are."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token; 0 for no token."""
        return self.total / self.tokens if self.tokens else 0.0

    def worth_learning(self, threshold: float = WORTH_LEARNING) -> bool:
        """Whether the answer depends on something that the weights do not hold yet."""
        return self.mean > threshold

    def learned(self, threshold: float = WORTH_LEARNING) -> bool:
        """Whether the weights alone give the answer by now."""
        return self.mean < threshold * LEARNED_SHARE

    def to_dict(self) -> dict[str, Any]:
        """The signal as JSON-ready values."""
        return {"nats": self.total, "tokens": self.tokens, "nats_per_token": self.mean}


def training_signal(
    engine: StudyEngine, texts: Sequence[TrainingText], conversation: Conversation
) -> list[Signal]:
    """The signal of each text's target, in order.

    Of a conversation that is longer than the model's context, the window with the greatest
    likelihood of the target counts.
    """
    views: list[tuple[Message, ...]] = [()]
    if conversation.messages:
        views = list(Reader.of(engine, conversation, 0).windows) or [()]
    return _signals(engine, texts, views)


def _signals(
    engine: StudyEngine, texts: Sequence[TrainingText], views: Sequence[tuple[Message, ...]]
) -> list[Signal]:
    tokenizer = engine.loaded.tokenizer
    without = [_pair(tokenizer, text, ()) for text in texts]
    within = [_pair(tokenizer, text, view) for view in views for text in texts]
    # Each pair is asked once, so an empty conversation gives exactly 0, not a rounding error.
    pairs = list(dict.fromkeys([*without, *within]))
    scores = dict(zip(pairs, engine.log_likelihood(pairs), strict=True))
    signals = []
    for index, alone in enumerate(without):
        base, tokens = scores[alone]
        best = max(
            (scores[within[number * len(texts) + index]] for number in range(len(views))),
            key=lambda score: score[0],
        )
        if best[1] != tokens:
            raise UsageError(
                f"An answer has {best[1]} tokens with the conversation and {tokens} without it.",
                remedy="The answer does not fit the model's context; shorten the conversation.",
            )
        signals.append(Signal(best[0] - base, tokens))
    return signals


def _pair(tokenizer: Any, text: TrainingText, view: Sequence[Message]) -> tuple[str, str]:
    """Prompt and target of a text, with messages in view before its question."""
    asked = list(text.messages[:-1])
    if view:
        asked = (
            [*in_context(view, asked[0].content), *asked[1:]]
            if len(asked) == 1
            else [*in_context(view, text.question)]
        )
    prompt = render(tokenizer, asked, add_generation_prompt=True)
    whole = render(tokenizer, [*asked, text.messages[-1]], add_generation_prompt=False)
    # Some templates rewrite earlier turns; the target then stands for itself.
    target = whole[len(prompt) :].rstrip("\n") if whole.startswith(prompt) else text.target
    return prompt, target
