"""The registry of techniques: one file each, registered by one decorator, found by name.

A technique belongs to the category of the base class that it extends (see
:mod:`engrain.learn.technique`). Built-in files are found by importing the category's folder; other
packages add theirs through the entry-point group ``engrain.techniques``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any, TypeVar

from engrain.errors import ConfigError, UnknownNameError
from engrain.learn.technique import CATEGORIES, Technique

T = TypeVar("T", bound=type[Technique])

_techniques: dict[str, dict[str, type[Technique]]] = {category: {} for category in CATEGORIES}
_scanned: set[str] = set()


def register(name: str) -> Callable[[T], T]:
    """Register a technique class under a name in the category of its base class.

    Raises:
        ConfigError: the class belongs to no category, has no ``Config``, or the name is taken.

    Example:
        >>> @register("half_adamw")                                        # doctest: +SKIP
        ... class HalfAdamW(Optimization): ...
    """

    def decorate(cls: T) -> T:
        category = getattr(cls, "category", "")
        if category not in _techniques:
            raise ConfigError(
                f"{cls.__qualname__} can't be registered: it extends no category.",
                remedy=f"Extend one of {', '.join(CATEGORIES)} in engrain.learn.technique.",
            )
        taken = _techniques[category].get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"The {category} technique {name!r} is registered twice: "
                f"{taken.__module__}.{taken.__qualname__} and {cls.__module__}.{cls.__qualname__}.",
                remedy="Choose another name.",
            )
        cls.name = name
        _techniques[category][name] = cls
        return cls

    return decorate


def _scan(category: str) -> None:
    if category not in _techniques:
        raise UnknownNameError("category", category, CATEGORIES)
    if category in _scanned:
        return
    _scanned.add(category)
    package = importlib.import_module(f"engrain.learn.{category}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group="engrain.techniques"):
        entry.load()


def names(category: str) -> list[str]:
    """The names of a category's techniques, sorted."""
    _scan(category)
    return sorted(_techniques[category])


def get(category: str, name: str) -> type[Technique]:
    """The technique of that name.

    Raises:
        UnknownNameError: there is none; near names are proposed.
    """
    _scan(category)
    try:
        return _techniques[category][name]
    except KeyError:
        raise UnknownNameError(f"{category} technique", name, _techniques[category]) from None


def build(category: str, name: str, settings: dict[str, Any] | None = None) -> Technique:
    """A technique with its hyper-parameters, checked.

    Raises:
        UnknownNameError: no such technique, or no such hyper-parameter.
        ConfigError: a value out of its range.
    """
    cls = get(category, name)
    settings = dict(settings or {})
    known = {field.name: field for field in fields(cls.Config)}
    for key in settings:
        if key not in known:
            raise UnknownNameError(f"setting of {category} {name!r}", key, known)
    try:
        return cls(cls.Config(**settings))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The {category} technique {name!r} refuses its settings: {error}.",
            remedy=f"See `engrain methods show {name}`.",
        ) from error
