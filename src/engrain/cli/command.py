"""What all commands share: plain help, names that are nearly right, and errors with a remedy.

Every error ends in :meth:`Commands.main`, so that there is one place where it gets its words, its
exit code and, with ``--json``, its object on standard output.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import cleandoc
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from engrain.errors import (
    DiskFullError,
    EngrainError,
    HomeReadOnlyError,
    UnknownNameError,
    UsageError,
)

WIDTH = 79
COMMON = ("home", "json_", "quiet", "debug", "help")
"""Options that every command has; help lists them last."""


class Stopped(EngrainError):
    """A person stopped the command with Ctrl-C."""

    exit_code = 130


class NoCommand(UsageError):
    """A group of commands was called without saying which; its help says what there is."""

    def __init__(self, path: str, help_text: str) -> None:
        super().__init__(
            f"`{path}` needs a command.", remedy=f"`{path} --help` lists what there is."
        )
        self.help_text = help_text


class Command(TyperCommand):
    """One verb."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; what was not given is not converted."""
        return left_alone(super().get_params(ctx))

    def get_help(self, ctx: Any) -> str:
        """The help, the same on every terminal."""
        return help_text(self, ctx)


class FileCommand(Command):
    """A verb whose ``--json`` may name a file: bare, it means standard output, ``-``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare ``--json`` its value."""
        rest = list(super().parse_args(ctx, list(_with_value(args))))
        return rest


class Commands(TyperGroup):
    """A group of verbs; the outermost one is the program."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; what was not given is not converted."""
        return left_alone(super().get_params(ctx))

    def get_help(self, ctx: Any) -> str:
        """The help, the same on every terminal."""
        return help_text(self, ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the arguments begin with.

        Raises:
            UnknownNameError: there is none of that name; near ones are proposed.
        """
        if args[0] not in self.commands and not args[0].startswith("-"):
            inner = ctx.parent is not None
            kind = f"command of `{ctx.command_path}`" if inner else "command"
            raise UnknownNameError(kind, args[0], self.commands)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run the program and leave with its exit code."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = 0
            # Typer's own main would turn Ctrl-C and errors into words before we see them.
            with self.make_context("engrain", list(given)) as ctx:
                self.invoke(ctx)
        except typer.Exit as end:
            code = end.exit_code
        except BrokenPipeError:
            # Whoever read our output has closed it: nobody is left to tell. The interpreter would
            # stumble over the pipe again when it flushes at its end.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except (Exception, KeyboardInterrupt) as error:
            code = tell(error, given)
        sys.exit(code)


def left_alone(params: Sequence[Any]) -> list[Any]:
    """The parameters, each of which takes an absent value as it is.

    Typer builds a Pydantic schema to see that there is nothing to convert, and importing Pydantic
    takes longer than all the rest of a start.
    """
    for param in params:
        if "process_value" not in vars(param):
            param.process_value = _unless_absent(param)
    return list(params)


def _unless_absent(param: Any) -> Callable[[Any, Any], Any]:
    convert: Callable[[Any, Any], Any] = param.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        if value is not None or param.required:
            return convert(ctx, value)
        empty = () if param.multiple or param.nargs == -1 else None
        return param.callback(ctx, param, empty) if param.callback else empty

    return process_value


def _with_value(args: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(args):
        yield word
        if word == "--json" and (place + 1 == len(args) or args[place + 1][:2] == "--"):
            yield "-"


# ---------------------------------------------------------------------------- errors


def tell(error: BaseException, args: Sequence[str]) -> int:
    """Say what happened, why, and what to do about it; gives the exit code."""
    if "--debug" in args:
        traceback.print_exception(error, file=sys.stderr)
    found = named(error)
    if wants_json(args):
        print(json.dumps({**found.to_dict(), "exit_code": found.exit_code}, indent=2))
        return found.exit_code
    if isinstance(error, NoCommand):
        print(error.help_text, file=sys.stderr)
        return found.exit_code
    head = "Stopped" if isinstance(found, Stopped) else f"Error ({found.code})"
    if isinstance(error, Stopped | KeyboardInterrupt) and sys.stderr.isatty():
        # The terminal has written ^C and is still on that line.
        print(file=sys.stderr)
    if colourful():
        head = typer.style(head, fg="yellow" if isinstance(found, Stopped) else "red", bold=True)
    print(f"{head}: {found.message}", file=sys.stderr)
    if found.remedy:
        print(f"  {found.remedy}", file=sys.stderr)
    return found.exit_code


def named(error: BaseException) -> EngrainError:
    """Any error as one with a name and a remedy."""
    if isinstance(error, EngrainError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped(
            "What was not finished was not done.",
            remedy="Nothing is half done: a change is made whole or not at all.",
        )
    # Typer's usage errors come from Click, which newer versions carry inside themselves: they
    # are known by what they can do, since their class has no lasting address.
    if hasattr(error, "format_message"):
        return _usage(error)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, MemoryError):
        return EngrainError(
            "There is not enough memory.",
            remedy="Close other programs, use a smaller model, or set model.dtype to bfloat16.",
        )
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    return EngrainError(
        f"Something unforeseen happened: {words}.",
        remedy="Run it again with --debug and report what it prints; nothing is half done.",
    )


def _usage(error: Any) -> EngrainError:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "engrain"
    help_hint = f"See `{path} --help`."
    option = getattr(error, "option_name", None)
    param = getattr(error, "param", None)
    kind = type(error).__name__
    if kind == "NoSuchOption" and ctx is not None:
        known = [name for item in ctx.command.params for name in item.opts] + ["--help"]
        near = difflib.get_close_matches(str(option), known, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        return UsageError(f"`{path}` has no option {option}.", remedy=hint + help_hint)
    if kind == "MissingParameter" and param is not None:
        return UsageError(f"`{path}` needs {_name(param)}.", remedy=help_hint)
    if kind in ("BadParameter", "BadArgumentUsage") and param is not None:
        words = error.message.rstrip(".")
        return UsageError(f"{_name(param)} of `{path}`: {words}.", remedy=help_hint)
    words = " ".join(str(error.format_message()).split()).rstrip(".")
    return UsageError(f"`{path}`: {words}.", remedy=help_hint)


def _system(error: OSError) -> EngrainError:
    import errno

    reason = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{where}{reason}.", remedy="Free some space and run the command again."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return HomeReadOnlyError(
            f"{where}{reason}.", remedy="Give the folder write permission, or choose another."
        )
    return EngrainError(f"{where}{reason}.", remedy="Check the path and the disk it is on.")


def wants_json(args: Sequence[str]) -> bool:
    """Whether standard output shall hold one JSON object; a file after ``--json`` says no."""
    words = list(args)
    for place, word in enumerate(words):
        if word == "--":
            return False
        if word == "--json":
            takes_file = "demo" in words[:place] or "bench" in words[:place]
            following = words[place + 1 : place + 2]
            return not (takes_file and following and not following[0].startswith("-"))
    return False


def colourful() -> bool:
    """Whether messages on standard error may have colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not plain


# ---------------------------------------------------------------------------- help


class _Sections:
    """Help text as lines."""

    indent: ClassVar[int] = 2

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        found = list(rows)
        if not found:
            return
        column = min(26, max(len(name) for name, _ in found) + self.indent + 2)
        self.lines += ["", f"{title}:"]
        for name, words in found:
            wrapped = textwrap.wrap(words, WIDTH - column) or [""]
            left = " " * self.indent + name
            if len(left) + 2 > column:
                self.lines.append(left)
                left = ""
            self.lines.append(f"{left:<{column}}{wrapped[0]}".rstrip())
            self.lines += [" " * column + line for line in wrapped[1:]]


def help_text(command: Any, ctx: Any) -> str:
    """A command's help: usage, what it does, arguments, options, examples; below 80 columns."""
    sections = _Sections()
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]
    children = {n: c for n, c in getattr(command, "commands", {}).items() if not c.hidden}
    own = [p for p in options if p.name not in COMMON]
    words = [_name(p) if p.required else f"[{_name(p)}]" for p in arguments]
    usage = " ".join([ctx.command_path, *words, *(["COMMAND"] if children else []), "[OPTIONS]"])
    sections.lines += [f"Usage: {usage}"]
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        sections.lines += ["", *textwrap.wrap(" ".join(paragraph.split()), WIDTH)]
    sections.add("Commands", ((name, first_line(child)) for name, child in children.items()))
    sections.add("Arguments", ((_name(p), p.help or "") for p in arguments))
    sections.add("Options", ((_spelled(p), p.help or "") for p in own))
    common = [p for p in options if p.name in COMMON]
    sections.add("Options of every command", ((_spelled(p), _common_help(p)) for p in common))
    if command.epilog:
        sections.lines += ["", "Examples:"]
        sections.lines += [f"  {line}" for line in cleandoc(command.epilog).splitlines()]
    return "\n".join(sections.lines)


def first_line(command: Any) -> str:
    """The first sentence of a command's help, without its full stop."""
    first = " ".join((command.help or "").split("\n\n")[0].split())
    return first.removesuffix(".")


def _common_help(param: Any) -> str:
    # Typer's own words for --help change from version to version.
    return "This help." if param.name == "help" else str(param.help or "")


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return str(param.opts[0])


def _spelled(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar or 'VALUE'}"
