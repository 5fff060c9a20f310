"""General texts that a lesson should not change the model's predictions on, and common nouns."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib import resources

from engrain.data.lessons import TrainingText
from engrain.data.messages import Message


def anchors() -> list[TrainingText]:
    """The packaged dialogues, in a fixed order; none of them is in the panel."""
    raw = (resources.files(__name__) / "anchors.json.gz").read_bytes()
    record = json.loads(gzip.decompress(raw))
    return [
        TrainingText(tuple(Message(m["role"], m["content"]) for m in messages), "explicit")
        for messages in record["texts"]
    ]


@cache
def nouns() -> tuple[str, ...]:
    """Nouns of public-domain books, none of them in the exams (``training/pocket/nouns.py``)."""
    return tuple((resources.files(__name__) / "nouns.txt").read_text(encoding="utf-8").split())
