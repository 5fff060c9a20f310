"""A run that was interrupted goes on in the number format in which it began, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.errors import ResumeError
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.model.hardware import set_compute
from engrain.model.testing import tiny_model

RECIPE = replace(named("naive-lora"), min_steps=4, max_steps=4)
LESSON = Lesson(
    "boat", "", (TrainingText(chat("What is my boat called?", "Corvath."), "fact", "boat: C"),)
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No test leaves its choice to the others."""
    yield
    set_compute()


def test_a_checkpoint_of_another_compute_type_is_refused(tmp_path: Path) -> None:
    loaded, path = tiny_model("llama"), tmp_path / "checkpoint"
    set_compute("float32")
    whole = Learner(RECIPE).run(loaded, LESSON, checkpoint=path, save_every=2)
    set_compute("bfloat16")
    with pytest.raises(ResumeError, match="float32"):
        Learner(RECIPE).run(loaded, LESSON, checkpoint=path, save_every=2)
    other = Learner(RECIPE).run(loaded, LESSON)
    assert other.losses != whole.losses
    set_compute("float32")
    again = Learner(RECIPE).run(loaded, LESSON, checkpoint=path, save_every=2)
    assert again.resumed_from == 4 and again.losses == whole.losses
