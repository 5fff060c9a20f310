"""``engrain learn``: a lesson from a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from engrain.lesson.stages import Outcome
    from engrain.study.lesson import Preview

EXAMPLES = """
engrain learn conversation.json
engrain learn last --dry-run
engrain learn last --edit
engrain learn examples.jsonl --set optimization.learning_rate=1e-3
"""
SHOWN = 6
"""Wordings of a fact that a dry run prints."""
REFUSED = 3
"""The exit code of a lesson that the gate refused."""

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
            help="A .json or .jsonl file of conversations or examples; a chat's name; or 'last'.",
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
    dry_run: DryRun = False,
) -> Answer:
    """Learn a conversation: study it, train, examine, let the gate decide.

    The lesson is served only if the gate accepts it. Otherwise the exit code is 3, the served
    weights are as they were, and the reasons are told.
    """
    home = session.home(overrides(set_))
    chosen = home.recipe(recipe)
    estimate = home.estimate(source, recipe=recipe)
    if dry_run:
        with session.progress("Studying") as on_progress:
            preview = home.preview(source, on_progress=on_progress)
        return previewed(preview, chosen.name, estimate)
    if not force:
        estimate.memory.check()
    session.note(cost(estimate))
    seconds = estimate.seconds
    studied = edited(session, home, source) if edit else None
    with session.progress("Learning", seconds) as on_progress, resumable(home):
        outcome = home.learn(
            source,
            studied=studied,
            recipe=recipe,
            on_progress=on_progress,
            require=require,
            force=force,
        )
    return learned(outcome, seconds)


def edited(session: Session, home: Home, source: str) -> Lesson:
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


def learned(outcome: Outcome, estimate: float | None) -> Answer:
    """What became of a lesson, in one line."""
    data = {**outcome.to_dict(), "estimated_seconds": estimate}
    code = 0 if outcome.accepted else REFUSED
    return Answer(data, sentence(outcome), [outcome.lesson.id], code)


def sentence(outcome: Outcome) -> str:
    """One line about a lesson."""
    found = outcome.to_dict()
    reasons = " ".join(found["reasons"])
    head = f"{found['verdict'].capitalize()}: lesson {found['lesson']} ({found['title']})"
    if outcome.accepted:
        return f"{head} in {duration(found['seconds'])}. {reasons}"
    again = ""
    if found["verdict"] == "quarantined":
        again = f" `engrain lessons enable {found['lesson']}` would serve it all the same."
    return f"{head}. {reasons} The served weights are unchanged.{again}"


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
