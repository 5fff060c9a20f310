"""Training dialogues of the pocket model, and exams about them.

`generate(rng)` gives one dialogue whose messages say where loss is taken; `exam(rng)` gives
conversations that end in a question. Training draws only from `tables`/`wordings` and from the
training half of the values; `exam(rng, "heldout")` only from `engrain.data.facts`' own tables,
`exam(rng, "development")` from the set that curves are drawn on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
for _path in (str(_ROOT), str(_ROOT / "src")):
    if _path not in sys.path:
        sys.path.append(_path)

from engrain.data import facts_heldout as held  # noqa: E402
from engrain.data.facts import (  # noqa: E402
    FACTS_INSTRUCTION,
    FIRST,
    HELDOUT,
    NOTHING_TOLD,
    QUESTION_INSTRUCTION_ABOUT,
    QUESTIONS_INSTRUCTION,
    REPHRASE_INSTRUCTION,
    SECOND,
    SELF,
    Attribute,
    Fact,
    Owner,
    Relation,
    Tables,
    Verb,
    Wordings,
    cap,
    fits_beside,
    is_heldout,
    make_value,
    pseudo,
    unseen_tables,
    with_article,
)
from training.pocket import development, tables, wordings  # noqa: E402
from training.pocket.copying import copying  # noqa: E402
from training.pocket.frames import OpenWordings, open_noun, open_verb  # noqa: E402
from training.pocket.world import WORLD_FACTS  # noqa: E402

WEIGHTS = {
    "tell": 0.44,
    "system": 0.11,
    "closed": 0.06,
    "study": 0.14,
    "skills": 0.08,
    "document": 0.07,
    "copying": 0.1,
}
UNKNOWN_SHARE = 0.25
CORRECTION_SHARE = 0.3
RESTATE_SHARE = 0.35
SHORT_ANSWER_SHARE = 0.15
YES_NO_SHARE = 0.06
WORLD_SHARE = 0.05

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
_HALVES = {"train": TRAIN, "development": DEVELOPMENT, "heldout": HELDOUT}
_OPEN_ATTRIBUTE_SHARE = 0.35
_QUESTION_LOSS_SHARE = 0.2  # what is asked next is mostly chance: noise, beyond learning to ask
_OPEN_OWNER_SHARE = 0.15
_OPEN_VERB_SHARE = 0.35
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
_KIN = {"self", "person"}


def _pick(rng: random.Random, options: Sequence[Any]) -> Any:
    return options[int(rng.random() * len(options))]


def _coined(rng: random.Random) -> str:
    while True:
        word = cap(pseudo(rng, 2, 3))
        if not is_heldout(word) and not word.endswith("s"):
            return word


def _owner(rng: random.Random, cls: str = "") -> Owner:
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
        if not cls or owner.cls == cls or {cls, owner.cls} <= _KIN:
            return owner


def _relation(owner: Owner, rng: random.Random) -> Relation:
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


class Talk:
    """A dialogue that grows until its token budget is used."""

    def __init__(self, rng: random.Random, budget: int) -> None:
        self.rng = rng
        self.budget = budget
        self.used = 0.0
        self.messages: list[dict[str, Any]] = []
        self.told: dict[tuple[str, str], Fact] = {}  # current facts, in the order told
        self.planned: dict[tuple[str, str], Fact] = {}  # all facts this dialogue will tell
        self.old: dict[tuple[str, str], Fact] = {}  # facts that were corrected
        self.values: list[str] = []
        self.asked: set[tuple[str, str]] = set()
        self.is_document = False

    @property
    def room(self) -> float:
        return self.budget - self.used

    def say(self, role: str, content: str, loss: bool) -> None:
        self.used += len(content) / 3.35 + 4
        self.messages.append({"role": role, "content": content, "loss": loss})

    def user(self, content: str, loss: bool = False) -> None:
        self.say("user", content, loss)

    def bot(self, content: str) -> None:
        self.say("assistant", content, True)

    # ------------------------------------------------------------------ facts
    def value(self, relation: Relation) -> str:
        for _ in range(60):
            value = make_value(relation.kind, self.rng, False)
            low = value.lower()
            if not any(low in used or used in low for used in self.values):
                break
        self.values.append(value.lower())
        return value

    def near(self, fact: Fact) -> Fact | None:
        """A neighbour of a fact that this dialogue does not plan to tell (its value is empty)."""
        rng = self.rng
        owner, relation = fact.owner, fact.relation
        for _ in range(20):
            if rng.random() < 0.5:
                others = [
                    f.owner
                    for f in self.planned.values()
                    if f.owner != owner
                    and (f.owner.cls == owner.cls or {f.owner.cls, owner.cls} <= _KIN)
                ]
                cls = "named" if self.is_document and owner.cls == "person" else owner.cls
                new = _pick(rng, others) if others and rng.random() < 0.6 else _owner(rng, cls)
                found = Fact(new, relation, "", TRAIN.wordings)
            else:
                another = _relation(owner, rng)
                if another.kind != relation.kind and rng.random() < 0.6:
                    continue
                found = Fact(owner, another, "", TRAIN.wordings)
            if found.key not in self.planned:
                return found
        return None

    def plan(self, count: int, owners: Sequence[str] = ("",)) -> list[Fact]:
        """Facts to tell, many of them easy to confuse with one another."""
        rng = self.rng
        mixing = _pick(rng, (0.1, 0.5, 0.85))
        new: list[Fact] = []
        while len(new) < count:
            fact = None
            if new and rng.random() < mixing:
                fact = self.near(_pick(rng, new))
            if fact is None:
                owner = _owner(rng, _pick(rng, owners))
                fact = Fact(owner, _relation(owner, rng), "", TRAIN.wordings)
            if fact.key in self.planned:
                continue
            fact = replace(fact, value=self.value(fact.relation))
            self.planned[fact.key] = fact
            new.append(fact)
        return new

    # ------------------------------------------------------------------ telling
    def sentences(self, facts: Sequence[Fact], tail: str = "") -> str:
        """The facts in the user's words, as one to several sentences."""
        rng = self.rng
        parts: list[str] = []
        last: Fact | None = None
        for fact in facts:
            if parts and last is not None and rng.random() < 0.4 and parts[-1].endswith("."):
                clause = fact.clause()
                word = fact.owner.pronoun
                if word and fact.owner == last.owner and isinstance(fact.relation, Attribute):
                    clause = f"{word} {fact.relation.noun} is {fact.shown}"
                joint = _pick(rng, (", and ", " and ", ", while ", ", and also "))
                parts[-1] = parts[-1][:-1] + joint + clause + "."
                last = None
                continue
            parts.append(fact.statement(rng))
            last = fact
        if rng.random() < 0.22:
            parts.insert(0 if rng.random() < 0.6 else len(parts), _pick(rng, wordings.FILLERS))
        return " ".join(parts) + tail

    def tell(self, facts: Sequence[Fact]) -> None:
        rng = self.rng
        for fact in facts:
            self.told[fact.key] = fact
        self.user(self.sentences(facts))
        if rng.random() < RESTATE_SHARE:
            fact = facts[-1]
            if len(facts) > 1 and rng.random() < 0.5:
                self.bot("Okay. " + " ".join(f.answer() for f in facts))
            else:
                self.bot(fact.fill(_pick(rng, wordings.RESTATED), SECOND))
        else:
            self.bot(_pick(rng, wordings.ACKS))

    def correct(self) -> None:
        rng = self.rng
        fact = _pick(rng, list(self.told.values()))
        new = replace(fact, value=self.value(fact.relation))
        self.user(fact.correction(new.value, rng))
        if rng.random() < 0.5:
            self.bot(new.fill(_pick(rng, wordings.CORRECTED), SECOND, fact.value))
        else:
            self.bot(_pick(rng, wordings.ACKS))
        self.told[fact.key] = self.planned[fact.key] = new
        self.old[fact.key] = fact
        self.asked.discard(fact.key)

    # ------------------------------------------------------------------ asking
    def wording(self, fact: Fact) -> str:
        """A question of the user's about the fact."""
        rng, relation = self.rng, fact.relation
        if isinstance(relation, Attribute) and rng.random() < (0.3 if relation.of else 0.05):
            fact = replace(fact, relation=replace(relation, of=not relation.of))
        text = fact.question(rng)
        if rng.random() < 0.05:
            text = text.rstrip("?.") if rng.random() < 0.5 else text[0].lower() + text[1:]
        return text

    def study_question(self, fact: Fact, avoid: Sequence[str] = ()) -> str:
        """A question in a wording that stands well on its own."""
        return replace(fact, wordings=STUDY_WORDINGS).question(self.rng, avoid)

    def reply(self, fact: Fact) -> str:
        rng = self.rng
        if rng.random() < SHORT_ANSWER_SHARE:
            verb = isinstance(fact.relation, Verb)
            return fact.fill(_pick(rng, wordings.SHORT_VERB if verb else wordings.SHORT), SECOND)
        return fact.fill(_pick(rng, wordings.ANSWERS), SECOND)

    def unknown(self, fact: Fact) -> str:
        text = fact.denial(self.rng)
        if self.is_document and self.rng.random() < 0.5:
            return text.split(". ")[0].rstrip(".") + ". The text does not say."
        return text

    def ask(self) -> None:
        """One question of any kind, with its right answer."""
        rng, r = self.rng, self.rng.random()
        if r < WORLD_SHARE:
            self.world()
        elif r < WORLD_SHARE + 0.05:
            self.small_talk()
        elif r < WORLD_SHARE + 0.05 + UNKNOWN_SHARE or not self.told:
            self.ask_unknown()
        elif rng.random() < YES_NO_SHARE:
            self.check()
        elif rng.random() < 0.04:
            self.about_owner()
        elif rng.random() < 0.04:
            self.whose()
        else:
            open_keys = [key for key in self.told if key not in self.asked]
            if open_keys and rng.random() < 0.85:
                key = _pick(rng, open_keys)
            else:
                key = (
                    _pick(rng, list(self.old))
                    if self.old and r < 0.5
                    else _pick(rng, list(self.told))
                )
            fact = self.told[key]
            self.asked.add(key)
            self.user(self.wording(fact), True)
            self.bot(self.reply(fact))
            if rng.random() < 0.08 and isinstance(fact.relation, Attribute):
                self.and_whose(fact)

    def ask_unknown(self) -> None:
        rng = self.rng
        fact: Fact | None = None
        waiting = [f for key, f in self.planned.items() if key not in self.told]
        if waiting and rng.random() < 0.3:
            fact = _pick(rng, waiting)
        elif self.told and rng.random() < 0.85:
            fact = self.near(_pick(rng, list(self.told.values())))
        while fact is None:
            owner = _owner(rng)
            fact = Fact(owner, _relation(owner, rng), "", TRAIN.wordings)
            if fact.key in self.told:
                fact = None
        if rng.random() < 0.06:
            asked = fact.relation.checked(
                fact.owner, with_article(make_value(fact.kind, rng, False), fact.kind)
            )
            self.user(cap(asked) + "?", True)
        else:
            self.user(self.wording(fact), True)
        self.bot(self.unknown(fact))
        if rng.random() < 0.06:
            said, answers = _pick(rng, wordings.GIVE_UP)
            self.user(_pick(rng, said))
            self.bot(_pick(rng, answers))

    def check(self) -> None:
        """A yes/no question about a told fact."""
        rng = self.rng
        fact = _pick(rng, list(self.told.values()))
        wrong = rng.random() < 0.5
        shown, other = fact.shown, ""
        if wrong:
            old = self.old.get(fact.key)
            same = [
                f.value for f in self.told.values() if f.kind == fact.kind and f.value != fact.value
            ]
            other = (
                old.value
                if old
                else (_pick(rng, same) if same else make_value(fact.kind, rng, False))
            )
            shown = with_article(other, fact.kind)
        self.user(cap(fact.relation.checked(fact.owner, shown)) + "?", True)
        self.bot(fact.fill(_pick(rng, wordings.NO if wrong else wordings.YES), SECOND, other))

    def and_whose(self, fact: Fact) -> None:
        """The elliptic question "And my brother's?"."""
        rng, owner = self.rng, fact.owner
        same = [f for f in self.told.values() if f.relation == fact.relation and f.owner != owner]
        other = _pick(rng, same) if same and rng.random() < 0.75 else None
        if other is None:
            cls = "named" if self.is_document and owner.cls == "person" else owner.cls
            other = Fact(_owner(rng, cls), fact.relation, "", TRAIN.wordings)
            if other.key in self.planned:
                return
        if other.owner == SELF:
            self.user("And mine?", True)
        else:
            self.user(
                _pick(rng, ("And {}?", "What about {}?", "And what about {}?")).format(
                    other.owner.possessive(FIRST)
                ),
                True,
            )
        self.bot(self.reply(other) if other.key in self.told else self.unknown(other))

    def about_owner(self) -> None:
        rng = self.rng
        fact = _pick(rng, list(self.told.values()))
        who = "me" if fact.owner == SELF else fact.owner.subject(FIRST)
        self.user(
            _pick(
                rng,
                (
                    "What do you know about {}?",
                    "What did I tell you about {}?",
                    "Tell me about {}.",
                    "Tell me what you know about {}.",
                    "What have I said about {}?",
                ),
            ).format(who),
            True,
        )
        self.bot(" ".join(f.answer() for f in self.told.values() if f.owner == fact.owner))

    def whose(self) -> None:
        """The question from the value to the owner: "Whose locker code is 4417?"."""
        rng = self.rng
        facts = [
            f
            for f in self.told.values()
            if isinstance(f.relation, Attribute) and f.owner.cls in ("self", "person", "pet")
        ]
        if not facts:
            return self.check()
        fact = _pick(rng, facts)
        text = (
            f"Whose {fact.relation.noun} is {fact.shown}?"
            if rng.random() < 0.5
            else f"What is {fact.shown}?"
        )
        self.user(text, True)
        self.bot(fact.answer())
        return None

    # ------------------------------------------------------------------ the rest
    def small_talk(self) -> None:
        rng = self.rng
        said, answers = _pick(rng, wordings.SMALL_TALK)
        if rng.random() < 0.2:
            self.user(_pick(rng, wordings.FILLERS))
            self.bot(
                _pick(
                    rng,
                    (
                        "I see.",
                        "Thanks for sharing.",
                        "Oh, I see.",
                        "How nice.",
                        "That is life.",
                        "Tell me more.",
                        "I understand.",
                    ),
                )
            )
            return
        self.user(_pick(rng, said), True)
        self.bot(_pick(rng, answers))

    def world(self) -> None:
        fact = _pick(self.rng, WORLD_FACTS)
        self.user(_pick(self.rng, fact.questions), True)
        self.bot(fact.answer)

    def arithmetic(self) -> None:
        rng = self.rng
        top = 20 if rng.random() < 0.8 else 99
        a, b = rng.randint(0, top), rng.randint(0, top)
        if rng.random() < 0.5:
            a, b = max(a, b), min(a, b)
            sign, word, result = "-", "minus", a - b
        else:
            sign, word, result = "+", "plus", a + b
        text, form = _pick(
            rng,
            (
                ("What is {a} {w} {b}?", "{a} {w} {b} is {r}."),
                ("{a} {s} {b} = ?", "{a} {s} {b} = {r}"),
                ("How much is {a} {w} {b}?", "{a} {w} {b} is {r}."),
                ("What is {a} {s} {b}?", "{r}"),
                ("Calculate {a} {s} {b}.", "{a} {s} {b} = {r}"),
            ),
        )
        values = {"a": a, "b": b, "s": sign, "w": word, "r": result}
        self.user(text.format(**values), True)
        self.bot(form.format(**values))

    def task(self) -> None:
        rng, r = self.rng, self.rng.random()
        kind = _pick(rng, ("word", "food", "animal", "name", "color", "phrase", "number", "brand"))
        value = make_value(kind, rng, False)
        if r < 0.2:
            self.user(
                _pick(
                    rng,
                    (
                        "Say the word {}.",
                        "Say {}.",
                        "Please say {}.",
                        "Write {}.",
                        "Type the word {}.",
                    ),
                ).format(value)
            )
            self.bot(value if rng.random() < 0.5 else cap(value) + ".")
        elif r < 0.45:
            owner = _owner(rng)
            fact = TRAIN.make(owner, _relation(owner, rng), rng)
            text = cap(fact.clause()) + "." if rng.random() < 0.6 else _pick(rng, wordings.FILLERS)
            self.user(
                _pick(
                    rng,
                    (
                        "Repeat after me: {}",
                        "Repeat this: {}",
                        "Say this: {}",
                        "Please repeat: {}",
                        "Copy this sentence: {}",
                    ),
                ).format(text)
            )
            self.bot(text)
        elif r < 0.6:
            world = _pick(rng, WORLD_FACTS)
            self.user(
                _pick(
                    rng, ("Answer with one word: {}", "One word only: {}", "In one word: {}")
                ).format(world.questions[0])
            )
            self.bot(cap(world.key) + ".")
        elif r < 0.75:
            word = (
                pseudo(rng, 2, 2)
                if rng.random() < 0.5
                else _pick(
                    rng,
                    ("cat", "house", "tree", "water", "bread", "hand", "moon", "green", "river"),
                )
            )
            self.user(
                _pick(rng, ("Spell {}.", "Spell the word {}.", "How do you spell {}?")).format(word)
            )
            self.bot("-".join(word))
        elif r < 0.9:
            times, number = _pick(rng, (("two times", 2), ("three times", 3), ("twice", 2)))
            self.user(_pick(rng, ("Write {} {}.", "Say {} {}.")).format(value, times))
            self.bot(" ".join([value] * number))
        else:
            others = [make_value(kind, rng, False) for _ in range(rng.randint(2, 4))]
            at = rng.randrange(len(others))
            rank = ("first", "second", "third", "fourth")[at]
            self.user(f"Here is a list: {', '.join(others)}. What is the {rank} one?")
            self.bot(f"The {rank} one is {others[at]}.")

    def ask_on(self, least: int = 0) -> None:
        """Questions until the budget is used (a few dialogues end early)."""
        stop = self.budget if self.rng.random() < 0.85 else self.used + 60
        count = 0
        while count < least or (self.used < stop - 30):
            self.ask()
            count += 1

    def opening(self) -> None:
        r = self.rng.random()
        if r < 0.1:
            self.say("system", _pick(self.rng, wordings.PLAIN_SYSTEM), False)
        if r > 0.65:
            self.small_talk()


# ---------------------------------------------------------------------------- kinds of dialogues
_COUNTS = (1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10)


def _chunks(rng: random.Random, facts: Sequence[Fact]) -> list[Sequence[Fact]]:
    out, at, widest = [], 0, rng.randint(1, 3)
    while at < len(facts):
        size = rng.randint(1, widest)
        out.append(facts[at : at + size])
        at += size
    return out


def _tell_all(talk: Talk, count: int, between: float = 0.25) -> None:
    rng = talk.rng
    fix = rng.random() < CORRECTION_SHARE
    for chunk in _chunks(rng, talk.plan(count)):
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
    _tell_all(talk, min(_pick(talk.rng, _COUNTS), most))
    talk.ask_on(least=2)


def _system(talk: Talk) -> None:
    rng = talk.rng
    facts = talk.plan(min(_pick(rng, _COUNTS), max(1, int(talk.budget / 40))))
    head, bullet, joint, person = _pick(rng, wordings.SYSTEM_HEADS)
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
    if rng.random() < 0.12:
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
                else _pick(rng, wordings.ASK_FOR_QUESTIONS)
            )
            talk.user(ask)
            talk.bot("\n".join(talk.study_question(fact) for fact in facts))
        elif r < 0.45:
            fact = _pick(rng, facts)
            if rng.random() < 0.35:  # about any statement, told or not
                owner = _owner(rng)
                fact = TRAIN.make(owner, _relation(owner, rng), rng)
            said = fact.answer() if rng.random() < 0.4 else fact.statement(rng)
            ask = (
                QUESTION_INSTRUCTION_ABOUT
                if rng.random() < 0.7
                else _pick(rng, wordings.ASK_FOR_ONE)
            )
            if ask == QUESTION_INSTRUCTION_ABOUT and rng.random() < 0.5:
                said = cap(fact.clause()) + "."
            talk.user(ask.format(statement=said))
            talk.bot(talk.study_question(fact))
        elif r < 0.65:
            fact = _pick(rng, facts)
            seen = [talk.wording(fact)]
            for _ in range(rng.randint(1, 3)):
                ask = (
                    REPHRASE_INSTRUCTION
                    if rng.random() < 0.7
                    else _pick(rng, wordings.ASK_REPHRASE)
                )
                talk.user(ask.format(question=seen[-1]))
                seen.append(talk.study_question(fact, seen))
                talk.bot(seen[-1])
        elif r < 0.75 and talk.room > 14 * len(facts):
            talk.user(
                FACTS_INSTRUCTION if rng.random() < 0.6 else _pick(rng, wordings.ASK_FOR_FACTS)
            )
            talk.bot("\n".join(fact.answer() for fact in facts))
        else:
            for _ in range(rng.randint(1, 3)):
                talk.ask()
    return None


def _notes_for_study(talk: Talk, count: int) -> None:
    rng = talk.rng
    facts = talk.plan(count)
    head, bullet, joint, person = _pick(rng, wordings.SYSTEM_HEADS[:5])
    talk.say(
        "system", head + joint.join(bullet + cap(f.clause(person)) + "." for f in facts), False
    )
    talk.told.update((fact.key, fact) for fact in facts)


def _study_nothing(talk: Talk) -> None:
    rng = talk.rng
    talk.opening()
    talk.user(_pick(rng, (FACTS_INSTRUCTION, QUESTIONS_INSTRUCTION, *wordings.ASK_FOR_FACTS)))
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
    kinds = _pick(rng, (("named",), ("place",), ("project",), ("named", "place", "project")))
    facts = talk.plan(min(rng.randint(2, 8), max(2, int(talk.budget / 45))), kinds)
    lines = []
    for fact in facts:
        template = _pick(rng, wordings.DOC_STATEMENTS)
        if isinstance(fact.relation, Verb) and ("{n}" in template or "{N}" in template):
            template = "{S}."
        lines.append(fact.fill(template))
        if rng.random() < 0.2:
            lines.append(_pick(rng, wordings.DOC_FILLERS))
        talk.told[fact.key] = fact
    text = _pick(rng, wordings.DOC_HEADS) + " ".join(lines)
    if rng.random() < 0.35:
        fact = _pick(rng, facts)
        talk.asked.add(fact.key)
        talk.user(f"{text}\n\n{fact.question(rng)}")
        talk.bot(talk.reply(fact))
    else:
        talk.user(text)
        talk.bot(
            _pick(
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


_KINDS = {
    "tell": _tell,
    "system": _system,
    "closed": _closed,
    "study": _study,
    "skills": _skills,
    "document": _document,
    "copying": copying,
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


# ---------------------------------------------------------------------------- exams
def exam(
    rng: random.Random, relations: str = "train", facts: int = 6, n: int = 60
) -> list[dict[str, Any]]:
    """`n` conversations that tell `facts` facts and end in a question.

    "recall" and "correction" hold the right value in `answers`; "abstention" has no answers and
    wants "don't know" ("do not know"). `not_answers` never belong in the reply.
    """
    if relations not in _HALVES:
        raise ValueError(f"relations must be one of {', '.join(_HALVES)}, not {relations!r}")
    half = _HALVES[relations]
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
            found = half.near(_pick(rng, list(told.values())), rng)
        else:
            owner = half.owner(rng)
            found = Fact(owner, half.relation(owner, rng), "", half.wordings)
        if found.key not in told:
            told[found.key] = replace(found, value=fresh(found.relation))
    acks: Sequence[str] = held.ACKNOWLEDGEMENTS if heldout else wordings.ACKS
    order = list(told.values())
    if rng.random() < 0.5:
        if heldout:
            said, reply = _pick(rng, held.OPENERS)
        else:
            texts, replies = _pick(rng, wordings.SMALL_TALK)
            said, reply = _pick(rng, texts), _pick(rng, replies)
        talk.user(said)
        talk.bot(reply)
    turns = [" ".join(f.statement(rng) for f in order[at : at + 2]) for at in range(0, count, 2)]
    fact = _pick(rng, order)
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
        talk.bot(_pick(rng, acks))
    talk.user(fact.question(rng))
    return {
        "messages": [{"role": m["role"], "content": m["content"]} for m in talk.messages],
        "answers": answers,
        "not_answers": not_answers,
        "kind": kind,
    }
