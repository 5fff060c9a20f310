"""Other talk before a question: what is known as a first question must be known after ten turns.

A share of a lesson's questions gets messages put before it, of another fact of the lesson or of the
general talk that also anchors the model. Only the last answer is learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engrain.data.lessons import Lesson, TrainingText
from engrain.data.messages import Message

MOST = 4
"""Messages that are put before a question at most."""
TALKS = 8
"""Different talks of a lesson: each is read once before training, and its keys are kept."""
KINDS = ("fact", "explicit", "contrast")


@dataclass(frozen=True)
class _Talk:
    """Whole turns, and the facts that they tell."""

    messages: tuple[Message, ...] = ()
    groups: frozenset[str] = frozenset()


def after_talk(lesson: Lesson, anchors: Sequence[TrainingText], share: float, seed: int) -> Lesson:
    """The lesson with other talk before a ``share`` of its first questions."""
    if not share:
        return lesson
    rng = random.Random(f"{seed}:after talk")
    first = [t for t in lesson.texts if t.kind in KINDS and len(t.messages) == 2]
    general = [anchor for anchor in anchors if len(anchor.messages) >= 2]
    talks = [_talk(first, general, rng) for _ in range(TALKS)]
    texts = []
    for text in lesson.texts:
        if text.kind in KINDS and len(text.messages) == 2 and rng.random() < share:
            others = [talk for talk in talks if text.group not in talk.groups]
            before = rng.choice(others).messages if others else ()
            text = replace(text, messages=(*before, *text.messages))
        texts.append(text)
    return replace(lesson, texts=tuple(texts))


def _talk(first: list[TrainingText], general: list[TrainingText], rng: random.Random) -> _Talk:
    """Turns of the lesson's first questions or of general talk."""
    if first and (not general or rng.random() < 0.5):
        chosen = rng.sample(first, min(MOST // 2, len(first)))
        messages = tuple(message for text in chosen for message in text.messages)
        return _Talk(messages, frozenset(text.group for text in chosen))
    if not general:
        return _Talk()
    turns = [m for m in rng.choice(general).messages if m.role != "system"]
    if turns[0].role != "user":
        turns = turns[1:]
    return _Talk(tuple(turns[: min(MOST, len(turns)) // 2 * 2]))
