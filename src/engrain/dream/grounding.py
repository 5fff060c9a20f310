"""The user's own words: where a value was said, with what, and whether it was taken back.

Self-study trusts no answer of the model by itself. A value counts only if the user said it
(grounding), if the sentence in which it was said is the one that fits the question best
(binding: a weak reader answers with the value of another fact), and if it was not corrected
later (retraction).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engrain.data.messages import Conversation
from engrain.study.wording import (
    FUNCTION_WORDS,
    NAME,
    Token,
    content,
    find_run,
    owners,
    stem,
    tokens,
    topic,
    word_set,
)

_AND = re.compile(r",? and ")
_TELLS = re.compile(
    rf"\b(?:(?:[Mm]y|[Oo]ur|{NAME}['’]s)\s[^,.;:?!]+?\s(?:is|are|was|were)|(?:I|[Ww]e)\s\w+)\s"
)
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"”')]))"
    r"(?<!\bDr\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bMrs\.)(?<!\bSt\.)(?<!\bProf\.)(?<!\b[A-Z]\.)\s+|\n+"
)
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bno longer(?: \w+){0,2}|\bno more|\bforget(?: about)?|\bused to (?:be|say)|"
    r"\binstead of|\brather than|\bnever|\bformerly|\bpreviously|\bscratch|\breplaces?|\bfrom|"
    r"(?:^\W*|\b(?:please|you can|you may) )"
    r"(?:drop|delete|erase|remove|discard|ignore|disregard|strike)(?: out)?)"
    r"(?: (?:a|an|the|my|it is|it was|in|on|at|for|to|of|from|with))*\W*$",
    re.IGNORECASE,
)
_WRONG_AFTER = re.compile(
    r"^\W*(?:is|was|were|are|has been|have been) (?:\w+ )?"
    r"(?:wrong|a mistake|outdated|out of date|no longer|not (?:right|true|correct)|replaced|gone)"
    r"|^\W*(?:any ?more|any longer|no longer|before)\b",
    re.IGNORECASE,
)
_ADJECTIVES = (
    r"(?:(?:own|new|old|first|last|current|next|favou?rite|least|most|best|dear|little|big|former|"
    r"late)\s+)*"
)
_HOLDER = re.compile(
    rf"\b(?:I\b|(?:my|our)\s+(?:(?P<thing>(?:{NAME}\s+){{1,4}}?)(?:is|are|was|were)\b|"
    rf"{_ADJECTIVES}(?P<noun>{NAME})))",
    re.IGNORECASE,
)
_DOER = re.compile(
    rf"\b(?:do|does|did|will|has|have)\s+(?:my|our)\s+{_ADJECTIVES}(?P<noun>{NAME})",
    re.IGNORECASE,
)
LONG_TOPIC = 4
"""Words of meaning from which on a sentence says by itself what it is about."""

_POINTS_BACK = word_set("it that this he she they his her its their him them there one")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the user: where it stands and what it is about."""

    place: int
    message: int
    text: str
    topic: frozenset[str]
    owners: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mention:
    """One place at which the user said a value."""

    sentence: Sentence
    surface: str
    negated: bool

    @property
    def told_of(self) -> bool:
        """Whether the value stands where a thing stands of which something is said ("my V is")."""
        behind = rf"(?:\b(?:my|our)|['’]s)\s(?:[^\s,.;:!?]+\s){{0,3}}?{re.escape(self.surface)}"
        return bool(
            re.search(rf"{behind}\s(?:is|are|was|were)\b", self.sentence.text, re.IGNORECASE)
        )


@dataclass(frozen=True)
class UserWords:
    """All that the user said in one or more conversations, ready to be searched."""

    sentences: tuple[Sentence, ...]
    _tokens: tuple[tuple[Token, ...], ...] = field(repr=False)
    _frequency: Counter[str] = field(repr=False)

    @classmethod
    def of(cls, conversation: Conversation) -> UserWords:
        """Take the user's messages apart into sentences."""
        found: list[Sentence] = []
        asked: set[str] = set()  # what the assistant asked just before: "What is your name?"
        for number, message in enumerate(conversation.messages):
            if message.role == "assistant":
                asked = content(message.content) if "?" in message.content else set()
            if message.role != "user":
                continue
            before: set[str] = set()
            for text in split_sentences(message.content):
                about = topic(text)
                own = [token.norm for token in tokens(text)]
                # A pronoun late in a long sentence is mostly part of its frame ("in case it ...").
                own = own if len(about) < LONG_TOPIC else own[:2]
                # "It is called Rolo." is about what the sentence before it was about.
                names = owners(text)
                holder = names or _HOLDER.search(text)
                points_back = not holder and bool(_POINTS_BACK & set(own))
                borrowed = before if points_back or len(about) < 2 else set()
                context = about | borrowed | (asked if len(about) < 3 else set())
                names |= owners(found[-1].text) if borrowed and found else set()
                found.append(
                    Sentence(len(found), number, text, frozenset(context), frozenset(names))
                )
                before = context
        frequency = Counter(word for sentence in found for word in sentence.topic)
        return cls(tuple(found), tuple(tuple(tokens(s.text)) for s in found), frequency)

    def mentions(self, run: Sequence[str]) -> list[Mention]:
        """Every place at which the user said a run of words."""
        return list(self._mentions(tuple(run)))

    def _mentions(self, run: tuple[str, ...]) -> Iterator[Mention]:
        for sentence, found in zip(self.sentences, self._tokens, strict=True):
            for at in find_run(run, [token.norm for token in found]):
                start, end = found[at].start, found[at + len(run) - 1].end
                text = sentence.text
                surface = text[start:end]
                if surface.casefold().endswith(("'s", "’s")):
                    surface = surface[:-2]
                before, after = text[max(0, start - 40) : start], text[end : end + 40]
                # A clause ends at punctuation: what stands before it says nothing of the value.
                clause = re.split(r"[,;:.!?]", before)[-1]
                negated = bool(_NEGATED.search(clause) or _WRONG_AFTER.search(after))
                if _NEGATED.search(clause) and re.search(r"\bfrom\W+(?:\w+ )?$", clause):
                    negated = bool(re.search(r"\bto\b", after))  # "from A to B", not "I am from A"
                yield Mention(sentence, surface, negated)

    def evidence(self, question: str, run: Sequence[str]) -> Mention | None:
        """The mention of a value that fits a question, or None if another sentence fits better.

        Words that the user said in few sentences weigh more than those said in many.
        """
        mentions = self.mentions(run)
        if not mentions:
            return None
        asked = topic(question) - {stem(word) for word in run}
        best = max((self._fit(asked, sentence) for sentence in self.sentences), default=0.0)
        fitting = [m for m in mentions if self._fit(asked, m.sentence) >= best - 1e-9]
        if not fitting or (best == 0.0 and len(self.sentences) > 1):
            return None
        fitting.sort(key=lambda mention: not mention.negated)  # the last is the best
        return next((m for m in reversed(fitting) if _same_owner(question, asked, m)), None)

    def tells(self, question: str) -> bool:
        """Whether a sentence of the user is about all that a question asks for."""
        return self.told_in(question) is not None

    def unheard(self, question: str) -> bool:
        """Whether the user said no word of what a question asks for, beside whose it is."""
        asked = topic(question) - {stem(name) for name in owners(question)}
        return bool(asked) and not asked & self._frequency.keys()

    def told_in(self, question: str) -> Sentence | None:
        """The last sentence of the user that is about all that a question asks for."""
        asked = topic(question)
        for sentence in reversed(self.sentences):
            mention = Mention(sentence, "", False)
            if asked <= sentence.topic and _same_owner(question, asked, mention):
                return sentence
        return None

    def _fit(self, asked: set[str], sentence: Sentence) -> float:
        """How much of what is asked a sentence is about."""
        return sum(1.0 / self._frequency[word] for word in asked & sentence.topic)

    def retracted(self, run: Sequence[str]) -> bool:
        """Whether the user took a value back: said first, denied last."""
        mentions = self.mentions(run)
        return len(mentions) > 1 and mentions[-1].negated and not mentions[0].negated

    def recency(self, run: Sequence[str]) -> tuple[int, int]:
        """Order of values of the same thing: the greater one holds.

        The last message that affirms a value decides. Where one message affirms two ("it was A,
        it is B"), the one that came up later is the new one.
        """
        mentions = self.mentions(run)
        affirmed = [m.sentence.message for m in mentions if not m.negated]
        first = min((m.sentence.place for m in mentions), default=-1)
        return max(affirmed, default=-1), first

    def statements(self) -> list[Sentence]:
        """The sentences that may tell something: two words of meaning or more, about someone."""
        return [
            sentence
            for sentence in self.sentences
            if len({t.norm for t in self._tokens[sentence.place]} - FUNCTION_WORDS) >= 2
            and len(topic(sentence.text)) >= 1
            and _is_about_someone(sentence.text, self._tokens[sentence.place])
        ]


def _is_about_someone(text: str, found: Sequence[Token]) -> bool:
    """Whether a sentence speaks of somebody or something by name: "Here is a detail." does not."""
    if _HOLDER.search(text) or owners(text) or _POINTS_BACK & {t.norm for t in found[:2]}:
        return True
    first, *rest = found
    named = any(text[t.start].isupper() or text[t.start].isdigit() for t in rest)
    return named or (text[first.start].isupper() and first.norm not in FUNCTION_WORDS)


def _same_owner(question: str, asked: set[str], mention: Mention) -> bool:
    """Whether a question is about the one whose value was said: "my aunt's", "my aunt", "I"."""
    said = {stem(word) for word in mention.sentence.owners}
    if not {stem(word) for word in owners(question)} <= said | mention.sentence.topic:
        return False
    if said:
        return bool(said & asked)
    topic_of_it = mention.sentence.topic | content(mention.sentence.text)
    if any(stem(m.group("noun").casefold()) not in topic_of_it for m in _DOER.finditer(question)):
        return False
    text = mention.sentence.text
    at = text.find(mention.surface)
    holders = list(_HOLDER.finditer(text[:at])) or list(_HOLDER.finditer(text[at:]))[:1]
    if not holders:
        return True
    named = content(holders[-1].group("thing") or holders[-1].group("noun") or "")
    # "I am named after my aunt Vela": with "aunt Vela" as the value, "my" only leads up to it.
    return not named or bool(named & (asked | content(mention.surface)))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; "Dr." and initials end none, and what "and" joins are two.

    Example:
        >>> split_sentences("I met Dr. Mirvo. My cat is Gorla, and my motto is Go!")
        ['I met Dr. Mirvo.', 'My cat is Gorla', 'my motto is Go!']
    """
    whole = (part.strip() for part in _SENTENCE_END.split(text) if part and part.strip())
    return [part for sentence in whole for part in _told_apart(sentence)]


def _told_apart(sentence: str) -> list[str]:
    """The halves of "my cat is Gorla and my motto is Go", each of which tells something."""
    for found in _AND.finditer(sentence):
        before, after = sentence[: found.start()], sentence[found.end() :]
        if _TELLS.search(before) and _TELLS.match(after):
            return [before, *_told_apart(after)]
    return [sentence]
