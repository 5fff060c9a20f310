"""What a lesson will cost, told before it runs: seconds and peak memory, part by part.

Two things are timed once: the passes of the model (:mod:`engrain.lesson.pace`) and two small steps
of the recipe's own learner. That takes some hundred tokens, whatever the lesson, the panel and the
anchors hold, and no other model is loaded for it. All else is counted
(:mod:`engrain.lesson.amounts`). Every finished lesson corrects each part by what it really took.
Memory comes from a formula (:mod:`engrain.lesson.fit`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, canonical_digest
from engrain.exam.kept import keep_measured, read_measured
from engrain.learn.learner import Learner
from engrain.learn.technique import Setting
from engrain.lesson import amounts
from engrain.lesson.amounts import Source as Source
from engrain.lesson.amounts import Training
from engrain.lesson.fit import Memory, lesson_memory, stock_texts
from engrain.lesson.pace import Pace, Shape, kept_pace, panel_passes
from engrain.lesson.writers import Chosen
from engrain.model.threads import machine_digest

if TYPE_CHECKING:
    from engrain.exam.panel import Panel
    from engrain.learn.recipe import Recipe
    from engrain.lesson.served import Served
    from engrain.model.loading import LoadedModel

MOST = 4e10
"""Numbers of a timed step, as far as one text of each kind allows: some 2 s at 100 GFLOP/s, since
forward and backward are four operations for each number of a frozen weight."""
QUICK = MOST / 4
"""Numbers of a step of which several are timed."""
FEW = 2
"""Anchors of the timed steps."""
ABSENT = 3
"""Copies of the weights in a step from which an earlier lesson is missing."""
TRUST = 0.5
"""How far one finished lesson moves the corrections."""
WILDEST = 16.0
"""Times by which a lesson may be off before it says nothing about the next."""


@dataclass(frozen=True)
class Estimate:
    """What a lesson will take: seconds by part, none where it was not timed, and memory.

    ``once_seconds`` are spent in the first lesson of a home alone: the panel on the untaught model.
    ``further_seconds`` are those of a second round, which only follows where the exam finds
    something missing.
    ``writer`` asks the questions, for the reason ``why``; it is "" where there is nothing to study.
    """

    recipe: str
    parts: Mapping[str, float]
    memory: Memory
    once_seconds: float = 0.0
    further_seconds: float = 0.0
    writer: str = ""
    why: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds of the lesson."""
        return sum(self.parts.values()) if self.parts else None

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        return {
            "recipe": self.recipe,
            "writer": self.writer,
            "writer_why": self.why,
            "estimated_seconds": self.seconds,
            "seconds": {name: round(value, 3) for name, value in self.parts.items()},
            "once_seconds": round(self.once_seconds, 3),
            "further_seconds": round(self.further_seconds, 3),
            "memory": self.memory.to_dict(),
        }


@dataclass(frozen=True)
class Speed:
    """What was timed of a model and a recipe, and the corrections that finished lessons taught.

    ``training`` are seconds for each number of a step (:class:`engrain.lesson.amounts.Training`).
    ``corrections`` are factors by part; self-study has one for each writer.
    """

    pace: Pace
    training: float
    corrections: Mapping[str, float] = field(default_factory=dict)

    def corrected(self, parts: Mapping[str, float], writer: str) -> dict[str, float]:
        """Seconds by part, each by its own factor."""
        return {
            name: value * self.corrections.get(_key(name, writer), 1.0)
            for name, value in parts.items()
        }

    def learned(self, told: Mapping[str, float], taken: Mapping[str, float], writer: str) -> Speed:
        """The speed after a lesson of which these seconds were told and taken, by part."""
        corrections = dict(self.corrections)
        for name in told.keys() & taken.keys():
            if told[name] > 0 and 1 / WILDEST < taken[name] / told[name] < WILDEST:
                key = _key(name, writer)
                moved = (taken[name] / told[name]) ** TRUST
                corrections[key] = corrections.get(key, 1.0) * moved
        return replace(self, corrections=corrections)


def _key(part: str, writer: str) -> str:
    return f"{part} by {writer}" if part == "self_study" else part


def calibrate(loaded: LoadedModel, recipe: Recipe) -> float:
    """Seconds for each number of a training step, from a run of a few small ones.

    The rest of a run is priced from its counts. The weights in force stay.
    """
    brief = replace(recipe, rounds=1, absence=0.0, after_talk=0.0)
    if "kl_anchor" in (choice.name for choice in recipe.regularization):
        # What is held does not matter for the time, and putting back the untaught model takes some.
        brief = brief.with_settings({"regularization.kl_anchor.reference": "current"})
    few = sorted(anchors(), key=_length)[:FEW]
    batch = recipe.batch_size
    while True:
        brief = replace(brief, batch_size=batch)
        lesson = Lesson("timed", "", tuple(stock_texts(batch)))
        setting = Setting(loaded, lesson, (), few, batch_size=batch)
        numbers = Training.of(brief, setting).step
        if numbers <= MOST or batch == 1:
            break
        batch = max(1, min(batch - 1, int(batch * MOST / numbers)))
    count = 4 if numbers <= QUICK else 2
    times: list[float] = []
    Learner(replace(brief, min_steps=count, max_steps=count)).run(
        loaded,
        lesson,
        anchors=few,
        on_step=lambda done, total, loss: times.append(time.perf_counter()),
    )
    # The first step sets up what the others use.
    return min(after - before for before, after in pairwise(times)) / numbers


def _length(text: TrainingText) -> int:
    return sum(len(message.content) for message in text.messages)


@dataclass(frozen=True)
class Prices:
    """The prices of one recipe on this machine and model, kept in a folder of the home.

    ``taught`` says whether lesson zero is in force, ``panels`` how often a lesson runs the panel,
    ``once`` how often the first one runs it beside that. ``writer`` asks the questions.
    """

    folder: Path
    recipe: Recipe
    base_digest: str
    panel: Panel
    taught: bool = False
    panels: int = 1
    once: int = 0
    writer: Chosen = field(default_factory=Chosen)

    def path(self, loaded: LoadedModel) -> Path:
        """The file of what was timed."""
        key = [self.recipe.digest, machine_digest(), self.base_digest, str(loaded.dtype)]
        return self.folder / f"{canonical_digest(key)[:32]}.json"

    def memory(self, served: Served, source: Source) -> Memory:
        """The memory that a lesson will take."""
        return lesson_memory(
            served.loaded,
            self.recipe,
            self.panel,
            conversations=source.conversations,
            examples=source.examples,
            earlier=source.earlier,
            writer=self.writer.outline,
        )

    def estimate(self, served: Served, source: Source, *, force: bool = False) -> Estimate:
        """What a lesson will take; the first asking times the machine.

        What does not fit is not timed unless with ``force``: a piece of it might not fit either.
        """
        memory = self.memory(served, source)
        writer = (self.writer.name, self.writer.why) if source.conversations else ("", "")
        loaded = served.loaded
        speed = load_speed(self.path(loaded))
        if speed is None:
            if not memory.fits and not force:
                return Estimate(self.recipe.name, {}, memory, 0.0, 0.0, *writer)
            pace = kept_pace(self.folder, loaded)
            speed = Speed(pace, calibrate(loaded, self.recipe))
            keep_measured(self.path(loaded), asdict(speed))
        parts, further, once = self.seconds(speed, loaded, source)
        return Estimate(
            self.recipe.name,
            speed.corrected(parts, self.writer.name),
            memory,
            sum(speed.corrected({"exams": once}, self.writer.name).values()),
            sum(speed.corrected(further, self.writer.name).values()),
            *writer,
        )

    def told(self, loaded: LoadedModel, source: Source) -> float | None:
        """Seconds of a lesson, by what an estimate has timed."""
        speed = load_speed(self.path(loaded))
        if speed is None:
            return None
        parts, _, _ = self.seconds(speed, loaded, source)
        return sum(speed.corrected(parts, self.writer.name).values())

    def seconds(
        self, speed: Speed, loaded: LoadedModel, source: Source
    ) -> tuple[dict[str, float], dict[str, float], float]:
        """Seconds by part of a lesson and of a second round, and once, before any correction."""
        pace, own = speed.pace, Shape.of(loaded)
        other = self.writer.outline
        writing = own if other is None else Shape.of(other)
        fold = pace.folding(loaded.profile.parameters)
        panel = pace.seconds(panel_passes(self.panel, loaded), own)
        probing = pace.seconds(amounts.probing(source.probes, own), own)

        def studied(study: amounts.Study) -> float:
            if not source.conversations:
                return 0.0
            loading = pace.loading(other.nbytes) if other is not None else 0.0
            return pace.seconds(study.reader, own) + pace.seconds(study.writer, writing) + loading

        run = amounts.training(self.recipe, source, loaded)
        step = speed.training * run.step
        if source.earlier and self.recipe.absence:
            step += self.recipe.absence * ABSENT * 4 * loaded.profile.parameters * pace.copied
        steps = amounts.steps(self.recipe, source)
        # With lesson zero in force, the model that the anchors hold is folded.
        prepared = pace.seconds(run.prepared, own) + (fold if self.taught else 0.0)
        counted = (source, loaded, self.writer, self.taught)
        parts = {
            "self_study": studied(amounts.study(*counted)),
            "exams": self.panels * panel + 2 * (probing + fold),
            "training": prepared + steps * step,
        }
        further = {
            "self_study": studied(amounts.study_again(*counted)),
            "exams": panel + probing + fold,
            "training": prepared + max(1, steps // 2) * step,
        }
        again = further if self.recipe.rounds > 1 else {}
        return parts, again, self.once * (panel + 2 * fold)

    def correct(
        self, loaded: LoadedModel, told: Mapping[str, float], taken: Mapping[str, float]
    ) -> None:
        """Let a lesson that took ``taken`` seconds by part correct what is told of the next."""
        path = self.path(loaded)
        speed = load_speed(path)
        if speed is not None and told:
            keep_measured(path, asdict(speed.learned(told, taken, self.writer.name)))


def load_speed(path: Path) -> Speed | None:
    """What was timed; None where nothing was, or nothing that can be read."""
    found = read_measured(path)
    try:
        return Speed(Pace(**found.pop("pace")), **found)
    except (KeyError, TypeError):
        return None
