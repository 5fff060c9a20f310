"""Exams of reading: conversations that tell some facts and end in a question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engrain.data import facts_heldout as held
from engrain.data.facts import Attribute, Fact, Relation, Tables, fits_beside, make_value
from engrain.study.requests import VERDICT, claims_of
from training.pocket import development, traps, wordings
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


@dataclass
class _Told:
    """A conversation of one half in the making."""

    rng: random.Random
    half: Tables
    count: int
    talk: Talk
    values: list[str]
    facts: dict[tuple[str, str], Fact]

    @classmethod
    def of(cls, rng: random.Random, half: Tables, count: int) -> _Told:
        """``count`` facts to tell, and in half of the conversations an opening."""
        told = cls(rng, half, count, Talk(rng, 10_000), [], {})
        while len(told.facts) < count:
            near = told.facts and rng.random() < 0.4
            if near:
                found = half.near(pick(rng, list(told.facts.values())), rng)
            else:
                owner = half.owner(rng)
                found = Fact(owner, half.relation(owner, rng), "", half.wordings)
            if found.key not in told.facts:
                told.facts[found.key] = replace(found, value=told.fresh(found.relation))
        if rng.random() < 0.5:
            if half.heldout:
                said, reply = pick(rng, held.OPENERS)
            else:
                texts, replies = pick(rng, wordings.SMALL_TALK)
                said, reply = pick(rng, texts), pick(rng, replies)
            told.talk.user(said)
            told.talk.bot(reply)
        return told

    def fresh(self, relation: Relation) -> str:
        """A value that no other one holds."""
        tries = 0
        while True:  # an invented word where a short list ran out
            tries += 1
            kind = relation.kind if tries < 300 else "brand"
            value = make_value(kind, self.rng, self.half.heldout)
            if fits_beside(value, self.values):
                self.values.append(value.lower())
                return value

    def turns(self) -> list[str]:
        """The facts in the user's words, two a message."""
        order = list(self.facts.values())
        return [
            " ".join(f.statement(self.rng) for f in order[at : at + 2])
            for at in range(0, self.count, 2)
        ]

    def near(self, fact: Fact) -> Fact:
        """A neighbour that is not told."""
        while True:
            found = self.half.near(fact, self.rng)
            if found.key not in self.facts:
                return found

    def say(self, turns: Sequence[str]) -> None:
        """Say each turn, with a reply."""
        acks: Sequence[str] = held.ACKNOWLEDGEMENTS if self.half.heldout else wordings.ACKS
        for turn in turns:
            self.talk.user(turn)
            self.talk.bot(pick(self.rng, acks))

    def asked(self, text: str) -> list[dict[str, str]]:
        """The messages, the last of which asks."""
        said = [{"role": m["role"], "content": m["content"]} for m in self.talk.messages]
        return [*said, {"role": "user", "content": text}]


def _exam_item(rng: random.Random, half: Tables, count: int, kind: str) -> dict[str, Any]:
    told = _Told.of(rng, half, count)
    order, turns = list(told.facts.values()), told.turns()
    fact = pick(rng, order)
    answers, not_answers = fact.answers, [f.value for f in order if f.key != fact.key]
    if kind == "correction":
        new = replace(fact, value=told.fresh(fact.relation))
        earliest = order.index(fact) // 2 + 1
        turns.insert(rng.randint(earliest, len(turns)), fact.correction(new.value, rng))
        answers, not_answers = new.answers, [fact.value]
    elif kind == "abstention":
        near_fact = told.near(fact)
        answers, not_answers, fact = [], [f.value for f in order], near_fact
    told.say(turns)
    return {
        "messages": told.asked(fact.question(rng)),
        "answers": answers,
        "not_answers": not_answers,
        "kind": kind,
    }


# ---------------------------------------------------------------------------- requests
_REQUESTS = ("claims",) * 8 + ("nothing",) * 2 + ("so",) * 5 + ("not so",) * 5
_NOT_SO = ("trap", "old", "other", "near", "trap")


def request_exam(
    rng: random.Random, relations: str = "train", facts: int = 6, n: int = 60
) -> list[dict[str, Any]]:
    """`n` conversations that end in a request of self-study.

    "claims" wants what one message tells, "nothing" is the same of a message that tells nothing;
    each of `listed` is the value of a line and the words that its question must hold. "so" and "not
    so" want the verdict in `answers`.
    """
    if relations not in HALVES:
        raise ValueError(f"relations must be one of {', '.join(HALVES)}, not {relations!r}")
    return [
        _request_item(rng, relations, facts, _REQUESTS[number % 20], _NOT_SO[number % 5])
        for number in range(n)
    ]


def _request_item(
    rng: random.Random, relations: str, count: int, kind: str, trapped: str
) -> dict[str, Any]:
    told = _Told.of(rng, HALVES[relations], count)
    order, turns = list(told.facts.values()), told.turns()
    place = rng.randrange(len(turns))
    message, fact = turns[place], order[2 * place]
    of_it = order[2 * place : 2 * place + 2]
    if kind == "nothing" or (kind == "not so" and trapped == "trap"):
        near = told.near(fact)
        fact = replace(near, value=told.fresh(near.relation))
        message, of_it = _trap(fact, relations, rng), []
        turns.insert(rng.randint(1, len(turns)), message)
    elif kind == "not so" and trapped == "old":
        turns.append(fact.correction(told.fresh(fact.relation), rng))
    elif kind == "not so" and trapped == "near":
        fact = replace(told.near(fact), value=fact.value)
    elif kind == "not so":
        fact = replace(fact, value=pick(rng, [f.value for f in order if f != fact]))
    told.say(turns)
    if kind in ("so", "not so"):
        asked = VERDICT.format(question=fact.fill("{Q}?"), answer=fact.value)
    else:
        asked = claims_of(message).content
    return {
        "messages": told.asked(asked),
        "answers": ["yes" if kind == "so" else "no"],
        "not_answers": [],
        "listed": [[f.value, *_words(f)] for f in of_it],
        "kind": kind,
    }


def _trap(fact: Fact, relations: str, rng: random.Random) -> str:
    """A sentence that says a fact and does not tell it; the held-out half has no frames of it."""
    if relations == "train":
        return traps.sentence(fact, rng)
    return fact.fill(pick(rng, development.TRAPS))


def _words(fact: Fact) -> list[str]:
    """What a question about the fact must hold: its relation, and its owner where it has one."""
    relation = fact.relation
    about = relation.noun if isinstance(relation, Attribute) else relation.base
    return [word for word in (about, fact.owner.name) if word]
