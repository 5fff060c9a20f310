"""What a lesson will cost, told before it runs.

A short calibration times the three parts of a lesson on this machine with this model and recipe:
answering a batch of questions, one training step, and the panel. A lesson is then priced from the
sentences that the user said. Every finished lesson corrects the price by what it really took.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, canonical_digest, chat
from engrain.data.messages import Conversation
from engrain.learn.learner import Learner
from engrain.model.threads import machine_digest

if TYPE_CHECKING:
    from engrain.learn.recipe import Recipe
    from engrain.served import Served

QUESTIONS_PER_SENTENCE = 105
"""Questions that self-study asks for one telling sentence, drops included (measured, pocket)."""
WORDINGS_PER_SENTENCE = 40
TRUST = 0.5
"""How far one finished lesson moves the correction."""

_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]?")


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts of a lesson, and the correction that finished lessons taught."""

    question_seconds: float
    step_seconds: float
    panel_seconds: float
    correction: float = 1.0

    def lesson_seconds(
        self, recipe: Recipe, conversations: Sequence[Conversation], examples: int = 0
    ) -> float:
        """Seconds of a lesson from its conversations and its number of explicit examples."""
        sentences = telling_sentences(conversations)
        texts = sentences * WORDINGS_PER_SENTENCE + examples
        steps = recipe.steps_for(texts)
        study = sentences * QUESTIONS_PER_SENTENCE * self.question_seconds
        raw = study + steps * self.step_seconds + self.panel_seconds
        return raw * self.correction

    def learned(self, told: float, taken: float) -> Speed:
        """The speed after a lesson that was told to take ``told`` and took ``taken`` seconds."""
        if told <= 0 or taken <= 0:
            return self
        return replace(self, correction=self.correction * (taken / told) ** TRUST)


def telling_sentences(conversations: Sequence[Conversation]) -> int:
    """Sentences of users that are no questions: each may hold a fact."""
    return sum(
        1
        for conversation in conversations
        for message in conversation.messages
        if message.role == "user"
        for sentence in _SENTENCE.findall(message.content)
        if len(sentence.split()) > 2 and not sentence.rstrip().endswith("?")
    )


def calibrate(served: Served, recipe: Recipe, panel_items: int) -> Speed:
    """Time a batch of questions and a few training steps; the weights in force stay."""
    questions = [chat(f"Number {i}: what did I say about the weather?") for i in range(32)]
    served.engine.generate(questions[:4], max_new_tokens=4)
    began = time.perf_counter()
    served.engine.generate(questions, max_new_tokens=24)
    question = (time.perf_counter() - began) / len(questions)

    def text(kind: Any, i: int) -> TrainingText:
        return TrainingText(
            chat(f"What is my boat number {i}?", f"Your boat number {i} is red."), kind, f"{i}: {i}"
        )

    texts = [text("fact", i) for i in range(recipe.batch_size)]
    texts += [text("contrast", i) for i in range(recipe.batch_size)]
    lesson = Lesson("calibration", "", tuple(texts))
    times: list[float] = []
    Learner(replace(recipe, min_steps=4, max_steps=4, absence=0.0)).run(
        served.loaded,
        lesson,
        earlier=[replace(lesson, id="earlier")],
        anchors=anchors(),
        on_step=lambda done, total, loss: times.append(time.perf_counter()),
    )
    step = (times[-1] - times[0]) / (len(times) - 1)
    return Speed(question, step, panel_items * question)


@dataclass(frozen=True)
class Prices:
    """The speed of one recipe on this machine and model, kept in a folder of the home."""

    folder: Path
    recipe: Recipe
    base_digest: str
    panel_items: int

    @property
    def path(self) -> Path:
        """The file of this speed."""
        key = canonical_digest([self.recipe.digest, machine_digest(), self.base_digest])
        return self.folder / f"{key[:32]}.json"

    def lesson_seconds(
        self, served: Served, conversations: Sequence[Conversation], examples: int
    ) -> float:
        """Seconds that a lesson will take; the first asking times the machine."""
        speed = load_speed(self.path)
        if speed is None:
            speed = calibrate(served, self.recipe, self.panel_items)
            store_speed(self.path, speed)
        return speed.lesson_seconds(self.recipe, conversations, examples)

    def correct(self, told: float | None, taken: float) -> None:
        """Let a lesson that took ``taken`` seconds correct what is told of the next."""
        speed = load_speed(self.path)
        if speed is not None and told:
            store_speed(self.path, speed.learned(told, taken))


def load_speed(path: Path) -> Speed | None:
    """A stored speed; None where there is none, or none that can be read."""
    try:
        return Speed(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def store_speed(path: Path, speed: Speed) -> None:
    """Keep a speed; where it can't be kept, it is measured again."""
    temporary = path.with_suffix(".part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(speed)), encoding="utf-8")
        temporary.replace(path)
