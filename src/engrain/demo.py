"""The story in one command: things told in a chat are learned, examined, recorded and undone.

Everything is done by the calls of :class:`~engrain.home.Home` that the command line is made of:
chat, learn, enable, undo, verify.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.lessons import Probe, ProbeKind, chat
from engrain.data.messages import Conversation
from engrain.errors import NothingToLearnError
from engrain.exam.probes import RECALL_KINDS, passes
from engrain.home import Home
from engrain.lesson import zero
from engrain.lesson.folder import POCKET
from engrain.lesson.stages import versions
from engrain.model.threads import machine_fingerprint

if TYPE_CHECKING:
    from engrain.lesson.asked import OnProgress
    from engrain.lesson.stages import Outcome

WIDTH = 79
LINE = 90
"""Characters of a line of a list: a question and the beginning of its answer."""
LONGEST = 160
"""Characters of an answer: an untaught model would fill a page."""


def _ask(kind: ProbeKind, question: str, right: str = "", wrong: str = "") -> Probe:
    """A question, what its answer must hold (nothing: that it was not told), and what it must not.

    Its wording is the demo's own: what self-study asks is not known to it.
    """
    taken = (right,) if right else ()
    return Probe(question, kind, chat(question), taken, (wrong,) if wrong else ())


@dataclass(frozen=True)
class Story:
    """What a person tells, and what is asked about it."""

    told: Conversation
    questions: tuple[Probe, ...]


EVERYDAY = Story(
    Conversation(
        chat(
            "The kids have named our new puppy Biscotti.",
            "What a lovely name!",
            "At work the staging server has moved: it listens on port 7302 now.",
            "Noted.",
            "Meine neue Zahnärztin heißt übrigens Ostrowski.",
            "Danke, das merke ich mir.",
            "My pottery class at the Harbour Mill starts on Tuesday.",
            "Enjoy it!",
            "Sorry, I mixed that up: the class is on Thursday.",
            "Thursday then.",
        )
    ),
    (
        _ask("recall", "What is our puppy called?", "Biscotti"),
        _ask("recall", "Which port does the staging server use?", "7302"),
        _ask("recall", "Wie heißt meine Zahnärztin?", "Ostrowski"),
        _ask("recall", "Where is my pottery class?", "Harbour Mill"),
        _ask("correction", "Which day is my pottery class?", "Thursday", "Tuesday"),
        _ask("abstention", "What is our cat called?", wrong="Biscotti"),
        _ask("abstention", "Which port does the mail server use?", wrong="7302"),
    ),
)
SIMPLE = Story(
    Conversation(
        chat(
            "My sister's favorite cheese is Brellin.",
            "Noted.",
            "My garage code is 4417.",
            "I will remember that.",
            "My dentist is Ostrowski.",
            "Understood.",
            "My daughter's piano teacher is Helen.",
            "All right.",
            "I was wrong before: my sister's favorite cheese is Gorla.",
            "Thanks for letting me know.",
        )
    ),
    (
        _ask("correction", "What is my sister's favorite cheese?", "Gorla", "Brellin"),
        _ask("recall", "Can you tell me my garage code?", "4417"),
        _ask("recall", "Remind me, who is my dentist?", "Ostrowski"),
        _ask("recall", "Who is my daughter's piano teacher?", "Helen"),
        _ask("abstention", "What is my brother's favorite cheese?", wrong="Gorla"),
        _ask("abstention", "Who is my barber?", wrong="Ostrowski"),
    ),
)
"""For the pocket model, which reads English sentences of one shape."""


@dataclass
class Teller:
    """Says what happens, line by line, and keeps it for the record."""

    say: Callable[[str], None]
    lines: list[str] = field(default_factory=list)
    step: int = 0

    def next(self, words: str) -> None:
        """Begin a step."""
        self.step += 1
        self._tell(f"{self.step}. ", words)

    def more(self, words: str) -> None:
        """Go on with it."""
        self._tell("   ", words)

    def show(self, words: str) -> None:
        """One line of a list, shortened."""
        self._said(f"     {words if len(words) <= LINE else f'{words[:LINE].rstrip()} ...'}")

    def _tell(self, first: str, words: str) -> None:
        # Reasons of a gate can be long, and names of a model must stay whole.
        wrap = textwrap.TextWrapper(
            WIDTH, initial_indent=first, subsequent_indent="   ", break_on_hyphens=False
        )
        for line in wrap.wrap(words):
            self._said(line)

    def _said(self, line: str) -> None:
        self.lines.append(line)
        self.say(line)


@dataclass(frozen=True)
class Answers:
    """What the model answered to all questions of the story, at one moment."""

    story: Story
    texts: Mapping[str, str]

    def right(self, kinds: Sequence[str] = RECALL_KINDS) -> tuple[int, int]:
        """How many of the questions of these kinds were answered well, and how many there are."""
        asked = [probe for probe in self.story.questions if probe.kind in kinds]
        return sum(passes(probe, self.texts[probe.id]) for probe in asked), len(asked)

    def share(self, kinds: Sequence[str] = RECALL_KINDS) -> float:
        """The same as a share."""
        right, asked = self.right(kinds)
        return right / asked

    def of(self, kinds: Sequence[str] = RECALL_KINDS) -> list[str]:
        """Question and answer, a line each."""
        asked = [probe for probe in self.story.questions if probe.kind in kinds]
        return [f"{probe.id} -> {self.texts[probe.id]}" for probe in asked]


def run_demo(
    folder: Path,
    *,
    say: Callable[[str], None] = print,
    on_progress: OnProgress = lambda stage, done, total: None,
    overrides: dict[str, Any] | None = None,
    story: Story | None = None,
) -> dict[str, Any]:
    """Tell the story in a new home; gives the figures for ``--json``.

    ``story`` is by default the one that the model can read.

    Raises:
        NothingToLearnError: the model found nothing in what it was told.
    """
    began = time.perf_counter()
    with Home.create(folder, overrides=overrides) as home:
        chosen = story or (SIMPLE if home.loaded.source == POCKET else EVERYDAY)
        record = _tell(home, chosen, Teller(say), on_progress)
    return {**record, "seconds": round(time.perf_counter() - began, 1)}


def _tell(home: Home, story: Story, teller: Teller, on_progress: OnProgress) -> dict[str, Any]:
    model, start = home.loaded.source, home.state.digest
    manners = any(zero.is_zero(lesson) for lesson in home.lessons())
    told = [message.content for message in story.told.messages if message.role == "user"]
    teller.next(f"A person tells {model}, in a chat:")
    for line in told:
        teller.show(line)

    before = _asked(home, story, on_progress)
    right, asked = before.right()
    teller.next(f"Asked without that chat in view, it knows {right} of {asked}:")
    for line in before.of():
        teller.show(line)

    outcome, seconds, change = _learned(home, story, teller, on_progress)

    after = _asked(home, story, on_progress)
    right, asked = after.right()
    teller.next(f"Asked again, still without the chat, it knows {right} of {asked}:")
    for line in after.of():
        teller.show(line)
    right, asked = after.right(("abstention",))
    teller.more(f"Asked what it was never told, it says so {right} of {asked} times:")
    for line in after.of(("abstention",)):
        teller.show(line)

    now = home.state.digest
    teller.next("The ledger has it, with its texts, exams and digests (`engrain lessons list`):")
    for lesson in home.lessons():
        teller.show(f"{lesson.id}  {lesson.status}  {lesson.title}")
    teller.more(f"Weights before {start[:12]}, now {now[:12]}.")

    if outcome.lesson.id in home.state.lessons:
        undone = home.undo(outcome.lesson.id)
        equal: bool | None = undone.state_after == start
        teller.next(
            f"Undo: weights {now[:12]} -> {undone.state_after[:12]}, "
            + ("the very bytes of before the lesson." if equal else "NOT those of before.")
        )
        gone = _asked(home, story, on_progress)
        right, asked = gone.right()
        same = ", word for word as in step 2" if gone.texts == before.texts else ""
        teller.more(f"Asked once more, it knows {right} of {asked}{same}.")
    else:
        equal, gone = None, after
        teller.next("There is nothing to undo: the weights are those of before.")
    problems = home.verify()
    teller.more(
        "Every digest of the ledger, derived again from the files: "
        + ("all agree." if not problems else f"{len(problems)} do NOT agree.")
    )
    return {
        "model": model,
        "base_digest": home.loaded.base_digest,
        "lesson_zero": manners,
        "told": told,
        "questions": [_answered(probe, before, after, gone) for probe in story.questions],
        "recall_before": before.share(),
        "recall_after": after.share(),
        "recall_undone": gone.share(),
        "abstention_before": before.share(("abstention",)),
        "abstention_after": after.share(("abstention",)),
        "panel_change_percent": change,
        "lessons": [outcome.to_dict()],
        "estimated_seconds": seconds,
        "undo_digest_equal": equal,
        "verify_problems": len(problems),
        "machine": machine_fingerprint(),
        "versions": versions(),
        "story": teller.lines,
    }


def _learned(
    home: Home, story: Story, teller: Teller, on_progress: OnProgress
) -> tuple[Outcome, float | None, float | None]:
    """Learn the chat; gives what came of it, the seconds told beforehand, the panel's change."""
    teller.next(
        "It learns: it asks itself questions about the chat, answers them with the chat in view, "
        "and is trained to give these answers without it."
    )
    seconds = home.estimate(story.told).seconds
    if seconds:
        teller.more(f"Told beforehand: about {seconds:.0f} s.")
    try:
        outcome = home.learn(story.told, on_progress=on_progress)
    except NothingToLearnError as error:
        raise NothingToLearnError(
            f"{home.loaded.source} found nothing to learn in the demo's chat: {error.message}",
            remedy="Tell the story on another model: engrain demo --model NAME.",
        ) from error
    change = _examined(outcome, teller)
    if outcome.decision.verdict == "quarantined":
        home.enable(outcome.lesson.id)
        teller.more("A person may serve it all the same (`engrain lessons enable`): done here.")
    return outcome, seconds, change


def _asked(home: Home, story: Story, on_progress: OnProgress) -> Answers:
    """All questions of the story, each in a chat of its own."""
    texts = {}
    for number, probe in enumerate(story.questions, start=1):
        text = ""
        for piece in home.chat(probe.messages):
            text += piece
            if len(text) >= LONGEST:
                break
        texts[probe.id] = " ".join(text.split())
        on_progress("asked", number, len(story.questions))
    return Answers(story, texts)


def _examined(outcome: Outcome, teller: Teller) -> float | None:
    """Tell what was learned and how the exam went; gives the change of the panel's loss."""
    lesson = outcome.lesson
    things = len({text.group for text in lesson.facts()})
    teller.more(
        f"Lesson {lesson.id}: {things} things, in {len(lesson.facts())} questions with their "
        f"answers; it took {outcome.seconds:.0f} s."
    )
    then, now = (
        list(exam.outcomes(lesson.id, kinds=RECALL_KINDS).values())
        for exam in (outcome.exam_before, outcome.exam_after)
    )
    change = math.nan
    if outcome.exam_before.panel and outcome.exam_after.panel:
        change = outcome.exam_after.panel.change_percent(outcome.exam_before.panel)
    loss = f"; the loss on other text changed by {change:+.1f}%" if math.isfinite(change) else ""
    teller.more(
        f"Exam: of {len(now)} questions that were held back it answered {sum(then)} before and "
        f"answers {sum(now)} now{loss}."
    )
    teller.more(f"The gate: {outcome.decision.verdict}. {' '.join(outcome.decision.reasons)}")
    return change if math.isfinite(change) else None


def _answered(probe: Probe, before: Answers, after: Answers, gone: Answers) -> dict[str, Any]:
    moments = {"before": before, "after": after, "undone": gone}
    return {
        "question": probe.id,
        "kind": probe.kind,
        "expected": list(probe.answers),
        **{name: answers.texts[probe.id] for name, answers in moments.items()},
        "passed": {name: passes(probe, a.texts[probe.id]) for name, a in moments.items()},
    }
