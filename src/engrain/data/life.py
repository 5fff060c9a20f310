"""A made-up life, day by day: what is told, and what must be known afterwards.

Everything comes from the held-out tables of `facts`, unless others are named, so that no pocket
model has met a relation, a wording or a value of it in training.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from engrain.data.facts import HELDOUT, Fact, FactSampler, Message, Tables, told_conversation

FIRST_CORRECTION_DAY = 3


def _ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def life_stream(
    days: int = 30,
    facts_per_day: int = 6,
    seed: int = 0,
    correction_every: int = 1,
    abstentions_per_day: int = 2,
    tables: Tables = HELDOUT,
) -> list[dict[str, Any]]:
    """`days` days of `facts_per_day` told facts each, with closed-book probes.

    Per told fact there are two probes in different wordings (kinds "recall" and "paraphrase"), per
    day some about things never told on any day ("abstention", no answers). From day 3 on, each
    `correction_every`-th day one of its facts is a correction of an earlier day's fact (0: never):
    its probes have the kind "correction", and `supersedes` lists the ids of the old probes. Recipes
    are tuned with other `tables`, since what is tuned on is held out no longer.
    """
    rng = random.Random(f"life:{seed}")
    sampler = FactSampler(seed, tables)
    told: list[tuple[int, Fact]] = []  # the day and the fact, corrected ones removed
    probes_of: dict[tuple[str, str], list[str]] = {}
    stream: list[dict[str, Any]] = []
    for day in range(1, days + 1):
        name = f"day-{day:02d}"
        since = day - FIRST_CORRECTION_DAY
        corrects = bool(correction_every) and since >= 0 and since % correction_every == 0
        facts = [sampler.fact() for _ in range(facts_per_day - (1 if corrects else 0))]
        corrections: list[tuple[Fact, str]] = []
        if corrects and told:
            _, old = told.pop(rng.randrange(len(told)))
            corrections.append((old, sampler.value(old.relation)))

        probes: list[dict[str, Any]] = []
        supersedes: list[str] = []

        def add(
            kind: str,
            text: str,
            answers: list[str],
            not_answers: list[str],
            name: str = name,
            probes: list[dict[str, Any]] = probes,
        ) -> str:
            probe_id = f"{name}-p{len(probes) + 1:02d}"
            probes.append(
                {
                    "id": probe_id,
                    "kind": kind,
                    "messages": _ask(text),
                    "answers": answers,
                    "not_answers": not_answers,
                }
            )
            return probe_id

        for fact in facts:
            first = fact.question(rng)
            second = fact.question(rng, avoid=[first])
            probes_of[fact.key] = [
                add("recall", first, fact.answers, []),
                add("paraphrase", second, fact.answers, []),
            ]
        for old, new_value in corrections:
            new = replace(old, value=new_value)
            supersedes += probes_of.pop(old.key)
            first = new.question(rng)
            for text in (first, new.question(rng, avoid=[first])):
                add("correction", text, new.answers, old.answers)
        for index in range(abstentions_per_day):
            neighbour = facts[index % len(facts)] if facts else corrections[0][0]
            near = sampler.near_miss(neighbour)
            add("abstention", near.question(rng), [], neighbour.answers)

        half = (len(facts) + 1) // 2
        chats = [
            told_conversation(facts[:half], rng),
            told_conversation(facts[half:], rng, corrections),
        ]
        stream.append(
            {
                "id": name,
                "conversations": [{"messages": messages} for messages in chats if messages],
                "probes": probes,
                "supersedes": supersedes,
            }
        )
        told += [(day, fact) for fact in facts]
    return stream
