"""``engrain methods``: the techniques and recipes, as the registry knows them."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, Field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.session import Answer, Session, verb
from engrain.errors import UnknownNameError

if TYPE_CHECKING:
    from engrain.learn.technique import Technique


@verb("list", examples="engrain methods list\nengrain methods list --json")
def list_(session: Session) -> Answer:
    """List all techniques by category with their settings, and the recipes."""
    from engrain.learn import registry
    from engrain.learn.recipe import named, names
    from engrain.learn.technique import CATEGORIES

    techniques = [
        describe(registry.get(category, name))
        for category in CATEGORIES
        for name in registry.names(category)
    ]
    recipes = [{"name": name, "summary": named(name).description} for name in names()]
    lines = []
    for category in CATEGORIES:
        lines += [category]
        for item in techniques:
            if item["category"] == category:
                lines += [f"  {item['name']}: {item['summary']}", *_settings(item, "      ")]
    lines += ["recipes", *(f"  {item['name']}: {item['summary']}" for item in recipes)]
    brief = [item["name"] for item in (*techniques, *recipes)]
    return Answer({"techniques": techniques, "recipes": recipes}, "\n".join(lines), brief)


@verb("show", examples="engrain methods show kl_anchor\nengrain methods show default")
def show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A technique, CATEGORY/NAME, or a recipe.")
    ],
) -> Answer:
    """Explain a technique, or spell a recipe out."""
    from engrain.learn import recipe as recipes
    from engrain.learn import registry
    from engrain.learn.technique import CATEGORIES

    wanted, _, inner = name.partition("/")
    known = {(c, n): registry.get(c, n) for c in CATEGORIES for n in registry.names(c)}
    found = [cls for (c, n), cls in known.items() if name == n or (wanted, inner) == (c, n)]
    if found:
        described = [describe(cls) for cls in found]
        text = "\n\n".join(
            "\n".join([f"{d['category']}/{d['name']}", "", d["words"], "", *_settings(d, "  ")])
            for d in described
        )
        return Answer({"techniques": described}, text.rstrip(), [d["name"] for d in described])
    if name in recipes.names():
        recipe = recipes.named(name)
        spelled = recipe.to_dict()
        text = f"{recipe.description}\n\n{json.dumps(spelled, indent=2)}"
        data = {"recipe": spelled, "summary": recipe.description, "digest": recipe.digest}
        return Answer(data, f"{text}\n\ndigest {recipe.digest}", [name])
    raise UnknownNameError("technique or recipe", name, [*(n for _, n in known), *recipes.names()])


def describe(cls: type[Technique]) -> dict[str, Any]:
    """A technique as its code describes it."""
    words = _prose(inspect.getdoc(import_module(cls.__module__)) or inspect.getdoc(cls) or "")
    return {
        "category": cls.category,
        "name": cls.name,
        "summary": " ".join(words.split("\n\n")[0].split()),
        "words": words,
        "module": cls.__module__,
        "settings": [_setting(spec) for spec in fields(cls.Config)],
    }


def _setting(spec: Field[Any]) -> dict[str, Any]:
    default = spec.default
    if default is MISSING and spec.default_factory is not MISSING:
        default = spec.default_factory()
    return {
        "name": spec.name,
        "default": None if default is MISSING else default,
        "low": spec.metadata.get("low"),
        "high": spec.metadata.get("high"),
        "choices": list(spec.metadata.get("choices", ())),
        "help": spec.metadata.get("help", ""),
    }


def _settings(described: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for item in described["settings"]:
        bounds = ""
        if item["low"] is not None or item["high"] is not None:
            ends = ("any" if end is None else f"{end:g}" for end in (item["low"], item["high"]))
            bounds = f" [{' to '.join(ends)}]"
        elif item["choices"]:
            bounds = f" [{' or '.join(item['choices'])}]"
        lines.append(f"{indent}{item['name']} = {item['default']}{bounds}: {item['help']}")
    return lines


def _prose(docstring: str) -> str:
    """A docstring without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", docstring)
    return re.sub(r"::$", ":", text.replace("``", "`"), flags=re.MULTILINE).strip()
