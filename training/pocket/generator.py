"""Training dialogues of the pocket model.

`generate(rng)` gives one dialogue whose messages say where loss is taken. It draws only from
`tables`, `wordings`, `frames` and from the training half of the values.
"""

from __future__ import annotations

import random
from typing import Any

from engrain.data.facts import (
    FACTS_INSTRUCTION,
    NOTHING_TOLD,
    QUESTION_INSTRUCTION_ABOUT,
    QUESTIONS_INSTRUCTION,
    REPHRASE_INSTRUCTION,
    Verb,
    cap,
)
from training.pocket import requests, wordings
from training.pocket.copying import copying
from training.pocket.exams import exam, request_exam
from training.pocket.frames import pick
from training.pocket.halves import TRAIN, training_owner, training_relation
from training.pocket.talk import Talk, chunks

__all__ = ["WEIGHTS", "exam", "generate", "request_exam"]

WEIGHTS = {
    "tell": 0.44,
    "system": 0.11,
    "closed": 0.06,
    "study": 0.14,
    "skills": 0.08,
    "document": 0.07,
    "copying": 0.1,
    "requests": 0.43,
}
"""Shares of dialogues, relative to one another; those with requests are about twice as long."""
CORRECTION_SHARE = 0.5
_QUESTION_LOSS_SHARE = 0.2  # what is asked next is mostly chance: noise, beyond learning to ask
_COUNTS = (1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10)


def _tell_all(talk: Talk, count: int, between: float = 0.25) -> None:
    rng = talk.rng
    fix = rng.random() < CORRECTION_SHARE
    for chunk in chunks(rng, talk.plan(count)):
        if talk.told and rng.random() < between:
            talk.ask()
        elif rng.random() < 0.12:
            talk.small_talk()
        talk.tell(chunk)
        if fix and rng.random() < 0.35:
            talk.correct()
    if fix and not talk.old:
        talk.correct()


def _tell(talk: Talk) -> None:
    talk.opening()
    most = max(1, int(talk.budget / 42))
    if talk.rng.random() < 0.12:
        talk.plan(1)
        talk.ask_unknown()
    _tell_all(talk, min(pick(talk.rng, _COUNTS), most))
    talk.ask_on(least=2)


def _system(talk: Talk) -> None:
    rng = talk.rng
    facts = talk.plan(min(pick(rng, _COUNTS), max(1, int(talk.budget / 40))))
    head, bullet, joint, person = pick(rng, wordings.SYSTEM_HEADS)
    lines = []
    for number, fact in enumerate(facts, 1):
        mark = f"{number}. " if bullet == "1" else bullet
        lines.append(mark + cap(fact.clause(person)) + ".")
        talk.told[fact.key] = fact
    talk.say("system", head + joint.join(lines), False)
    if rng.random() < 0.2:
        talk.small_talk()
    if rng.random() < 0.15:
        talk.tell(talk.plan(1))
    if rng.random() < 0.3:
        talk.correct()
    talk.ask_on(least=2)


def _closed(talk: Talk) -> None:
    rng = talk.rng
    talk.opening()
    turns = rng.randint(1, 4) if rng.random() < 0.3 else 40
    while talk.room > 28 and turns > 0:
        turns -= 1
        r = rng.random()
        if r < 0.7:
            talk.ask_unknown()
        elif r < 0.85:
            talk.world()
        else:
            talk.small_talk()


def _study(talk: Talk) -> None:
    rng = talk.rng
    if rng.random() < 0.08:
        return _study_nothing(talk)
    most = max(1, int(talk.budget / 75))
    by_notes = rng.random() < 0.15
    if not by_notes and rng.random() < 0.5:
        talk.opening()
    if by_notes:
        _notes_for_study(talk, rng.randint(1, most))
    else:
        _tell_all(talk, min(rng.randint(1, 7), most), between=0.08)
    facts = list(talk.told.values())
    rounds = 0
    while talk.room > 40 and rounds < 12:
        rounds += 1
        r = rng.random()
        if r < (0.75 if rounds == 1 else 0.15) and talk.room > 22 * len(facts):
            ask = (
                QUESTIONS_INSTRUCTION
                if rng.random() < 0.6
                else pick(rng, wordings.ASK_FOR_QUESTIONS)
            )
            talk.user(ask)
            talk.bot("\n".join(talk.study_question(fact) for fact in facts))
        elif r < 0.45:
            fact = pick(rng, facts)
            if rng.random() < 0.35:  # about any statement, told or not
                owner = training_owner(rng)
                fact = TRAIN.make(owner, training_relation(owner, rng), rng)
            said = fact.answer() if rng.random() < 0.4 else fact.statement(rng)
            ask = (
                QUESTION_INSTRUCTION_ABOUT
                if rng.random() < 0.7
                else pick(rng, wordings.ASK_FOR_ONE)
            )
            if ask == QUESTION_INSTRUCTION_ABOUT and rng.random() < 0.5:
                said = cap(fact.clause()) + "."
            talk.user(ask.format(statement=said))
            talk.bot(talk.study_question(fact))
        elif r < 0.65:
            fact = pick(rng, facts)
            seen = [talk.wording(fact)]
            for _ in range(rng.randint(1, 3)):
                ask = (
                    REPHRASE_INSTRUCTION if rng.random() < 0.7 else pick(rng, wordings.ASK_REPHRASE)
                )
                talk.user(ask.format(question=seen[-1]))
                seen.append(talk.study_question(fact, seen))
                talk.bot(seen[-1])
        elif r < 0.75 and talk.room > 14 * len(facts):
            talk.user(
                FACTS_INSTRUCTION if rng.random() < 0.6 else pick(rng, wordings.ASK_FOR_FACTS)
            )
            talk.bot("\n".join(fact.answer() for fact in facts))
        else:
            for _ in range(rng.randint(1, 3)):
                talk.ask()
    return None


def _notes_for_study(talk: Talk, count: int) -> None:
    rng = talk.rng
    facts = talk.plan(count)
    head, bullet, joint, person = pick(rng, wordings.SYSTEM_HEADS[:5])
    talk.say(
        "system", head + joint.join(bullet + cap(f.clause(person)) + "." for f in facts), False
    )
    talk.told.update((fact.key, fact) for fact in facts)


def _study_nothing(talk: Talk) -> None:
    rng = talk.rng
    talk.opening()
    talk.user(pick(rng, (FACTS_INSTRUCTION, QUESTIONS_INSTRUCTION, *wordings.ASK_FOR_FACTS)))
    talk.bot(NOTHING_TOLD)
    if rng.random() < 0.5:
        _tell_all(talk, 2, between=0)
        talk.user(FACTS_INSTRUCTION)
        talk.bot("\n".join(fact.answer() for fact in talk.told.values()))
    talk.ask_on()


def _skills(talk: Talk) -> None:
    rng = talk.rng
    talk.opening()
    turns = rng.randint(1, 4) if rng.random() < 0.15 else 60
    while talk.room > 25 and turns > 0:
        turns -= 1
        r = rng.random()
        if r < 0.4:
            talk.world()
        elif r < 0.6:
            talk.task()
        elif r < 0.8:
            talk.arithmetic()
        else:
            talk.small_talk()


def _document(talk: Talk) -> None:
    rng = talk.rng
    talk.is_document = True
    kinds = pick(rng, (("named",), ("place",), ("project",), ("named", "place", "project")))
    facts = talk.plan(min(rng.randint(2, 8), max(2, int(talk.budget / 45))), kinds)
    lines = []
    for fact in facts:
        template = pick(rng, wordings.DOC_STATEMENTS)
        if isinstance(fact.relation, Verb) and ("{n}" in template or "{N}" in template):
            template = "{S}."
        lines.append(fact.fill(template))
        if rng.random() < 0.2:
            lines.append(pick(rng, wordings.DOC_FILLERS))
        talk.told[fact.key] = fact
    text = pick(rng, wordings.DOC_HEADS) + " ".join(lines)
    talk.tells[len(talk.messages)] = list(facts)
    if rng.random() < 0.35:
        fact = pick(rng, facts)
        talk.asked.add(fact.key)
        talk.user(f"{text}\n\n{fact.question(rng)}")
        talk.bot(talk.reply(fact))
    else:
        talk.user(text)
        talk.bot(
            pick(
                rng,
                (
                    "I have read it.",
                    "Okay, I read it.",
                    "I read the text.",
                    "Done.",
                    "Okay. What do you want to know?",
                    "I am ready for your questions.",
                ),
            )
        )
    talk.ask_on(least=2)


def _requests(talk: Talk) -> None:
    """A talk, and the requests of self-study after it."""
    rng, whole = talk.rng, talk.budget
    talk.budget = int(whole * rng.uniform(0.3, 0.6))
    r = rng.random()
    if r < 0.07:
        requests.nothing(talk)
    elif r < 0.15:
        _document(talk)
    else:
        requests.tell(talk)
    # What is asked after a talk stands side by side.
    talk.budget = int(talk.used) + int(whole * rng.uniform(0.6, 1.5))
    requests.ask_for(talk)


_KINDS = {
    "tell": _tell,
    "system": _system,
    "closed": _closed,
    "study": _study,
    "skills": _skills,
    "document": _document,
    "copying": copying,
    "requests": _requests,
}


def generate(
    rng: random.Random, max_tokens_hint: int = 480, kind: str | None = None
) -> list[dict[str, Any]]:
    """One training dialogue of about `max_tokens_hint` tokens (of `kind`, see `WEIGHTS`)."""
    budget = (
        max_tokens_hint if rng.random() < 0.85 else int(max_tokens_hint * rng.uniform(0.15, 0.8))
    )
    talk = Talk(rng, max(60, budget))
    _KINDS[kind or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]](talk)
    if rng.random() >= _QUESTION_LOSS_SHARE:
        for message in talk.messages:
            message["loss"] = message["loss"] and message["role"] != "user"
    return talk.messages
