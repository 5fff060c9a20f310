"""A bar for long work: what is done now, how far it is, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from engrain.lesson.asked import OnProgress

WORDS: Mapping[str, tuple[str, str]] = {
    "noise": ("noise", "noise band, once"),
    "studied": ("studied", "self-study"),
    "examined_before": ("examined_before", "exam before"),
    "trained": ("trained", "training"),
    "examined_after": ("examined_after", "exam after"),
    "studied_again": ("examined_after", "second round: self-study"),
    "trained_again": ("examined_after", "second round: training"),
    "examined_again": ("examined_after", "second round: exam"),
    "asked": ("asked", "asking"),
}
"""Phase and words of each stage that the library reports."""

SHARES: Mapping[str, float] = {
    "studied": 0.25,
    "examined_before": 0.15,
    "trained": 0.4,
    "examined_after": 0.2,
}
"""What part of a lesson each phase takes, as measured on the pocket model."""


@dataclass
class Course:
    """How far a lesson is: stages in, one share of the whole out.

    The share never goes back, but begins anew with the next of several lessons.
    """

    share: float = 0.0
    words: str = ""
    phase: str = ""

    def reach(self, stage: str, done: int, total: int) -> None:
        """Take a report of the library."""
        phase, words = WORDS.get(stage, (stage, stage.replace("_", " ")))
        within = done / total if total else 0.0
        self.words = f"{words} {done}/{total}" if total > 1 else words
        names, last, self.phase = list(SHARES), self.phase, phase
        if phase not in names:
            # Work of its own, outside a lesson: it fills the bar alone.
            self.share = within
            return
        if last not in names or names.index(phase) < names.index(last):
            self.share = 0.0
        before = sum(SHARES[name] for name in names[: names.index(phase)])
        self.share = max(self.share, before + SHARES[phase] * within)


class TimeLeft(ProgressColumn):
    """Time left: by the estimate told beforehand as long as it holds, else by the speed so far."""

    def __init__(self, estimate: float | None) -> None:
        super().__init__(Column(no_wrap=True))
        self._estimate = estimate

    def render(self, task: Task) -> Text:
        """The time left of a task."""
        left = seconds_left(task.elapsed or 0.0, task.completed, self._estimate)
        if left is None:
            return Text("-:--:-- left")
        return Text(f"{timedelta(seconds=round(left))} left")


def seconds_left(elapsed: float, share: float, estimate: float | None) -> float | None:
    """Seconds until the end; None while nothing can be said."""
    if estimate is not None and elapsed < estimate:
        return estimate - elapsed
    if share < 0.02:
        return None
    return elapsed * (1 - share) / share


@contextmanager
def bar(title: str, estimate: float | None = None) -> Iterator[OnProgress]:
    """A bar on standard error; gives the function that moves it."""
    course = Course()
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeLeft(estimate),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(title, total=1.0)

        def on_progress(stage: str, done: int, total: int) -> None:
            course.reach(stage, done, total)
            words = f"{title}: {course.words}"
            progress.update(task, completed=course.share, description=words)

        yield on_progress
