"""Frames of questions: how a thing is asked for, apart from what is asked for.

From the questions that the model wrote, this takes the frame ("Do you remember {n}?") and the
parts (``n``, the thing: "my aunt's cat"; ``q``, the direct question: "what is my aunt's cat";
``e``, the same inside a sentence: "what my aunt's cat is"). Frames and parts are then combined
anew: one fact in the wordings of another gives more wordings, something that was never told in
the wordings of the lesson gives matched contrast. What comes out is only proposed: the model
answers each of them with the conversation in view before anything is learned from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engrain.dream.clauses import Clause, clause_in, clause_told
from engrain.study.wording import FUNCTION_WORDS, NAME, as_user, content

NEUTRAL_FRAMES = (
    "{Q}?",
    "What is {n}?",
    "Do you remember {n}?",
    "Can you tell me {e}?",
    "Tell me {n}.",
    "Do you know {e}?",
    "What was {n} again?",
    "Quick question: {q}?",
    "Please remind me of {n}.",
    "I wonder {e}.",
    "By the way, {q}?",
    "I do not remember {e}.",
    "I lost my notes. {Q}?",
    "A friend is asking {e}.",
    "From memory, {q}?",
    "We talked about {n}. What was it?",
    "{Q}? Tell me, please.",
    "I am filling in a form. {Q}?",
    "I hope you know {e}.",
    "Do you have {n} on file?",
    "Could you repeat {e} for me?",
    "{Q}, if you can say?",
    "My boss wants to know {e}.",
    "I need {n} for a letter.",
    "Hello! {Q}?",
    "It matters to me {e}. Say it.",
    "Think hard: {q}?",
    "{N}, do you know it?",
    "I should know {e}. Do you?",
    "Let me hear {n}.",
    "We all want to know {e}.",
    "I had it a moment ago. {Q}?",
    "Please look up {n}. Thanks.",
    "They keep asking me {e}, so tell me.",
    "Excuse me, {q}?",
    "If I asked you {e}, what is your answer?",
    "I am not sure {e}.",
    "{Q}? I want to be certain.",
    "Is it written down {e}?",
    "After all I told you, {q}?",
    "Say {n}.",
)
"""Beside the model's own wordings; none of them is a wording of the exams."""

_WH = r"(?:what|who|whom|whose|which|when|where|why|how)"
_BE = r"(?:is|are|was|were)"
_WH_START = re.compile(rf"^{_WH}\b", re.IGNORECASE)
_WH_INSIDE = re.compile(rf"\b{_WH}\b", re.IGNORECASE)
_DIRECT_THING = re.compile(rf"^(?P<wh>{_WH}) (?P<be>{_BE}) (?P<n>.+)$", re.IGNORECASE)
_INVERTED = re.compile(
    rf"^{_WH}(?: \w+)?? (?:{_BE}|am|do|does|did|will|would|can|could|has|have|had|should)\b",
    re.IGNORECASE,
)
_OWNER = re.compile(rf"^(?P<owner>(?:my|our)(?: [^\s'’]+)*?|{NAME}(?: {NAME})?)['’]s (?P<rest>.+)$")
_MINE = re.compile(r"\b(?:my|our)\b", re.IGNORECASE)
_LEAD = re.compile(r"^(?:my|our)\s+(?P<rest>.+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a question asks for, in the three shapes that frames take; "" where unknown."""

    thing: str = ""
    direct: str = ""
    inside: str = ""
    clause: Clause | None = None

    @classmethod
    def of_thing(cls, thing: str, wh: str = "what", be: str = "is") -> Parts:
        """The parts of a question for a thing that somebody has."""
        return cls(thing, f"{wh} {be} {thing}", f"{wh} {thing} {be}")

    @classmethod
    def of_clause(cls, clause: Clause, wh: str = "what") -> Parts:
        """The parts of a question for what somebody does."""
        return cls("", clause.direct(wh), clause.inside(wh), clause)

    @property
    def name(self) -> str:
        """What is asked for, in the shape that says it best."""
        return self.thing or self.inside or self.direct

    @property
    def answer_stem(self) -> str:
        """How a plain answer begins ("Your aunt's cat is", "Your aunt adores"), "" if unknown."""
        if not self.thing:
            return self.clause.answer_stem if self.clause else ""
        be = self.direct.split()[1]
        stem = _MINE.sub("your", self.thing)
        return f"{stem[:1].upper()}{stem[1:]} {be}"

    def slots(self) -> dict[str, str]:
        """The known parts by slot."""
        known = {"n": self.thing, "q": self.direct, "e": self.inside}
        return {slot: text for slot, text in known.items() if text}


def lowered(text: str) -> str:
    """A text that now stands inside a sentence: small words lose their capital, names don't."""
    first = text.split(" ", 1)[0]
    if first.startswith("I") and not first[1:2].isalpha():
        return text
    return text[:1].lower() + text[1:] if first.lower() in FUNCTION_WORDS else text


def bare(question: str) -> str:
    """A question without the mark at its end."""
    return question.strip().rstrip("?.! ").strip()


def direct(question: str) -> str:
    """The question itself if it is one plain direct question, else ""."""
    text = bare(question)
    if _WH_START.match(text) and not re.search(r"[,:;.?!]", text) and _INVERTED.match(text):
        return lowered(text)
    return ""


def parts_of(question: str) -> Parts:
    """The parts of a plain direct question.

    Example:
        >>> parts_of("What is my aunt's cat?").inside
        "what my aunt's cat is"
    """
    plain = direct(question)
    found = _DIRECT_THING.match(plain)
    if found and _is_thing(found.group("n")):
        return Parts.of_thing(
            found.group("n"), found.group("wh").lower(), found.group("be").lower()
        )
    return Parts(direct=plain)


def parts_of_fact(pairs: Sequence[tuple[str, str]], surface: str, told: str = "") -> Parts:
    """The parts of a fact, from its questions with their answers and the value in them.

    ``told`` is the user's sentence: who does what is taken from there, since a small model garbles
    verbs ("holds pictures" for "collects pictures").
    """
    plain = next((text for question, _ in pairs if (text := direct(question))), "")
    wh = plain.split(" ", 1)[0] if plain else "what"
    for question, answer in pairs:
        if thing := _thing_in(question, as_user(answer), surface):
            return Parts.of_thing(thing, _asked_with([q for q, _ in pairs], thing) or wh)
    clauses = [clause_told(told, surface), *(clause_in(as_user(a), surface) for _, a in pairs)]
    if clause := next(filter(None, clauses), None):
        wh = _mostly_asked_with([q for q, _ in pairs])
        return Parts.of_clause(clause, "where" if wh == "who" and clause.at_a_place else wh)
    for question, _ in pairs:
        if (parts := parts_of(question)).thing:
            return parts
    if not plain:
        return Parts()
    for question, _ in pairs:
        inside = _inside(question)
        if inside and content(inside) == content(plain):
            return Parts(direct=plain, inside=inside)
    return Parts(direct=plain)


def asked_otherwise(parts: Parts) -> Parts:
    """The same asked with "what" in place of "who", which a small model takes for a person."""
    if parts.direct.split(" ", 1)[0] != "who" and not parts.inside.startswith("who "):
        return parts
    if parts.clause:
        return Parts.of_clause(parts.clause)
    return Parts.of_thing(parts.thing, "what", parts.direct.split()[1]) if parts.thing else parts


def frame_of(question: str, parts: Parts) -> str:
    """The frame of a question whose parts are known, "" if none stands in it just once.

    Whoever is asked for may stand in it as a thing ("what" for "who").
    """
    shapes = dict.fromkeys((parts, asked_otherwise(parts)))
    for slot, text in ((slot, shape.slots().get(slot)) for slot in "qen" for shape in shapes):
        if not text:
            continue
        found = list(re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", question, re.IGNORECASE))
        if len(found) == 1:
            start, end = found[0].span()
            capital = question[start].isupper() and not text[0].isupper()
            name = slot.upper() if capital else slot
            return f"{question[:start]}{{{name}}}{question[end:]}"
    return ""


def fill(frame: str, parts: Parts) -> str:
    """A question from a frame, "" if the frame wants a part that is not known."""
    word = parts.direct.split(" ", 1)[0]
    if word and (own := _WH_START.match(frame)) and own.group().lower() != word:
        return ""  # "What is {n}?" asks for no person
    for slot in ("q", "e", "n"):
        for name in (slot, slot.upper()):
            mark = f"{{{name}}}"
            if mark in frame:
                text = parts.slots().get(slot, "")
                shown = text[:1].upper() + text[1:] if name.isupper() else text
                return frame.replace(mark, shown) if text else ""
    return ""


def joined(owner: str, noun: str) -> str:
    """A thing from its owner and its noun, the inverse of :func:`split_thing`."""
    return f"{owner} {noun}" if owner.lower() in ("my", "our") else f"{owner}'s {noun}"


def split_thing(thing: str) -> tuple[str, str]:
    """Owner and noun of a thing: ("my aunt", "cat"), ("my", "motto"), or two empty texts."""
    if found := _OWNER.match(thing):
        return found.group("owner"), found.group("rest")
    if found := _LEAD.match(thing):
        return thing.split()[0], found.group("rest")
    return "", ""


def _thing_in(question: str, said: str, surface: str) -> str:
    """The thing that a question asks for: what stands before "is VALUE" in its answer."""
    found = re.search(
        rf"^(?P<before>.+?) {_BE} (?:now |called |named )?(?:a |an |the )?"
        rf"{re.escape(surface)}(?!\w)",
        said,
        re.IGNORECASE,
    )
    if not found:
        return ""
    before = found.group("before").split()
    for start in range(len(before)):
        thing = " ".join(before[start:])
        match = re.search(rf"(?<!\w){re.escape(thing)}(?!\w)", question, re.IGNORECASE)
        if match:
            inner = match.group()
            return lowered(inner) if _is_thing(inner) and content(inner) else ""
    return ""


def _asked_with(questions: Iterable[str], thing: str) -> str:
    """The question word that is mostly used for a thing: "who" for a person."""
    pattern = re.compile(rf"\b(?P<wh>{_WH}) (?:{_BE} )?{re.escape(thing)}(?!\w)", re.IGNORECASE)
    found = (pattern.search(question) for question in questions)
    used = Counter(match.group("wh").lower() for match in found if match)
    # A small model asks "who" for a bedtime now and then; what it asks mostly is right.
    return max(used, key=lambda wh: (used[wh], wh == "what"), default="")


def _mostly_asked_with(questions: Iterable[str]) -> str:
    """The commonest question word, "what" before others that are as common."""
    found = (_WH_INSIDE.search(question) for question in questions)
    used = Counter(match.group().lower() for match in found if match)
    return max(used, key=lambda wh: (used[wh], wh == "what"), default="what")


def _is_thing(text: str) -> bool:
    """Whether a text can stand for a thing: it has an owner or an article, and is no clause."""
    return (
        re.match(rf"(?:my|our|the)\s|{NAME}(?: {NAME})?['’]s\s", text, re.IGNORECASE) is not None
        and not re.search(rf"[,:;?!]|\b(?:I|you|we|that|{_WH}|about|called|again)\b", text)
        and len(text.split()) <= 8
    )


def _inside(question: str) -> str:
    """The indirect question at the end of a question, "" if there is none."""
    text = bare(question)
    marks = [found for found in _WH_INSIDE.finditer(text) if found.start() > 0]
    if not marks:
        return ""
    tail = text[marks[-1].start() :]
    return tail if not re.search(r"[,:;]", tail) and not _INVERTED.match(tail) else ""
