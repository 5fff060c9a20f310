"""Facts said with a verb ("my aunt adores Gorla") and the questions for them, by rule.

A small model asks for such a fact in broken ways ("What is my aunt adores?"). The answer that it
gives is a whole clause, and from that the questions follow: "what my aunt adores" inside a
sentence, and "what does my aunt adore" where the plain form of the verb is sure. English.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_BE = ("am", "is", "are", "was", "were")
_PLACE = ("in", "at")
_NO_VERBS = frozenset("this his its hers ours yours theirs always perhaps sometimes".split())
_HELPERS = frozenset("can could do did had has have may might must shall should will would".split())
_PRONOUNS = frozenset("He It She That There They This What You".split())
_SPEAKERS = {"I": "I", "We": "we"}
_SAID = tuple(_SPEAKERS.values())
_ADVERBS = frozenset("also always just now often still usually".split())
_PREPOSITIONS = frozenset("about at by for from in like near of on to under with without".split())
MOST_WORDS = 4
"""Words between verb and value, and behind the value."""


@dataclass(frozen=True, slots=True)
class Clause:
    """Who does what to a value: subject, verb, and the words before and behind the value.

    Example:
        >>> Clause("my aunt", "collects", "pictures of", "at home").direct("what")
        'what does my aunt collect pictures of at home'
    """

    subject: str
    verb: str
    rest: str = ""
    tail: str = ""

    def inside(self, wh: str) -> str:
        """The question inside a sentence: "what my aunt adores"."""
        return _text(wh, self.subject, self.verb, self._before(wh), self.tail)

    def direct(self, wh: str) -> str:
        """The question itself, "" where the verb's plain form can't be known ("adored")."""
        if self.verb in _BE:
            return _text(wh, self.verb, self.subject, self._before(wh), self.tail)
        if self.verb.endswith("ed"):
            return ""
        helper = "do" if self.subject in _SAID else "does"
        return _text(wh, helper, self.subject, self._plain, self._before(wh), self.tail)

    def of(self, subject: str) -> Clause:
        """The same said of somebody else ("my uncle", "I")."""
        if self.verb in _BE:
            past = self.verb in ("was", "were")
            verb = "was" if past else "am" if subject == "I" else "is"
        elif self.verb.endswith("ed") or (subject in _SAID) == (self.subject in _SAID):
            verb = self.verb
        else:
            verb = self._plain if subject in _SAID else _with_s(self.verb)
        return replace(self, subject=subject, verb=verb)

    @property
    def answer_stem(self) -> str:
        """How the assistant's answer begins: "Your aunt collects pictures of"."""
        subject, verb = self.subject, self.verb
        if subject in _SAID:
            subject, verb = "You", {"am": "are", "was": "were"}.get(verb, verb)
        elif subject.startswith(("my ", "our ")):
            subject = f"Your {subject.split(' ', 1)[1]}"
        return _text(subject, verb, self.rest)

    @property
    def at_a_place(self) -> bool:
        """Whether the value comes behind "in" or "at": nobody is asked for there."""
        return self.rest.rpartition(" ")[2] in _PLACE

    @property
    def _plain(self) -> str:
        if self.subject in _SAID:
            return self.verb
        if self.verb.endswith("ies"):
            return f"{self.verb[:-3]}y"
        cut = 2 if self.verb.endswith(("shes", "ches", "sses", "xes", "oes")) else 1
        return self.verb[:-cut]

    def _before(self, wh: str) -> str:
        words = self.rest.split()
        # "where she was raised", but "where she comes from".
        if wh == "where" and words and words[-1] in _PLACE:
            words.pop()
        return " ".join(words)


def clause_in(said: str, value: str) -> Clause | None:
    """The clause of a plain sentence that ends in a value, or nearly, None if it is none.

    Example:
        >>> clause_in("My aunt adores Gorla.", "Gorla")
        Clause(subject='my aunt', verb='adores', rest='', tail='')
    """
    found = re.fullmatch(
        rf"(?P<lead>[^,.;:!?]+?) (?:a |an |the )?{re.escape(value)}"
        r"(?P<tail>(?: [^\s,.;:!?]+)*)[.!]?",
        said.strip(),
        re.IGNORECASE,
    )
    if not found:
        return None
    words, tail = found.group("lead").split(), found.group("tail").split()
    at = _verb_at(words)
    if not at or len(words) - at - 1 > MOST_WORDS or len(tail) > MOST_WORDS:
        return None
    verb, rest = words[at], " ".join(words[at + 1 :])
    if verb in _BE and not rest:
        return None  # "my cat is Gorla": a thing, not a deed
    return Clause(_subject(words[:at]), verb, rest, " ".join(tail))


def clause_told(sentence: str, value: str) -> Clause | None:
    """The clause with a value in a sentence that may begin and go on with other words.

    Example:
        >>> clause_told("It turns out that I was raised in Otsni, not in Bergen.", "Otsni")
        Clause(subject='I', verb='was', rest='raised in', tail='')
    """
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)[^,.;:!?]*", sentence, re.IGNORECASE)
    if not found:
        return None
    words = re.split(r"[,.;:!?]\s", sentence[: found.end()])[-1].split()
    for start in range(len(words) - 1, -1, -1):
        if clause_in(" ".join(words[start:]), value):
            start = _name_at(words, start)
            return clause_in(" ".join(words[start:]), value)
    return None


def clauses_of(sentence: str) -> list[Clause]:
    """What a plain sentence says that somebody does, whatever the value may be, the longest first.

    Example:
        >>> [clause.direct("what") for clause in clauses_of("So: Vorn collects maps of Rome.")]
        ['what does Vorn collect maps of', 'what does Vorn collect']
    """
    words = re.split(r"[,;:]\s", sentence.rstrip(".!? "))[-1].split()
    for start in range(len(words) - 1, -1, -1):
        at = _verb_at(words[start:])
        said = words[start + at + 1 :]
        if not (at and said) or words[start + at] in _HELPERS or words[start] in _PRONOUNS:
            continue
        first = _name_at(words, start)
        subject, verb = _subject(words[first : start + at]), words[start + at]
        rest = start + at + 1
        ends = [i for i in range(rest, len(words) - 1) if words[i] in _PREPOSITIONS][-1:]
        befores = [words[rest : end + 1] for end in ends] + ([[]] if verb not in _BE else [])
        return [Clause(subject, verb, " ".join(b)) for b in befores if len(b) <= MOST_WORDS]
    return []


def begins_with_deed(value: str) -> bool:
    """Whether a value begins with what belongs before it: "obsessed with chess", "fond of Gorla".

    Such a value answers "What is my aunt?", which asks for nothing.
    """
    words = value.split()
    return len(words) > 2 and words[0].islower() and words[1] in _PREPOSITIONS


def _name_at(words: list[str], start: int) -> int:
    """Where a name of several words begins whose last one stands at a place."""
    if words[start] in (*_SPEAKERS, "My", "Our"):
        return start
    while start > 1 and words[start][:1].isupper() and re.fullmatch(r"[A-Z]\w*", words[start - 1]):
        start -= 1
    return start


def _verb_at(words: list[str]) -> int:
    """The place of the verb behind a subject, 0 if there is none."""
    if not words:
        return 0
    if words[0] in _SPEAKERS:
        at = next((i for i in range(1, len(words)) if not _is_adverb(words[i])), 0)
        return at if at and words[at].isalpha() and words[at] != "never" else 0
    if words[0].lower() in ("my", "our"):
        first, last = 2, 5
    elif words[0][:1].isupper():
        first, last = 1, 2
    else:
        return 0
    for at in range(first, min(last, len(words) - 1) + 1):
        if first == 1 and at > 1 and not words[at - 1][:1].isupper():
            return 0
        if _is_verb(words[at]):
            return at
    return 0


def _subject(words: list[str]) -> str:
    """The subject of a clause as it stands inside a sentence, without adverbs behind it."""
    if words[0] in _SPEAKERS:
        return _SPEAKERS[words[0]]
    text = " ".join(words)
    return text[0].lower() + text[1:] if words[0] in ("My", "Our") else text


def _is_adverb(word: str) -> bool:
    """Whether a word stands between "I" and its verb ("I really adore")."""
    return word in _ADVERBS or (len(word) > 4 and word.endswith("ly"))


def _is_verb(word: str) -> bool:
    if word in _BE:
        return True
    if not (word.isalpha() and word.islower()) or len(word) < 4 or word in _NO_VERBS:
        return False
    return word.endswith("ed") or (word.endswith("s") and not word.endswith("ss"))


def _with_s(verb: str) -> str:
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return f"{verb[:-1]}ies"
    return verb + ("es" if verb.endswith(("sh", "ch", "ss", "x", "o")) else "s")


def _text(*parts: str) -> str:
    return " ".join(part for part in parts if part)
