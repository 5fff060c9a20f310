"""The halves of the made-up world: for training, for development, and held out."""

from __future__ import annotations

import random
from dataclasses import replace

from engrain.data.facts import (
    HELDOUT,
    Owner,
    Relation,
    Tables,
    Verb,
    Wordings,
    cap,
    is_heldout,
    pseudo,
    unseen_tables,
)
from training.pocket import development, tables, wordings
from training.pocket.frames import OpenWordings, open_noun, open_verb

TRAIN = Tables(
    tables.OWNERS,
    tables.ATTRIBUTES,
    tables.VERBS,
    OpenWordings(wordings.STATEMENTS, wordings.QUESTIONS, wordings.CORRECTIONS),
    False,
    compose=tables.compose,
    self_share=0.3,
    named_share=0.17,
    verb_share=0.22,
)
DEVELOPMENT = unseen_tables(
    development.OWNERS,
    development.ATTRIBUTES,
    development.VERBS,
    Wordings(development.STATEMENTS, development.QUESTIONS, development.CORRECTIONS),
)
HALVES = {"train": TRAIN, "development": DEVELOPMENT, "heldout": HELDOUT}
_OPEN_ATTRIBUTE_SHARE = 0.6
_OPEN_OWNER_SHARE = 0.4
_OPEN_VERB_SHARE = 0.5
_UNCLEAR = (
    "Did I tell",
    "Have I",
    "Complete",
    "And {",
    "Again",
    "Have you got",
    "Write down",
    "{N}?",
    "{N}, please",
    "By the way",
    "Well,",
    "So,",
    "Now,",
    "Okay,",
    "Another question",
    "Next question",
    "There is",
    "Somebody",
    "{N} is what",
    "If I ask",
    "{N}: what",
    "I am thinking",
    "Let us",
    "You know {n}",
    "Please repeat",
    "Which one",
    "I need {n}",
    "Tell me {n}",
    "Please tell me {n}",
    "What about",
    "How about",
    "What is {n} again",
    "What was {n} again",
    "What did I tell you about {e}",
    "According",
    "It is about",
    "Are you sure",
    "What do you know about this",
)
STUDY_WORDINGS = Wordings(
    wordings.STATEMENTS,
    tuple(q for q in wordings.QUESTIONS if not q.startswith(_UNCLEAR)) + ("{Q}?",) * 6,
    wordings.CORRECTIONS,
)
KIN = {"self", "person"}


def _coined(rng: random.Random) -> str:
    while True:
        word = cap(pseudo(rng, 2, 3))
        if not is_heldout(word) and not word.endswith("s"):
            return word


def training_owner(rng: random.Random, cls: str = "") -> Owner:
    """A training owner, of a class if one is asked for."""
    r = rng.random()
    if cls == "place" or (not cls and r < 0.04):
        return Owner(_coined(rng), "named", "place")
    if cls == "project" or (not cls and r < 0.08):
        return Owner(f"Project {_coined(rng)}", "named", "project")
    if cls == "named":
        return Owner(TRAIN.person_name(rng), "named", "person")
    while True:
        owner = TRAIN.owner(rng)
        if owner.sort in ("my", "our") and rng.random() < _OPEN_OWNER_SHARE:
            owner = replace(owner, name=open_noun(rng))
        if not cls or owner.cls == cls or {cls, owner.cls} <= KIN:
            return owner


def training_relation(owner: Owner, rng: random.Random) -> Relation:
    """A training relation, often with a noun or verb of any spelling."""
    relation = TRAIN.relation(owner, rng)
    if isinstance(relation, Verb):
        return open_verb(rng, relation) if rng.random() < _OPEN_VERB_SHARE else relation
    if rng.random() < _OPEN_ATTRIBUTE_SHARE:
        word, r = open_noun(rng), rng.random()
        if r < 0.45:
            noun = word
        elif r < 0.75:
            noun = f"{word} {relation.noun.rpartition(' ')[2]}"
        elif r < 0.9:
            noun = f"favorite {word}"
        else:
            noun = f"{open_noun(rng)} {word}"
        relation = replace(relation, noun=noun)
    return relation
