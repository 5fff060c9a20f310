"""A trial of a model's manners: does it read, does it say what it was not told, does it ask?

Twelve short talks, written by hand for this project, half of them not in English. After each the
model is asked for a thing that was told and for one that was not, and it lists what was told, as
self-study has it do. A line counts if its answer is one of the things told, its question does not
hold it, and the model answers the question with it. A few minutes at most, and coarse: it tells
whether a model has manners at all, not which of two has better ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from engrain.data.lessons import canonical_digest, chat
from engrain.data.messages import Message
from engrain.exam.kept import keep_measured, read_measured
from engrain.exam.probes import holds, says_unknown
from engrain.study import requests
from engrain.study.claims import find_claims
from engrain.study.reader import Reader, StudyEngine
from engrain.study.writer import ModelWriter

ENOUGH = 0.7
"""The share of talks from which on a manner is there: the gate's own bar for abstention."""


@dataclass(frozen=True)
class Talk:
    """A talk, a question that it answers, one that it does not, and all that it tells."""

    language: str
    messages: tuple[Message, ...]
    ask: str
    answer: str
    untold: str
    told: tuple[str, ...]


@cache
def talks() -> tuple[Talk, ...]:
    """The talks of the trial."""
    lines = (resources.files("engrain.study") / "trial.jsonl").read_text(encoding="utf-8")
    return tuple(
        Talk(
            record["language"],
            chat(*record["talk"]),
            record["ask"],
            record["answer"],
            record["untold"],
            tuple(record["told"]),
        )
        for record in map(json.loads, lines.splitlines())
    )


@dataclass(frozen=True)
class Trial:
    """In how many of the talks a model did well."""

    talks: int
    reads: int
    abstains: int
    asks: int
    taught: bool

    def well(self, count: int) -> bool:
        """Whether a count is enough."""
        return count >= ENOUGH * self.talks

    @property
    def mannered(self) -> bool:
        """Whether the model needs nothing more."""
        return all(map(self.well, (self.reads, self.abstains, self.asks)))

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values."""
        return {**asdict(self), "mannered": self.mannered}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trial:
        """The trial that :meth:`to_dict` gave."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Kept:
    """The trial of one model, kept in a folder of the home, as the exam keeps what it measures.

    ``adapter`` is the digest of the lesson zero that it was tried with, "" for none.
    """

    folder: Path
    base_digest: str
    adapter: str = ""

    @property
    def path(self) -> Path:
        """The file; another model, another lesson zero and other questions have another."""
        asked = [asdict(talk) for talk in talks()]
        worked = [message.to_dict() for message in requests.WORKED]
        key = [self.base_digest, self.adapter, asked, requests.CLAIMS, worked]
        return self.folder / "manners" / f"{canonical_digest(key)[:32]}.json"

    def read(self) -> Trial | None:
        """The trial, if it was kept."""
        try:
            return Trial.from_dict(read_measured(self.path))
        except KeyError:
            return None

    def keep(self, found: Trial) -> None:
        """Keep a trial."""
        keep_measured(self.path, found.to_dict())


def leaning(engine: StudyEngine) -> float:
    """The log-odds of yes against no at which a model is in two minds about what a user told.

    Between the mean of what the talks tell and that of the same answers to what they don't: a model
    may lean to one word whatever it is asked, and still tell one from the other.

    Raises:
        UsageError: the model's context is too short.
    """
    told, untold = 0.0, 0.0
    for talk in talks():
        pairs = [(talk.ask, talk.answer), (talk.untold, talk.answer)]
        right, wrong = Reader(engine, talk.messages).believes(pairs)
        told, untold = told + right, untold + wrong
    return (told + untold) / (2 * len(talks()))


def run_trial(
    engine: StudyEngine, *, taught: bool, on_talk: Callable[[int, int], None] | None = None
) -> Trial:
    """Try the weights in force; ``taught`` says that they hold a lesson zero.

    Raises:
        UsageError: the model's context is too short.
    """
    reads = abstains = asks = 0
    writer = ModelWriter(Reader(engine, ()), taught)
    for number, talk in enumerate(talks()):
        reader = Reader(engine, talk.messages)
        answer, unknown = reader.answers([talk.ask, talk.untold])
        reads += holds(answer, talk.answer)
        abstains += says_unknown(unknown)
        listed = [
            (claim.question, value)
            for claim in find_claims(writer, talk.messages, samples=0)
            for value in talk.told
            if not claim.wish and holds(claim.value, value)
        ]
        answers = reader.answers([question for question, _ in listed])
        asks += any(holds(a, value) for a, (_, value) in zip(answers, listed, strict=True))
        if on_talk:
            on_talk(number + 1, len(talks()))
    return Trial(len(talks()), reads, abstains, asks, taught)
