"""Exact copying: tables to look things up in, and sentences to say again.

A reader of its context must carry any word over piece by piece. Questions about facts teach that
slowly, with a few copied tokens per dialogue; these dialogues are almost nothing but copying.
"""

from __future__ import annotations

import random
from typing import Any

from engrain.data.facts import cap, make_value, pseudo
from training.pocket.frames import open_noun, pick

_KINDS = ("name", "brand", "place", "food", "color", "object", "person", "title", "code", "number",
          "time", "date", "animal", "job", "word", "weekday", "phrase")  # fmt: skip
_FORMS = ("{k}: {v}", "{k} = {v}", "{k} is {v}", "{k} means {v}", "{k} - {v}", "{k} -> {v}")
_JOINTS = ("\n", "\n", "; ", ", ", ". ")
_HEADS = (
    "Here is a list.\n",
    "A table:\n",
    "Remember this list: ",
    "",
    "My notes:\n",
    "Learn this. ",
)
_ASKED = ("{k}?", "{k}?", "What is {k}?", "And {k}?", "What about {k}?", "Look up {k}.", "Now {k}.",
          "What stands beside {k}?", "Tell me {k}.", "Which one is {k}?", "{k}:")  # fmt: skip
_SAID = ("{v}", "{v}", "{V}.", "{k}: {v}", "{K} is {v}.")
_LACKING = ("I don't know {k}. It is not in the list.", "I don't know {k}. You have not told me.")
_AGAIN = (
    "Say that again.",
    "Repeat what I said.",
    "What did I say?",
    "Repeat my words.",
    "Again, please.",
)
_ABOUT = (
    "Repeat the sentence with the word {w}.",
    "What did I say about {w}?",
    "Which sentence has {w} in it?",
    "Say the sentence with {w} again.",
    "Where did I use {w}?",
    "{w}?",
)
_GLUE = tuple("the a my is was and of in with for to at not will".split())


def _key(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.4:
        return open_noun(rng)
    if r < 0.6:
        return f"{open_noun(rng)} {open_noun(rng)}"
    if r < 0.75:
        return f"{pick(rng, ('my', 'the', 'our', 'his', 'her'))} {open_noun(rng)}"
    if r < 0.9:
        return cap(pseudo(rng, 2, 3))
    return f"{open_noun(rng)} of {cap(pseudo(rng, 2, 3))}"


def _value(rng: random.Random) -> str:
    return open_noun(rng) if rng.random() < 0.3 else make_value(pick(rng, _KINDS), rng, False)


def _sentence(rng: random.Random) -> str:
    words: list[str] = []
    for _ in range(rng.randint(3, 8)):
        r = rng.random()
        if r < 0.35:
            words.append(pick(rng, _GLUE))
        elif r < 0.85:
            words.append(open_noun(rng, 0.3))
        else:
            words.append(_value(rng))
    return cap(" ".join(words)) + "."


def _lookup(talk: Any) -> None:
    rng = talk.rng
    table: dict[str, str] = {}
    while len(table) < rng.randint(3, max(3, min(12, talk.budget // 25))):
        key = f"{_key(rng)}"
        if table and rng.random() < 0.3:  # a key that shares a word with another
            key = f"{pick(rng, list(table)).split()[0]} {open_noun(rng)}"
        table.setdefault(key, _value(rng))
    form, joint = pick(rng, _FORMS), pick(rng, _JOINTS)
    lines = [form.format(k=k, v=v) for k, v in table.items()]
    parts = [lines] if rng.random() < 0.6 else [lines[: len(lines) // 2], lines[len(lines) // 2 :]]
    for part in parts:
        talk.user(pick(rng, _HEADS) + joint.join(part))
        talk.bot(pick(rng, ("Okay.", "Noted.", "I have it.", "Got it.")))
    asked, said = pick(rng, _ASKED), pick(rng, _SAID)
    order = rng.sample(list(table), len(table))
    for key in order:
        if talk.room < 25:
            break
        if rng.random() < 0.3:
            asked, said = pick(rng, _ASKED), pick(rng, _SAID)
        if rng.random() < 0.15:
            missing = _key(rng)
            if missing not in table:
                talk.user(cap(asked.format(k=missing)))
                talk.bot(pick(rng, _LACKING).format(k=missing))
        value = table[key]
        talk.user(cap(asked.format(k=key)))
        talk.bot(said.format(k=key, K=cap(key), v=value, V=cap(value)))


def _repeat(talk: Any) -> None:
    rng = talk.rng
    sentences = [_sentence(rng) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.4:
        text = " ".join(sentences)
        talk.user(f"Repeat this: {text}")
        talk.bot(text)
        return
    for sentence in sentences:
        talk.user(sentence)
        if rng.random() < 0.4:
            talk.bot("Okay.")
            talk.user(pick(rng, _AGAIN))
        talk.bot(sentence)
    if len(sentences) > 1:
        sentence = pick(rng, sentences)
        others = " ".join(s for s in sentences if s != sentence).lower().rstrip(".").split()
        own = [w for w in sentence.rstrip(".").split() if w.lower() not in others and len(w) > 3]
        if own:
            talk.user(pick(rng, _ABOUT).format(w=pick(rng, own)))
            talk.bot(sentence)


def copying(talk: Any) -> None:
    """Fill a dialogue with tables and sentences to copy from."""
    while talk.room > 60:
        (_lookup if talk.rng.random() < 0.6 else _repeat)(talk)
