"""A dialogue in the making: someone tells things, corrects them, and asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engrain.data.facts import (
    FIRST,
    SECOND,
    SELF,
    Attribute,
    Fact,
    Relation,
    Verb,
    cap,
    make_value,
    pseudo,
    with_article,
)
from training.pocket import wordings
from training.pocket.frames import pick
from training.pocket.halves import KIN, STUDY_WORDINGS, TRAIN, training_owner, training_relation
from training.pocket.world import WORLD_FACTS

UNKNOWN_SHARE = 0.25
RESTATE_SHARE = 0.35
SHORT_ANSWER_SHARE = 0.15
YES_NO_SHARE = 0.06
WORLD_SHARE = 0.05
CHANGED_FIRST_SHARE = 0.6  # corrected facts are the hardest: old and new stand in the text


def chunks(rng: random.Random, facts: Sequence[Fact]) -> list[Sequence[Fact]]:
    """The facts in pieces that are told in one message."""
    out, at, widest = [], 0, rng.randint(1, 3)
    while at < len(facts):
        size = rng.randint(1, widest)
        out.append(facts[at : at + size])
        at += size
    return out


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
        self.tells: dict[int, list[Fact]] = {}  # what each message of the user tells
        self.untold: list[Fact] = []  # what was said but not told: supposed, heard, taken back
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
                    and (f.owner.cls == owner.cls or {f.owner.cls, owner.cls} <= KIN)
                ]
                cls = "named" if self.is_document and owner.cls == "person" else owner.cls
                new = (
                    pick(rng, others) if others and rng.random() < 0.6 else training_owner(rng, cls)
                )
                found = Fact(new, relation, "", TRAIN.wordings)
            else:
                another = training_relation(owner, rng)
                if another.kind != relation.kind and rng.random() < 0.6:
                    continue
                found = Fact(owner, another, "", TRAIN.wordings)
            if found.key not in self.planned:
                return found
        return None

    def plan(self, count: int, owners: Sequence[str] = ("",)) -> list[Fact]:
        """Facts to tell, many of them easy to confuse with one another."""
        rng = self.rng
        mixing = pick(rng, (0.1, 0.5, 0.85))
        new: list[Fact] = []
        while len(new) < count:
            fact = None
            if new and rng.random() < mixing:
                fact = self.near(pick(rng, new))
            if fact is None:
                owner = training_owner(rng, pick(rng, owners))
                fact = Fact(owner, training_relation(owner, rng), "", TRAIN.wordings)
            if fact.key in self.planned:
                continue
            fact = replace(fact, value=self.value(fact.relation))
            self.planned[fact.key] = fact
            new.append(fact)
        return new

    # ------------------------------------------------------------------ telling
    def sentences(self, facts: Sequence[Fact]) -> str:
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
                joint = pick(rng, (", and ", " and ", ", while ", ", and also "))
                parts[-1] = parts[-1][:-1] + joint + clause + "."
                last = None
                continue
            parts.append(fact.statement(rng))
            last = fact
        if rng.random() < 0.22:
            parts.insert(0 if rng.random() < 0.6 else len(parts), pick(rng, wordings.FILLERS))
        return " ".join(parts)

    def tell(self, facts: Sequence[Fact], before: str = "", after: str = "") -> None:
        """Tell facts in one message; other sentences may stand in it before or after them."""
        rng = self.rng
        for fact in facts:
            self.told[fact.key] = fact
        self.tells[len(self.messages)] = list(facts)
        self.user(" ".join(filter(None, (before, self.sentences(facts), after))))
        if rng.random() < RESTATE_SHARE:
            fact = facts[-1]
            if len(facts) > 1 and rng.random() < 0.5:
                self.bot("Okay. " + " ".join(f.answer() for f in facts))
            else:
                self.bot(fact.fill(pick(rng, wordings.RESTATED), SECOND))
        else:
            self.bot(pick(rng, wordings.ACKS))

    def correct(self) -> None:
        rng = self.rng
        fact = pick(rng, list(self.told.values()))
        new = replace(fact, value=self.value(fact.relation))
        self.tells[len(self.messages)] = [new]
        self.user(fact.correction(new.value, rng))
        if rng.random() < 0.5:
            self.bot(new.fill(pick(rng, wordings.CORRECTED), SECOND, fact.value))
        else:
            self.bot(pick(rng, wordings.ACKS))
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
            return fact.fill(pick(rng, wordings.SHORT_VERB if verb else wordings.SHORT), SECOND)
        return fact.fill(pick(rng, wordings.ANSWERS), SECOND)

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
            changed = [key for key in open_keys if key in self.old]
            if changed and rng.random() < CHANGED_FIRST_SHARE:
                key = pick(rng, changed)
            elif open_keys and rng.random() < 0.85:
                key = pick(rng, open_keys)
            else:
                key = (
                    pick(rng, list(self.old))
                    if self.old and r < 0.5
                    else pick(rng, list(self.told))
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
            fact = pick(rng, waiting)
        elif self.told and rng.random() < 0.85:
            fact = self.near(pick(rng, list(self.told.values())))
        while fact is None:
            owner = training_owner(rng)
            fact = Fact(owner, training_relation(owner, rng), "", TRAIN.wordings)
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
            said, answers = pick(rng, wordings.GIVE_UP)
            self.user(pick(rng, said))
            self.bot(pick(rng, answers))

    def check(self) -> None:
        """A yes/no question about a told fact."""
        rng = self.rng
        fact = pick(rng, list(self.told.values()))
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
                else (pick(rng, same) if same else make_value(fact.kind, rng, False))
            )
            shown = with_article(other, fact.kind)
        self.user(cap(fact.relation.checked(fact.owner, shown)) + "?", True)
        self.bot(fact.fill(pick(rng, wordings.NO if wrong else wordings.YES), SECOND, other))

    def and_whose(self, fact: Fact) -> None:
        """The elliptic question "And my brother's?"."""
        rng, owner = self.rng, fact.owner
        same = [f for f in self.told.values() if f.relation == fact.relation and f.owner != owner]
        other = pick(rng, same) if same and rng.random() < 0.75 else None
        if other is None:
            cls = "named" if self.is_document and owner.cls == "person" else owner.cls
            other = Fact(training_owner(rng, cls), fact.relation, "", TRAIN.wordings)
            if other.key in self.planned:
                return
        if other.owner == SELF:
            self.user("And mine?", True)
        else:
            self.user(
                pick(rng, ("And {}?", "What about {}?", "And what about {}?")).format(
                    other.owner.possessive(FIRST)
                ),
                True,
            )
        self.bot(self.reply(other) if other.key in self.told else self.unknown(other))

    def about_owner(self) -> None:
        rng = self.rng
        fact = pick(rng, list(self.told.values()))
        who = "me" if fact.owner == SELF else fact.owner.subject(FIRST)
        self.user(
            pick(
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
        fact = pick(rng, facts)
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
        said, answers = pick(rng, wordings.SMALL_TALK)
        if rng.random() < 0.2:
            self.user(pick(rng, wordings.FILLERS))
            self.bot(
                pick(
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
        self.user(pick(rng, said), True)
        self.bot(pick(rng, answers))

    def world(self) -> None:
        fact = pick(self.rng, WORLD_FACTS)
        self.user(pick(self.rng, fact.questions), True)
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
        text, form = pick(
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
        kind = pick(rng, ("word", "food", "animal", "name", "color", "phrase", "number", "brand"))
        value = make_value(kind, rng, False)
        if r < 0.2:
            self.user(
                pick(
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
            owner = training_owner(rng)
            fact = TRAIN.make(owner, training_relation(owner, rng), rng)
            text = cap(fact.clause()) + "." if rng.random() < 0.6 else pick(rng, wordings.FILLERS)
            self.user(
                pick(
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
            world = pick(rng, WORLD_FACTS)
            self.user(
                pick(
                    rng, ("Answer with one word: {}", "One word only: {}", "In one word: {}")
                ).format(world.questions[0])
            )
            self.bot(cap(world.key) + ".")
        elif r < 0.75:
            word = (
                pseudo(rng, 2, 2)
                if rng.random() < 0.5
                else pick(
                    rng,
                    ("cat", "house", "tree", "water", "bread", "hand", "moon", "green", "river"),
                )
            )
            self.user(
                pick(rng, ("Spell {}.", "Spell the word {}.", "How do you spell {}?")).format(word)
            )
            self.bot("-".join(word))
        elif r < 0.9:
            times, number = pick(rng, (("two times", 2), ("three times", 3), ("twice", 2)))
            self.user(pick(rng, ("Write {} {}.", "Say {} {}.")).format(value, times))
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
            self.say("system", pick(self.rng, wordings.PLAIN_SYSTEM), False)
        if r > 0.65:
            self.small_talk()
