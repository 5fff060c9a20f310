"""What a lesson will cost, told before it runs: seconds and peak memory, part by part.

A short calibration times the parts of a lesson on this machine with this model and recipe:
questions with and without a conversation in view, training steps, a piece of the panel, the folding
of weights. A lesson is then priced from the sentences that the user said. Every finished lesson
corrects the price by what it really took. Memory comes from a formula (:mod:`engrain.lesson.fit`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, canonical_digest
from engrain.data.messages import Conversation, Message
from engrain.dream.reader import ANSWER_TOKENS, in_context
from engrain.dream.self_study import EFFORTS
from engrain.exam.kept import keep_measured, read_measured
from engrain.exam.panel import run_panel
from engrain.learn.learner import Learner
from engrain.lesson.asked import EARLIER_PROBES
from engrain.lesson.fit import STOCK, Memory, expected_lesson, lesson_memory, stock_texts
from engrain.lesson.writers import Chosen, Guest
from engrain.model.threads import machine_digest
from engrain.study.lesson import EFFORTS as WRITTEN
from engrain.study.questions import NEAR_WORDINGS, WORDED

if TYPE_CHECKING:
    from engrain.exam.panel import Panel
    from engrain.learn.recipe import Recipe
    from engrain.lesson.served import Served
    from engrain.model.adapter import Adapter
    from engrain.model.engine import Engine

FACTS_PER_SENTENCE = 0.75
"""Facts that self-study finds in a telling sentence (measured on made-up lives, pocket)."""
CLOSED_PER_CONTRAST = 1.4
"""Questions without the conversation for each contrast text wanted (the same)."""
READ_PER_SENTENCE = 2.0
"""Questions with the conversation in view for each reading of a fact that an effort asks for."""
PYTHON_SECONDS = 0.005
"""Checking of one answer, outside of the model."""
PROBES_PER_SENTENCE = 1.6
MISSING = 0.25
"""Share of the facts for which a second round asks for wordings again."""
STEPS = 6
"""Training steps that are timed."""
READ_TOKENS = 48
"""Tokens of a timed answer with the conversation in view: short answers and some lists."""
READERS = 6
"""Questions that self-study asks at once of one window."""
TRUST = 0.5
"""How far one finished lesson moves the correction."""

_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]?")
_TOLD = "I went to the harbour on Monday and bought a small red boat."


@dataclass(frozen=True)
class Source:
    """What a lesson is made of, as far as that is known before it is studied.

    ``weak`` counts the texts of weak facts of earlier lessons that are trained again with it.
    """

    conversations: Sequence[Conversation] = ()
    examples: Sequence[TrainingText] = ()
    effort: str = "normal"
    earlier: Sequence[Lesson] = ()
    adapters: Sequence[Adapter] = ()
    weak: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a lesson will take: seconds by part, none where it was not timed, and memory.

    ``once_seconds`` are spent before the first lesson on a machine alone: the panel's noise band.
    ``further_seconds`` are those of a second round, which only follows where the exam finds
    something missing.
    ``writer`` asks the questions, for the reason ``why``; it is "" where there is nothing to study.
    """

    recipe: str
    parts: Mapping[str, float]
    memory: Memory
    once_seconds: float = 0.0
    further_seconds: float = 0.0
    writer: str = ""
    why: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds of the lesson."""
        return sum(self.parts.values()) if self.parts else None

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        return {
            "recipe": self.recipe,
            "writer": self.writer,
            "writer_why": self.why,
            "estimated_seconds": self.seconds,
            "seconds": {name: round(value, 3) for name, value in self.parts.items()},
            "once_seconds": round(self.once_seconds, 3),
            "further_seconds": round(self.further_seconds, 3),
            "memory": self.memory.to_dict(),
        }


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts of a lesson, and the correction that finished lessons taught.

    A question with a conversation of c tokens in view takes ``reading_seconds`` +
    ``token_seconds`` * c. A second model that writes takes ``loading_seconds``, and for each of its
    lists ``writing_seconds`` + ``writing_token_seconds`` * c.
    """

    question_seconds: float
    step_seconds: float
    panel_seconds: float
    reading_seconds: float = 0.0
    token_seconds: float = 0.0
    prepare_seconds: float = 0.0
    fold_seconds: float = 0.0
    correction: float = 1.0
    loading_seconds: float = 0.0
    writing_seconds: float = 0.0
    writing_token_seconds: float = 0.0

    def parts(self, recipe: Recipe, source: Source) -> dict[str, float]:
        """Seconds of self-study, exams and training."""
        effort, lists = EFFORTS[source.effort], WRITTEN[source.effort]
        study, texts, sentences = 0.0, len(source.examples) + source.weak, 0
        if source.conversations:
            study += self.loading_seconds
        for conversation in source.conversations:
            told = telling_sentences([conversation])
            facts = FACTS_PER_SENTENCE * told
            closed = CLOSED_PER_CONTRAST * facts * effort.wordings * effort.contrast
            read = READ_PER_SENTENCE * told * effort.read
            # About four characters a token.
            view = sum(len(message.content) for message in conversation.messages) / 4
            study += closed * (self.question_seconds + PYTHON_SECONDS)
            study += read * (self.reading_seconds + view * self.token_seconds + PYTHON_SECONDS)
            said = sum(message.role == "user" for message in conversation.messages)
            written: float = said * (1 + lists.lists)
            written += facts * (WORDED * (1 + lists.rewordings) + NEAR_WORDINGS)
            study += written * (self.writing_seconds + view * self.writing_token_seconds)
            texts += round(facts * effort.wordings)
            sentences += told
        known = sum(len(lesson.probes) for lesson in source.earlier)
        probes = PROBES_PER_SENTENCE * sentences + len(source.examples) / 4
        probes += min(EARLIER_PROBES, known)
        exams = self.panel_seconds + 2 * probes * self.question_seconds + 2 * self.fold_seconds
        training = self.prepare_seconds + recipe.steps_for(texts) * self.step_seconds
        raw = {"self_study": study, "exams": exams, "training": training}
        return {name: value * self.correction for name, value in raw.items()}

    def further(self, recipe: Recipe, parts: Mapping[str, float]) -> float:
        """Seconds of a second round: wordings of some facts, half of the steps, an exam more."""
        if recipe.rounds < 2 or not parts:
            return 0.0
        # The panel before a lesson is known, so both exams run it once; preparing is not halved.
        whole = self.correction * (self.prepare_seconds + self.panel_seconds)
        study = MISSING * parts["self_study"]
        return study + (parts["exams"] + parts["training"] + whole) / 2

    def learned(self, told: float, taken: float) -> Speed:
        """The speed after a lesson that was told to take ``told`` and took ``taken`` seconds."""
        if told <= 0 or taken <= 0:
            return self
        return replace(self, correction=self.correction * (taken / told) ** TRUST)


def telling_sentences(conversations: Sequence[Conversation]) -> int:
    """Sentences of users that are no questions: each may hold a fact."""
    return sum(
        1
        for conversation in conversations
        for message in conversation.messages
        if message.role == "user"
        for sentence in _SENTENCE.findall(message.content)
        if len(sentence.split()) > 2 and not sentence.rstrip().endswith("?")
    )


def calibrate(
    served: Served, recipe: Recipe, panel: Panel, source: Source, writer: Chosen
) -> Speed:
    """Time a piece of each part of a lesson; the weights in force stay."""
    # Of the length of those that self-study asks, and as far beside what was told.
    closed = [text.messages[:1] for text in stock_texts(32) if text.kind == "contrast"]
    served.engine.generate(closed[:4], max_new_tokens=4)
    question = _timed(lambda: served.engine.generate(closed, max_new_tokens=ANSWER_TOKENS))
    reading, token = _reading_seconds(served.engine)
    writing = _writing_seconds(writer)
    prepare, step = _step_seconds(served, recipe, source)
    fold = _timed(lambda: served.fold(()))
    panel_seconds = _panel_seconds(served, panel)
    measured = Speed(question / len(closed), step, panel_seconds, reading, token, prepare, fold)
    return replace(measured, **writing)


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _writing_seconds(writer: Chosen) -> dict[str, float]:
    """Seconds of loading a second model and of its lists; nothing where no second one is loaded."""
    if writer.outline is None:
        return {}
    began = time.perf_counter()
    with writer.opened() as guest:
        loading = time.perf_counter() - began
        written, token = _reading_seconds(cast(Guest, guest).engine)
    return {
        "loading_seconds": loading,
        "writing_seconds": written,
        "writing_token_seconds": token,
    }


def _reading_seconds(engine: Engine) -> tuple[float, float]:
    """Seconds of a question about a conversation: without its tokens, and for each of them."""
    found = []
    longest = max(1, (engine.loaded.max_length - 2 * READ_TOKENS) // 100)
    for sentences in (min(4, longest), min(40, longest)):
        view = [Message("user", " ".join([_TOLD] * sentences)), Message("assistant", "I see.")]
        prompts = [in_context(view, f"Number {i}: what did I buy?") for i in range(READERS)]
        tokens = len(engine.encode_chat(prompts[0]))
        with engine.untaught():
            seconds = _timed(partial(engine.generate, prompts, max_new_tokens=READ_TOKENS))
        found.append((tokens, seconds / READERS))
    (few, quick), (many, slow) = found
    slope = max(0.0, slow - quick) / max(1, many - few)
    return max(0.0, quick - slope * few), slope


def _step_seconds(served: Served, recipe: Recipe, source: Source) -> tuple[float, float]:
    """Seconds of a run's preparation, and of one step."""
    times: list[float] = []
    began = time.perf_counter()
    Learner(replace(recipe, min_steps=STEPS, max_steps=STEPS)).run(
        served.loaded,
        expected_lesson(source.conversations, source.examples, 2 * STOCK),
        earlier=source.earlier,
        adapters=source.adapters,
        anchors=anchors(),
        on_step=lambda done, total, loss: times.append(time.perf_counter()),
    )
    step = (times[-1] - times[0]) / (len(times) - 1)
    return max(0.0, times[0] - began - step), step


def _panel_seconds(served: Served, panel: Panel) -> float:
    """Seconds of the panel, from one batch of each part, or from a quarter of a short one."""
    total, counts = 0.0, panel.counts()
    batch = {part: 8 if part in ("loss", "capability") else 32 for part in counts}
    few = panel.smaller({part: min(batch[part], -(-counts[part] // 4)) for part in counts})
    for part, taken in few.counts().items():
        seconds = _timed(partial(run_panel, served.engine, few, parts=[part]))
        total += seconds * counts[part] / taken
    return total


@dataclass(frozen=True)
class Prices:
    """The speed of one recipe on this machine and model, kept in a folder of the home.

    ``measured`` says whether the panel's noise band was measured on this machine before;
    ``writer`` is who asks the questions.
    """

    folder: Path
    recipe: Recipe
    base_digest: str
    panel: Panel
    taught: bool = False
    measured: bool = True
    writer: Chosen = field(default_factory=Chosen)

    @property
    def path(self) -> Path:
        """The file of this speed; the first lesson has one of its own, since it replays nothing."""
        key = [self.recipe.digest, machine_digest(), self.base_digest, self.taught]
        key += [] if self.writer.is_self else [self.writer.name]
        return self.folder / f"{canonical_digest(key)[:32]}.json"

    def memory(self, served: Served, source: Source) -> Memory:
        """The memory that a lesson will take."""
        return lesson_memory(
            served.loaded,
            self.recipe,
            self.panel,
            conversations=source.conversations,
            examples=source.examples,
            earlier=source.earlier,
            noise=not self.measured,
            writer=self.writer.outline,
        )

    def estimate(self, served: Served, source: Source, *, force: bool = False) -> Estimate:
        """What a lesson will take; the first asking times the machine.

        What does not fit is not timed unless with ``force``: a piece of it might not fit either.
        """
        memory = self.memory(served, source)
        writer = (self.writer.name, self.writer.why) if source.conversations else ("", "")
        speed = load_speed(self.path)
        if speed is None:
            if not memory.fits and not force:
                return Estimate(self.recipe.name, {}, memory, 0.0, 0.0, *writer)
            speed = calibrate(served, self.recipe, self.panel, source, self.writer)
            keep_measured(self.path, asdict(speed))
        parts = speed.parts(self.recipe, source)
        # The panel on the base, and on four copies of it.
        once = 0.0 if self.measured else 5 * speed.panel_seconds
        further = speed.further(self.recipe, parts)
        return Estimate(self.recipe.name, parts, memory, once, further, *writer)

    def correct(self, told: float | None, taken: float) -> None:
        """Let a lesson that took ``taken`` seconds correct what is told of the next."""
        speed = load_speed(self.path)
        if speed is not None and told:
            keep_measured(self.path, asdict(speed.learned(told, taken)))


def load_speed(path: Path) -> Speed | None:
    """A stored speed; None where there is none, or none that can be read."""
    try:
        return Speed(**read_measured(path))
    except TypeError:
        return None
