"""A life of lessons: a stream of days, learned day by day, with every probe asked every day.

Each recipe learns the same stream from the same base weights: self-study of the day's
conversations, a run of the learner, the fold, and all probes of all days in free generation, which
gives one row of the accuracy matrix. The gate is not asked: the matrix shows what learning alone
does, good or bad.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from engrain.data.lessons import Lesson
from engrain.data.life import life_stream
from engrain.data.streams import Day, parse_stream
from engrain.dream.earlier import anchors_beside
from engrain.errors import NothingToLearnError
from engrain.exam.life import LifeRun
from engrain.exam.metrics import ProbeHistory
from engrain.exam.panel import Panel, run_panel
from engrain.exam.probes import ProbeResult, ask
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.memory import peak_memory_bytes
from engrain.learn.recipe import Recipe
from engrain.lesson.folder import POCKET
from engrain.model.digest import tensor_digest
from engrain.model.engine import Engine
from engrain.model.threads import machine_fingerprint
from engrain.study.lesson import make_lesson

if TYPE_CHECKING:
    from engrain.model.adapter import Adapter
    from engrain.model.loading import LoadedModel

OnDay = Callable[[str, int, int, int, str], None]
"""Called with (recipe, seed, day, days, what is done now)."""


@dataclass(frozen=True)
class DayRecord:
    """What one day cost and gave; ``state`` is the digest of the weights after it."""

    day: str
    texts: int
    groups: int
    study_seconds: float
    train_seconds: float
    exam_seconds: float
    state: str
    panel_loss: float
    skipped: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of study and training; the benchmark's exam of all days is not part of it."""
        return self.study_seconds + self.train_seconds


@dataclass(frozen=True)
class LifeResult:
    """One recipe and seed over a whole stream: the figures' source, and what each day cost."""

    run: LifeRun
    days: tuple[DayRecord, ...]
    recipe_digest: str
    machine: Mapping[str, Any]


def make_stream(*, days: int = 30, facts_per_day: int = 6, seed: int = 0) -> list[Day]:
    """A stream from the held-out generator, with corrections of earlier facts from day 3 on."""
    records = life_stream(days=days, facts_per_day=facts_per_day, seed=seed)
    return parse_stream((f"generated day {i}", record) for i, record in enumerate(records, 1))


def run_life(
    loaded: LoadedModel,
    stream: Sequence[Day],
    recipe: Recipe,
    panel: Panel,
    *,
    seed: int = 0,
    effort: str = "normal",
    on_day: OnDay | None = None,
    lessons: Mapping[str, Lesson] | None = None,
) -> LifeResult:
    """Learn a stream with one recipe and seed, from the base weights, asking all probes daily.

    A recipe that restarts (``joint``) studies every day as the base model and learns once, on the
    last day: it bounds the last row of the others from above. ``lessons`` by day, as
    :func:`study_life` makes them, are learned in the place of those that the taught model would
    make: recipes then differ in nothing else.
    """
    life = _Life(loaded, stream, recipe, seed, effort, made=lessons or {})
    before = run_panel(life.serve(()), panel)
    history = ProbeHistory([day.id for day in stream])
    history.add_day(ask_all(life.engine, stream))
    records: list[DayRecord] = []
    memory: list[int] = []
    after = before
    try:
        for number, day in enumerate(stream, start=1):
            last = number == len(stream)

            def say(what: str, number: int = number) -> None:
                if on_day:
                    on_day(recipe.name, seed, number, len(stream), what)

            say("studies")
            lesson, study_seconds, skipped = life.study(day)
            train_seconds = 0.0
            if last or not recipe.restart:
                say("learns")
                train_seconds = life.learn(lesson)
            else:
                life.lessons.append(lesson)
            say("is examined")
            began = time.perf_counter()
            results = {} if recipe.restart and not last else ask_all(life.engine, stream)
            history.add_day(results, supersedes=day.supersedes)
            after = run_panel(life.engine, panel, parts=None if last else ("loss",))
            memory.append(peak_memory_bytes())
            records.append(
                DayRecord(
                    day.id,
                    len(lesson.facts()),
                    len({text.group for text in lesson.facts()}),
                    study_seconds,
                    train_seconds,
                    time.perf_counter() - began,
                    life.engine.state_digest,
                    after.loss,
                    skipped,
                )
            )
    finally:
        life.serve(())
    run = LifeRun(
        recipe.name,
        seed,
        history,
        seconds=[record.seconds for record in records],
        peak_memory_bytes=memory,
        panel_before=before,
        panel_after=after,
    )
    return LifeResult(run, tuple(records), recipe.digest, machine_fingerprint())


def study_life(
    loaded: LoadedModel, stream: Sequence[Day], *, seed: int = 0, effort: str = "normal"
) -> dict[str, Lesson]:
    """The lesson of each day as the untaught model makes it after those of the days before."""
    life = _Life(loaded, stream, Recipe("study"), seed, effort)
    life.serve(())
    for day in stream:
        life.lessons.append(life.study(day)[0])
    return {day.id: lesson for day, lesson in zip(stream, life.lessons, strict=True)}


@dataclass
class _Life:
    """What one run carries from day to day."""

    loaded: LoadedModel
    stream: Sequence[Day]
    recipe: Recipe
    seed: int
    effort: str
    made: Mapping[str, Lesson] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = Engine(self.loaded)

    def serve(self, adapters: Sequence[Adapter]) -> Engine:
        weights = fold(self.loaded.stored(), adapters, dtype=torch.float32)
        self.loaded.set_weights(weights)
        self.engine.set_state(tensor_digest(weights))
        return self.engine

    def _make(self) -> Callable[..., Any]:
        """What makes lessons of this model's conversations."""
        if self.loaded.source == POCKET:
            from engrain.dream.lesson import make_lesson as make_by_rules

            return make_by_rules
        return make_lesson

    def study(self, day: Day) -> tuple[Lesson, float, str]:
        """The day's lesson, the seconds it took to make, and why it is empty, if it is."""
        if day.id in self.made:
            return self.made[day.id], 0.0, ""
        began = time.perf_counter()
        try:
            lesson = self._make()(
                self.engine,
                day.conversations,
                earlier=self.lessons,
                name=day.id,
                seed=self.seed,
                effort=self.effort,
            ).lesson
        except NothingToLearnError as error:
            empty = Lesson(day.id, day.id, (), conversations=day.conversations)
            return empty, time.perf_counter() - began, error.message
        return lesson, time.perf_counter() - began, ""

    def learn(self, lesson: Lesson) -> float:
        """Train on the lesson and serve the fold; gives the seconds of training."""
        seconds = 0.0
        if lesson.facts() or (self.recipe.restart and self.lessons):
            result = Learner(self.recipe).run(
                self.loaded,
                lesson,
                earlier=self.lessons,
                adapters=self.adapters,
                anchors=anchors_beside([*self.lessons, lesson]),
                seed=self.seed,
            )
            self.adapters.append(result.adapter)
            self.lessons.append(lesson)
            seconds = result.seconds
        self.serve(self.adapters)
        return seconds


def ask_all(engine: Engine, stream: Sequence[Day]) -> dict[str, list[ProbeResult]]:
    """Ask the probes of all days in one go; results by day."""
    answered = iter(ask(engine, [probe for day in stream for probe in day.probes]))
    return {day.id: [next(answered) for _ in day.probes] for day in stream}
