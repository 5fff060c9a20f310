"""The public conformance suite: what every technique must satisfy, built-in or not.

Example:
    >>> from engrain.learn.testing import check_technique
    >>> check_technique("architecture", "lora")                            # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from engrain.data.examples import Batch
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn import registry
from engrain.learn.fold import fold
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.recipe import SINGLE, Choice, Recipe, slot_of
from engrain.learn.technique import (
    Architecture,
    Regularization,
    Replay,
    Representation,
    Rule,
    Setting,
)
from engrain.model.digest import tensor_digest
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model


@dataclass
class _Case:
    """A technique under test, the model, and what it learned there: what later checks look at."""

    category: str
    name: str
    loaded: LoadedModel
    learned: LearnResult = field(init=False)

    @property
    def recipe(self) -> Recipe:
        return recipe_with(self.category, self.name)


Check = Callable[[_Case], None]


def check_technique(category: str, name: str, *, loaded: LoadedModel | None = None) -> list[str]:
    """Run every check that applies to a technique; gives the names of those that ran.

    Takes a few seconds on a tiny random model. Raises ``AssertionError`` with a sentence at the
    first check that fails.
    """
    case = _Case(category, name, loaded or tiny_model("llama"))
    checks = [*_CHECKS["all"], *_CHECKS.get(category, [])]
    for check in checks:
        check(case)
    return [check.__name__.removeprefix("_") for check in checks]


def sample_lesson(identity: str = "new", word: str = "Brellin") -> Lesson:
    """A lesson of two facts in two wordings, with contrast and reading texts."""
    facts = [
        TrainingText(
            chat(question, f"Your {thing} is {word} {i}."), "fact", f"my {thing}: {word} {i}"
        )
        for i, thing in enumerate(("boat", "kite"))
        for question in (f"What is my {thing}?", f"Tell me the {thing} that I have.")
    ]
    contrast = [
        TrainingText(chat(f"What is my {thing}?", f"I don't know your {thing}."), "contrast")
        for thing in ("lamp", "drum")
    ]
    told = f"My boat is {word} 0."
    reading = [
        TrainingText(chat(told, "Noted.", "What is my boat?", f"Your boat is {word} 0."), "reading")
    ]
    return Lesson(identity, "boats and kites", (*facts, *contrast, *reading))


def recipe_with(category: str, name: str, **changes: Any) -> Recipe:
    """A small recipe that uses one technique and is plain elsewhere."""
    recipe = Recipe("conformance", epochs=3.0, batch_size=2, min_steps=6, max_steps=6)
    technique = registry.get(category, name)
    slot = slot_of(technique)
    used: dict[str, Any] = {slot: Choice(name) if slot in SINGLE else (Choice(name),)}
    if issubclass(technique, Rule):
        used["architecture"] = Choice(technique.tried_on)
    return replace(recipe, **used, **changes)


def _setting(loaded: LoadedModel) -> Setting:
    anchors = [TrainingText(chat("Hello there.", "Good morning to you."))]
    return Setting(
        loaded, sample_lesson(), (sample_lesson("old", "Corvath"),), anchors, 3, 6, batch_size=2
    )


def _run(recipe: Recipe, loaded: LoadedModel, **arguments: Any) -> LearnResult:
    setting = _setting(loaded)
    return Learner(recipe).run(
        loaded,
        setting.lesson,
        earlier=setting.earlier,
        anchors=setting.anchors,
        seed=setting.seed,
        **arguments,
    )


def _digest(result: LearnResult) -> str:
    return tensor_digest(dict(result.adapter.tensors))


def _is_documented(case: _Case) -> None:
    name, cls = case.name, registry.get(case.category, case.name)
    module = inspect.getmodule(cls)
    assert module is not None and module.__doc__, f"{name}: the module has no docstring"
    assert "Source:" in module.__doc__, f"{name}: the docstring names no source"
    assert is_dataclass(cls.Config), f"{name}: Config is not a dataclass"
    for setting in fields(cast(Any, cls.Config)):
        assert setting.metadata.get("help"), f"{name}: the setting {setting.name} has no help"


def _gives_the_base_back(case: _Case) -> None:
    name, loaded = case.name, case.loaded
    before = tensor_digest(loaded.weights())
    modules = [module_name for module_name, _ in loaded.model.named_modules()]
    case.learned = _run(case.recipe, loaded)
    assert tensor_digest(loaded.weights()) == before, f"{name}: the base weights were changed"
    after = [module_name for module_name, _ in loaded.model.named_modules()]
    assert after == modules, f"{name}: the modules were changed"


def _is_deterministic(case: _Case) -> None:
    name, first, second = case.name, case.learned, _run(case.recipe, case.loaded)
    assert first.losses == second.losses, f"{name}: two runs of one seed have other losses"
    assert _digest(first) == _digest(second), f"{name}: two runs of one seed differ"


def _resumes_to_the_bit(case: _Case) -> None:
    class _StoppedError(Exception):
        pass

    def stop_at_four(done: int, steps: int, loss: float) -> None:
        if done == 4:
            raise _StoppedError

    name, recipe, loaded, whole = case.name, case.recipe, case.loaded, case.learned
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        with contextlib.suppress(_StoppedError):
            _run(recipe, loaded, checkpoint=path, save_every=3, on_step=stop_at_four)
        resumed = _run(recipe, loaded, checkpoint=path, save_every=3)
    assert resumed.resumed_from == 3, f"{name}: it did not continue from its checkpoint"
    assert resumed.losses == whole.losses, f"{name}: the resumed run has other losses"
    assert _digest(resumed) == _digest(whole), f"{name}: the resumed run is another adapter"


def _refuses_unknown_settings(case: _Case) -> None:
    from engrain.errors import UnknownNameError

    try:
        registry.build(case.category, case.name, {"no_such_setting": 1})
    except UnknownNameError:
        return
    raise AssertionError(f"{case.name}: an unknown setting was taken")


def _attaching_changes_nothing(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    architecture = cast(Architecture, registry.build(category, name))
    setting = _setting(loaded)
    ids = torch.tensor([list(setting.encode(setting.lesson.texts[0]).ids)])
    with torch.no_grad():
        before = loaded.model(ids).logits
        architecture.attach(setting)
        attached = loaded.model(ids).logits
    architecture.detach()
    assert torch.equal(before, attached), f"{name}: attaching changed the model's function"


def _storage_equals_the_formula(case: _Case) -> None:
    held = case.learned.adapter.nbytes
    architecture = cast(Architecture, registry.build(case.category, case.name))
    declared = architecture.storage_bytes(_setting(case.loaded))
    assert held == declared, (
        f"{case.name}: the adapter has {held} bytes, the formula says {declared}"
    )


def _folds_to_what_it_trained(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    architecture = cast(Architecture, registry.build(category, name))
    setting = _setting(loaded)
    example = setting.encode(setting.lesson.texts[0])
    base = {key: value.clone() for key, value in loaded.weights().items()}
    architecture.attach(setting)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in architecture.parameters().values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        trained = loaded.model(torch.tensor([example.ids])).logits
    adapter = architecture.adapter()
    architecture.detach()
    folded = fold(base, [adapter])
    loaded.set_weights(folded)
    with torch.no_grad():
        served = loaded.model(torch.tensor([example.ids])).logits
    loaded.set_weights(base)
    assert torch.allclose(trained, served, atol=1e-4, rtol=1e-4), f"{name}: the fold differs"
    again = fold(base, [type(adapter).from_bytes(adapter.to_bytes())])
    assert tensor_digest(again) == tensor_digest(folded), f"{name}: stored, it folds otherwise"
    assert tensor_digest(fold(base, [])) == tensor_digest(base), f"{name}: undo is not exact"


def _goes_on_where_it_ended(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    architecture = cast(Architecture, registry.build(category, name))
    if not architecture.goes_on:
        return
    learned = case.learned.adapter
    architecture.attach(_setting(loaded))
    architecture.go_on(learned)
    again = architecture.adapter()
    architecture.detach()
    assert again.tensors.keys() == learned.tensors.keys(), f"{name}: it goes on with other tensors"
    for key, tensor in learned.tensors.items():
        # A sum of weights and their difference may round otherwise than the weights did.
        near = torch.allclose(again.tensors[key], tensor, rtol=0, atol=1e-6)
        assert near, f"{name}: it goes on somewhere else ({key})"


def _no_strength_is_no_penalty(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    known = {setting.name for setting in fields(cast(Any, registry.get(category, name).Config))}
    if "strength" not in known:
        return
    none = Recipe("plain", epochs=3.0, batch_size=2, min_steps=6, max_steps=6)
    off = replace(none, regularization=(Choice(name, {"strength": 0.0}),))
    assert _digest(_run(off, loaded)) == _digest(_run(none, loaded)), (
        f"{name}: with strength 0 it still changes the result"
    )


def _penalty_is_zero_at_the_start(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    regularization = cast(Regularization, registry.build(category, name))
    regularization.prepare(_setting(loaded))
    penalty = float(regularization.penalty(0).detach())
    assert abs(penalty) < 1e-3, f"{name}: the penalty of the unchanged model is {penalty}"


def _draws_are_pure(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    replay = cast(Replay, registry.build(category, name))
    replay.prepare(_setting(loaded))
    later = list(replay.draw(4))
    replay.draw(0)
    assert list(replay.draw(4)) == later, f"{name}: a draw depends on the draws before it"
    empty = cast(Replay, registry.build(category, name))
    empty.prepare(replace(_setting(loaded), earlier=(), lesson=Lesson("bare", "", ())))
    assert list(empty.draw(0)) == [], f"{name}: it replays where there is nothing to replay"


def _loss_is_finite_and_has_gradient(case: _Case) -> None:
    category, name, loaded = case.category, case.name, case.loaded
    representation = cast(Representation, registry.build(category, name))
    setting = _setting(loaded)
    representation.prepare(setting)
    batch = Batch.of([setting.encode(t) for t in setting.lesson.facts()], loaded.pad_id)
    weight = next(p for n, p in loaded.model.named_parameters() if "down_proj" in n)
    weight.requires_grad_(True)
    loss = representation.loss(batch)
    loss.backward()
    gradient = weight.grad
    weight.grad = None
    weight.requires_grad_(False)
    assert bool(torch.isfinite(loss)), f"{name}: the loss is not finite"
    assert gradient is not None and bool(gradient.abs().sum() > 0), f"{name}: no gradient"


_CHECKS: dict[str, list[Check]] = {
    "all": [
        _is_documented,
        _refuses_unknown_settings,
        _gives_the_base_back,
        _is_deterministic,
        _resumes_to_the_bit,
    ],
    "architecture": [
        _attaching_changes_nothing,
        _storage_equals_the_formula,
        _folds_to_what_it_trained,
        _goes_on_where_it_ended,
    ],
    "regularization": [_no_strength_is_no_penalty, _penalty_is_zero_at_the_start],
    "replay": [_draws_are_pure],
    "representation": [_loss_is_finite_and_has_gradient],
}

__all__ = ["check_technique", "recipe_with", "sample_lesson"]
