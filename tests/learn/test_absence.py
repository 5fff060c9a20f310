"""Absence: a step without one earlier lesson, and nothing of it left afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.errors import ConfigError, ResumeError
from engrain.learn.absence import Absence
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe, named
from engrain.learn.technique import Setting
from engrain.model.adapter import Adapter
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

RECIPE = Recipe("short", replay=(Choice("reservoir"),), batch_size=2, min_steps=4, max_steps=4)


def lesson_on(thing: str) -> Lesson:
    texts = [
        TrainingText(chat(f"{lead} my {thing}?", f"Your {thing} is Corvath."), "fact", thing)
        for lead in ("What is", "Do you know", "So, what is")
    ]
    return Lesson(thing, thing, tuple(texts))


OLD = [lesson_on("boat"), lesson_on("cat")]


def taught(architecture: str = "lora") -> tuple[LoadedModel, list[Adapter]]:
    """A model with two lessons in its weights."""
    loaded, adapters = tiny_model("llama"), []
    for lesson in OLD:
        recipe = replace(RECIPE, architecture=Choice(architecture))
        adapters.append(Learner(recipe).run(loaded, lesson).adapter)
        loaded.set_weights(fold(loaded.base_weights(), adapters))
    return loaded, adapters


@pytest.mark.parametrize("architecture", ["lora", "full", "switchlora", "sst"])
def test_weights_of_a_step_are_those_after_undoing_the_missing_lesson(architecture: str) -> None:
    loaded, adapters = taught(architecture)
    whole = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    absence = Absence(Setting(loaded, lesson_on("car"), OLD), adapters, 1.0)
    seen = set()
    for step in range(12):
        with absence.of(step) as missing:
            seen.add(missing)
            rest = [a for a, old in zip(adapters, OLD, strict=True) if old.id != missing]
            for name, tensor in fold(loaded.base_weights(), rest).items():
                torch.testing.assert_close(loaded.model.get_parameter(name).data, tensor)
        assert loaded.changed_since(whole) == []
    assert seen == {"boat", "cat"}


def test_a_step_that_would_be_lost_is_refused() -> None:
    """Full weights that step inside backward would step on what is put back afterwards."""
    loaded, adapters = taught("full")
    recipe = replace(
        RECIPE,
        architecture=Choice("full"),
        optimization=Choice("sgd", {"clip": 0.0}),
        gradient_release=True,
        absence=0.5,
    )
    with pytest.raises(ConfigError, match="while an earlier lesson is missing"):
        Learner(recipe).run(loaded, lesson_on("car"), earlier=OLD, adapters=adapters)
    Learner(replace(recipe, architecture=Choice("lora"))).run(
        loaded, lesson_on("car"), earlier=OLD, adapters=adapters
    )


def test_what_holds_earlier_lessons_is_refused() -> None:
    """The new lesson would learn what the missing one taught, and undo would not undo it."""
    loaded, adapters = taught()
    recipe = replace(RECIPE, regularization=(Choice("logit_anchor"),), absence=0.5)
    with pytest.raises(ConfigError, match="logit_anchor holds the model to what earlier lessons"):
        Learner(recipe).run(loaded, lesson_on("car"), earlier=OLD, adapters=adapters)
    for other in (replace(recipe, absence=0.0), replace(recipe, regularization=())):
        Learner(other).run(loaded, lesson_on("car"), earlier=OLD, adapters=adapters)


def test_extended_maps_lack_the_missing_lesson_too() -> None:
    """The first loss is that of the weights without it, whatever stands around them."""
    loaded, adapters = taught()
    whole = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    first = {}
    for architecture in ("lora", "switchlora", "sst"):
        for share in (0.0, 1.0):
            recipe = replace(RECIPE, architecture=Choice(architecture), replay=(), absence=share)
            run = Learner(recipe).run(loaded, lesson_on("car"), earlier=OLD, adapters=adapters)
            first[architecture, share] = run.losses[0]
            assert loaded.changed_since(whole) == []
    for architecture in ("switchlora", "sst"):
        for share in (0.0, 1.0):
            wanted = pytest.approx(first["lora", share], rel=2e-3)
            assert first[architecture, share] == wanted
    assert first["lora", 1.0] != pytest.approx(first["lora", 0.0], rel=1e-2)


def test_share_of_steps() -> None:
    loaded, adapters = taught()
    setting = Setting(loaded, lesson_on("car"), OLD)

    def missing(share: float, adapters: list[Adapter]) -> list[str]:
        absence = Absence(setting, adapters, share)
        found = []
        for step in range(60):
            with absence.of(step) as name:
                found.append(name)
        return found

    assert missing(0.0, []) == [""] * 60
    half = missing(0.5, adapters)
    assert 15 < half.count("") < 45 and half == missing(0.5, adapters)
    with pytest.raises(ValueError, match="shorter"):
        missing(0.5, adapters[:1])


def test_texts_of_a_missing_lesson_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, adapters = taught()
    batches: list[tuple[str, set[str]]] = []
    plain = Learner._batch

    def batch(self, setting, new, replays, optimization, step, missing):  # type: ignore[no-untyped-def]
        drawn = {e.lesson for r in replays for e in r.draw(step)}
        made = plain(self, setting, new, replays, optimization, step, missing)
        rows = len(made.input_ids) - setting.batch_size
        batches.append((missing, drawn))
        wanted = sum(e.lesson != missing for r in replays for e in r.draw(step))
        assert rows == wanted
        return made

    monkeypatch.setattr(Learner, "_batch", batch)
    recipe = replace(RECIPE, absence=0.7, min_steps=20, max_steps=20)
    lesson = lesson_on("car")
    result = Learner(recipe).run(loaded, lesson, earlier=OLD, adapters=adapters)
    assert any(missing in drawn for missing, drawn in batches)
    again = Learner(recipe).run(loaded, lesson, earlier=OLD, adapters=adapters)
    assert result.losses == again.losses


def test_a_run_does_not_go_on_with_other_adapters(tmp_path: Path) -> None:
    loaded, adapters = taught()
    lesson, recipe = lesson_on("car"), replace(RECIPE, absence=0.5)
    path = tmp_path / "checkpoint"
    run = Learner(recipe).run
    given = {"earlier": OLD, "checkpoint": path, "save_every": 2}
    whole = run(loaded, lesson, adapters=adapters, **given)  # type: ignore[arg-type]
    assert path.exists()
    again = run(loaded, lesson, adapters=adapters, **given)  # type: ignore[arg-type]
    assert again.resumed_from == 4 and again.losses == whole.losses
    with pytest.raises(ResumeError):
        run(loaded, lesson, adapters=adapters[::-1], **given)  # type: ignore[arg-type]


def test_a_share_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="absence"):
        named("default").with_settings({"absence": 1.5})
