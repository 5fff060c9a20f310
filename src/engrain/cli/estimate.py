"""``engrain estimate``: what a lesson would take, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from engrain.cli.learn import cost
from engrain.cli.session import Answer, Session, Settings, overrides, verb

if TYPE_CHECKING:
    from engrain.lesson.cost import Estimate

EXAMPLES = """
engrain estimate conversation.json
engrain estimate last --recipe naive-full
engrain estimate examples.jsonl --set batch_size=2 --json
"""


@verb("estimate", examples=EXAMPLES)
def estimate(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONVERSATION",
            help="A .json or .jsonl file of conversations or examples; a chat's name; or 'last'.",
        ),
    ] = "last",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Recipe (see `engrain methods list`)."),
    ] = None,
    set_: Settings = None,
) -> Answer:
    """Tell seconds and peak memory of a lesson; nothing is learned.

    The first time, a few passes of the model and small steps of this recipe are timed on this
    machine; all else is counted. What would not fit into memory is not timed. The exit code is 0
    either way; `engrain learn` refuses it.
    """
    home = session.home(overrides(set_))
    with session.progress("Timing the machine"):
        found = home.estimate(source, recipe=recipe)
    return Answer(found.to_dict(), "\n".join(_lines(found)), _brief(found))


def _brief(found: Estimate) -> list[str]:
    seconds = "-" if found.seconds is None else f"{found.seconds:.0f}"
    return [f"{seconds} {found.memory.peak_bytes}"]


def _lines(found: Estimate) -> list[str]:
    from engrain.exam.report import number, size

    lines = [f"Recipe {found.recipe}. {cost(found)}", ""]
    if found.writer:
        name = "the model itself" if found.writer == "self" else found.writer
        lines[1:1] = [f"Questions are asked by {name}: {found.why}."]
    rows = [(_words(name), f"{number(value, 1)} s") for name, value in found.parts.items()]
    if found.once_seconds:
        rows.append(("the untaught model's panel, once", f"{number(found.once_seconds, 1)} s"))
    if found.further_seconds:
        rows.append(("a second round, if needed", f"{number(found.further_seconds, 1)} s"))
    for name, parts in found.memory.phases.items():
        rows += [("", ""), (f"memory in {_words(name)}", size(sum(parts.values())))]
        shown = sorted(parts.items(), key=lambda item: -item[1])
        rows += [(f"  {_words(part)}", size(count)) for part, count in shown if count]
    wide = max(len(words) for words, _ in rows)
    lines += [f"{words:<{wide}}  {figure:>10}".rstrip() for words, figure in rows]
    return lines


def _words(name: str) -> str:
    return name.replace("_", "-")
