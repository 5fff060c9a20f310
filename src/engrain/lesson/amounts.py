"""What a lesson will ask of a model, counted before it begins: nothing is run to tell it.

What self-study finds is not known before it is studied, so the shares by which a message becomes
claims, facts, wordings and near misses stand here as named numbers. Each says where it was seen, or
that it is assumed; finished lessons correct what follows from them (:mod:`engrain.lesson.cost`).
What is trained is counted on texts like those that will be made, by the learner's own parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText
from engrain.data.messages import Conversation
from engrain.learn.technique import Regularization, Replay, Representation, Setting
from engrain.learn.turns import after_talk
from engrain.lesson.asked import EARLIER_PROBES
from engrain.lesson.fit import STOCK, expected_lesson
from engrain.lesson.pace import ALIKE, Passes, Shape, asked, scored
from engrain.study.lesson import EFFORTS, Effort
from engrain.study.near_misses import CHANGED
from engrain.study.questions import WORDED
from engrain.study.reader import ANSWER_TOKENS, BATCH, ROOM, WINDOW_TOKENS, Room
from engrain.study.requests import WORKED
from engrain.study.writer import QUESTION_TOKENS

if TYPE_CHECKING:
    from engrain.learn.recipe import Recipe
    from engrain.lesson.writers import Chosen
    from engrain.model.adapter import Adapter
    from engrain.model.loading import LoadedModel

FACTS = 1.5
"""Facts that are found in a user's message (assumed)."""
LISTED = 1.5
"""Claims in the greedy list of a message. With ``SAMPLED`` they make the 4 to 5 of a message that
lie between what the 0.5B judged (3, ``everyday-study-few-unknown.json``) and what the 1.5B listed
by hand (7)."""
SAMPLED = 1.0
"""Further claims in each sampled list."""
PIECES = 0.09
"""Surprising pieces that no list has, for each token of a conversation (by hand: 92 with those that
lists have in some 880 tokens of two days)."""
BELIEVED = 0.5
"""Claims that the reader believes: it doubted 17 of the 35 questions of the same study."""
PASSING = 0.5
"""Questions about believed claims that pass the round trip: 8 of 18 there."""
FRESH = 2.0
"""New questions in a list of other wordings (assumed: lists repeat themselves)."""
REWORDED = 0.4
"""Share of these that passes: a fact had 4 wordings in the same study."""
TRIED = 1.5
"""Questions that are read for each wording that a fact may have, at most (assumed)."""
CHANGES = 12.0
"""Questions with a changed word that are weighed for each wording (of 16 at most; by hand)."""
UNTOLD = 0.5
"""Share of near misses that the reader says were not told (assumed)."""
HELD = 1.5
"""Wordings of a fact that are held out: one or two of three and more."""
HELD_NEAR = 1.0
"""Near misses of a fact that are held out."""
LIST_STEPS = 96
"""Tokens of the longest list of a batch, of 256 that it may have (assumed: the seconds of the two
days of the same study fit some 30 and some 80)."""
LIST_WRITTEN = 40
"""Tokens of a mean list: some three lines (assumed)."""
REQUEST, QUESTION, ANSWER = 48, 24, 12
"""Tokens of a request for a list, of a question in its turn, of an answer (assumed)."""
PROBE = 44
"""Tokens of a probe with a system prompt and the marks of its turns (assumed)."""
TURN = 8
"""Tokens of the marks of a turn."""
MASTERED = 0.75
"""Share of its most steps that training to mastery takes (assumed: by hand the loss of the 0.5B was
at its floor after 12 of 32, and every single text must be known)."""
MISSING = 0.25
"""Share of the facts for which a second round asks for wordings again (assumed)."""
SAMPLE = 64
"""Examples and weak texts whose length stands for all."""


@dataclass(frozen=True)
class Source:
    """What a lesson is made of, as far as that is known before it is studied.

    ``weak`` counts the texts of weak facts of earlier lessons that are trained again with it,
    ``most`` the facts that self-study takes at most.
    """

    conversations: Sequence[Conversation] = ()
    examples: Sequence[TrainingText] = ()
    effort: str = "normal"
    earlier: Sequence[Lesson] = ()
    adapters: Sequence[Adapter] = ()
    weak: int = 0
    most: int = 64

    @property
    def facts(self) -> float:
        """Facts that self-study is expected to find."""
        return min(float(self.most), FACTS * sum(map(_said, self.conversations)))

    @property
    def worded(self) -> float:
        """Wordings of such a fact."""
        effort = EFFORTS[self.effort]
        told = (LISTED + SAMPLED * effort.lists) * BELIEVED * PASSING / FACTS
        return min(effort.wordings, told + REWORDED * _proposed(effort, 1 + effort.rewordings))

    @property
    def held(self) -> float:
        """Wordings of such a fact that are held out as probes."""
        return HELD if self.worded >= 3 else 0.0

    @property
    def texts(self) -> int:
        """New texts of the lesson."""
        trained = self.facts * (self.worded - self.held)
        return round(trained) + len(self.examples) + self.weak

    @property
    def probes(self) -> float:
        """Probes of an exam, those of earlier lessons included."""
        known = sum(len(lesson.probes) for lesson in self.earlier)
        own = self.facts * (self.held + HELD_NEAR)
        return own + len(self.examples) / 4 + min(EARLIER_PROBES, known)


# ------------------------------------------------------------------ self-study
@dataclass(frozen=True)
class Study:
    """What self-study asks of the reader and of the writer, which may be one model."""

    reader: Passes
    writer: Passes


def study(source: Source, loaded: LoadedModel, writer: Chosen, taught: bool) -> Study:
    """All requests of self-study, as :func:`engrain.study.lesson.make_lesson` makes them."""
    effort, before = EFFORTS[source.effort], worked_tokens(loaded, writer, taught)
    lists, read, left = Passes(), Passes(), source.facts
    groups = sum(len(lesson.groups()) for lesson in source.earlier)
    for view, said in _windows(source.conversations, loaded):
        seen = view + before
        facts = min(left, FACTS * said)
        left -= facts
        claims = (LISTED + SAMPLED * effort.lists) * said
        lists += _lists(said, seen) + _lists(said * effort.lists, seen)
        read += scored(claims, view=view, own=QUESTION + ANSWER, targets=1)
        pieces = PIECES * view if effort.pieces else 0.0
        lists += _questions(pieces, effort.pieces, seen)
        own = QUESTION + ANSWER
        read += scored(pieces * effort.pieces, view=view, own=own, targets=1)
        claims = BELIEVED * (claims + pieces)
        read += _round_trip(claims, PASSING, view) + _answers(groups, view)
        more = _more_wordings(facts, effort, 1 + effort.rewordings, view, seen)
        lists, read = lists + more.writer, read + more.reader
        read += _near_misses(facts, effort, view)
    return Study(read, lists)


def study_again(source: Source, loaded: LoadedModel, writer: Chosen, taught: bool) -> Study:
    """The requests of a second round: more wordings of the facts that the exam finds missing."""
    effort = EFFORTS[source.effort]
    before = worked_tokens(loaded, writer, taught)
    lists, read = Passes(), Passes()
    for view, said in _windows(source.conversations, loaded):
        more = _more_wordings(
            MISSING * FACTS * said, effort, 2 + effort.rewordings, view, view + before
        )
        lists, read = lists + more.writer, read + more.reader
    return Study(read, lists)


def worked_tokens(loaded: LoadedModel, writer: Chosen, taught: bool) -> int:
    """Tokens of the worked examples that a writer sees before each conversation."""
    if writer.outline is None and taught:
        return 0
    model = writer.outline or loaded
    room = Room(model.tokenizer, int(model.max_length) - ROOM)
    size = sum(map(room.size, WORKED))
    return size if 2 * size <= room.tokens else 0


def _windows(
    conversations: Sequence[Conversation], loaded: LoadedModel
) -> Iterator[tuple[float, float]]:
    """Tokens and messages of the user of each window of the conversations."""
    room = max(1, min(WINDOW_TOKENS, int(loaded.max_length) - ROOM))
    for conversation in conversations:
        text = "\n".join(message.content for message in conversation.messages)
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = len(ids) + TURN * len(conversation.messages)
        pieces = -(-tokens // room)
        for _ in range(pieces):
            yield tokens / pieces, _said(conversation) / pieces


def _said(conversation: Conversation) -> int:
    return sum(message.role == "user" for message in conversation.messages)


def _lists(count: float, view: float) -> Passes:
    return asked(
        count, view=view, own=REQUEST, longest=LIST_STEPS, written=LIST_WRITTEN, size=BATCH
    )


def _answers(count: float, view: float) -> Passes:
    return asked(count, view=view, own=QUESTION, longest=ANSWER_TOKENS, written=ANSWER, size=BATCH)


def _round_trip(questions: float, share: float, view: float) -> Passes:
    """Two answers to each question; those of a share are scored with and without the view."""
    passed, own = share * questions, QUESTION + ANSWER
    found = _answers(questions, view) * 2
    for seen in (view, 0.0):
        found += scored(passed, view=seen, own=own, targets=ANSWER)
        found += scored(passed, view=seen, own=QUESTION, targets=QUESTION)
    return found


def _questions(count: float, samples: int, view: float) -> Passes:
    """The questions to so many answers; samples of one share what stands before them."""
    if not samples:
        return Passes()
    return asked(
        count,
        view=view,
        own=REQUEST,
        longest=QUESTION_TOKENS,
        written=samples * ANSWER,
        size=BATCH,
    )


def _proposed(effort: Effort, lists: int) -> float:
    """Questions that are read of those proposed for a fact, of its message and of some lists."""
    return float(min(effort.questions + WORDED * lists * FRESH, TRIED * effort.wordings))


def _more_wordings(facts: float, effort: Effort, lists: int, view: float, seen: float) -> Study:
    """Questions to some facts and lists of other wordings, and the round trip of what is read."""
    writes = _questions(facts, effort.questions, seen)
    for _ in range(lists):
        writes += _lists(WORDED * facts, seen)
    return Study(_round_trip(facts * _proposed(effort, lists), REWORDED, view), writes)


def _near_misses(facts: float, effort: Effort, view: float) -> Passes:
    """What could stand in some questions, how likely each change is, and whether it was told."""
    changed, read = CHANGED * facts, TRIED * effort.near * facts
    found = scored(changed, view=view, own=QUESTION, targets=QUESTION)
    found += scored(changed * (1 + CHANGES), view=0.0, own=QUESTION, targets=QUESTION)
    found += _answers(read, view) + _answers(UNTOLD * read, REQUEST)
    return found + scored(UNTOLD * read, view=view, own=QUESTION + ANSWER, targets=1)


# ------------------------------------------------------------------ exams and training
def probing(probes: float, shape: Shape) -> Passes:
    """The answers to the probes of one exam."""
    size = {} if shape.fine else {"size": ALIKE}
    return asked(probes, own=PROBE, longest=ANSWER_TOKENS, written=ANSWER, **size)


@dataclass(frozen=True)
class Training:
    """A run of the learner: what is read before the first step, the numbers of a mean step.

    Each token of a step counts the numbers of the layers, each target those of the output layer.
    """

    prepared: Passes
    step: float

    @classmethod
    def of(cls, recipe: Recipe, setting: Setting) -> Training:
        """The run of a recipe over texts like those of a setting, counted by its own parts."""
        shape, lesson = Shape.of(setting.loaded), setting.lesson
        parts = recipe.build()
        texts = lesson.facts() if recipe.mastery else lesson.balanced()
        new = [setting.encode(text) for text in texts]
        share = min(setting.batch_size, len(new)) / max(1, len(new))
        representation = cast(Representation, parts["representation"][0])
        tokens = share * sum(map(representation.computed, new))
        targets = share * sum(sum(example.loss_mask) for example in new)
        for replay in cast(list[Replay], parts["replay"]):
            replay.prepare(setting)
            drawn = replay.draw(0)
            tokens += sum(map(representation.computed, drawn))
            targets += sum(sum(example.loss_mask) for example in drawn)
        prepared = Passes()
        for part in cast(list[Regularization], parts["regularization"]):
            cost = part.cost(setting)
            prepared += Passes(cost.read, cost.predicted)
            tokens += cost.read / cost.groups
            targets += cost.predicted / cost.groups
        return cls(prepared, tokens * shape.body + targets * shape.head)


def training(recipe: Recipe, source: Source, loaded: LoadedModel) -> Training:
    """The run over what is expected of a source."""
    # Many examples are as long as a few of them.
    given = list(source.examples)[: max(SAMPLE, recipe.batch_size)]
    lesson = expected_lesson(source.conversations, given, recipe.batch_size)
    # Each fact is read once in view of what told it; so many anchors read a conversation.
    reading = [text for text in lesson.texts if text.kind == "reading"]
    times = round(min(source.facts, STOCK * len(reading)) / max(1, len(reading)))
    lesson = replace(lesson, texts=(*lesson.texts, *reading * max(0, times - 1)))
    lesson = after_talk(lesson, anchors(), recipe.after_talk, 0)
    setting = Setting(
        loaded, lesson, source.earlier, anchors(), 0, steps(recipe, source), recipe.batch_size
    )
    return Training.of(recipe, setting)


def steps(recipe: Recipe, source: Source) -> int:
    """Steps of the run."""
    most = recipe.steps_for(source.texts)
    return max(min(most, recipe.min_steps), round(MASTERED * most)) if recipe.mastery else most
