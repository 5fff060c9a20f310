"""The program: what it is, all of its verbs, and the entry point."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import typer
from typer.main import get_command

from engrain import __version__
from engrain.cli import (
    bench,
    chat,
    config,
    demo,
    doctor,
    estimate,
    eval,
    init,
    jobs,
    learn,
    lessons,
    methods,
    models,
    travel,
)
from engrain.cli.command import Commands, wants_json
from engrain.cli.session import Session, Verb, as_command
from engrain.errors import EngrainWarning

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        # The option is read before all others, so what stands beside it is looked up here.
        version = f'{{"version": "{__version__}"}}' if wants_json(sys.argv) else __version__
        print(version if version.startswith("{") else f"engrain {version}")
        raise typer.Exit


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own as one line for a person; others as Python has them."""
    text = warnings.formatwarning(str(message), category, filename, lineno, line)
    ours = f"warning: {message}\n"
    (file or sys.stderr).write(ours if issubclass(category, EngrainWarning) else text)


def engrain(
    session: Session,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Version control for what a language model has learned.

    A home keeps one model and everything that it was taught. Each lesson is examined before it is
    served, and can be listed, explained, switched off and undone exactly.
    """


def _group(name: str, words: str, verbs: Sequence[Verb]) -> None:
    def callback(session: Session) -> None:
        pass

    callback.__doc__ = words
    child = typer.Typer(add_completion=False, rich_markup_mode=None)
    child.callback(cls=Commands, invoke_without_command=True)(as_command(callback))
    for item in verbs:
        item.add_to(child)
    app.add_typer(child, name=name)


EXAMPLES = """
engrain init
engrain learn conversation.json
engrain chat
engrain lessons undo last
"""

app.callback(cls=Commands, invoke_without_command=True, epilog=EXAMPLES)(as_command(engrain))
for _item in (init.init, learn.learn, estimate.estimate, chat.chat):
    _item.add_to(app)
_group(
    "lessons",
    "What was learned: list, explain, switch off, undo, export, import, verify.",
    (
        lessons.list_,
        lessons.show,
        travel.diff,
        lessons.disable,
        lessons.enable,
        lessons.undo,
        lessons.relearn,
        travel.export_lesson,
        travel.import_lesson,
        lessons.verify,
    ),
)
_group("jobs", "Work under way or interrupted: list, resume.", (jobs.list_, jobs.resume))
for _item in (travel.export, eval.eval_, demo.demo):
    _item.add_to(app)
_group("bench", "Benchmarks: recipe against recipe.", (bench.life,))
_group("methods", "Techniques and recipes that can be learned with.", (methods.list_, methods.show))
_group(
    "models", "Models that are known to work: list, get.", (models.list_, models.show, models.get)
)
_group("config", "Settings and where they come from.", (config.show, config.schema))
doctor.doctor.add_to(app)


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line; leaves with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that can't show a character gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if "--debug" not in (sys.argv if args is None else args):
        # Notices of libraries to their developers are no business of the person at the terminal.
        warnings.simplefilter("ignore")
        if "--quiet" not in (sys.argv if args is None else args):
            warnings.simplefilter("default", EngrainWarning)
    warnings.showwarning = _show_warning
    command: Any = get_command(app)
    return command.main(args, prog_name="engrain")
