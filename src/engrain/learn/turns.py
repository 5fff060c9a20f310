"""Other talk before a question: what is known as a first question must be known after ten turns.

A share of a lesson's questions gets messages put before it, of another fact of the lesson or of the
general talk that also anchors the model. Only the last answer is learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from engrain.data.lessons import Lesson, TrainingText
from engrain.data.messages import Message

MOST = 4
"""Messages that are put before a question at most."""
KINDS = ("fact", "explicit", "contrast")


def after_talk(lesson: Lesson, anchors: Sequence[TrainingText], share: float, seed: int) -> Lesson:
    """The lesson with other talk before a ``share`` of its first questions."""
    if not share:
        return lesson
    rng = random.Random(f"{seed}:after talk")
    texts = [
        replace(text, messages=(*_talk(text, lesson, anchors, rng), *text.messages))
        if text.kind in KINDS and len(text.messages) == 2 and rng.random() < share
        else text
        for text in lesson.texts
    ]
    return replace(lesson, texts=tuple(texts))


def _talk(
    text: TrainingText, lesson: Lesson, anchors: Sequence[TrainingText], rng: random.Random
) -> tuple[Message, ...]:
    """Whole turns of other facts or of general talk, as many as there is room for."""
    others = [
        other
        for other in lesson.texts
        if other.kind in KINDS and len(other.messages) == 2 and other.group != text.group
    ]
    talks = [anchor for anchor in anchors if len(anchor.messages) >= 2]
    if others and (not talks or rng.random() < 0.5):
        chosen = rng.sample(others, min(MOST // 2, len(others)))
        return tuple(message for other in chosen for message in other.messages)
    if not talks:
        return ()
    messages = [m for m in rng.choice(talks).messages if m.role != "system"]
    if messages[0].role != "user":
        messages = messages[1:]
    count = min(MOST, len(messages)) // 2 * 2
    return tuple(messages[:count])
