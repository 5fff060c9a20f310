"""``engrain learn``: a lesson from a conversation."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli import brought
from engrain.cli.outcomes import learned
from engrain.cli.session import (
    Answer,
    DryRun,
    Session,
    Settings,
    duration,
    overrides,
    resumable,
    verb,
)
from engrain.errors import UsageError

if TYPE_CHECKING:
    from engrain.data.lessons import Lesson
    from engrain.home import Home
    from engrain.lesson.cost import Estimate
    from engrain.lesson.job import How, Source
    from engrain.study.lesson import Preview

EXAMPLES = """
engrain learn conversation.json
engrain learn last --dry-run
engrain learn last --edit
engrain learn examples.jsonl --set optimization.learning_rate=1e-3
engrain learn export.zip --since 2026-01-01 --dry-run
"""
SHOWN = 6
"""Wordings of a fact that a dry run prints."""
DATES = ["%Y-%m-%d"]

Force = Annotated[
    bool, typer.Option("--force", help="Go on although more memory is needed than is free.")
]


@verb("learn", examples=EXAMPLES)
def learn(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONVERSATION",
            help="A file, .zip or folder of chats or examples; a chat's name; or 'last'.",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Recipe (see `engrain methods list`)."),
    ] = None,
    set_: Settings = None,
    require: Annotated[
        bool, typer.Option("--require", help="Report a refusal of the gate as an error.")
    ] = False,
    force: Force = False,
    edit: Annotated[
        bool, typer.Option("--edit", help="Open what would be learned in an editor first.")
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since", formats=DATES, metavar="DAY", help="Only chats of that day and later ones."
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until", formats=DATES, metavar="DAY", help="Only chats of that day and earlier ones."
        ),
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="The newest day first, not the oldest.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was learned before.")] = False,
    dry_run: DryRun = False,
) -> Answer:
    """Learn a conversation: study it, train, examine, let the gate decide.

    The lesson is served only if the gate accepts it. Otherwise the exit code is 3, the served
    weights are as they were, and the reasons are told.

    Of an export or a folder each day becomes a lesson, oldest first. What was learned before is
    left out, so the same command goes on where it was stopped.
    """
    home = session.home(overrides(set_))
    # Asked for first: a recipe that can't make a lesson is an error, whatever is brought.
    name = home.recipe(recipe).name
    days = {key: day.date() for key, day in (("since", since), ("until", until)) if day}
    with home.survey(source, newest_first=newest_first, again=again, **days) as found:
        how: How = {"recipe": recipe, "require": require, "force": force}
        if len(found.lots) != 1 or found.lots[0].job:
            return brought.many(session, home, found, edit=edit, dry_run=dry_run, **how)
        lot = found.lots[0]
        estimate = home.estimate(lot, recipe=recipe)
        if dry_run:
            with session.progress("Studying") as on_progress:
                preview = home.preview(lot, on_progress=on_progress)
            return brought.beside(found, previewed(preview, name, estimate), [preview])
        if not force:
            estimate.memory.check()
        for line in brought.left_out(found, brought.own_skips(found)):
            session.note(line)
        session.note(cost(estimate))
        seconds = estimate.seconds
        studied = edited(session, home, lot) if edit else None
        previews: list[Preview] = []
        with session.progress("Learning", seconds) as on_progress, resumable(home):
            how |= {"on_progress": on_progress, "on_studied": previews.append}
            outcome = home.learn(lot, studied, **how)
        return brought.beside(found, learned(outcome, seconds), previews)


def edited(session: Session, home: Home, source: Source) -> Lesson:
    """What a person makes of the lesson that self-study proposes."""
    import click

    from engrain.study.edit import from_text, to_text

    with session.progress("Studying") as on_progress:
        lesson = home.preview(source, on_progress=on_progress).lesson
    text = click.edit(to_text(lesson), extension=".lesson.txt")
    if text is None:
        raise UsageError(
            "The editor was closed without saving: nothing is learned.",
            remedy="Save the file to learn what it holds; EDITOR names the editor.",
        )
    return from_text(text, lesson)


def cost(estimate: Estimate) -> str:
    """What a lesson will take, in one line."""
    from engrain.exam.report import size

    memory = estimate.memory
    seconds = estimate.seconds
    time = "It was not timed; it takes" if seconds is None else f"About {duration(seconds)},"
    more = []
    if estimate.once_seconds >= 1:
        more.append(f"{duration(estimate.once_seconds)} once")
    if estimate.further_seconds >= 1:
        more.append(f"{duration(estimate.further_seconds)} if a second round is needed")
    once = f" (and {', '.join(more)})" if more else ""
    fit = "" if memory.fits else ": it does not fit"
    peak = f"{size(memory.peak_bytes)} of memory at most, {size(memory.free_bytes)} are free{fit}."
    return f"{time}{once} {peak}"


def previewed(preview: Preview, recipe: str, estimate: Estimate) -> Answer:
    """What a lesson would hold, and what would be left out and why."""
    data = {
        **preview.to_dict(),
        "dry_run": True,
        **estimate.to_dict(),
        "recipe": recipe,
    }
    return Answer(data, "\n".join([*_lines(data), cost(estimate)]), [data["title"]])


def _lines(data: dict[str, Any]) -> list[str]:
    texts = ", ".join(f"{count} {kind}" for kind, count in data["texts"].items()) or "no"
    lines = [f"{data['title']}: {texts} texts to train on, {data['probes']} probes held out."]
    for fact in data["facts"]:
        lines += [f"  learned   {fact['value']}  (said: {fact['said']})"]
        asked = fact["questions"]
        lines += [f"              asked: {question}" for question in asked[:SHOWN]]
        if len(asked) > SHOWN:
            lines.append(f"              and {len(asked) - SHOWN} wordings more (--json has all)")
        lines += [f"              probe: {question}" for question in fact["held_out"]]
        if fact.get("weak"):
            lines.append(
                f"              weak: no exam can show that it is known, since {fact['weak']}"
            )
    for entry in data["messages_left_out"]:
        place = f"message {entry['index'] + 1}: " if entry["index"] >= 0 else ""
        lines.append(f"  left out  {place}{entry['reason']}  {entry['excerpt']}".rstrip())
    for entry in data["examples_left_out"]:
        words = f"{entry['where']}: {entry['reason']}  {entry['excerpt']}"
        lines.append(f"  left out  {words}".rstrip())
    for entry in data["questions_refused"]:
        lines.append(f"  refused   {entry['question']}  ({entry['reason']})")
    lines += [f"  missed    {said}" for said in data["missed"]]
    if data["supersedes"]:
        lines.append(f"  corrects  {len(data['supersedes'])} answers of earlier lessons")
    return lines
