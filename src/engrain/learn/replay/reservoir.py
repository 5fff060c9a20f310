"""Reservoir replay: earlier lessons' texts, each equally likely to be kept.

Source: Vitter's algorithm R (1985) as the storage policy of experience replay (Chaudhry et al.,
arXiv 1902.10486). After n texts every one is held with probability min(1, capacity / n). The
reservoir is re-made from the ledger's active lessons before each lesson, as a pure function of them
and the seed, so that an undone lesson leaves no trace in it.

``share`` counts replayed texts per new text in a batch. Literature sweeps 10 to 25% of a corpus;
for facts told once, where nothing else holds them, more is needed (docs/LOG.md).
Memory: ``capacity`` texts. Time: ``share`` more sequences in each step.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engrain.data.examples import Example
from engrain.data.lessons import Lesson, TrainingText
from engrain.learn.registry import register
from engrain.learn.technique import Replay, Setting, option

T = TypeVar("T")


@dataclass(frozen=True)
class ReservoirConfig:
    """Hyper-parameters of reservoir replay."""

    capacity: int = option(4096, "texts kept", low=1)
    share: float = option(1.0, "replayed texts for each new text of a batch", low=0.0, high=64.0)


@register("reservoir")
class Reservoir(Replay):
    """Replay of earlier lessons' facts from a uniform reservoir."""

    Config = ReservoirConfig

    def prepare(self, setting: Setting) -> None:
        """Fill the reservoir from the earlier lessons."""
        stream = (
            (lesson.id, text)
            for lesson, texts in current(setting.earlier, setting.lesson)
            for text in texts
        )
        self._kept = reservoir(stream, self.config.capacity, setting.rng("reservoir"))
        self._count = round(self.config.share * setting.batch_size)
        self._setting = setting

    def draw(self, step: int) -> Sequence[Example]:
        """This step's share, walking through shuffles of the reservoir without repetition."""
        drawn = walk(self._kept, self._count, step, self._setting, "reservoir")
        return [self._setting.encode(text, lesson) for lesson, text in drawn]


def current(
    earlier: Sequence[Lesson], lesson: Lesson
) -> Iterable[tuple[Lesson, Sequence[TrainingText]]]:
    """Each earlier lesson's facts without those that a later lesson, or this one, corrected."""
    lessons = [*earlier, lesson]
    for position, old in enumerate(earlier):
        newer = lessons[position + 1 :]
        gone = {text.group for text in old.facts() if any(new.supersedes(text) for new in newer)}
        yield old, [text for text in old.balanced() if text.group not in gone]


def reservoir(stream: Iterable[T], capacity: int, rng: random.Random) -> list[T]:
    """Algorithm R: a uniform sample of ``capacity`` items of a stream of unknown length."""
    kept: list[T] = []
    for seen, item in enumerate(stream):
        if seen < capacity:
            kept.append(item)
        else:
            slot = rng.randrange(seen + 1)
            if slot < capacity:
                kept[slot] = item
    return kept


def walk(items: Sequence[T], count: int, step: int, setting: Setting, name: str) -> list[T]:
    """Items ``step * count`` onwards of an endless sequence of seeded shuffles."""
    chosen: list[T] = []
    position = step * count
    while items and len(chosen) < count:
        epoch, offset = divmod(position, len(items))
        order = list(range(len(items)))
        setting.rng(name, "epoch", epoch).shuffle(order)
        taken = order[offset : offset + count - len(chosen)]
        chosen += [items[i] for i in taken]
        position += len(taken)
    return chosen
