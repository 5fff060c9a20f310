"""Prompts on their way to answers, and how they are put into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

MAX_BATCH_TOKENS = 16_384
"""Padded prompt tokens that one batch takes at most; it bounds the memory of a batch."""


@dataclass(slots=True)
class Row:
    """One prompt on its way to an answer."""

    index: int
    prompt: list[int]
    room: int
    stop: tuple[str, ...] = ()
    uniforms: Tensor | None = None
    new: list[int] = field(default_factory=list)
    finished: bool = False
    lists: bool = False


def batches(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut sorted indices into batches of at most ``size`` rows and ``MAX_BATCH_TOKENS`` tokens."""
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if batch and (len(batch) >= max(1, size) or longest * (len(batch) + 1) > MAX_BATCH_TOKENS):
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch


def repeats(text: str) -> bool:
    """Whether a finished line of a text is there twice; the last line has not ended."""
    lines = [line.strip() for line in text.split("\n")[:-1] if line.strip()]
    return len(set(lines)) < len(lines)


def cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of some marks."""
    ends = [position for mark in stop if (position := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text
