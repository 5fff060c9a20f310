"""Exams of reading: conversations that tell some facts and end in a question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engrain.data import facts_heldout as held
from engrain.data.facts import Fact, Relation, Tables, fits_beside, make_value
from training.pocket import wordings
from training.pocket.frames import pick
from training.pocket.halves import HALVES
from training.pocket.talk import Talk


def exam(
    rng: random.Random, relations: str = "train", facts: int = 6, n: int = 60
) -> list[dict[str, Any]]:
    """`n` conversations that tell `facts` facts and end in a question.

    "recall" and "correction" hold the right value in `answers`; "abstention" has no answers and
    wants "don't know" ("do not know"). `not_answers` never belong in the reply.
    """
    if relations not in HALVES:
        raise ValueError(f"relations must be one of {', '.join(HALVES)}, not {relations!r}")
    half = HALVES[relations]
    out = []
    for number in range(n):
        place = number % 20
        kind = "recall" if place < 12 else "abstention" if place < 17 else "correction"
        out.append(_exam_item(rng, half, facts, kind))
    return out


def _exam_item(rng: random.Random, half: Tables, count: int, kind: str) -> dict[str, Any]:
    talk = Talk(rng, 10_000)
    heldout = half.heldout
    told: dict[tuple[str, str], Fact] = {}
    values: list[str] = []

    def fresh(relation: Relation) -> str:
        tries = 0
        while True:  # an invented word where a short list ran out
            tries += 1
            value = make_value(relation.kind if tries < 300 else "brand", rng, heldout)
            if fits_beside(value, values):
                values.append(value.lower())
                return value

    while len(told) < count:
        near = told and rng.random() < 0.4
        if near:
            found = half.near(pick(rng, list(told.values())), rng)
        else:
            owner = half.owner(rng)
            found = Fact(owner, half.relation(owner, rng), "", half.wordings)
        if found.key not in told:
            told[found.key] = replace(found, value=fresh(found.relation))
    acks: Sequence[str] = held.ACKNOWLEDGEMENTS if heldout else wordings.ACKS
    order = list(told.values())
    if rng.random() < 0.5:
        if heldout:
            said, reply = pick(rng, held.OPENERS)
        else:
            texts, replies = pick(rng, wordings.SMALL_TALK)
            said, reply = pick(rng, texts), pick(rng, replies)
        talk.user(said)
        talk.bot(reply)
    turns = [" ".join(f.statement(rng) for f in order[at : at + 2]) for at in range(0, count, 2)]
    fact = pick(rng, order)
    answers, not_answers = fact.answers, [f.value for f in order if f.key != fact.key]
    if kind == "correction":
        new = replace(fact, value=fresh(fact.relation))
        earliest = order.index(fact) // 2 + 1
        turns.insert(rng.randint(earliest, len(turns)), fact.correction(new.value, rng))
        answers, not_answers = new.answers, [fact.value]
    elif kind == "abstention":
        near_fact = half.near(fact, rng)
        while near_fact.key in told:
            near_fact = half.near(fact, rng)
        answers, not_answers, fact = [], [f.value for f in order], near_fact
    for turn in turns:
        talk.user(turn)
        talk.bot(pick(rng, acks))
    talk.user(fact.question(rng))
    return {
        "messages": [{"role": m["role"], "content": m["content"]} for m in talk.messages],
        "answers": answers,
        "not_answers": not_answers,
        "kind": kind,
    }
