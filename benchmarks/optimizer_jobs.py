"""The two jobs of :mod:`benchmarks.optimizers` that show what an optimizer learns.

*Facts*: days of told facts, learned one after another with no replay and no anchor. The lessons are
made once a seed, by the untaught model, so that all contestants learn the same texts. *Book*: a
book that the model goes on to be trained on, passage by passage; the loss is that of passages from
its end. Each job has a split for development, on which learning rates are chosen, and one that is
held out.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.common import TINY, read_json, write_json
from engrain.bench.life import make_stream, run_life, study_life
from engrain.data.examples import Batch, encode
from engrain.data.general import anchors
from engrain.data.lessons import Lesson, Probe, TrainingText, canonical_digest, chat
from engrain.data.life import life_stream
from engrain.data.streams import Day, parse_stream, stream_digest
from engrain.errors import DivergedError
from engrain.exam.panel import ASKED_PARTS, load_panel
from engrain.learn.compute import hidden_states, losses_of
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Recipe
from engrain.model.loading import LoadedModel

DEVELOPMENT, HELD_OUT = "development", "held-out"
ASK = "Go on with the book."
ROWS = 8
"""Passages of one forward where the loss is measured."""


class Job(Protocol):
    """What a contestant is asked to learn."""

    figures: tuple[str, ...]
    """What is told of a run."""
    deciding: tuple[str, ...]
    """Those that a learning rate is chosen by; the second decides where the first are equal."""
    lower: bool
    """Whether the lower one is the better one."""

    @property
    def setting(self) -> dict[str, Any]:
        """What all runs of one page share."""

    def about(self, split: str, seed: int) -> dict[str, Any]:
        """All that a run depends on beside the recipe."""

    def run(self, recipe: Recipe, split: str, seed: int) -> dict[str, Any]:
        """Learn; the figures, and more to keep. Raises ``DivergedError``."""


class Facts:
    """Days of facts, one lesson after another into the same weights."""

    figures = (
        "recall_final",
        "learning_accuracy",
        "forgetting",
        "abstention",
        "corrections",
        "panel_change_percent",
        "seconds_per_lesson",
    )
    deciding = ("recall_final", "learning_accuracy")
    lower = False

    def __init__(self, loaded: LoadedModel, args: argparse.Namespace) -> None:
        self.loaded, self.args = loaded, args
        # The loss alone: it is the panel's most sensitive figure, and takes the least time.
        self.panel = load_panel().smaller({"capability": 0, **dict.fromkeys(ASKED_PARTS, 0)})
        self._made: dict[tuple[str, int], dict[str, Lesson]] = {}

    @property
    def setting(self) -> dict[str, Any]:
        """How long the lives are, the model and the panel."""
        return {
            "days": self.args.days,
            "tune_days": self.args.tune_days,
            "facts": self.args.facts,
            "base": self.loaded.base_digest,
            "panel": self.panel.digest,
        }

    @cache  # noqa: B019 - one object lives as long as the process
    def stream(self, split: str, seed: int) -> list[Day]:
        """The days of a seed; those for development come from other tables than all exams."""
        if split == HELD_OUT:
            return make_stream(days=self.args.days, facts_per_day=self.args.facts, seed=seed)
        from training.pocket.halves import DEVELOPMENT as TABLES

        days = life_stream(self.args.tune_days, self.args.facts, seed, tables=TABLES)
        return parse_stream((f"development day {i}", day) for i, day in enumerate(days, 1))

    def about(self, split: str, seed: int) -> dict[str, Any]:
        """The stream, the model and the panel."""
        stream = stream_digest(self.stream(split, seed))
        return {**self.setting, "job": "facts", "stream": stream, "seed": seed}

    def run(self, recipe: Recipe, split: str, seed: int) -> dict[str, Any]:
        """All days, asking all probes after each."""
        stream, lessons = self.stream(split, seed), self.lessons(split, seed)
        result = run_life(self.loaded, stream, recipe, self.panel, seed=seed, lessons=lessons)
        figures = result.run.figures()
        return {
            "figures": {name: _number(figures[name]) for name in self.figures},
            "matrix": result.run.matrix.to_dict()["values"],
            "texts": [day.texts for day in result.days],
            "lessons": canonical_digest([lesson.digest for lesson in lessons.values()]),
        }

    def lessons(self, split: str, seed: int) -> dict[str, Lesson]:
        """The lessons of a seed: from this run, from the folder, or made now."""
        if (split, seed) not in self._made:
            key = canonical_digest(self.about(split, seed))
            path = self.args.lessons / f"{split}-{seed}-{key[:12]}.json"
            stream = self.stream(split, seed)
            record = read_json(path).get("lessons", [])
            if not record:
                print(f"  facts: lessons of {split}, seed {seed}", file=sys.stderr, flush=True)
                made = self._by_rule(stream) if self.args.model == TINY else None
                found = made or study_life(self.loaded, stream, seed=seed)
                record = [lesson_record(lesson) for lesson in found.values()]
                write_json(path, {"key": key, "lessons": record})
            # Made or read, a lesson takes the same way, so that no run depends on which it was.
            days = {day.id: day for day in stream}
            self._made[split, seed] = {r["id"]: lesson_of(r, days[r["id"]]) for r in record}
        return self._made[split, seed]

    @staticmethod
    def _by_rule(stream: Sequence[Day]) -> dict[str, Lesson]:
        """Lessons from the days' own questions: a random model can't read."""
        return {
            day.id: Lesson(
                day.id,
                day.id,
                tuple(
                    TrainingText(probe.messages + chat("", probe.answers[0])[1:], "fact", probe.id)
                    for probe in day.probes
                    if probe.answers
                ),
            )
            for day in stream
        }


def lesson_record(lesson: Lesson) -> dict[str, Any]:
    """A day's lesson as JSON-ready values; its conversations are the day's."""
    return {
        "id": lesson.id,
        "title": lesson.title,
        "texts": [text.to_dict() for text in lesson.texts],
        "probes": [probe.to_dict() for probe in lesson.probes],
        "sources": list(lesson.sources),
    }


def lesson_of(record: dict[str, Any], day: Day) -> Lesson:
    """The lesson that :func:`lesson_record` gave."""
    return Lesson(
        record["id"],
        record["title"],
        tuple(TrainingText.from_dict(text) for text in record["texts"]),
        tuple(Probe.from_dict(probe) for probe in record["probes"]),
        tuple(record["sources"]),
        day.conversations,
    )


class Book:
    """Continued training on a book, at equal steps.

    The first eight tenths are learned from, the next is for development, the last is held out.
    """

    figures = ("loss", "loss_change", "loss_before", "seconds")
    deciding = ("loss",)
    lower = True

    def __init__(self, loaded: LoadedModel, args: argparse.Namespace, path: Path) -> None:
        self.loaded, self.args = loaded, args
        self.text = gzip.decompress(path.read_bytes()).decode("utf-8")
        pieces = passages(loaded.tokenizer, self.text, args.passage)
        first, second = int(0.8 * len(pieces)), int(0.9 * len(pieces))
        self.learned = pieces[:first]
        self.asked = {
            DEVELOPMENT: _spread(pieces[first:second], args.held),
            HELD_OUT: _spread(pieces[second:], args.held),
        }
        self._before: dict[str, float] = {}

    @property
    def setting(self) -> dict[str, Any]:
        """The book, how much of it is learned and asked, and the model."""
        return {
            "book": canonical_digest(self.text),
            "passage": self.args.passage,
            "steps": self.args.steps,
            "batch": self.args.batch,
            "held": self.args.held,
            "base": self.loaded.base_digest,
        }

    def about(self, split: str, seed: int) -> dict[str, Any]:
        """The setting, and the passages that are asked."""
        asked = canonical_digest(self.asked[split])
        return {**self.setting, "job": "book", "asked": asked, "seed": seed}

    def run(self, recipe: Recipe, split: str, seed: int) -> dict[str, Any]:
        """Learn passages that the seed draws; the loss before and after, nats a token."""
        steps = {"min_steps": self.args.steps, "max_steps": self.args.steps}
        chosen = recipe.with_settings({**steps, "batch_size": self.args.batch})
        count = min(len(self.learned), self.args.steps * self.args.batch)
        drawn = random.Random(f"book:{seed}").sample(self.learned, count)
        if split not in self._before:
            self._before[split] = self._loss(split)
        result = Learner(chosen).run(
            self.loaded, Lesson("book", "a book", _texts(drawn)), anchors=anchors(), seed=seed
        )
        try:
            self.loaded.set_weights(fold(self.loaded.base_weights(), [result.adapter]))
            after = self._loss(split)
        finally:
            self.loaded.reset()
        if not math.isfinite(after):
            raise DivergedError(f"The loss is {after}.", remedy="Lower the learning rate.")
        before = self._before[split]
        figures = (after, after - before, before, result.seconds)
        return {"figures": dict(zip(self.figures, figures, strict=True))}

    @torch.no_grad()
    def _loss(self, split: str) -> float:
        """Mean nats a token over the passages of a split, fp32."""
        total, count = 0.0, 0
        for rows in _rows(_texts(self.asked[split])):
            examples = [
                encode(self.loaded.tokenizer, text, max_length=self.loaded.max_length)
                for text in rows
            ]
            losses = losses_of(*hidden_states(self.loaded, Batch.of(examples, self.loaded.pad_id)))
            total, count = total + float(losses.double().sum()), count + losses.numel()
        return total / count


def passages(tokenizer: Any, text: str, length: int) -> list[str]:
    """A text in pieces of ``length`` tokens; what is left over at its end is dropped."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    starts = range(0, len(offsets) - length + 1, length)
    return [text[offsets[at][0] : offsets[at + length - 1][1]] for at in starts]


def _texts(pieces: Sequence[str]) -> tuple[TrainingText, ...]:
    return tuple(TrainingText(chat(ASK, piece), "explicit") for piece in pieces)


def _rows(texts: Sequence[TrainingText]) -> list[Sequence[TrainingText]]:
    return [texts[at : at + ROWS] for at in range(0, len(texts), ROWS)]


def _spread(pieces: Sequence[str], count: int) -> list[str]:
    """Some of them, evenly spread."""
    count = min(count, len(pieces))
    return [pieces[place * len(pieces) // count] for place in range(count)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
