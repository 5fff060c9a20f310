"""Words of questions and answers, compared without a model: no embedding is needed for that.

All word lists are English. In another language they match nothing: keys then carry a few more
words and near-duplicates are found a little less often, but nothing wrong gets through, because
the checks against the user's own words know no grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

NAME = r"[^\W\d_]+(?:-[^\W\d_]+)*"
"""One word of letters, hyphens inside it included: "sister", "son-in-law"."""

_WORD = re.compile(r"[^\W_]+(?:['’.:,/-][^\W_]+)*", re.UNICODE)


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as one text."""
    return frozenset(text.split())


FUNCTION_WORDS = word_set(
    "a an the this that these those there here i me my mine we us our ours you your yours "
    "he him his she her hers it its they them their theirs user user's myself yourself is "
    "am are was were be been being do does did done has have had having will would shall "
    "should can could may might must of in on at to from for with by about as into onto "
    "over under up out off and or but nor so if than then not no yes don't doesn't didn't "
    "isn't aren't wasn't i'm you're it's that's what's who's what who whom whose which when "
    "where why how"
)
"""Words that carry no fact by themselves."""

ASKING_WORDS = word_set(
    "know known remember recall remind tell told say said ask asked question questions "
    "answer name give state repeat check test curious wonder wondering hear describe "
    "mention mentioned call called please again still ever just really now well okay hey "
    "sorry sure idea possible able want need like wanted help look find out think thinking "
    "let one thing things something anything also user assistant memory forgot forget "
    "slipped mind got write show learn learned complete wish exactly see talk somebody someone "
    "according quick"
)
"""Words of the frame of a question rather than of what is asked."""

_ASKS = re.compile(
    r"\?|^(?:what|who|whom|whose|which|when|where|why|how|is|are|was|were|do|does|did|can|could|"
    r"will|would|have|has|tell|name|remind|give|say|state|repeat|list|describe|show|complete|recall|"
    r"guess|explain|help)\b|\b(?:tell me|remind me|remember|i forgot|i forget|i wonder|"
    r"i want to know|i want to hear|i need|would like to know|do you know|curious|please|whether|"
    r"asked me|what|who|whose|where|when|which|how)\b",
    re.IGNORECASE,
)
_ABOUT_THE_TALK = re.compile(
    r"\b(?:this|our|the|that|above|previous) (?:conversation|chat|dialogue|dialog|discussion|"
    r"message|messages|text|passage|transcript)\b|\bone per line\b|\bask you later\b|"
    r"\bquestions? (?:that|which) (?:i|you|the user) c(?:ould|an) ask\b|<\|",
    re.IGNORECASE,
)
_DISAGREES = re.compile(
    r"\b(?:(?:is|are|were|does|has) I|(?:is|am|was|does|has) (?:we|they)"
    r"|(?:are|am|were|do|have) (?:he|she))\b",
    re.IGNORECASE,
)
"""A verb beside a pronoun that it does not agree with: a statement put behind "what is"."""
_BULLET = re.compile(
    r"^\s*(?:[-*•–>]+\s*|\(?\d{1,2}[.):]\s+|(?:q(?:uestion)?|user)\s*\d{0,2}\s*[:.)]\s*)+",
    re.IGNORECASE,
)
_TO_USER = {
    "your": "my", "yours": "mine", "you're": "I'm", "yourself": "myself", "you've": "I've",
}  # fmt: skip
_YOU = re.compile(
    r"\b(?:you (?P<are>are|were)|(?P<was>were|are) you|"
    r"(?P<word>your|yours|you're|you've|yourself|you))\b",
    re.IGNORECASE,
)

MAX_QUESTION_CHARACTERS = 160
MIN_QUESTION_WORDS = 2


@dataclass(frozen=True, slots=True)
class Token:
    """A word in a text: its normal form and where it stands."""

    norm: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """The words of a text, case-folded, with straight apostrophes and no possessive 's."""
    return list(_tokens(text))


@lru_cache(maxsize=1024)
def _tokens(text: str) -> tuple[Token, ...]:
    """Kept, since a study compares the same questions and answers again and again."""
    found = []
    for match in _WORD.finditer(text):
        norm = match.group().casefold().replace("’", "'")
        if norm.endswith("'s") and norm not in FUNCTION_WORDS:
            norm = norm[:-2]
        found.append(Token(norm, *match.span()))
    return tuple(found)


def words(text: str) -> list[str]:
    """The normal forms of the words of a text."""
    return [token.norm for token in tokens(text)]


def stem(word: str) -> str:
    """A word without its commonest English endings, so that "adores" meets "adore".

    Example:
        >>> stem("adores") == stem("adore") == stem("adored")
        True
    """
    if len(word) <= 3 or not word.replace("-", "").isalpha():
        return word
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def content(text: str) -> set[str]:
    """The stems of the words that carry meaning."""
    return {stem(word) for word in words(text) if word not in FUNCTION_WORDS}


def topic(text: str) -> set[str]:
    """The stems of what a question asks about: its words without the frame of asking."""
    return {
        stem(word)
        for word in words(text)
        if word not in FUNCTION_WORDS and word not in ASKING_WORDS
    }


def owners(text: str) -> set[str]:
    """The words in a text that own something: "sister" in "my sister's dog"."""
    return {
        match.group(1).casefold()
        for match in re.finditer(rf"({NAME})['’]s\b", text)
        if match.group().casefold().replace("’", "'") not in FUNCTION_WORDS
    }


def normal(text: str) -> str:
    """A text for equality: its words and nothing else."""
    return " ".join(match.group().casefold().replace("’", "'") for match in _WORD.finditer(text))


def jaccard(first: Iterable[str], second: Iterable[str]) -> float:
    """Shared share of two sets; two empty sets are equal."""
    a, b = set(first), set(second)
    return len(a & b) / len(a | b) if a | b else 1.0


def similarity(first: str, second: str) -> float:
    """How alike two wordings are, 0 to 1: mean of word and letter-triple overlap."""
    one, two = normal(first), normal(second)
    if one == two:
        return 1.0
    return (jaccard(one.split(), two.split()) + jaccard(_triples(one), _triples(two))) / 2


def _triples(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def find_run(needle: Sequence[str], hay: Sequence[str]) -> list[int]:
    """Places at which a run of words occurs in another."""
    size = len(needle)
    if not size:
        return []
    first = needle[0]
    return [
        i for i, word in enumerate(hay) if word == first and list(hay[i : i + size]) == list(needle)
    ]


def holds(text: str, run: Sequence[str]) -> bool:
    """Whether a text contains a run of words."""
    return bool(find_run(run, words(text)))


def question_lines(text: str) -> Iterator[str]:
    """The questions in a model's list: one per line, without bullets, numbers and quotes."""
    for line in text.splitlines():
        yield tidy(line)


def tidy(line: str) -> str:
    """A question without bullet, number, quotes and surplus space."""
    bare = _BULLET.sub("", line).strip().strip('"“”*`').strip()
    return " ".join(bare.split())


def question_fault(question: str) -> str:
    """Why a line can't serve as a question; "" when it can."""
    if not question:
        return "empty"
    if len(question) > MAX_QUESTION_CHARACTERS:
        return "too long"
    if _ABOUT_THE_TALK.search(question):
        return "about the conversation itself"
    if len(words(question)) < MIN_QUESTION_WORDS or not _ASKS.search(question):
        return "not a question"
    if _DISAGREES.search(question) or "\ufffd" in question:
        return "ungrammatical"
    if question.count("?") > 1:
        return "more than one question"
    if not topic(question):
        return "asks about nothing in particular"
    return ""


def as_user(text: str) -> str:
    """What the assistant says of "you", said by the user of "I".

    Example:
        >>> as_user("Your sister knows where you are.")
        'My sister knows where I am.'
    """

    def turn(match: re.Match[str]) -> str:
        if match.group("are"):
            new = "I am" if match.group("are").lower() == "are" else "I was"
        elif match.group("was"):
            new = "am I" if match.group("was").lower() == "are" else "was I"
        else:
            word = match.group("word").lower()
            new = _TO_USER.get(word, "I")
        capital = match.group()[0].isupper()
        return new[0].upper() + new[1:] if capital else new

    return _YOU.sub(turn, text)


_CONNECTORS = word_set("of the a an in on at to for with and by from")
_ABBREVIATIONS = word_set("dr mr mrs ms prof st no")
_DENIERS = word_set("not never instead than no n't isn't wasn't aren't")


def key_runs(answer: str, known: Iterable[str]) -> list[tuple[str, ...]]:
    """Runs of words of an answer that are new against ``known`` texts: what it really says.

    A run starts and ends with a new word that carries meaning; up to two small words may stand
    between two of them ("pictures of otters"), no punctuation and nothing that is denied. Longer
    runs come first, later ones before earlier ones: a value mostly ends its sentence.
    """
    old = {stem(word) for text in known for word in words(text)}
    found = tokens(answer)
    fresh = [t.norm not in FUNCTION_WORDS and stem(t.norm) not in old for t in found]
    joined = [False] + [_joined(answer, a, b) for a, b in pairwise(found)]
    runs: list[tuple[int, int]] = []
    for low in range(len(found)):
        if not fresh[low] or (low and joined[low] and found[low - 1].norm in _DENIERS):
            continue
        if low and joined[low] and fresh[low - 1]:
            continue  # part of a longer run
        high, gap = low + 1, 0
        ends = [] if high < len(found) and joined[high] and fresh[high] else [high]
        while high < len(found) and joined[high]:
            if fresh[high]:
                gap = 0
                following = high + 1
                if not (following < len(found) and joined[following] and fresh[following]):
                    ends.append(following)
            elif found[high].norm in _CONNECTORS and gap < 2:
                gap += 1
            else:
                break
            high += 1
        runs += [(low, end) for end in ends]
    runs = [run for run in runs if any(t.norm not in ASKING_WORDS for t in found[run[0] : run[1]])]
    runs.sort(key=lambda run: (run[0] - run[1], -run[0]))
    return [tuple(token.norm for token in found[low:high]) for low, high in runs]


def _joined(text: str, first: Token, second: Token) -> bool:
    """Whether no punctuation parts two words that follow each other."""
    between = text[first.end : second.start]
    return not re.search(r"[,;:.!?()]", between) or (
        between.strip() == "." and first.norm in _ABBREVIATIONS
    )
