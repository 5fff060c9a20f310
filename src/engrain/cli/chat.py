"""``engrain chat``: talk to the served model; every message is on disk before it is answered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from engrain.cli.command import Stopped, tell
from engrain.cli.session import Answer, Session, Settings, overrides, resumable, verb
from engrain.errors import ConversationError, EngrainError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from engrain.data.messages import Message
    from engrain.home import Home

EXAMPLES = """
engrain chat
engrain chat --once "What is my boat called?"
cat letter.txt | engrain chat --once -
printf 'My boat is red.\\n/learn\\n' | engrain chat
"""
HELP = """\
/learn           learn this chat, then begin a new one
/lessons         list what was learned
/undo [LESSON]   take a lesson out for good (the last one)
/new             begin a new chat: nothing said so far stays in view
/help            this
/quit            leave (so does the end of input, Ctrl-D)"""


@verb("chat", examples=EXAMPLES)
def chat(
    session: Session,
    once: Annotated[
        str | None,
        typer.Option("--once", metavar="TEXT", help="Answer one message; - reads standard input."),
    ] = None,
    set_: Settings = None,
) -> Answer:
    """Talk to the model with all that it has learned; nothing is looked up.

    Every message is in the home's log before it is answered, so that `engrain learn last` can make
    a lesson of it. With input from a pipe each line is one message. /help lists the commands.
    """
    home = session.home(overrides(set_))
    talk = Talk(home, session)
    if once is not None:
        text = read_all(sys.stdin) if once == "-" else once
        answer = talk.message(text, shown=session.words)
        data = {"chat": talk.name, "answer": answer, "state": home.state.digest}
        return Answer(data, "", [answer])
    terminal = sys.stdin.isatty()
    if terminal and session.flags.json:
        raise UsageError(
            "A talk at the terminal has no JSON.", remedy='Use --once "..." or a pipe with --json.'
        )
    if terminal:
        prepare_terminal()
        session.say("Type a message, or /help.")
    try:
        for line in lines(terminal, session):
            if not talk.take(line):
                break
    except KeyboardInterrupt as stop:
        if not talk.said:
            raise
        raise Stopped(
            "All that was said is in the log.", remedy=f"Learn it with `engrain learn {talk.name}`."
        ) from stop
    messages = [message.to_dict() for message in talk.said]
    whole: dict[str, object] = {
        "chat": talk.name,
        "messages": messages,
        "state": home.state.digest,
    }
    # A script must see that the gate refused; a person at the terminal was told.
    return Answer(whole, code=0 if terminal else talk.code)


@dataclass
class Talk:
    """One chat: what is in view, what the log is called, and its commands."""

    home: Home
    session: Session
    name: str = ""
    view: list[Message] = field(default_factory=list)
    said: list[Message] = field(default_factory=list)
    code: int = 0

    def __post_init__(self) -> None:
        self.name = self.home.log.begin()

    def take(self, line: str) -> bool:
        """Answer a line or do what it commands; False ends the chat.

        What goes wrong is told, and the chat goes on: all that was said is in the log.
        """
        try:
            if line.startswith("/"):
                return self.command(*line[1:].split())
            self.message(line, shown=not self.session.flags.json)
        except EngrainError as error:
            if not sys.stdin.isatty():
                raise
            tell(error, ["--debug"] if self.session.flags.debug else [])
        return True

    def message(self, text: str, *, shown: bool) -> str:
        """Log a message, answer it, log the answer."""
        from engrain.data.messages import Conversation

        # As strict as learning will be, so that nothing gets into the log that can't be read back.
        checked = Conversation.from_messages(
            [{"role": "user", "content": text}], source="The message"
        ).messages[0]
        self.home.log.append(self.name, checked)
        self.said.append(checked)
        pieces: list[str] = []
        try:
            for piece in self.home.chat([*self.view, checked]):
                fresh = piece if pieces else piece.lstrip()
                if fresh:
                    pieces.append(fresh)
                    self._write(fresh, shown)
        except KeyboardInterrupt as stop:
            self._write("\n", shown)
            # What was shown was said; only the rest of it is not.
            self._keep(checked, "".join(pieces).strip())
            if not sys.stdin.isatty():
                raise Stopped(
                    "The answer was cut short.", remedy="What was said until then is in the log."
                ) from stop
            return "".join(pieces).strip()
        self._write("\n", shown)
        answer = "".join(pieces).strip()
        self._keep(checked, answer)
        return answer

    def _keep(self, asked: Message, answer: str) -> None:
        from engrain.data.messages import Message

        self.view.append(asked)
        if answer:
            reply = Message("assistant", answer)
            self.home.log.append(self.name, reply)
            self.view.append(reply)
            self.said.append(reply)

    def _write(self, text: str, shown: bool) -> None:
        if shown:
            self.session.stdout.write(text)
            self.session.stdout.flush()

    def command(self, name: str = "", *words: str) -> bool:
        """Do a command; False ends the chat."""
        known: dict[str, Callable[..., None]] = {
            "learn": self._learn,
            "lessons": self._lessons,
            "undo": self._undo,
            "new": self._new,
            "help": lambda: self.session.say(HELP),
        }
        if name in ("quit", "exit", "q"):
            return False
        if name not in known:
            raise UnknownNameError("command", name, [*known, "quit"], remedy="/help lists them.")
        if (words and name != "undo") or len(words) > 1:
            raise UsageError(f"/{name} was given too much.", remedy="/help shows how it is used.")
        known[name](*words)
        return True

    def _learn(self) -> None:
        from engrain.cli.learn import cost
        from engrain.cli.outcomes import learned

        if not self.said or self.name not in self.home.log.names():
            raise UsageError("Nothing was said in this chat yet.", remedy="Say something first.")
        estimate = self.home.estimate(self.name)
        estimate.memory.check()
        self.session.note(cost(estimate))
        seconds = estimate.seconds
        with self.session.progress("Learning", seconds) as on_progress, resumable(self.home):
            outcome = self.home.learn(self.name, on_progress=on_progress)
        answer = learned(outcome, seconds)
        self._show(answer)
        self.code = max(self.code, answer.code)
        if outcome.accepted:
            self._new()

    def _lessons(self) -> None:
        from engrain.cli.lessons import list_

        answer = list_(self.session)
        assert answer is not None
        self._show(answer)

    def _undo(self, lesson: str = "last") -> None:
        from engrain.cli.lessons import changed

        self._show(changed(self.home.undo(lesson), "undone"))

    def _show(self, answer: Answer) -> None:
        # The one object of --json is that of the whole chat.
        if not self.session.flags.json:
            self.session.show(answer)

    def _new(self) -> None:
        self.name = self.home.log.begin()
        self.view = []
        if sys.stdin.isatty():
            self.session.say("A new chat begins: nothing said before is in view.")


def lines(terminal: bool, session: Session) -> Iterator[str]:
    """Lines from the terminal or the pipe, without empty ones."""
    while True:
        try:
            line = input("> " if terminal and session.words else "") if terminal else _line()
        except EOFError:
            if terminal:
                session.say("")
            return
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error
        if line.strip():
            yield line.strip()


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def read_all(file: TextIO) -> str:
    """All of standard input as one message."""
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error


def _not_utf8(error: UnicodeDecodeError) -> ConversationError:
    return ConversationError(
        f"Standard input is not UTF-8 (byte {error.start}).", remedy="Send text in UTF-8."
    )


def prepare_terminal() -> None:
    """Let arrow keys edit and recall lines, where the system can."""
    import contextlib
    import importlib

    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
