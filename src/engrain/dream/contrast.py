"""Contrast: neighbouring questions whose answers must not change.

A lesson that only ever sees "What is my ...?" answered with something new learns the wording
instead of the fact. So each training wording gets neighbours that ask for something else in the
same wording; their target is a fact of an earlier lesson where one fits, else what the *untaught*
model answers without the conversation: mostly that it does not know. Both are right by
construction. The model as it stands is not asked: what an earlier lesson made it invent would
become a target, and the damage would add up from lesson to lesson.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from engrain.dream.earlier import EarlierFacts, asked
from engrain.dream.frames import (
    Parts,
    fill,
    frame_of,
    split_thing,
)
from engrain.dream.grounding import UserWords
from engrain.dream.lexicon import Lexicon
from engrain.dream.neighbours import beside, beside_clause, neighbours
from engrain.dream.reader import Reader
from engrain.exam.probes import says_unknown
from engrain.study.wording import (
    holds,
    key_runs,
    normal,
    question_fault,
)

SURPLUS = 2
"""Proposals per wanted contrast: some are refused."""
MOST_NEAR = 80
"""Neighbours of one thing that are looked at."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A training question with the group, the parts and the key of its fact."""

    question: str
    group: str
    parts: Parts
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A question that may become contrast.

    ``untold`` where its words alone show that it was not told: it asks for just what was told, but
    of somebody else, or for nothing that the user has a word of. A small reader mixes up those that
    are nearest to what was told, and would drop them.
    """

    wording: Wording
    question: str
    untold: bool = False


@dataclass(frozen=True, slots=True)
class Contrast:
    """A neighbouring question and the answer that must stay."""

    question: str
    answer: str
    group: str


def make_contrast(
    reader: Reader,
    wordings: Sequence[Wording],
    kept: Sequence[str],
    said: UserWords,
    lexicon: Lexicon,
    before: EarlierFacts,
    *,
    ratio: float,
    seed: int,
) -> list[Contrast]:
    """About ``ratio`` contrasts per wording, none of them about what the user told.

    ``kept`` are all questions of the lesson: trained, held out, or about its facts in any way.
    """
    if not wordings or ratio <= 0:
        return []
    rng = random.Random(f"contrast:{seed}")
    taken = {normal(question) for question in kept}
    near = {asked(question) for question in kept}

    def told(question: str) -> bool:
        """Whether a question is about what was told."""
        return asked(question) in near or said.tells(question)

    proposals = _propose(wordings, told, said.unheard, ratio, rng)
    keys = list(dict.fromkeys(wording.key for wording in wordings))
    fresh: list[Proposal] = []
    for one in proposals:
        wording, question = one.wording, one.question
        shape = normal(question)
        # A frame that was trained on must be in the contrast as well, whatever its words.
        fault = question_fault(question)
        if shape in taken or (fault and fault != question_fault(wording.question)):
            continue
        if any(holds(question, key) for key in keys) or told(question):
            continue
        taken.add(shape)
        fresh.append(one)
    wanted = round(ratio * len(wordings))
    queue = _in_turns(fresh)
    found: list[Contrast] = []
    while queue and len(found) < wanted:
        # Asking costs more than proposing: no more than what is still wanted, and some to spare.
        count = int(1.25 * (wanted - len(found))) + 4
        batch, queue = queue[:count], queue[count:]
        found += [
            one
            for one in _told_nothing(reader, batch, keys, before)
            if not lexicon.garbled(one.answer, [one.question])
        ]
    return found[:wanted]


def _in_turns(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Proposals ordered so that every wording gets its first one before any gets its second."""
    place: dict[str, int] = {}
    turns: list[int] = []
    for one in proposals:
        turns.append(place.get(one.wording.question, 0))
        place[one.wording.question] = turns[-1] + 1
    order = sorted(range(len(proposals)), key=lambda i: (turns[i], i))
    return [proposals[i] for i in order]


def _propose(
    wordings: Sequence[Wording],
    told: Callable[[str], bool],
    unheard: Callable[[str], bool],
    ratio: float,
    rng: random.Random,
) -> list[Proposal]:
    """Neighbouring questions in the frames of the wordings, the nearest first.

    What was told is not put into a frame, whose words could hide what it asks for.
    """
    per = max(1, round(ratio)) * SURPLUS
    # No two contrasts about the same thing, or the lesson teaches which few things are unknown.
    distant = [part for part in neighbours(per * len(wordings), rng) if not told(_asking(part))]
    near = _near(wordings, told, rng)
    proposals: list[Proposal] = []
    used: dict[str, int] = {}
    for index, wording in enumerate(wordings):
        frame = frame_of(wording.question, wording.parts)
        if not frame:
            continue
        turn = used[wording.group] = used.get(wording.group, -1) + 1
        close = _turned(near.get(wording.parts.name, []), turn * per)[:per]
        far = _turned(distant, index * per)[:per]
        # One near, one far: near ones teach whose fact it is, far ones that most is unknown.
        for part in (p for pair in zip_longest(close, far) for p in pair if p):
            if text := fill(frame, part):
                untold = _of_another(part, wording.parts) or unheard(_asking(part))
                proposals.append(Proposal(wording, text, untold))
    return proposals


def _of_another(part: Parts, told: Parts) -> bool:
    """Whether a part asks for just what was told, but of somebody else."""
    if part.clause or told.clause:
        same = part.clause and told.clause and told.clause.of(part.clause.subject) == part.clause
        return bool(same) and part.clause != told.clause
    noun = split_thing(part.thing)[1]
    return bool(noun) and noun == split_thing(told.thing)[1]


def _near(
    wordings: Sequence[Wording], told: Callable[[str], bool], rng: random.Random
) -> dict[str, list[Parts]]:
    """For each told thing what lies one step from it."""
    parts = {w.parts.name: w.parts for w in wordings if w.parts.name}
    things = [part.thing for part in parts.values() if part.thing]
    doers = [part.clause.subject for part in parts.values() if part.clause]
    owners = ["my" if subject in ("I", "we") else subject for subject in doers]
    doers += ["I" if owner == "my" else owner for owner, _ in map(split_thing, things) if owner]
    asked_with = {
        split_thing(part.thing)[1]: part.direct.split()[0] for part in parts.values() if part.thing
    }
    found: dict[str, list[Parts]] = {}
    for name, part in parts.items():
        if part.clause:
            wh = part.inside.split()[0]
            near = beside_clause(part.clause, wh, doers, rng)
        else:
            near = beside(part.thing, things, asked_with, rng, owners)
        found[name] = [one for one in near[:MOST_NEAR] if not told(_asking(one))]
    return found


def _asking(part: Parts) -> str:
    """A part as a question by itself."""
    return part.direct or part.inside


def _turned(pool: list[Parts], count: int) -> list[Parts]:
    """The pool beginning at another place."""
    at = count % len(pool) if pool else 0
    return pool[at:] + pool[:at]


def _told_nothing(
    reader: Reader,
    proposals: Sequence[Proposal],
    keys: Sequence[tuple[str, ...]],
    before: EarlierFacts,
) -> list[Contrast]:
    """Proposals that the conversation does not answer, with the answer without it."""
    # Every window is asked: a question is contrast only if no part of the talk answers it.
    for window in range(reader.whole):
        unsure_of = [one for one in proposals if not one.untold]
        answers = reader.read([(window, one.question) for one in unsure_of])
        told = {
            one.question
            for one, answer in zip(unsure_of, answers, strict=True)
            if any(holds(answer, key) for key in keys)
        }
        proposals = [one for one in proposals if one.question not in told]
    questions = [one.question for one in proposals]
    taught = {i: before.target(question) for i, question in enumerate(questions)}
    with reader.engine.untaught():
        closed = reader.closed_book(questions)
        unsure = [i for i, answer in enumerate(closed) if not says_unknown(answer)]
        again = reader.closed_book([questions[i] for i in unsure], temperature=0.7, round_=901)
    invented = {
        i
        for i, second in zip(unsure, again, strict=True)
        if key_runs(closed[i], [questions[i]])[:1] != key_runs(second, [questions[i]])[:1]
    }
    # What an earlier lesson taught is asked for what it taught, even where it faded by now; what
    # only may have been taught ("my aunt's car color" after "my aunt's car") is left alone.
    return [
        Contrast(one.question, taught[i] or closed[i], one.wording.group)
        for i, one in enumerate(proposals)
        # An answer that changes from one sampling to the next is no knowledge to be kept.
        if closed[i]
        and (taught[i] or (i not in invented and not before.may_answer(one.question)))
        and not any(holds(closed[i], key) for key in keys)
    ]
