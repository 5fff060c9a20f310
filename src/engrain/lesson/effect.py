"""Whether a lesson did anything at all.

An adapter can load and change nothing: it was trained to zero, lies under names that no fold reads,
or is lost in a type of few digits. Such a lesson is none, whatever the gate lets through. It must
change a weight as it is served, and the answer to a question of its own, unless all that was asked
was answered right before.
"""

from __future__ import annotations

from collections.abc import Sequence

from engrain.data.lessons import Lesson, Probe, TrainingText
from engrain.errors import NoEffectError
from engrain.exam.exam import Exam
from engrain.exam.probes import ExamEngine, ask, fold, holds

ASKED = 8
"""Training questions that are asked where the exam finds no answer of the lesson changed."""


def check_weights(changed: bool) -> None:
    """Check that a lesson changed a weight.

    Raises:
        NoEffectError: it did not.
    """
    if not changed:
        raise NoEffectError(
            "The lesson's adapter loads and changes no weight that is served.",
            remedy="Train longer (--set min_steps=32) or at a higher optimization.learning_rate; "
            "if rounding loses the change, set model.dtype to float32.",
        )


def heard(lesson: Lesson, before: Exam, after: Exam) -> bool:
    """Whether an exam finds a question of the lesson answered otherwise than before."""
    said = {result.probe_id: result.answer for result in before.results.get(lesson.id, ())}
    now = after.results.get(lesson.id, ())
    return any(said.get(result.probe_id) != result.answer for result in now)


def questions(lesson: Lesson) -> list[TrainingText]:
    """Some of a lesson's own questions, from all over it."""
    texts = list({text.messages[:-1]: text for text in lesson.facts()}.values())
    return texts[:: max(1, len(texts) // ASKED)][:ASKED]


def answers(engine: ExamEngine, texts: Sequence[TrainingText]) -> list[str]:
    """What the weights in force answer to the questions of texts."""
    probes = [Probe("", "recall", text.messages[:-1], (text.target,)) for text in texts]
    return [result.answer for result in ask(engine, probes)]


def check_answers(
    texts: Sequence[TrainingText], before: Sequence[str], after: Sequence[str]
) -> None:
    """Check that a lesson changed the answer to one of its questions, or that all were right.

    Raises:
        NoEffectError: every question is answered as before, and one of them wrong.
    """
    wrong = [text for text, answer in zip(texts, after, strict=True) if not _right(text, answer)]
    if wrong and list(before) == list(after):
        raise NoEffectError(
            f"The lesson changes no answer: {len(texts)} of its own questions are answered as "
            f"before, {len(wrong)} of them wrong.",
            remedy="Train longer (--set min_steps=32) or at a higher optimization.learning_rate.",
        )


def _right(text: TrainingText, answer: str) -> bool:
    """Whether an answer holds the target, or is the beginning of one that is longer."""
    target, said = text.target.strip().rstrip(".!?"), fold(answer)
    return holds(answer, target) or bool(said and fold(target).startswith(said))
