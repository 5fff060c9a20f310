"""Facts about a person's life, and their many wordings.

A fact is (owner, relation, value): "my sister", "favorite cheese", "Brellin". Values, owners,
relations and wordings come in two halves that never meet: one to train the pocket model with,
one (held out, the default here) for every exam and self-check of the product.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from engrain.data import facts_heldout as _held
from engrain.data.facts_values import (
    MAKERS,
    cap,
    fits_beside,
    is_heldout,
    make_value,
    pseudo,
    with_article,
)

__all__ = [
    "FACTS_INSTRUCTION",
    "FIRST",
    "HELDOUT",
    "HELDOUT_WORDINGS",
    "MAKERS",
    "NOTHING_TOLD",
    "QUESTIONS_INSTRUCTION",
    "QUESTION_INSTRUCTION_ABOUT",
    "REPHRASE_INSTRUCTION",
    "SECOND",
    "SELF",
    "THIRD",
    "Attribute",
    "Fact",
    "FactSampler",
    "Owner",
    "Relation",
    "Tables",
    "Verb",
    "Wordings",
    "cap",
    "fits_beside",
    "is_heldout",
    "make_value",
    "parse_attributes",
    "parse_verbs",
    "pseudo",
    "told_conversation",
    "unseen_tables",
    "with_article",
]

Message = dict[str, str]

QUESTIONS_INSTRUCTION = (
    "List the questions that I could ask you later about what I told you, one per line."
)
QUESTION_INSTRUCTION_ABOUT = "Write a question that I could ask you later about this: {statement}"
REPHRASE_INSTRUCTION = "Ask the same thing in other words: {question}"
FACTS_INSTRUCTION = "List what I told you about, one fact per line."
NOTHING_TOLD = "You have not told me anything yet."

FIRST, SECOND, THIRD = 0, 1, 2  # the user speaks, the assistant speaks, a note about the user


# ---------------------------------------------------------------------------- owners, relations
@dataclass(frozen=True, slots=True)
class Owner:
    """Whose fact it is. `sort` is "self", "my", "our" or "named"; `cls` says what it can have."""

    name: str
    sort: str = "my"
    cls: str = "person"
    pronoun: str = ""

    def subject(self, person: int) -> str:
        """The owner as the subject of a sentence."""
        if self.sort == "self":
            return ("I", "you", "the user")[person]
        if self.sort == "named":
            return self.name
        return f"{(self.sort, 'your', 'the user' + chr(39) + 's')[person]} {self.name}"

    def possessive(self, person: int) -> str:
        """The owner before a noun, as in "my sister's cheese"."""
        if self.sort == "self":
            return ("my", "your", "the user's")[person]
        return self.subject(person) + "'s"


SELF = Owner("", "self", "self")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A noun phrase that an owner has: "favorite cheese"."""

    noun: str
    kind: str
    of: bool = False  # say "the capital of Zorvia" rather than "Zorvia's capital"

    def phrase(self, owner: Owner, person: int) -> str:
        """The noun phrase, such as "my sister's favorite cheese"."""
        if self.of and owner.sort != "self":
            return f"the {self.noun} of {owner.subject(person)}"
        return f"{owner.possessive(person)} {self.noun}"

    def clause(self, owner: Owner, shown: str, person: int) -> str:
        """The statement, without capital and full stop."""
        return f"{self.phrase(owner, person)} is {shown}"

    def asked(self, owner: Owner, person: int = FIRST) -> str:
        """The question, without capital and question mark."""
        return f"{'who' if self.kind == 'person' else 'what'} is {self.phrase(owner, person)}"

    def embedded(self, owner: Owner, person: int) -> str:
        """The question inside a sentence."""
        return f"{'who' if self.kind == 'person' else 'what'} {self.phrase(owner, person)} is"

    def checked(self, owner: Owner, shown: str, person: int = FIRST) -> str:
        """The yes/no question."""
        return f"is {self.phrase(owner, person)} {shown}"


_AUX = {  # auxiliary: (I, you, anyone else)
    "do": ("do", "do", "does"),
    "did": ("did", "did", "did"),
    "will": ("will", "will", "will"),
    "be": ("am", "are", "is"),
    "was": ("was", "were", "was"),
}


@dataclass(frozen=True, slots=True)
class Verb:
    """A relation said by a verb: "I live in V" / "Where do I live?"."""

    aux: str
    wh: str
    base: str  # "live" (also as asked); empty with "be" and "was"
    form: str  # "lives" with "do", "bought" with "did"
    tail: str  # "in {v}"
    asked_tail: str  # what remains of the tail in a question
    kind: str

    @property
    def noun(self) -> str:
        """What the relation is about; its identity, as an attribute's noun is."""
        return f"{self.base} {self.tail}".replace("{v}", "").strip()

    def _aux_of(self, owner: Owner, person: int) -> str:
        return _AUX[self.aux][person if owner.sort == "self" else THIRD]

    def _finite(self, owner: Owner, person: int) -> str:
        if self.aux == "do":
            return self.base if owner.sort == "self" and person != THIRD else self.form
        if self.aux == "did":
            return self.form
        return f"{self._aux_of(owner, person)} {self.base}".strip()

    def clause(self, owner: Owner, shown: str, person: int) -> str:
        """The statement, without capital and full stop."""
        tail = self.tail.replace("{v}", shown)
        return f"{owner.subject(person)} {self._finite(owner, person)} {tail}"

    def asked(self, owner: Owner, person: int = FIRST) -> str:
        """The question, without capital and question mark."""
        parts = (
            self.wh,
            self._aux_of(owner, person),
            owner.subject(person),
            self.base,
            self.asked_tail,
        )
        return " ".join(part for part in parts if part)

    def embedded(self, owner: Owner, person: int) -> str:
        """The question inside a sentence."""
        parts = (self.wh, owner.subject(person), self._finite(owner, person), self.asked_tail)
        return " ".join(part for part in parts if part)

    def checked(self, owner: Owner, shown: str, person: int = FIRST) -> str:
        """The yes/no question."""
        parts = (
            self._aux_of(owner, person),
            owner.subject(person),
            self.base,
            self.tail.replace("{v}", shown),
        )
        return " ".join(part for part in parts if part)


Relation = Attribute | Verb


def parse_verbs(text: str) -> list[Verb]:
    """Lines "aux|wh|base/form|tail|asked tail|kind"; "-" as asked tail: the tail without V."""
    verbs = []
    for line in filter(None, map(str.strip, text.splitlines())):
        aux, wh, forms, tail, asked, kind = (part.strip() for part in line.split("|"))
        base, _, form = forms.partition("/")
        if asked == "-":
            asked = " ".join(tail.replace("{v}", "").split())
        verbs.append(Verb(aux, wh, base, form or base, tail, asked, kind))
    return verbs


def parse_attributes(text: str, of: bool = False) -> list[Attribute]:
    """Lines "kind = noun, noun, ..."."""
    out: dict[str, Attribute] = {}
    kind = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if "=" in line:
            kind, _, line = line.partition("=")
        for noun in filter(None, map(str.strip, line.split(","))):
            out.setdefault(noun, Attribute(noun, kind.strip(), of))
    return list(out.values())


# ---------------------------------------------------------------------------- wordings
@dataclass(frozen=True)
class Wordings:
    """Templates with slots for the parts of a fact.

    {s} statement clause, {n} noun phrase, {q} question, {e} embedded question, {v} value, {o} the
    old value, {p} the old clause; a capital slot begins a sentence. Templates with {n} serve
    attributes only, all others serve verbs as well.
    """

    statements: Sequence[str]
    questions: Sequence[str]
    corrections: Sequence[str]
    _any: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def choose(self, group: str, relation: Relation, rng: random.Random) -> str:
        """A random template of a group that suits the relation."""
        templates: Sequence[str] = getattr(self, group)
        if isinstance(relation, Verb):
            if group not in self._any:
                self._any[group] = tuple(t for t in templates if "{n}" not in t and "{N}" not in t)
            templates = self._any[group]
        return templates[int(rng.random() * len(templates))]


HELDOUT_WORDINGS = Wordings(_held.STATEMENTS, _held.QUESTIONS, _held.CORRECTIONS)


@dataclass(frozen=True)
class Fact:
    """One fact and everything that can be said about it."""

    owner: Owner
    relation: Relation
    value: str
    wordings: Wordings = field(default=HELDOUT_WORDINGS, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The kind of value."""
        return self.relation.kind

    @property
    def key(self) -> tuple[str, str]:
        """Owner and relation: what must be unique."""
        return (self.owner.subject(FIRST), self.relation.noun)

    @property
    def shown(self) -> str:
        """The value as it stands in a sentence."""
        return with_article(self.value, self.relation.kind)

    @property
    def answers(self) -> list[str]:
        """The strings that count as the right answer."""
        return [self.value]

    def clause(self, person: int = FIRST) -> str:
        """The statement, without capital and full stop."""
        return self.relation.clause(self.owner, self.shown, person)

    def fill(self, template: str, person: int = FIRST, old: str = "") -> str:
        """Put this fact into a template (see `Wordings`)."""
        rel, owner = self.relation, self.owner
        words: dict[str, str] = {}
        if "{s}" in template or "{S}" in template:
            words["s"] = self.clause(person)
        if "{e}" in template or "{E}" in template:
            words["e"] = rel.embedded(owner, person)
        if "{q}" in template or "{Q}" in template:
            words["q"] = rel.asked(owner, person)
        if isinstance(rel, Attribute) and ("{n}" in template or "{N}" in template):
            words["n"] = rel.phrase(owner, person)
        if "{v}" in template or "{V}" in template:
            words["v"] = self.shown
        if old:
            words["o"] = with_article(old, rel.kind)
            words["p"] = rel.clause(owner, words["o"], person)
        text = template
        for key, word in words.items():
            text = text.replace("{" + key + "}", word).replace("{" + key.upper() + "}", cap(word))
        return text

    def statement(self, rng: random.Random) -> str:
        """What the user says to tell it."""
        return self.fill(self.wordings.choose("statements", self.relation, rng))

    def question(self, rng: random.Random, avoid: Iterable[str] = ()) -> str:
        """One wording of the question; with `avoid`, one that is not among those texts."""
        shunned = {text.lower() for text in avoid}
        for _ in range(60):
            text = self.fill(self.wordings.choose("questions", self.relation, rng))
            if text.lower() not in shunned:
                break
        return text

    def answer(self) -> str:
        """What the assistant says when it knows."""
        return cap(self.clause(SECOND)) + "."

    def correction(self, new_value: str, rng: random.Random) -> str:
        """What the user says when this fact becomes `new_value`."""
        changed = replace(self, value=new_value)
        return changed.fill(
            self.wordings.choose("corrections", self.relation, rng), FIRST, self.value
        )

    def denial(self, rng: random.Random) -> str:
        """What the assistant says when it was never told."""
        options = _held.UNKNOWN if isinstance(self.relation, Attribute) else _held.UNKNOWN_VERB
        return self.fill(options[int(rng.random() * len(options))], SECOND)

    def note(self) -> str:
        """The fact in the third person, for a system note."""
        return cap(self.clause(THIRD)) + "."


# ---------------------------------------------------------------------------- tables
@dataclass
class Tables:
    """One half of the world: who, what, how it is said, and which values."""

    owners: Sequence[Owner]
    attributes: dict[str, list[Attribute]]  # by owner class
    verbs: dict[str, list[Verb]]
    wordings: Wordings
    heldout: bool
    compose: Callable[[random.Random], Attribute] | None = None  # further attributes for persons
    self_share: float = 0.3
    named_share: float = 0.2
    verb_share: float = 0.2

    def owner(self, rng: random.Random) -> Owner:
        """A random owner."""
        r = rng.random()
        if r < self.self_share:
            return SELF
        if r < self.self_share + self.named_share:
            return Owner(self.person_name(rng), "named", "person")
        return self.owners[int(rng.random() * len(self.owners))]

    def person_name(self, rng: random.Random) -> str:
        """A name of this half that takes a plain 's."""
        while True:
            name = make_value("name", rng, self.heldout)
            if not name.endswith("s"):
                return name

    def relation(self, owner: Owner, rng: random.Random) -> Relation:
        """A random relation that the owner can have."""
        verbs = self.verbs.get(owner.cls, [])
        if verbs and rng.random() < self.verb_share:
            return verbs[int(rng.random() * len(verbs))]
        if self.compose and owner.cls in ("self", "person") and rng.random() < 0.45:
            return self.compose(rng)
        attributes = self.attributes[owner.cls]
        return attributes[int(rng.random() * len(attributes))]

    def make(self, owner: Owner, relation: Relation, rng: random.Random) -> Fact:
        """The fact with a random value."""
        value = make_value(relation.kind, rng, self.heldout)
        return Fact(owner, relation, value, self.wordings)

    def near(self, fact: Fact, rng: random.Random) -> Fact:
        """A neighbour: the same relation of another owner, or another relation of the owner."""
        owner, relation = fact.owner, fact.relation
        if rng.random() < 0.5:
            for _ in range(40):
                other = self.owner(rng)
                kin = {"self", "person"}
                if other != owner and (other.cls == owner.cls or {other.cls, owner.cls} <= kin):
                    return self.make(other, relation, rng)
        for _ in range(40):
            another = self.relation(owner, rng)
            if another != relation and (another.kind == relation.kind or rng.random() < 0.3):
                return self.make(owner, another, rng)
        return self.make(owner, another, rng)


def unseen_tables(owners: str, attributes: str, verbs: str, wordings: Wordings) -> Tables:
    """Tables that the pocket model never trained on, with values of the held-out half."""
    parsed, acts = parse_attributes(attributes), parse_verbs(verbs)
    names = filter(None, map(str.strip, owners.replace("\n", ",").split(",")))
    return Tables(
        [Owner(name) for name in names],
        {"self": parsed, "person": parsed},
        {"self": acts, "person": acts},
        wordings,
        True,
    )


HELDOUT = unseen_tables(_held.OWNERS, _held.ATTRIBUTES, _held.VERBS, HELDOUT_WORDINGS)


class FactSampler:
    """Facts that never repeat a relation (owner and attribute) nor a value."""

    def __init__(self, seed: int = 0, tables: Tables = HELDOUT) -> None:
        self.tables = tables
        self.rng = random.Random(f"facts:{seed}")
        self.keys: set[tuple[str, str]] = set()
        self.values: list[str] = []

    def _free(self, value: str) -> bool:
        return fits_beside(value, self.values)

    def value(self, relation: Relation) -> str:
        """A fresh value for the relation; none contains another one."""
        for _ in range(400):
            value = make_value(relation.kind, self.rng, self.tables.heldout)
            if self._free(value):
                break
        else:  # the kind ran out: an invented word serves any kind
            while True:
                value = make_value("brand", self.rng, self.tables.heldout)
                if self._free(value):
                    break
        self.values.append(value.lower())
        return value

    def fact(self) -> Fact:
        """A fact about something not handed out before."""
        while True:
            owner = self.tables.owner(self.rng)
            fact = self.claim(owner, self.tables.relation(owner, self.rng))
            if fact:
                return fact

    def claim(self, owner: Owner, relation: Relation) -> Fact | None:
        """The fact for this relation, or None when it was handed out before."""
        fact = Fact(owner, relation, "", self.tables.wordings)
        if fact.key in self.keys:
            return None
        self.keys.add(fact.key)
        return replace(fact, value=self.value(relation))

    def near_miss(self, fact: Fact, rng: random.Random | None = None) -> Fact:
        """A close neighbour of `fact` that this sampler never hands out as told."""
        rng = rng or self.rng
        while True:
            near = self.tables.near(fact, rng)
            if near.key not in self.keys:
                self.keys.add(near.key)
                return near


def told_conversation(
    facts: Sequence[Fact],
    rng: random.Random,
    corrections: Sequence[tuple[Fact, str]] = (),
) -> list[Message]:
    """A chat in which the user tells the facts (and corrections: the old fact, the new value)."""
    said = [fact.statement(rng) for fact in facts]
    said += [old.correction(new, rng) for old, new in corrections]
    messages: list[Message] = []
    if rng.random() < 0.5:
        hello, reply = _held.OPENERS[int(rng.random() * len(_held.OPENERS))]
        messages += [{"role": "user", "content": hello}, {"role": "assistant", "content": reply}]
    at = 0
    while at < len(said):
        size = 1 + int(rng.random() * 2)
        messages.append({"role": "user", "content": " ".join(said[at : at + size])})
        acknowledged = _held.ACKNOWLEDGEMENTS[int(rng.random() * len(_held.ACKNOWLEDGEMENTS))]
        messages.append({"role": "assistant", "content": acknowledged})
        at += size
    return messages
