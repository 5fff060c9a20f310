"""Fills the documentation from the code: a mkdocs hook.

A page holds a marker on a line of its own, such as ``<!-- generated: settings -->``; the line is
replaced by what the code says. Each technique gets a page of its own from its module docstring and
its hyper-parameters. Nothing is written into the docs folder.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import engrain
from engrain import config as engrain_config
from engrain.learn import recipe as recipes
from engrain.learn import registry
from engrain.learn.technique import CATEGORIES, Rule, meta_parameter

MATRIX = (576, 1536)
"""The shape on which the state of optimizations is told: a feed-forward matrix of SmolLM2-135M."""

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
MEASURED, LIVED = "optimizers.json", "optimizers-life.json"
DECIDES = {
    "architecture": "where the update lives",
    "optimization": "how a gradient becomes a step, and what holds the step (rules)",
    "regularization": "what is added to the loss",
    "replay": "what old data is mixed in",
    "representation": "what of the input is held fixed",
}
FIGURES = (
    ("state, bytes a trained number", "memory", "state_bytes_per_number"),
    ("peak above the weights, of their bytes", "memory", "peak_extra_over_weights"),
    ("a step against fused AdamW's", "time", "step_ratio"),
    ("its update against fused AdamW's", "time", "update_ratio"),
)
"""What :mod:`benchmarks.optimizers` measures in one process each: heading, part, key."""
LEARNED = (
    ("loss on a book", "book", "loss"),
    ("recall of facts", "facts", "recall_final"),
    ("forgetting of facts", "facts", "forgetting"),
    ("loss of the panel after the facts, %", "facts", "panel_change_percent"),
)
"""What it measures over seeds, with differences to ``adamw``: heading, part, figure."""
LONGER = (
    ("recall", "recall_final"),
    ("right after its lesson", "learning_accuracy"),
    ("forgetting", "forgetting"),
    ("loss of the panel, %", "panel_change_percent"),
)
"""The same of longer lives: heading, figure."""

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


# ---------------------------------------------------------------------------- the hook


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the techniques' pages into the navigation."""
    for entry in config.nav or []:
        if "Techniques" in entry:
            for category in CATEGORIES:
                pages = [{name: page_of(category, name)} for name in registry.names(category)]
                if pages:
                    entry["Techniques"].append({category.capitalize(): pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each technique."""
    for category in CATEGORIES:
        for name in registry.names(category):
            text = technique_page(category, name)
            files.append(File.generated(config, page_of(category, name), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page."""
    return MARKER.sub(lambda match: GENERATORS[match[1]](), markdown)


# ---------------------------------------------------------------------------- techniques, recipes


def page_of(category: str, name: str) -> str:
    """The path of a technique's page."""
    return f"techniques/{category}/{name}.md"


def technique_page(category: str, name: str) -> str:
    """A technique's page: what its module says, and its hyper-parameters."""
    cls = registry.get(category, name)
    module = import_module(cls.__module__)
    said = prose(inspect.getdoc(module) or inspect.getdoc(cls) or "")
    return "\n\n".join(
        (
            f"# {name}",
            f"*{category}*, class `{cls.__name__}` in `{cls.__module__}`",
            said,
            "## Hyper-parameters",
            settings_table(cls.Config),
            *figures_of(name),
        )
    )


def settings_table(cls: type[Any]) -> str:
    """A dataclass's fields as a table."""
    if not fields(cls):
        return "None."
    rows = []
    for field in fields(cls):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        low, high = field.metadata.get("low"), field.metadata.get("high")
        bounds = "" if low is None and high is None else f"{shown(low)} to {shown(high)}"
        rows.append((f"`{field.name}`", f"`{default!r}`", bounds, field.metadata.get("help", "")))
    return table(("name", "default", "range", "meaning"), rows)


def shown(bound: float | None) -> str:
    """One end of a range."""
    return "any" if bound is None else f"{bound:g}"


def techniques() -> str:
    """All techniques with the first sentence of each."""
    rows = []
    for category in CATEGORIES:
        for name in registry.names(category):
            rows.append((category, link_to(category, name), first_of(registry.get(category, name))))
    return table(("category", "name", "what it does"), rows)


def by_category() -> str:
    """The techniques of each category, by name."""
    rows = []
    for category in CATEGORIES:
        links = [link_to(category, name) for name in registry.names(category)]
        rows.append((category, DECIDES[category], ", ".join(links)))
    return table(("category", "decides", "in this version"), rows)


def link_to(category: str, name: str) -> str:
    """A link to a technique's page, from a page one folder deep."""
    return f"[{name}](../{page_of(category, name)})"


def first_of(cls: type[Any]) -> str:
    """The first paragraph of a technique's module."""
    said = prose(inspect.getdoc(import_module(cls.__module__)) or "")
    return " ".join(said.split("\n\n")[0].split())


def memory_of(cls: type[Any]) -> str:
    """What a technique's module says after "Memory:", up to the end of the sentence."""
    said = " ".join(prose(inspect.getdoc(import_module(cls.__module__)) or "").split())
    found = re.search(r"Memory: (.*?)(?:\.(?= [A-Z])|\.?$)", said)
    return found[1] if found else ""


def optimizations() -> str:
    """Every optimization, with the bytes of its state for a number of a matrix."""
    matrix = {"weight": meta_parameter(*MATRIX)}
    rows = []
    for name in registry.names("optimization"):
        cls = registry.get("optimization", name)
        if not issubclass(cls, Rule):
            technique: Any = registry.build("optimization", name)
            share = technique.state_bytes(matrix) / matrix["weight"].numel()
            rows.append(
                (link_to("optimization", name), first_of(cls), memory_of(cls), f"{share:.3g}")
            )
    rows_, columns = MATRIX
    last = f"bytes a number, {rows_} x {columns}"
    return table(("name", "what it does", "state", last), rows)


def rules() -> str:
    """Every rule, with what it keeps or saves."""
    rows = []
    for name in registry.names("optimization"):
        cls = registry.get("optimization", name)
        if issubclass(cls, Rule):
            rows.append((link_to("optimization", name), first_of(cls), memory_of(cls)))
    return table(("name", "what it does", "memory"), rows)


def named_recipes() -> str:
    """The named recipes and what they are made of."""
    rows = []
    for name in recipes.names():
        recipe = recipes.named(name)
        parts = [recipe.architecture, recipe.optimization, recipe.representation]
        parts += [*recipe.rules, *recipe.regularization, *recipe.replay]
        made_of = ", ".join(f"`{part.name}`" for part in parts)
        rows.append((f"`{name}`", recipe.description, made_of))
    return table(("recipe", "what it is", "made of"), rows)


# ---------------------------------------------------------------------------- measured


@cache
def measurements(name: str = MEASURED) -> dict[str, dict[str, Any]]:
    """The rows of a file of the optimizers' benchmark by contestant; none where it has not run."""
    if not (RESULTS / name).is_file():
        return {}
    record = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return {row["name"]: row for row in record.get("rows", [])}


def figures_of(name: str) -> list[str]:
    """A technique's own figures, under a heading; nothing where none were measured."""
    row = measurements().get(name)
    if row is None:
        return []
    cells = [(head, number(row.get(part, {}).get(key))) for head, part, key in FIGURES]
    for head, part, key in LEARNED:
        cells += [(head, mean_of(row, part, key))]
        if gap := difference_of(row, part, key):
            cells += [(f"{head}, difference to `adamw`", gap)]
    for part in ("book", "facts"):
        rate = number(row.get(part, {}).get("rate"))
        cells += [(f"learning rate of the {part}, the best of a grid", rate)]
    for head, key in LONGER if (longer := measurements(LIVED).get(name)) else ():
        cells += [(f"sixty facts: {head}", mean_of(longer, "facts", key))]
        if gap := difference_of(longer, "facts", key):
            cells += [(f"sixty facts: {head}, difference to `adamw`", gap)]
    said = "Measured by `python -m benchmarks.optimizers` ([how](../../explanation/optimizers.md))."
    return ["## Figures here", said, table(("figure", "value"), [c for c in cells if c[1]])]


def measured() -> str:
    """What a step of each optimization, rule and architecture takes."""
    return by_name(FIGURES, lambda row, part, key: number(row.get(part, {}).get(key)))


def learned() -> str:
    """What each learned, as differences to the baseline; the baseline's are means."""
    return by_name(
        [(f"{head}, to `adamw`", part, key) for head, part, key in LEARNED],
        lambda row, part, key: difference_of(row, part, key) or mean_of(row, part, key),
    )


def lived() -> str:
    """What longer lives left, a row for each learning rate: means, and differences to AdamW."""
    rows = []
    for name, row in measurements(LIVED).items():
        facts, category = row.get("facts", {}), row["kind"]
        link = link_to("architecture" if category == "architecture" else "optimization", name)
        runs = [one for one in (facts, *facts.get("beside", ())) if one.get("figures")]
        for one in sorted(runs, key=lambda one: one["rate"] or 0.0):
            times = "" if one is facts else f", {one['rate'] / facts['rate']:.3g} times its rate"
            cells = []
            for _, key in LONGER:
                gap = one["difference"].get(key, {})
                said = "" if gap.get("mean") is None else f"; {with_interval(gap)}"
                cells.append(f"{one['figures'][key]['mean']:.3g}{said}")
            rows.append((f"{link}{times}", f"{len(one['seeds'])}", *cells))
    head = ("name", "seeds", *(f"{head}; to `adamw`" for head, _ in LONGER))
    return table(head, rows) if rows else "Not measured yet."


def lived_to_best() -> str:
    """Differences to AdamW at the best of its rates over longer lives, where it is another."""
    rows = []
    for name, row in measurements(LIVED).items():
        best = row.get("facts", {}).get("to_best", {}).get("difference", {})
        if all(best.get(key, {}).get("mean") is not None for _, key in LONGER):
            link = link_to(
                "architecture" if row["kind"] == "architecture" else "optimization", name
            )
            rows.append((link, *(with_interval(best[key]) for _, key in LONGER)))
    return table(("name", *(head for head, _ in LONGER)), rows) if rows else "Not measured yet."


def by_name(
    figures: Sequence[tuple[str, str, str]],
    said: Callable[[dict[str, Any], str, str], str],
) -> str:
    """A row for each contestant of the optimizers' benchmark that any figure is known of."""
    rows = []
    for name, row in measurements().items():
        category = "architecture" if row["kind"] == "architecture" else "optimization"
        cells = [said(row, part, key) for _, part, key in figures]
        if any(cells):
            rows.append((link_to(category, name), *cells))
    return table(("name", *(head for head, *_ in figures)), rows) if rows else "Not measured yet."


def number(value: float | None) -> str:
    """Three digits; empty for what was not measured."""
    return "" if value is None else f"{value:.3g}"


def mean_of(row: dict[str, Any], part: str, key: str) -> str:
    """A mean over seeds, and how many they were."""
    found = row.get(part, {}).get("figures", {}).get(key, {})
    return "" if found.get("mean") is None else f"{found['mean']:.3f}{over(found)}"


def difference_of(row: dict[str, Any], part: str, key: str) -> str:
    """A mean difference to the baseline, seed by seed, with its 95% interval."""
    found = row.get(part, {}).get("difference", {}).get(key, {})
    return "" if found.get("mean") is None else f"{with_interval(found)}{over(found)}"


def with_interval(found: dict[str, Any]) -> str:
    """A mean difference, and its interval where there is one."""
    ends = found.get("interval") or {}
    if ends.get("low") is None or ends.get("high") is None:
        return f"{found['mean']:+.3f}"
    return f"{found['mean']:+.3f} [{ends['low']:+.3f}, {ends['high']:+.3f}]"


def over(found: dict[str, Any]) -> str:
    """How many seeds a mean is over."""
    return f" ({found['count']} seed{'s' if found['count'] > 1 else ''})"


# ---------------------------------------------------------------------------- reference


def settings() -> str:
    """The sections of the configuration."""
    parts = []
    for section in fields(engrain_config.Config):
        cls = type(getattr(engrain_config.Config(), section.name))
        said = prose(inspect.getdoc(cls) or "")
        parts.append(f"## [{section.name}]\n\n{said}\n\n{settings_table(cls)}")
    return "\n\n".join(parts)


def errors() -> str:
    """The tree of errors as the code draws it."""
    tree = inspect.getdoc(import_module("engrain.errors")) or ""
    return "```text\n" + inspect.cleandoc(tree.split("\n\n", 1)[1]) + "\n```"


def public_names() -> str:
    """Every public name with its signature and what it says of itself."""
    parts = []
    for name in engrain.__all__:
        if name.startswith("_"):
            continue
        value = getattr(engrain, name)
        try:
            signature = str(inspect.signature(value))
        except (TypeError, ValueError):
            signature = ""
        parts.append(f"## `{name}`\n\n```python\n{name}{signature}\n```")
        parts.append(prose(inspect.getdoc(value) or ""))
        if inspect.isclass(value) and not issubclass(value, Exception):
            parts.extend(methods(value))
    return "\n\n".join(parts)


def methods(cls: type[Any]) -> Iterator[str]:
    """The public methods and properties that a class defines itself."""
    rows = []
    for name, member in vars(cls).items():
        function = getattr(member, "__func__", member)
        said = inspect.getdoc(member) or inspect.getdoc(function) or ""
        if name.startswith("_") or not said:
            continue
        if isinstance(member, property) or inspect.isroutine(function):
            brackets = "" if isinstance(member, property) else "()"
            rows.append((f"`{name}{brackets}`", " ".join(prose(said).split("\n\n")[0].split())))
    if rows:
        yield table(("member", "what it does"), rows)


def commands() -> str:
    """Every command with its arguments and options."""
    from typer.main import get_command

    from engrain.cli import app

    return "\n\n".join(describe("engrain", get_command(app)))


def describe(path: str, command: Any) -> Iterator[str]:
    """A command and those below it; what all commands share is told once."""
    from engrain.cli.command import COMMON

    inner = getattr(command, "commands", {})
    if not inner or " " not in path:
        yield f"## `{path}`" if " " in path else "## Options of all commands"
        yield prose(inspect.cleandoc(command.help or ""))
        rows = [
            (f"`{spelled(option)}`", getattr(option, "help", "") or "")
            for option in command.params
            if not getattr(option, "hidden", False)
            and option.name != "help"
            and (" " not in path or option.name not in COMMON or option.metavar == "[FILE]")
        ]
        if rows:
            yield table(("argument or option", "meaning"), rows)
        if command.epilog:
            yield f"```sh\n{inspect.cleandoc(command.epilog)}\n```"
    for name, child in inner.items():
        if not child.hidden:
            yield from describe(f"{path} {name}", child)


def spelled(option: Any) -> str:
    """How an option is written on the command line."""
    if option.param_type_name == "argument":
        return str(option.metavar or option.name.upper())
    return ", ".join([*option.opts, *option.secondary_opts])


GENERATORS: dict[str, Callable[[], str]] = {
    "by_category": by_category,
    "commands": commands,
    "errors": errors,
    "learned": learned,
    "lived": lived,
    "lived_to_best": lived_to_best,
    "measured": measured,
    "optimizations": optimizations,
    "public_names": public_names,
    "recipes": named_recipes,
    "rules": rules,
    "settings": settings,
    "techniques": techniques,
}


# ---------------------------------------------------------------------------- text


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def prose(docstring: str) -> str:
    """A docstring as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring)
    text = text.replace("``", "`")
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^(Args|Returns|Raises|Example|Yields):$", r"**\1**\n", text, flags=re.MULTILINE)
    return text.strip()
