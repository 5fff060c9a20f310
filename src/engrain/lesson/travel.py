"""A lesson on its way from one home to another: packed for the road, and read on arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.lessons import Lesson
from engrain.errors import EngrainError, LessonFileError, UsageError
from engrain.exam.exam import Exam
from engrain.learn import registry
from engrain.learn.low_rank import unfit
from engrain.learn.recipe import Recipe
from engrain.ledger.ledger import Ledger
from engrain.ledger.records import LessonRecord
from engrain.lesson.portable import Portable
from engrain.lesson.served import MANNERS
from engrain.lesson.zero import is_zero
from engrain.model.adapter import Adapter
from engrain.model.disk import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

TOLD = ("model", "lesson", "title", "learned", "verdict", "state")
"""What the ledger keeps of the card of a lesson that arrived; the rest stays in its file."""
LONGEST, MOST = 200, 20
"""Letters of a value, and how many versions, that are kept of it."""


def packed(ledger: Ledger, name: str) -> Portable:
    """A lesson of a ledger as a file holds it.

    Conversations stay at home, and so do the names of this machine's files.

    Raises:
        UsageError: it has no adapter.
    """
    record = ledger.get_lesson(name)
    if record.adapter is None:
        raise UsageError(f"Lesson {record.id} has no adapter.", remedy="Give one that was learned.")
    adapter = ledger.blobs.get(record.adapter)
    if is_zero(record):
        card = dict(record.decision.get("card", {}))
        return Portable(record.base_digest, dict(record.recipe), card, adapter)
    texts = tuple(
        replace(text, group=f"example {place}") if text.kind == "explicit" else text
        for place, text in enumerate(record.lesson.texts, start=1)
    )
    lesson = replace(record.lesson, texts=texts, sources=())
    return Portable(record.base_digest, dict(record.recipe), _card(ledger, record), adapter, lesson)


def _card(ledger: Ledger, record: LessonRecord) -> dict[str, Any]:
    """What the lesson is, and what was measured where it was learned."""
    exams = (Exam.from_dict(dict(exam)) for exam in (record.exam_before, record.exam_after))
    before, after = ([r.to_dict() for r in exam.results.get(record.id, ())] for exam in exams)
    states = {state.digest: state for state in ledger.history()}
    parent = states.get(record.parent_state)
    return {
        # The last part of a path: where a model lies is nobody's business.
        "model": Path(ledger.base().source).name,
        "lesson": record.id,
        "title": record.lesson.title,
        "learned": record.at,
        "verdict": record.decision.get("verdict", ""),
        "seed": record.seed,
        "state": record.parent_state,
        "lessons_before": len(parent.lessons) if parent else None,
        "exam": {"before": before, "after": after},
        "versions": dict(record.versions),
    }


def _plain(text: str) -> str:
    """Text of a stranger as a terminal may show it: on one line, and not endless."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST])


@dataclass(frozen=True)
class Arrival:
    """A lesson that was read from a file and may be examined here."""

    portable: Portable
    lesson: Lesson
    recipe: Recipe
    file: str
    """SHA-256 of the file's bytes."""

    @property
    def seed(self) -> int:
        """The seed that it was learned with, 0 where the card does not say."""
        found = self.portable.card.get("seed")
        return found if isinstance(found, int) and 0 <= found < 2**63 else 0

    def origin(self, state: str) -> dict[str, Any]:
        """Where it came from, as the ledger keeps it; ``state`` is the one in force here."""
        card = self.portable.card
        found: dict[str, Any] = {"file": self.file, "content": self.lesson.digest}
        found |= {key: _plain(card[key]) for key in TOLD if isinstance(card.get(key), str)}
        if isinstance(card.get("versions"), dict):
            kept = list(card["versions"].items())[:MOST]
            found["versions"] = {_plain(str(name)): _plain(str(value)) for name, value in kept}
        return {**found, "same_weights": card.get("state") == state}


def arrived(path: Path, ledger: Ledger) -> Arrival:
    """The lesson of a file, checked as far as can be without the model.

    Raises:
        LessonFileError: the file is damaged, or holds no lesson that can be examined.
        OtherBaseError: it was learned on another base.
        UsageError: the same adapter is in force already.
    """
    portable = Portable.read(path, ledger.base().digest)
    lesson = portable.lesson
    if lesson is None or not lesson.facts():
        raise LessonFileError(
            f"{path} holds {'no texts to examine' if lesson else 'a lesson zero'}.",
            remedy="A lesson zero comes with engrain; give a lesson that was learned.",
        )
    state = ledger.current()
    pairs = zip(state.adapters, state.lessons, strict=True)
    if known := dict(pairs).get(portable.adapter_digest):
        raise UsageError(
            f"{path} is in force already, as lesson {known}.",
            remedy=f"See `engrain lessons show {known}`.",
        )
    try:
        recipe = Recipe.from_dict(dict(portable.recipe))
    except EngrainError as error:
        raise LessonFileError(
            f"{path} was learned by a recipe that is not known here: {error.message}",
            remedy="Update engrain, or install the package that has the technique.",
        ) from error
    if recipe.name == MANNERS:
        raise LessonFileError(
            f"{path} calls itself a lesson zero.", remedy="Give a lesson that was learned."
        )
    lesson = replace(lesson, title=_plain(lesson.title))
    return Arrival(portable, lesson, recipe, file_sha256(path))


def check_fit(arrival: Arrival, base: Mapping[str, Tensor], path: Path) -> None:
    """Check that an arrived adapter changes what the base has, and nothing else.

    Raises:
        LessonFileError: it does not.
    """
    try:
        adapter = Adapter.from_bytes(arrival.portable.adapter)
        registry.get("architecture", adapter.architecture)
        why = unfit(adapter, base)
    except EngrainError as error:
        why = error.message
    except Exception as error:
        # safetensors says in its own ways that bytes are none.
        why = f"{type(error).__name__}: {str(error)[:200]}"
    if why:
        raise LessonFileError(
            f"The adapter in {path} can't be used: {why.rstrip('.')}.",
            remedy="Get the file again, or have it exported again.",
        )
