"""Recipes: one choice in each of five categories, with hyper-parameters and a digest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from engrain.data.lessons import Lesson, canonical_digest
from engrain.errors import ConfigError, UnknownNameError
from engrain.learn import registry
from engrain.learn.technique import Rule, Technique, check_kind


@dataclass(frozen=True)
class Choice:
    """A technique by name, with the hyper-parameters that differ from its defaults."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self, slot: str) -> dict[str, Any]:
        """All hyper-parameters, defaults included, as JSON-ready values."""
        technique = _built(slot, self)
        return {f.name: getattr(technique.config, f.name) for f in fields(technique.config)}


SINGLE = ("architecture", "optimization", "representation")
SEVERAL = ("rules", "regularization", "replay")
SLOTS = {
    "architecture": "architecture",
    "optimization": "optimization",
    "rules": "optimization",
    "regularization": "regularization",
    "replay": "replay",
    "representation": "representation",
}
"""The keys of a recipe that hold techniques, and the category that each takes them from."""


def slot_of(technique: type[Technique]) -> str:
    """The key of a recipe under which a technique is chosen."""
    return "rules" if issubclass(technique, Rule) else technique.category


@dataclass(frozen=True)
class Recipe:
    """How to learn a lesson.

    ``epochs`` counts passes over the lesson's own texts; ``batch_size`` counts those per step,
    replay comes on top. ``restart`` learns from the base weights instead of the served ones, with
    every earlier lesson as new text: the joint training that bounds continual learning from above.
    ``absence`` is the share of steps in which one earlier lesson is missing from the weights, so
    that it may be undone (:mod:`engrain.learn.absence`). ``rules`` hold the optimization to
    something (:class:`engrain.learn.technique.Rule`). ``gradient_release`` takes each
    parameter's step inside backward, so that one layer's gradient is alive at a time;
    ``mastery`` trains what is not known yet and ends when all is (:mod:`engrain.learn.mastery`);
    ``after_talk`` is the share of questions put after other talk (:mod:`engrain.learn.turns`);
    ``rounds`` 2 lets a second, shorter round follow where too few new facts are recalled;
    ``recompute`` keeps no activations inside layers and computes them again in backward.

    Example:
        >>> named("default").with_settings({"optimization.learning_rate": 1e-3}).name
        'default'
    """

    name: str
    description: str = ""
    architecture: Choice = Choice("lora")
    optimization: Choice = Choice("adamw")
    representation: Choice = Choice("full_context")
    rules: tuple[Choice, ...] = ()
    regularization: tuple[Choice, ...] = ()
    replay: tuple[Choice, ...] = ()
    epochs: float = 10.0
    batch_size: int = 12
    min_steps: int = 1
    max_steps: int = 400
    restart: bool = False
    absence: float = 0.0
    mastery: bool = False
    after_talk: float = 0.0
    rounds: int = 1
    gradient_release: bool = False
    recompute: bool = False

    def steps(self, lesson: Lesson) -> int:
        """Optimizer steps that a lesson takes."""
        return self.steps_for(len(lesson.balanced()))

    def steps_for(self, texts: int) -> int:
        """Optimizer steps for a number of new texts."""
        wanted = math.ceil(self.epochs * texts / self.batch_size)
        return max(self.min_steps, min(self.max_steps, wanted))

    def further(self, steps: int) -> Recipe:
        """The recipe of a second round: to mastery, in at most half the steps that the first took.

        It is trained to mastery whatever the first was: what is known is only kept.
        """
        most = max(1, steps // 2)
        least = min(self.min_steps, most)
        return replace(self, min_steps=least, max_steps=most, mastery=True, rounds=1)

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every hyper-parameter spelled out, as JSON-ready values."""
        record: dict[str, Any] = {
            "name": self.name,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "min_steps": self.min_steps,
            "max_steps": self.max_steps,
            "restart": self.restart,
            "absence": self.absence,
            "mastery": self.mastery,
            "after_talk": self.after_talk,
            "rounds": self.rounds,
            "gradient_release": self.gradient_release,
            "recompute": self.recompute,
        }
        for category in SINGLE:
            choice = getattr(self, category)
            record[category] = {"name": choice.name, **choice.resolved(category)}
        for category in SEVERAL:
            record[category] = [
                {"name": choice.name, **choice.resolved(category)}
                for choice in getattr(self, category)
            ]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Recipe:
        """The recipe that :meth:`to_dict` gave, or one written by hand.

        Raises:
            UnknownNameError: an unknown key, technique or hyper-parameter.
            ConfigError: a value of the wrong kind.
        """
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in record.items():
            if key not in known:
                raise UnknownNameError("recipe key", key, known)
            if key in SINGLE:
                values[key] = _choice(key, value)
            elif key in SEVERAL:
                values[key] = tuple(_choice(key, item) for item in value)
            else:
                values[key] = value
        recipe = cls(**values)
        recipe.build()
        return recipe

    @property
    def digest(self) -> str:
        """SHA-256 over the spelled-out recipe, as hex."""
        return canonical_digest(self.to_dict())

    def build(self) -> dict[str, list[Technique]]:
        """Fresh technique objects by the keys in :data:`SLOTS`.

        Raises:
            ConfigError: a value of the wrong kind or out of range.
        """
        self._check()
        built = {slot: [_built(slot, choice) for choice in self.choices(slot)] for slot in SLOTS}
        architecture = built["architecture"][0]
        if self.rounds > 1 and not getattr(architecture, "goes_on", False):
            raise ConfigError(
                f"The architecture {architecture.name!r} can't go on from what it learned, and the "
                f"recipe {self.name!r} has a second round.",
                remedy="Set rounds to 1, or take the architecture 'lora'.",
            )
        return built

    def choices(self, slot: str) -> tuple[Choice, ...]:
        """What is chosen under one of the keys in :data:`SLOTS`."""
        chosen: Choice | tuple[Choice, ...] = getattr(self, slot)
        return (chosen,) if isinstance(chosen, Choice) else chosen

    def _check(self) -> None:
        """Refuse own values that no run could use."""
        try:
            for spec in fields(self):
                check_kind(spec.name, getattr(self, spec.name), spec.default)
            for name in ("epochs", "batch_size", "min_steps", "max_steps"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} is {getattr(self, name)}, not above 0")
            for share in ("absence", "after_talk"):
                if not 0 <= getattr(self, share) <= 1:
                    raise ValueError(f"{share} is {getattr(self, share)}, outside [0, 1]")
            if self.rounds not in (1, 2):
                raise ValueError(f"rounds is {self.rounds}, not 1 or 2")
        except ValueError as error:
            raise ConfigError(
                f"The recipe {self.name!r} refuses its settings: {error}.",
                remedy="See `engrain methods show default` for one that works.",
            ) from error

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with settings replaced by dotted name.

        ``epochs`` and its like are the recipe's own; ``optimization.learning_rate`` reaches into
        the choice of a category; ``replay.reservoir.share`` names one of several;
        ``representation`` alone chooses another technique, ``rules`` alone one or several, as a
        list or with commas between them.

        Raises:
            UnknownNameError: no such setting.
        """
        recipe = self
        for key, value in settings.items():
            head, _, rest = key.partition(".")
            if not rest and head in {f.name for f in fields(Recipe)} - set(SLOTS):
                recipe = _changed(recipe, **{head: value})
            elif head in SINGLE and not rest:
                recipe = _changed(recipe, **{head: _choice(head, value)})
            elif head in SINGLE:
                choice = getattr(recipe, head)
                changed = Choice(choice.name, {**choice.settings, rest: value})
                recipe = _changed(recipe, **{head: changed})
            elif head in SEVERAL and not rest:
                names = value.split(",") if isinstance(value, str) else value
                chosen = tuple(_choice(head, n.strip() if isinstance(n, str) else n) for n in names)
                recipe = _changed(recipe, **{head: chosen})
            elif head in SEVERAL and "." in rest:
                name, _, setting = rest.partition(".")
                choices = getattr(recipe, head)
                if name not in {choice.name for choice in choices}:
                    raise UnknownNameError(
                        f"{head} in this recipe", name, [c.name for c in choices]
                    )
                changed_all = tuple(
                    Choice(c.name, {**c.settings, setting: value}) if c.name == name else c
                    for c in choices
                )
                recipe = _changed(recipe, **{head: changed_all})
            else:
                own = {f.name for f in fields(Recipe)} - set(SLOTS)
                raise UnknownNameError("recipe setting", key, own, remedy=_DOTTED)
        recipe.build()
        return recipe


def _built(slot: str, choice: Choice) -> Technique:
    technique = registry.build(SLOTS[slot], choice.name, dict(choice.settings))
    if slot_of(type(technique)) != slot:
        raise ConfigError(
            f"{choice.name!r} can't be chosen as {slot}.",
            remedy=f"Give it under {slot_of(type(technique))}.",
        )
    return technique


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, **changes)


_DOTTED = "Settings of techniques are dotted: optimization.learning_rate, replay.reservoir.share."


def _choice(category: str, value: Any) -> Choice:
    if isinstance(value, str):
        return Choice(value)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return Choice(value["name"], {k: v for k, v in value.items() if k != "name"})
    raise ConfigError(
        f"The recipe's {category} is {value!r}.",
        remedy='Give a technique\'s name, or {"name": ..., SETTING: ...}.',
    )


def _named() -> dict[str, Recipe]:
    naive: dict[str, Any] = {"epochs": 2.0, "batch_size": 6, "min_steps": 64}
    return {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "default",
                "One removable LoRA a lesson; earlier lessons and matched contrast replayed; "
                "general predictions held by a KL anchor.",
                architecture=Choice("lora", {"layers": 0.67}),
                optimization=Choice("adamw", {"learning_rate": 4e-3}),
                # What answers a long conversation is learned on the conversation's own cache; the
                # short questions of a closed book stay whole.
                representation=Choice("context_frozen", {"shortest": 256}),
                regularization=(Choice("kl_anchor"),),
                replay=(Choice("reservoir"), Choice("dream")),
                epochs=2.0,
                batch_size=6,
                min_steps=64,
                absence=0.5,
            ),
            Recipe(
                "chat",
                "For chat models of 135M and more: the parts of default, trained until each text "
                "is known, in small steps with half the anchors.",
                optimization=Choice("adamw", {"learning_rate": 7e-4}),
                representation=Choice("context_frozen", {"shortest": 256}),
                regularization=(Choice("kl_anchor", {"texts": 48, "texts_per_step": 1}),),
                replay=(Choice("reservoir", {"share": 0.5}), Choice("dream")),
                epochs=6.0,
                batch_size=4,
                min_steps=12,
                max_steps=48,
                absence=0.5,
                mastery=True,
                after_talk=0.35,
                rounds=2,
            ),
            Recipe("naive-lora", "LoRA on the new facts alone.", **naive),
            Recipe(
                "naive-full",
                "All weights on the new facts alone.",
                architecture=Choice("full"),
                optimization=Choice("adamw", {"learning_rate": 2e-4}),
                **naive,
            ),
            Recipe(
                "joint",
                "All lessons at once from the base weights: an upper bound, not continual.",
                optimization=Choice("adamw", {"learning_rate": 4e-3}),
                regularization=(Choice("kl_anchor"),),
                replay=(Choice("dream"),),
                epochs=2.0,
                batch_size=6,
                min_steps=64,
                max_steps=4000,
                restart=True,
            ),
        )
    }


def names() -> list[str]:
    """The names of the named recipes."""
    return list(_named())


def named(name: str) -> Recipe:
    """A named recipe.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = _named()
    if name not in known:
        raise UnknownNameError("recipe", name, known)
    return known[name]
