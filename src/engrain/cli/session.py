"""One run of a verb: the options that all verbs share, the home, and how the answer is shown."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from engrain.cli.command import Command, NoCommand, Stopped
from engrain.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from engrain.home import Home
    from engrain.lesson.asked import OnProgress

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="FOLDER", help="The home (else ENGRAIN_HOME, else the data folder)."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no words, only names.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="With an error, its traceback.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A name from `engrain models list`, 'pocket', a folder, a GGUF file, a hub id.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting for this once; may be repeated."),
]


@dataclass(frozen=True)
class Flags:
    """The options that every command has."""

    home: Path | None = None
    json: bool = False
    quiet: bool = False
    debug: bool = False

    def under(self, outer: object) -> Flags:
        """These, and what was given before the verb."""
        if not isinstance(outer, Flags):
            return self
        return Flags(
            self.home or outer.home,
            self.json or outer.json,
            self.quiet or outer.quiet,
            self.debug or outer.debug,
        )


@dataclass(frozen=True)
class Answer:
    """What a verb gives back: values for programs, words for people.

    ``brief`` is what ``--quiet`` leaves: names, one a line. ``code`` is the exit code.
    """

    data: Mapping[str, Any]
    text: str | RenderableType = ""
    brief: Sequence[str] = ()
    code: int = 0


@dataclass
class Session:
    """What a verb works with; closes the home when the verb ends."""

    flags: Flags
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Session:
        # A library that prints must not spoil the one object that programs read.
        if self.flags.json:
            self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def home(self, overrides: Mapping[str, Any] | None = None) -> Home:
        """The home, opened; settings given here win over all others."""
        from engrain.home import Home

        return self._stack.enter_context(Home.open(self.flags.home, overrides=overrides))

    @property
    def words(self) -> bool:
        """Whether a person reads along."""
        return not (self.flags.json or self.flags.quiet)

    def say(self, text: str) -> None:
        """Words for a person, as they come."""
        if self.words:
            print(text, file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Words for a person beside the answer, on standard error."""
        if self.words:
            print(text, file=sys.stderr, flush=True)

    def progress(
        self, title: str, estimate: float | None = None
    ) -> AbstractContextManager[OnProgress]:
        """A bar on standard error while something long is done, if a terminal shows it."""
        if not self.words or not sys.stderr.isatty():
            return contextlib.nullcontext(lambda stage, done, total: None)
        from engrain.cli.progress import bar

        return bar(title, estimate)

    def show(self, answer: Answer) -> None:
        """Print an answer."""
        if self.flags.json:
            print(dumps(answer.data, self.stdout), file=self.stdout)
        elif self.flags.quiet:
            for line in answer.brief:
                print(line, file=self.stdout)
        elif isinstance(answer.text, str):
            if answer.text:
                print(answer.text, file=self.stdout)
        else:
            from rich.console import Console

            Console(file=self.stdout, highlight=False).print(answer.text)


def dumps(value: Any, file: TextIO) -> str:
    """JSON that every reader takes: no NaN, and no character that the file can't hold."""
    from engrain.exam.report import json_ready

    unicode = (getattr(file, "encoding", None) or "").lower().startswith("utf")
    return json.dumps(json_ready(value), ensure_ascii=not unicode, indent=2, allow_nan=False)


_COMMON = (
    ("home", HomeOption, None),
    ("json_", JsonOption, False),
    ("quiet", QuietOption, False),
    ("debug", DebugOption, False),
)
Body = Callable[..., Answer | None]


@dataclass(frozen=True)
class Verb:
    """A function that takes a :class:`Session` and gives an :class:`Answer`, as a command.

    The command has the function's parameters as arguments and options, its docstring as help, and
    the options that every command has.
    """

    body: Body
    name: str
    examples: str
    cls: type[Command] = Command

    def __call__(self, session: Session, /, *args: Any, **given: Any) -> Answer | None:
        """Run it, as from another verb."""
        return self.body(session, *args, **given)

    def add_to(self, app: typer.Typer) -> None:
        """Make it a command of a program or a group."""
        app.command(self.name, cls=self.cls, epilog=self.examples)(as_command(self.body))


def verb(
    name: str, *, examples: str, cls: type[Command] = Command
) -> Callable[[Callable[..., Answer | None]], Verb]:
    """Make a verb of a function."""

    def decorate(body: Body) -> Verb:
        return Verb(body, name, examples, cls)

    return decorate


def as_command(body: Body) -> Callable[..., None]:
    """The function that Typer sees: its parameters and the common ones instead of the session."""
    signature = inspect.signature(body, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "session"]
    taken = {p.name for p in own}

    @wraps(body)
    def run(ctx: typer.Context, **given: Any) -> None:
        common = {key: given.pop(key) for key, _, _ in _COMMON if key not in taken}
        flags = Flags(
            common["home"],
            # A verb whose --json names a file writes that itself; "-" is standard output.
            common.get("json_", given.get("json_") == "-"),
            common["quiet"],
            common["debug"],
        ).under(ctx.obj)
        ctx.obj = flags
        if hasattr(ctx.command, "commands"):
            if ctx.invoked_subcommand is None:
                raise NoCommand(ctx.command_path, ctx.get_help())
            return
        with Session(flags) as session:
            answer = body(session, **given)
            if answer is not None:
                session.show(answer)
                if answer.code:
                    raise typer.Exit(answer.code)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(p.replace(kind=keyword) for p in own),
        *(
            inspect.Parameter(key, keyword, default=default, annotation=annotation)
            for key, annotation, default in _COMMON
            if key not in taken
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


# ---------------------------------------------------------------------------- what verbs share

_SECTIONS = ("model", "learn", "study", "gate", "chat", "ledger")


def overrides(given: Sequence[str] | None) -> dict[str, Any]:
    """Settings from ``--set KEY=VALUE``: of the configuration, or else of the recipe."""
    found: dict[str, Any] = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"--set was given {item!r}.",
                remedy="Write KEY=VALUE, for example --set optimization.learning_rate=1e-3.",
            )
        section = key.partition(".")[0]
        found[key if section in _SECTIONS else f"learn.settings.{key}"] = value.strip()
    return found


def count(number: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time to wait, as a person would say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def resumable(home: Home) -> Iterator[None]:
    """Tell whoever stops a lesson that nothing changed and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        import os

        mine = [job for job in home.jobs() if job.pid == os.getpid()]
        if not mine:
            raise
        job = mine[-1]
        if job.finished:
            raise Stopped(
                f"The job {job.id} had ended before ({job.status}).",
                remedy="See `engrain lessons list`.",
            ) from stop
        raise Stopped(
            "Nothing was changed.", remedy=f"Continue with `engrain jobs resume {job.id}`."
        ) from stop
