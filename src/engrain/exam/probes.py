"""Asking probes in free generation and scoring the answers.

The rule is deliberately plain, so that a person can check it by eye: an answer passes if it holds
one of the expected values as whole words and none of the forbidden ones; a question about
something never told passes if the model says that it does not know.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from engrain.data.lessons import Probe, ProbeKind
from engrain.data.messages import Message

ANSWER_TOKENS = 32
"""Longest answer to a probe, in tokens: enough for one sentence."""
SENTENCE = 64
"""Letters of a sentence in a script that a tokenizer may know only as bytes."""

BATCH_SIZE = 32
"""Fixed, since the size of a batch can change the last bits of a logit."""

RECALL_KINDS: tuple[ProbeKind, ...] = ("recall", "paraphrase", "correction")
"""The kinds that ask for what a lesson told."""


class Answering(Protocol):
    """What answers probes."""

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        batch_size: int = ...,
    ) -> list[str]:
        """Answer each conversation, in order."""


class ExamEngine(Answering, Protocol):
    """What an exam needs of an engine (``engrain.model.engine.Engine`` has it)."""

    @property
    def loaded(self) -> Any:
        """The loaded model, of which the tokenizer and the longest input are used."""

    def log_likelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """Sum of log probabilities of each continuation, and its number of tokens."""

    def loss(self, texts: Sequence[str], *, max_length: int = ...) -> float:
        """Mean nats a token."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a raw text, as ``loss`` sees it."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe asked: what the model answered, and whether that passes."""

    probe_id: str
    kind: str
    passed: bool
    answer: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values."""
        return {
            "probe_id": self.probe_id,
            "kind": self.kind,
            "passed": self.passed,
            "answer": self.answer,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> ProbeResult:
        """The result that :meth:`to_dict` gave."""
        return cls(
            str(record["probe_id"]), str(record["kind"]), bool(record["passed"]), record["answer"]
        )


def ask(
    engine: Answering, probes: Sequence[Probe], *, max_new_tokens: int = ANSWER_TOKENS
) -> list[ProbeResult]:
    """Ask every probe greedily and score it; results are in the order of the probes.

    Probes with the same messages are asked once.
    """
    lengths: dict[tuple[Message, ...], int] = {}
    for probe in probes:
        wanted = answer_tokens(probe.messages[-1].content, *probe.answers)
        lengths[probe.messages] = max(max_new_tokens, wanted, lengths.get(probe.messages, 0))
    answers: dict[tuple[Message, ...], str] = {}
    for length in sorted(set(lengths.values())):
        prompts = [messages for messages, own in lengths.items() if own == length]
        texts = engine.generate(
            prompts, max_new_tokens=length, temperature=0.0, batch_size=BATCH_SIZE
        )
        answers |= zip(prompts, texts, strict=True)
    return [
        ProbeResult(
            probe.id,
            probe.kind,
            passes(probe, answers[probe.messages]),
            answers[probe.messages].strip(),
        )
        for probe in probes
    ]


def answer_tokens(*texts: str) -> int:
    """Tokens of the longest answer in the script of some texts.

    Where a letter is two bytes or more, each may be as many tokens, and a sentence some hundred.
    """
    text = "".join(texts)
    each = len(text.encode()) / len(text) if text else 1.0
    return round(each * SENTENCE) if each > 1.5 else ANSWER_TOKENS


def passes(probe: Probe, answer: str) -> bool:
    """Whether an answer passes its probe.

    Example:
        >>> passes(Probe("p", "recall", (), answers=("Brellin",)), "It is brellin.")
        True
    """
    said = fold(answer)
    if any(_holds(said, wrong) for wrong in probe.not_answers):
        return False
    if not probe.answers:
        return says_unknown(answer)
    return any(_holds(said, right) for right in probe.answers)


def holds(text: str, value: str) -> bool:
    """Whether the text holds the value as whole words, whatever the case.

    A number is whole with its decimals and thousands: "3.5" and "3,500" do not hold "3". In scripts
    that put no space between words, or join what follows to a word, words have no ends to look for.
    """
    return _holds(fold(text), value)


def fold(text: str) -> str:
    """Case-folded text with plain quotes, dashes and single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = folded.translate(_PLAIN)
    return " ".join(folded.split())


_PLAIN = {ord(c): "'" for c in "\u2018\u2019\u02bc\u00b4`"} | {
    ord(c): "-" for c in "\u2010\u2011\u2012\u2013\u2014\u2212"
}


def _holds(folded: str, value: str) -> bool:
    pattern = _whole(fold(value))
    return pattern is not None and pattern.search(folded) is not None


# Thai, Lao, Burmese, Khmer, kana, Han and Hangul are letters without spaces around words.
_SPACED = (
    r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uac00-\ud7af\uf900-\ufaff]"
)


def spaced(letter: str) -> bool:
    """Whether a letter or digit is of a script that puts spaces between words."""
    return re.match(_SPACED, letter) is not None


@lru_cache(maxsize=4096)
def _whole(value: str) -> re.Pattern[str] | None:
    """The value between word boundaries; None for a value without any character."""
    if not value:
        return None
    before = rf"(?<!{_SPACED})" if re.match(_SPACED, value[0]) else ""
    after = rf"(?!{_SPACED})" if re.match(_SPACED, value[-1]) else ""
    if value[0].isdigit():
        # Only three digits can follow the comma of thousands; "1,2,3" is a list.
        before += r"(?<!\d[.:,])" if re.match(r"\d{3}(?!\d)", value) else r"(?<!\d[.:])"
    if value[-1].isdigit():
        after += r"(?![.:]\d|,\d{3}(?!\d))"
    return re.compile(before + re.escape(value) + after)


# ---------------------------------------------------------------------------- not knowing
_NOT = r"(?:do not|did not|cannot|can not|could not|would not|do not really|still do not|no longer)"
_VERB = r"(?:know|remember|recall|have (?:that|this|any|the|such|enough|access|a record)|find|say)"
_UNKNOWN = re.compile(
    "|".join(
        (
            rf"\bi (?:\w+ )?{_NOT} (?:\w+ )?{_VERB}\b",
            rf"(?:^|[.!?,;:] )(?:sorry,? |well,? )?{_NOT} {_VERB}\b",
            r"\bi (?:have|had) (?:no|not any) (?:idea|clue|record|information|memory|note)",
            r"(?:^|[.!?,;:] )(?:sorry,? )?no (?:idea|clue)\b",
            r"\bi am (?:really |still )?(?:not (?:sure|certain|aware)|unsure|unaware)\b",
            r"(?:^|[.!?] )not sure\b",
            r"\b(?:you|no one|nobody|one) (?:has |have |had |did |were |was )?(?:not|never) "
            r"(?:yet |actually |ever )?"
            r"(?:told|tell|mentioned|mention|said|say|shared|share|given)\b",
            r"\b(?:you|no one|nobody) never (?:told|mentioned|said|shared)\b",
            r"\b(?:nobody|no one) (?:has |ever )?(?:told|mentioned|said|shared)\b",
            r"\b(?:i|that|it|this) (?:was|were|have|has) (?:not|never) (?:been )?"
            r"(?:told|mentioned|said|shared|given)\b",
            r"\bunknown to me\b|(?:^|[.!?] )unknown\b",
            r"\bthere is no (?:information|record|mention)\b",
            # German, Spanish, French, as casefold writes them.
            r"\b(?:weiss|kenne) ich (?:\w+ ){0,3}?nicht\b",
            r"\bich (?:weiss|kenne) (?:\w+,? ){0,6}?nicht\b",
            r"\b(?:hast|haben) (?:du|sie) (?:\w+ ){0,4}?(?:nicht|nichts|nie|noch nicht) "
            r"(?:\w+ ){0,2}?(?:gesagt|erzählt|verraten|genannt|erwähnt|geschrieben)\b",
            r"\bkeine ahnung\b|\b(?:weiss ich|ich weiss) (?:von )?(?:nichts|kein\w*)\b",
            r"\bno (?:lo |la |los |las )?(?:sé|conozco|recuerdo)\b|\bdesconozco\b",
            r"\b(?:no|nunca) me (?:lo |la |los |las )?(?:has|ha|habéis|han) "
            r"(?:\w+ )?(?:dicho|contado|mencionado|hablado|dado)\b",
            r"\bje (?:ne )?(?:l[ea] )?(?:sais|connais) pas\b|\bje l'ignore\b|\bj'ignore\b",
            r"\b(?:tu ne|vous ne|tu|vous) (?:m'|me (?:l'|l[ea]s? )?|m'en )(?:as|avez) "
            r"(?:\w+ )?(?:pas|jamais|rien) (?:\w+ )?(?:dit|parlé|donné|raconté|mentionné)\b",
            r"\baucune idée\b",
        )
    )
)
_GUESSES = re.compile(
    r"\bbut (?:i (?:think|guess|believe|would say|suppose)|it (?:is|was|might|may|could|must)|"
    r"maybe|perhaps|probably|my guess|i would guess|that is|your? .{0,60}? is)\b"
    r"|\baber (?:ich (?:glaube|denke|vermute)|vielleicht|vermutlich|wahrscheinlich)\b"
    r"|\bpero (?:creo|supongo|quizás?|tal vez|probablemente)\b"
    r"|\bmais (?:je (?:pense|crois|suppose)|peut-être|probablement)\b"
)
_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "cannot"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(i)'m\b"), r"\1 am"),
    (re.compile(r"\b(i|you|we|they)'ve\b"), r"\1 have"),
    (re.compile(r"\b(i|you|we|they)'d\b"), r"\1 would"),
    (re.compile(r"\b(there|that|it|he|she)'s\b"), r"\1 is"),
    (re.compile(r"\bdunno\b"), "do not know"),
)


def says_unknown(answer: str) -> bool:
    """Whether an answer says, in the first person, that the asked-for thing is not known.

    In English, German, Spanish or French; measured on the bank of lesson zero (tests/manners).

    "I'm not sure, but I think it is blue" is a guess, hence no.

    Example:
        >>> says_unknown("I don't know your motto. You have not told me.")
        True
        >>> says_unknown("You said that you don't know it.")
        False
    """
    said = fold(answer)
    for short, long in _CONTRACTIONS:
        said = short.sub(long, said)
    found = _UNKNOWN.search(said)
    return found is not None and _GUESSES.search(said, found.end()) is None
