"""Contrast: neighbouring questions whose answers must not change.

A lesson that only ever sees "What is my ...?" answered with something new learns the wording
instead of the fact. So each training wording gets neighbours that ask for something else in the
same wording; their target is what the model answered *before* the lesson, without the
conversation: mostly that it does not know, sometimes a fact of an earlier lesson. Both are right
by construction.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from engrain.dream.earlier import EarlierFacts, asked
from engrain.dream.frames import (
    Parts,
    fill,
    frame_of,
    opener,
    parts_of,
    split_thing,
    swapped,
)
from engrain.dream.reader import Reader
from engrain.dream.wording import (
    content,
    holds,
    key_runs,
    normal,
    question_fault,
    tidy,
)
from engrain.exam.probes import says_unknown

CONTINUATION_TEMPERATURE = 1.0
SURPLUS = 2
"""Proposals per wanted contrast: some are refused."""
MAX_THING_WORDS = 6


@dataclass(frozen=True, slots=True)
class Wording:
    """A training question with the group, the parts and the key of its fact."""

    question: str
    group: str
    parts: Parts
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """A neighbouring question and the answer before the lesson."""

    question: str
    answer: str
    group: str


def make_contrast(
    reader: Reader,
    wordings: Sequence[Wording],
    kept: Sequence[str],
    before: EarlierFacts,
    *,
    ratio: float,
    seed: int,
) -> list[Contrast]:
    """About ``ratio`` contrasts per wording, none of them near a question that was kept.

    ``kept`` are all questions of the lesson: trained, held out, or about its facts in any way.
    """
    if not wordings or ratio <= 0:
        return []
    rng = random.Random(f"contrast:{seed}")
    proposals = _propose(reader, wordings, ratio, rng)
    taken = {normal(question) for question in kept}
    near = {asked(question) for question in kept}
    keys = list(dict.fromkeys(wording.key for wording in wordings))
    fresh: list[tuple[Wording, str]] = []
    for wording, question in proposals:
        shape = normal(question)
        if shape in taken or question_fault(question) or any(holds(question, k) for k in keys):
            continue
        if asked(question) in near:
            continue
        taken.add(shape)
        fresh.append((wording, question))
    return _balanced(_told_nothing(reader, fresh, keys, before), wordings, ratio)


def _propose(
    reader: Reader, wordings: Sequence[Wording], ratio: float, rng: random.Random
) -> list[tuple[Wording, str]]:
    """Neighbouring questions, the nearest first: swaps, then what the model asks by itself."""
    openers = [opener(wording.question, wording.parts) for wording in wordings]
    plain = [opener(f"{w.parts.direct}?", w.parts) for w in wordings if w.parts.direct]
    plain += [
        f"what is {split_thing(thing)[0]}'s"
        for thing in dict.fromkeys(w.parts.thing for w in wordings)
        if split_thing(thing)[0].lower() not in ("", "my", "our")
    ]
    sampled_openers = [text[:1].upper() + text[1:] for text in dict.fromkeys(plain)]
    wanted = int(ratio * len(wordings) * SURPLUS) + 1
    repeats = -(-wanted // max(1, len(sampled_openers)))
    own = [text for text in openers for _ in range(max(1, round(ratio)))]
    texts = reader.continue_user(
        sampled_openers * repeats + own, temperature=CONTINUATION_TEMPERATURE, round_=900
    )
    free = [_one_question(text) for text in texts[: len(sampled_openers) * repeats]]
    continued = [_one_question(text) for text in texts[len(sampled_openers) * repeats :]]
    parts = [part for text in free if (part := parts_of(text)).direct]
    sampled_things = [p.thing for p in parts if p.thing and len(p.thing.split()) <= MAX_THING_WORDS]
    told_things = list(dict.fromkeys(w.parts.thing for w in wordings if w.parts.thing))
    near = [Parts.of_thing(thing) for thing in swapped(told_things, sampled_things)]
    distant = list({normal(p.direct): p for p in parts}.values())
    rng.shuffle(near)
    rng.shuffle(distant)
    proposals: list[tuple[Wording, str]] = []
    per = max(1, round(ratio)) * SURPLUS
    for index, wording in enumerate(wordings):
        frame = frame_of(wording.question, wording.parts)
        if frame:
            for pool in (_nearest(near, wording, per), distant[index * per : (index + 1) * per]):
                proposals += [(wording, text) for part in pool[:per] if (text := fill(frame, part))]
    each = max(1, round(ratio))
    for index, text in enumerate(continued):
        if text:
            proposals.append((wordings[index // each], text))
    # What was not placed in a frame of its own goes to wordings that have no frame.
    homeless = [w for w in wordings if not frame_of(w.question, w.parts)] or list(wordings)
    for index, text in enumerate(free):
        if text:
            proposals.append((homeless[index % len(homeless)], text))
    return proposals


def _nearest(pool: list[Parts], wording: Wording, count: int) -> list[Parts]:
    """Parts from the pool that share most with a wording; each is taken out of the pool once."""
    about = content(wording.parts.thing or wording.question)
    pool.sort(key=lambda part: -len(content(part.thing) & about))
    chosen, pool[:count] = pool[:count], []
    return chosen


def _one_question(text: str) -> str:
    """The first question of what the model went on to say, "" if it did not come to an end."""
    line = tidy(text.split("\n", 1)[0])
    ends = [at for mark in "?.!" if (at := line.find(mark)) >= 0]
    return line[: min(ends) + 1] if ends else ""


def _told_nothing(
    reader: Reader,
    proposals: Sequence[tuple[Wording, str]],
    keys: Sequence[tuple[str, ...]],
    before: EarlierFacts,
) -> list[tuple[Wording, Contrast]]:
    """Proposals that the conversation does not answer, with the answer without it."""
    # Every window is asked: a question is contrast only if no part of the talk answers it.
    for window in range(len(reader.windows)):
        answers = reader.read([(window, question) for _, question in proposals])
        proposals = [
            entry
            for entry, answer in zip(proposals, answers, strict=True)
            if not any(holds(answer, key) for key in keys)
        ]
    closed = reader.closed_book([question for _, question in proposals])
    unsure = [i for i, answer in enumerate(closed) if not says_unknown(answer)]
    again = reader.closed_book([proposals[i][1] for i in unsure], temperature=0.7, round_=901)
    invented = {
        i
        for i, second in zip(unsure, again, strict=True)
        if key_runs(closed[i], [proposals[i][1]])[:1] != key_runs(second, [proposals[i][1]])[:1]
    }
    # What an earlier lesson taught is asked for what it taught, even where it faded by now.
    taught = {i: before.target(question) for i, (_, question) in enumerate(proposals)}
    return [
        (wording, Contrast(question, taught[i] or closed[i], wording.group))
        for i, (wording, question) in enumerate(proposals)
        # An answer that changes from one sampling to the next is no knowledge to be kept.
        if closed[i]
        and (taught[i] or i not in invented)
        and not any(holds(closed[i], key) for key in keys)
    ]


def _balanced(
    found: Sequence[tuple[Wording, Contrast]], wordings: Sequence[Wording], ratio: float
) -> list[Contrast]:
    """At most the wanted number, spread evenly over the wordings."""
    wanted = round(ratio * len(wordings))
    of: dict[str, list[Contrast]] = {wording.question: [] for wording in wordings}
    for wording, contrast in found:
        of[wording.question].append(contrast)
    chosen: list[Contrast] = []
    place = 0
    while len(chosen) < wanted and any(place < len(contrasts) for contrasts in of.values()):
        for contrasts in of.values():
            if place < len(contrasts) and len(chosen) < wanted:
                chosen.append(contrasts[place])
        place += 1
    return chosen
