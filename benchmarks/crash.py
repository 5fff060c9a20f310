"""Killed at random points of learn, gate, commit and undo: what is left, and does it go on?

Every cycle copies a home with three lessons and lets a child process live in it: it logs a chat,
learns a conversation through the whole pipeline, or undoes, disables and enables a lesson. When
the child says that it enters the stage drawn for this cycle, the parent waits for a random part of
the time which that stage took in a life without a kill, and sends SIGKILL. So kills fall inside of
system calls, SQLite and torch alike, and the short stages are hit as well as the long ones.

Another process then opens the home. Nothing that was acknowledged may be lost, every digest must
derive again, the state in force must be the last that was acknowledged or the one that was just
being committed, and the interrupted lesson must resume to the state of a life without a kill.

A tiny random model can't read, so a lesson is made from its conversation by rule; all else is what
a person's home does. Children are forked from a parent that has torch imported and the model
loaded, but never computed with it.

    python -m benchmarks.crash [--cycles 100] [--resume]
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from benchmarks.common import TINY, about, begin, options, print_table, read_json, write_json

if TYPE_CHECKING:
    from engrain.data.messages import Conversation
    from engrain.home import Home

LESSON_STAGES = (
    "log",
    "study",
    "examine before",
    "train",
    "examine after",
    "decide",
    "commit",
)
CHANGES = ("undo", "disable", "enable")
PHASES = {
    "log": "learn",
    "study": "learn",
    "examine before": "learn",
    "train": "learn",
    "examine after": "gate",
    "decide": "gate",
    "commit": "commit",
    **dict.fromkeys(CHANGES, "undo"),
}
"""The stage in which a kill falls, as the table sums it up."""

AFTER = {
    "logged": "study",
    "studied": "examine before",
    "examined_before": "train",
    "trained": "examine after",
    "examined_after": "decide",
    "decided": "commit",
}
"""From what is on the disk to the stage that begins."""

TAUGHT = 3
SETTINGS: dict[str, Any] = {
    "model.threads": 1,
    "learn.settings.min_steps": 24,
    "learn.settings.max_steps": 24,
    "learn.settings.batch_size": 2,
    "learn.settings.regularization.kl_anchor.texts": 2,
    "learn.settings.regularization.kl_anchor.texts_per_step": 1,
}
"""A short lesson that still writes a checkpoint."""
LIMITS = {"loss": 1, "capability": 1, "arithmetic": 1, "format": 1, "reading": 0, "locality": 1}


@dataclass
class Cycle:
    """One life and what was found after its end."""

    number: int
    life: str
    aimed: str
    fell: str = ""
    killed: bool = True
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    state: bool = False
    went_on: str = ""
    same: bool | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether everything held."""
        held = self.state and self.same is not False
        return held and not (self.lost or self.problems or self.error)


# ---------------------------------------------------------------------------- a life
def conversation(number: int) -> Conversation:
    """What the person says in one cycle."""
    from engrain.data.messages import Conversation, Message

    said = (f"My boat number {number} is Brellin{number}.", "Noted.")
    return Conversation((Message("user", said[0]), Message("assistant", said[1])))


@contextmanager
def lessons_by_rule() -> Iterator[None]:
    """Make lessons from conversations without reading them, as long as this lasts."""
    from engrain.data.lessons import Lesson, Probe, TrainingText, chat
    from engrain.dream import lesson as dreaming

    class ByRule:
        def __init__(self, name: str, talks: Sequence[Conversation]) -> None:
            said = [t.messages[0].content for t in talks]
            texts = [
                TrainingText(chat(f"{ask} ({i})", text), "fact", f"{i}: {text}")
                for i, text in enumerate(said)
                for ask in ("What did I say?", "Say it again.", "What was it?")
            ]
            probes = [
                Probe(f"p{i}", "recall", chat("Tell me what I said."), (text,))
                for i, text in enumerate(said)
            ]
            self.lesson = Lesson(
                name, said[0], tuple(texts), tuple(probes), tuple(t.digest for t in talks)
            )

    before = dreaming.make_lesson
    dreaming.make_lesson = lambda engine, talks, *, name, **_: ByRule(name, talks)  # type: ignore
    try:
        yield
    finally:
        dreaming.make_lesson = before


def opened(folder: Path, *, gate: bool) -> Home:
    """The home of a cycle, with a small panel."""
    from engrain.home import Home

    return with_small_panel(Home.open(folder, overrides={"gate.enabled": gate}))


def with_small_panel(home: Home) -> Home:
    """A home whose exam takes a moment."""
    from engrain.exam.panel import load_panel

    home.__dict__["panel"] = load_panel().smaller({**LIMITS, "abstention": 2})
    return home


def taught(folder: Path, source: str) -> None:
    """The home that every cycle copies: three lessons, noise band and speed measured."""
    from engrain.home import Home

    overrides = {"model.source": source, "gate.enabled": False, **SETTINGS}
    with with_small_panel(Home.create(folder, overrides=overrides)) as home:
        for number in range(TAUGHT):
            home.learn(conversation(number))


def live(folder: Path, life: str, number: int, tell: Callable[[str, str], None]) -> None:
    """One life: ``learn`` (accepted), ``refuse`` (the gate says no) or ``change``.

    ``tell`` is called with (kind, value): ``stage`` for what begins, ``coming`` before a state may
    be committed, and ``state``, ``conversation``, ``message`` and ``lesson`` for what is done.
    """
    from engrain.data.messages import Message
    from engrain.ledger.ledger import Ledger

    tell("stage", "log")
    with opened(folder, gate=life == "refuse") as home:
        tell("state", home.state.digest)
        advance, commit, apply = Ledger.advance, Ledger.commit, Ledger.apply
        keep = Ledger.add_conversation

        def keeping(ledger: Ledger, talk: Conversation) -> str:
            digest = keep(ledger, talk)
            tell("conversation", digest)
            return digest

        def advancing(ledger: Ledger, job: str, stage: str, payload: Any = None) -> Any:
            done = advance(ledger, job, stage, payload)
            tell("stage", AFTER.get(stage, stage))
            return done

        def committing(ledger: Ledger, record: Any) -> Any:
            tell("coming", record.state)
            state = commit(ledger, record)
            tell("state", state.digest)
            tell("lesson", record.id)
            return state

        def applying(ledger: Ledger, plan: Any, digest: str) -> Any:
            tell("coming", digest)
            state = apply(ledger, plan, digest)
            tell("state", state.digest)
            return state

        Ledger.add_conversation = keeping  # type: ignore[method-assign]
        Ledger.advance = advancing  # type: ignore[method-assign]
        Ledger.commit = committing  # type: ignore[method-assign]
        Ledger.apply = applying  # type: ignore[method-assign]
        if life == "change":
            names = list(home.state.lessons)
            choose = random.Random(number)
            home.served.refresh()
            for stage in CHANGES:
                tell("stage", stage)
                if stage == "undo":
                    home.undo("last")
                    names.pop()
                elif stage == "disable":
                    out = choose.choice(names)
                    home.disable(out)
                else:
                    home.enable(out)
            return
        chat = home.log.begin()
        for turn in range(3):
            home.log.append(chat, Message("user", f"Turn {turn} of {number}."))
            tell("message", f"{chat}:Turn {turn} of {number}.")
        home.learn(conversation(1000))


# ---------------------------------------------------------------------------- processes
def forked(work: Callable[[Callable[[str, str], None]], None]) -> tuple[int, BinaryIO]:
    """Run in a child; gives its id and the pipe through which it tells."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:

            def tell(kind: str, value: str) -> None:
                # One write below the size of a pipe's buffer: whole, or not at all.
                os.write(writing, (json.dumps([kind, value]) + "\n").encode())

            with lessons_by_rule():
                work(tell)
            os._exit(0)
        except BaseException:
            os.write(
                writing, (json.dumps(["error", traceback.format_exc()[-3000:]]) + "\n").encode()
            )
            os._exit(1)
    os.close(writing)
    return child, os.fdopen(reading, "rb", buffering=0)


def heard(pipe: BinaryIO) -> Iterator[tuple[str, str, float]]:
    """What a child tells, with the time at which it is heard, until it is gone."""
    rest = b""
    while chunk := pipe.read(4096):
        *lines, rest = (rest + chunk).split(b"\n")
        now = time.perf_counter()
        for line in lines:
            kind, value = json.loads(line)
            yield kind, value, now


def whole(work: Callable[[Callable[[str, str], None]], None]) -> list[tuple[str, str, float]]:
    """Run in a child to its end; gives all that it told."""
    child, pipe = forked(work)
    with pipe:
        told = list(heard(pipe))
    os.waitpid(child, 0)
    for kind, value, _ in told:
        if kind == "error":
            sys.exit(f"A life without a kill failed:\n{value}")
    return told


def durations(told: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    """Seconds from the beginning of each stage to the next one's, or to the end."""
    found: dict[str, float] = {}
    stage, since = "", 0.0
    for kind, value, now in told:
        if kind == "stage":
            if stage:
                found[stage] = now - since
            stage, since = value, now
    if stage and told:
        found[stage] = max(told[-1][2] - since, 0.002)
    return found


def killed(folder: Path, cycle: Cycle, delay: float) -> tuple[list[tuple[str, str]], bool, str]:
    """Live until the kill; gives what was told, whether it was killed, and what went wrong."""
    child, pipe = forked(lambda tell: live(folder, cycle.life, cycle.number, tell))
    told: list[tuple[str, str]] = []
    aimed = False
    with pipe:
        for kind, value, _ in heard(pipe):
            told.append((kind, value))
            if not aimed and (kind, value) == ("stage", cycle.aimed):
                aimed = True
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    error = next((value for kind, value in told if kind == "error"), "")
    return told, os.WIFSIGNALED(status), error


# ---------------------------------------------------------------------------- afterwards
def examine(
    folder: Path,
    life: str,
    told: Sequence[tuple[str, str]],
    expected: str,
    tell: Callable[[str, str], None],
) -> None:
    """Open the home after a kill and tell whatever is not as it must be."""
    from engrain.model.digest import tensor_digest

    with opened(folder, gate=False) as home:
        for problem in home.verify():
            tell("problem", f"{problem.kind} {problem.where}: {problem.message}")
        logged = {entry.digest for entry in home.ledger.list_conversations()}
        for digest in logged:
            home.ledger.get_conversation(digest)
        known = {entry.id for entry in home.lessons()}
        for kind, value in told:
            if kind == "conversation" and value not in logged:
                tell("lost", f"conversation {value[:12]}")
            if kind == "lesson" and value not in known:
                tell("lost", f"lesson {value}")
            if kind == "message":
                chat, _, said = value.partition(":")
                if said not in [message.content for message in home.log.read(chat).messages]:
                    tell("lost", f"message {said!r}")
        states = [(kind, value) for kind, value in told if kind in ("state", "coming")]
        done = max((i for i, (kind, _) in enumerate(states) if kind == "state"), default=0)
        allowed = {value for _, value in states[done:]} or {home.state.digest}
        live_digest = home.served.refresh()
        right = tensor_digest(home.loaded.weights()) == live_digest == home.state.digest
        tell("right", "yes" if right and home.state.digest in allowed else "no")
        waiting = [job for job in home.jobs() if not job.finished]
        if waiting:
            tell("went on", "resumed")
            with opened(folder, gate=life == "refuse") as again:
                outcome = again.resume(waiting[-1].id)
            tell("same", "yes" if outcome.state_after == expected else "no")
        else:
            tell("went on", "learned")
            before = home.state.digest
            outcome = home.learn(conversation(2000))
            tell("same", "yes" if home.undo("last").state_after == before else "no")
        for problem in home.verify():
            tell("problem", f"afterwards: {problem.kind} {problem.where}: {problem.message}")


def run_cycle(cycle: Cycle, template: Path, folder: Path, delay: float, expected: str) -> Cycle:
    """Copy, live, kill, examine."""
    began = time.perf_counter()
    home = folder / f"cycle-{cycle.number}"
    shutil.copytree(template, home)
    try:
        told, cycle.killed, cycle.error = killed(home, cycle, delay)
        cycle.fell = next((v for k, v in reversed(told) if k == "stage"), "log")
        child, pipe = forked(lambda tell: examine(home, cycle.life, told, expected, tell))
        with pipe:
            found = [(kind, value) for kind, value, _ in heard(pipe)]
        os.waitpid(child, 0)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for kind, value in found:
        if kind == "lost":
            cycle.lost.append(value)
        elif kind == "problem":
            cycle.problems.append(value)
        elif kind == "error":
            cycle.error += value
        elif kind == "right":
            cycle.state = value == "yes"
        elif kind == "same":
            cycle.same = value == "yes"
        elif kind == "went on":
            cycle.went_on = value
    cycle.seconds = time.perf_counter() - began
    return cycle


def draw(number: int, seed: int, attempt: int) -> tuple[Cycle, float]:
    """The life of a cycle, the stage to aim at, and the part of that stage to wait for."""
    choose = random.Random(f"crash:{seed}:{number}:{attempt}")
    if choose.random() < 0.25:
        return Cycle(number, "change", choose.choice(CHANGES)), choose.random()
    life = choose.choice(("learn", "learn", "refuse"))
    return Cycle(number, life, choose.choice(LESSON_STAGES)), choose.random()


# ---------------------------------------------------------------------------- the benchmark
def main() -> int:
    """Parse the arguments, kill, write; 0 if everything held."""
    parser = options(__doc__, "crash")
    parser.set_defaults(model=TINY, threads=1)
    parser.add_argument("--cycles", "--n", type=int, default=100, help="kills")
    parser.add_argument("--resume", action="store_true", help="go on with the JSON file")
    args = parser.parse_args()
    if args.threads != 1:
        parser.error("children are forked, so torch must not have more than one thread")
    with tempfile.TemporaryDirectory(prefix="engrain-crash-") as temporary:
        return run(args, Path(temporary))


def run(args: Any, folder: Path) -> int:
    """All cycles, on one template."""
    source = begin(args, folder)
    share_the_model(source)
    template = folder / "template"
    whole(lambda tell: taught(template, source))
    took: dict[str, dict[str, float]] = {}
    after: dict[str, str] = {}
    for life in ("learn", "refuse", "change"):
        shutil.copytree(template, folder / life)
        told = whole(lambda tell, life=life: live(folder / life, life, 0, tell))
        took[life] = durations(told)
        after[life] = [value for kind, value, _ in told if kind == "state"][-1]
    known = read_json(args.json) if args.resume else {}
    cycles = [Cycle(**c) for c in known.get("cycles", [])] if known.get("seed") == args.seed else []
    done = {cycle.number for cycle in cycles}
    print(f"{args.cycles} kills; a life takes {sum(took['learn'].values()):.1f} s")
    for number in range(args.cycles):
        if number in done:
            continue
        for attempt in range(8):
            cycle, part = draw(number, args.seed, attempt)
            delay = part * took[cycle.life].get(cycle.aimed, 0.01)
            cycle = run_cycle(cycle, template, folder, delay, after[cycle.life])
            if cycle.killed or not cycle.good:
                break
        cycles.append(cycle)
        if not cycle.good:
            print(f"\ncycle {number}: {asdict(cycle)}", file=sys.stderr)
        if (number + 1) % 10 == 0 or number + 1 == args.cycles:
            write_json(args.json, report(args, cycles, took))
            print(f"  {number + 1} of {args.cycles}", flush=True)
    record = report(args, cycles, took)
    path = write_json(args.json, record)
    rows = [
        (phase, stage, found["kills"], found["resumed"], found["bad"])
        for stage, found in record["by_stage"].items()
        for phase in [PHASES.get(stage, "after")]
    ]
    print_table(f"{record['kills']} kills", ("phase", "stage", "kills", "resumed", "bad"), rows)
    print(
        f"\nConversations, messages and lessons lost: {record['lost']}. Homes that do not verify: "
        f"{record['not_verified']}.\nStates that were never accepted: {record['wrong_states']}. "
        f"Went on to another state than without a kill: {record['other_states']}. "
        f"Errors: {record['errors']}.\n{path}"
    )
    return 0 if all(cycle.good for cycle in cycles) else 1


def share_the_model(source: str) -> None:
    """Load once: every child gets the loaded model as it was."""
    from engrain.lesson import folder
    from engrain.model.loading import load_model

    loaded = load_model(source)
    folder.load = lambda resolved, source=None: loaded


def report(args: Any, cycles: Sequence[Cycle], took: dict[str, Any]) -> dict[str, Any]:
    """The benchmark's JSON."""
    stages: dict[str, Counter[str]] = {}
    for cycle in cycles:
        counts = stages.setdefault(cycle.fell if cycle.killed else "after the end", Counter())
        counts["kills"] += cycle.killed
        counts["resumed"] += cycle.went_on == "resumed"
        counts["bad"] += not cycle.good
    order = [*LESSON_STAGES, "committed", *CHANGES, "after the end"]
    keys = ("kills", "resumed", "bad")
    return {
        **about(args),
        "kills": sum(cycle.killed for cycle in cycles),
        "lost": sum(len(cycle.lost) for cycle in cycles),
        "not_verified": sum(bool(cycle.problems) for cycle in cycles),
        "wrong_states": sum(not cycle.state for cycle in cycles),
        "other_states": sum(cycle.same is False for cycle in cycles),
        "errors": sum(bool(cycle.error) for cycle in cycles),
        "by_stage": {
            stage: {key: stages[stage][key] for key in keys}
            for stage in sorted(stages, key=lambda s: order.index(s) if s in order else 99)
        },
        "by_phase": dict(Counter(PHASES.get(c.fell, "after") for c in cycles if c.killed)),
        "seconds_by_stage": took,
        "cycles": [asdict(cycle) for cycle in cycles],
    }


if __name__ == "__main__":
    sys.exit(main())
