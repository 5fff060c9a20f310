"""A lesson that changes nothing fails loudly: an adapter can load and do no more than that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.errors import NoEffectError
from engrain.exam.exam import Exam
from engrain.exam.probes import ProbeResult
from engrain.home import Home
from engrain.lesson import effect, stages, zero
from engrain.model.adapter import Adapter
from engrain.model.testing import save_tiny, tiny_model
from tests.home.home_tools import examples_file, live_digest, new_home

Opened = Callable[..., Home]
Change = Callable[[str, Tensor], tuple[str, Tensor]]


def learn_with(home: Home, patch: pytest.MonkeyPatch, change: Change, source: Path) -> Any:
    """Learn with a learner whose adapter comes out changed; gives the error's object."""
    really = stages.Learner.run

    def run(self: Any, *given: Any, **named: Any) -> Any:
        result = really(self, *given, **named)
        tensors = dict(change(name, t) for name, t in result.adapter.tensors.items())
        adapter = Adapter(result.adapter.architecture, tensors, result.adapter.settings)
        return replace(result, adapter=adapter)

    # Shown first: a home that was just opened holds the base weights as yet.
    home.served.refresh()
    before, live, lessons = home.state, live_digest(home), len(home.lessons())
    with patch.context() as patched, pytest.raises(NoEffectError) as caught:
        patched.setattr(stages.Learner, "run", run)
        home.learn(source)
    assert caught.value.remedy and caught.value.exit_code == 1
    assert home.state == before and live_digest(home) == live
    assert len(home.lessons()) == lessons and home.verify() == []
    # It would come out the same, to the bit: there is nothing to resume.
    assert home.jobs()[-1].status == "failed"
    assert not list(home.path.glob("jobs/*"))
    return caught.value


def zeroed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    return name, tensor * (0 if "lora_B" in name else 1)


def renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The names that the library gives inside of a model; its files have others."""
    return name.replace(".weight", ".default.weight"), tensor


def faint(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    return name, tensor * (1e-5 if "lora_B" in name else 1)


def fainter(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Seen in the digest, which is over fp32, and not by a model that computes in bf16."""
    return name, tensor * (1e-8 if "lora_B" in name else 1)


@pytest.mark.parametrize("change", [zeroed, renamed])
def test_an_adapter_that_loads_and_changes_no_weight(
    change: Change, taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = learn_with(taught, monkeypatch, change, examples_file(tmp_path, 4))
    assert "no weight" in error.message
    assert taught.learn(examples_file(tmp_path, 4)).accepted, "the same file, learned for true"


def test_a_change_that_rounding_loses_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_model("llama", hidden=32)
    made.model.to(torch.bfloat16)
    folder = save_tiny(made, tmp_path / "model")
    with new_home(tmp_path / "home", folder, **{"model.dtype": "bfloat16"}) as home:
        error = learn_with(home, monkeypatch, fainter, examples_file(tmp_path, 1))
    assert "no weight" in error.message and "float32" in error.remedy


@pytest.mark.parametrize("count", [3, 6])
def test_a_change_that_no_answer_shows(
    count: int, taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With probes that were held out, and of so few examples that none was."""
    error = learn_with(taught, monkeypatch, faint, examples_file(tmp_path, 4, count))
    assert "no answer" in error.message and "learning_rate" in error.remedy


def test_lesson_zero_must_change_a_weight(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import named
    from engrain.learn.testing import sample_lesson
    from engrain.model.loading import load_model

    loaded = load_model(str(model))
    recipe = named("naive-lora").with_settings({"min_steps": 2, "max_steps": 2})
    adapter = Learner(recipe).run(loaded, sample_lesson()).adapter
    tensors = dict(renamed(name, tensor) for name, tensor in adapter.tensors.items())
    raw = Adapter("lora", tensors, adapter.settings).to_bytes()
    portable = zero.Portable(loaded.base_digest, recipe.to_dict(), {}, raw)
    monkeypatch.setattr(zero, "shipped", lambda digest: portable)
    with pytest.raises(NoEffectError):
        new_home(tmp_path / "home", model)


# ---------------------------------------------------------------------------- the rule itself
LESSON = Lesson(
    "new",
    "",
    (
        TrainingText(chat("What is my boat called?", "Corvath."), "fact", "boat"),
        TrainingText(chat("Who is my boss?", "Your boss is Ines Meridian."), "explicit"),
        TrainingText(chat("Who is my aunt?", "I don't know."), "contrast"),
    ),
    (Probe("p", "recall", chat("My boat?"), ("Corvath",)),),
)


def exam(answer: str) -> Exam:
    return Exam("", {"new": (ProbeResult("p", "recall", False, answer),)})


def test_an_answer_of_the_exam_that_differs_is_enough() -> None:
    assert effect.heard(LESSON, exam("A boat."), exam("A ship."))
    assert not effect.heard(LESSON, exam("A boat."), exam("A boat."))
    assert not effect.heard(LESSON, Exam("", {}), Exam("", {}))


def test_what_is_asked_is_what_is_learned() -> None:
    asked = [text.question for text in effect.questions(LESSON)]
    assert asked == ["What is my boat called?", "Who is my boss?"]
    many = replace(
        LESSON,
        texts=tuple(TrainingText(chat(f"Question {i}?", "Yes."), "explicit") for i in range(100)),
    )
    asked = [text.question for text in effect.questions(many)]
    assert len(asked) == effect.ASKED and asked[-1] == "Question 84?"


@pytest.mark.parametrize(
    ("before", "after", "silent"),
    [
        (["A ship.", "Nobody."], ["A ship.", "Nobody."], True),
        (["Corvath", "Nobody."], ["Corvath", "Nobody."], True),
        (["A ship.", "Nobody."], ["A ship.", "Noone."], False),
        # Known before, and known still: a lesson that was not needed, but no broken one.
        (["It is Corvath.", "your boss is ines"], ["It is Corvath.", "your boss is ines"], False),
        (["Corvath", ""], ["Corvath", ""], True),
    ],
)
def test_a_changed_answer_or_all_of_them_right(
    before: list[str], after: list[str], silent: bool
) -> None:
    texts = effect.questions(LESSON)
    if not silent:
        effect.check_answers(texts, before, after)
        return
    with pytest.raises(NoEffectError, match="of them wrong"):
        effect.check_answers(texts, before, after)
