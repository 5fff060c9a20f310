"""What leaves a home, and what comes in: lessons as files, and what is served for other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engrain.lesson import leaving, travel
from engrain.lesson.asked import Asked, OnProgress
from engrain.lesson.folder import HomeFolder
from engrain.lesson.job import Jobs
from engrain.lesson.leaving import Exported
from engrain.lesson.portable import Portable
from engrain.lesson.stages import Outcome


@dataclass(frozen=True)
class Door:
    """The door of one home; ``asked`` loads the model, so it is called where that is needed."""

    home: HomeFolder
    asked: Callable[[], Asked]
    jobs: Jobs

    def export_lesson(self, lesson: str, file: Path) -> Portable:
        """Write a lesson into one file, for another home of the same base.

        Raises:
            UsageError: it has no adapter, or there is a file of that name already.
        """
        portable = travel.packed(self.home.ledger, lesson)
        portable.write(file)
        return portable

    def import_lesson(
        self, file: Path, *, on_progress: OnProgress | None = None, require: bool = False
    ) -> Outcome:
        """Examine the lesson of a file as one that was learned here; nothing is trained.

        What it tells otherwise than the lessons in force is told, and keeps it aside.

        Raises:
            LessonFileError: the file is damaged, or of another base (``OtherBaseError``).
            UsageError: the lesson is in force already.
            GateRefused: only with ``require``; the served weights are unchanged either way.
        """
        return self.jobs.arrive(file, on_progress, require)

    def export(self, path: Path, kind: str = "peft", quant: str = "") -> Exported:
        """Write what is served for another tool, and ask it there what it is asked here.

        Raises:
            ExportError: the format can't hold it; nothing was written.
        """
        return leaving.export(self.asked(), path, kind, quant)
