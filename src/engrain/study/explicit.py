"""Explicit lessons: examples that the user wrote, or brought as a fine-tuning file.

:mod:`engrain.data.sources` says which answers of a record are learned; here they become texts to
train on and probes. Examples with secrets are left out and reported.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engrain.data.lessons import Probe, ProbeKind, TrainingText, canonical_digest
from engrain.data.sources import Brought
from engrain.study.secrets import find_secrets, masked
from engrain.study.wording import find_run, key_runs, normal, tokens, words

HOLD_OUT = 0.15
"""Share of the examples kept as probes."""
EXAMPLES_FROM = 10
"""Records of one exchange each from which a file is taken for examples."""
PROBES_FROM = 5
"""Examples from which at least one is kept as a probe."""
LONG_ANSWER = 8
"""Words above which an answer is not expected word for word, but by what is new in it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that is not learned: where it stands, why, and its beginning, secrets masked."""

    where: str
    reason: str
    excerpt: str

    def to_dict(self) -> dict[str, str]:
        """The entry as JSON-ready values."""
        return {"where": self.where, "reason": self.reason, "excerpt": self.excerpt}


def texts_of(brought: Brought) -> list[TrainingText]:
    """The examples of a conversation: each answer that is learned, with all that comes before it.

    Example:
        >>> from engrain.data.lessons import chat
        >>> from engrain.data.messages import Conversation
        >>> from engrain.data.sources import Place
        >>> talk = Conversation(chat("What is my motto?", "Steady on."))
        >>> texts_of(Brought(talk, Place("here"), "pairs", answers=(1,)))[0].target
        'Steady on.'
    """
    messages, where = brought.conversation.messages, str(brought.place)
    return [
        TrainingText(messages[: place + 1], "explicit", where) for place in brought.answers or ()
    ]


def with_answers(brought: Brought) -> Brought:
    """A conversation as an example: every answer to the user is learned, unless they are chosen."""
    if brought.answers is not None:
        return brought
    messages = brought.conversation.messages
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    answers = tuple(i for i, m in enumerate(messages) if m.role == "assistant" and i > first)
    return replace(brought, answers=answers)


def are_examples(records: Sequence[tuple[bool, bool, int, int]]) -> bool:
    """Whether the conversations of a file are examples.

    Of each it is given whether it can only be one, whether it has a time, and how many messages it
    has, in all and of the user. The two look alike. Many of one exchange each are what a
    fine-tuning file looks like; those of an account have times.
    """
    if any(example for example, *_ in records):
        return True
    return len(records) >= EXAMPLES_FROM and all(
        not dated and said == 1 and messages in (2, 3) for _, dated, messages, said in records
    )


def curate_examples(texts: Iterable[TrainingText]) -> tuple[list[TrainingText], list[LeftOut]]:
    """Leave out examples with secrets and repeated ones, and say which and why."""
    kept: list[TrainingText] = []
    left_out: list[LeftOut] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for text in texts:
        whole = "\n".join(message.content for message in text.messages)
        shape = tuple((message.role, message.content.strip()) for message in text.messages)
        if found := find_secrets(whole):
            kinds = ", ".join(sorted({secret.kind for secret in found}))
            left_out.append(LeftOut(text.group, f"it holds a secret: {kinds}", masked(whole)))
        elif shape in seen:
            left_out.append(LeftOut(text.group, "the same example twice", masked(whole)))
        else:
            seen.add(shape)
            kept.append(text)
    return kept, left_out


def hold_out_examples(
    texts: Sequence[TrainingText], *, seed: int = 0, share: float = HOLD_OUT
) -> tuple[list[TrainingText], list[Probe]]:
    """Split examples into those to train on and probes, at least one of 5 or more.

    Best are those whose answer another example teaches in other words: they show that the fact was
    learned and not the sentence. The others examine whether the examples carry over.
    """
    count = 0
    if len(texts) >= PROBES_FROM and share > 0:
        count = max(1, min(round(share * len(texts)), len(texts) - 1))
    expected = [_expected(text) for text in texts]
    digest = canonical_digest([text.to_dict() for text in texts])
    rng = random.Random(f"explicit:{seed}")
    order = list(range(len(texts)))
    rng.shuffle(order)
    uses: dict[str, int] = {}
    for answer in expected:
        uses[normal(answer)] = uses.get(normal(answer), 0) + 1

    def taught_elsewhere(i: int) -> bool:
        return uses[normal(expected[i])] > 1

    held: list[int] = []
    for i in sorted(order, key=lambda i: not taught_elsewhere(i)):
        if len(held) == count:
            break
        if not expected[i] or _asked_in(texts, i, held):
            continue
        if taught_elsewhere(i):
            uses[normal(expected[i])] -= 1
        else:
            uses[normal(expected[i])] = 0
        held.append(i)
    probes = []
    for i in sorted(held):
        name = hashlib.sha256(f"{digest}\n{i}".encode()).hexdigest()[:12]
        kind: ProbeKind = "paraphrase" if uses[normal(expected[i])] else "recall"
        probes.append(Probe(f"{kind}-{name}", kind, texts[i].messages[:-1], (expected[i],)))
    return [text for i, text in enumerate(texts) if i not in held], probes


def _asked_in(texts: Sequence[TrainingText], index: int, held: Sequence[int]) -> bool:
    """Whether another example that is trained asks the very same: then it is no held-out one."""
    return any(
        other != index
        and other not in held
        and texts[other].messages[:-1] == texts[index].messages[:-1]
        for other in range(len(texts))
    )


def _expected(text: TrainingText) -> str:
    """What a right answer holds: all of a short one, of a long one what is new in it."""
    target = text.target.strip()
    if len(words(target)) <= LONG_ANSWER:
        return target.rstrip(".!?").strip()
    runs = [run for run in key_runs(target, [text.question]) if len(run) <= LONG_ANSWER]
    return _surface(target, runs[0]) if runs else ""


def _surface(text: str, run: Sequence[str]) -> str:
    """A run of words as it is written in a text."""
    found = tokens(text)
    at = find_run(run, [token.norm for token in found])[0]
    return text[found[at].start : found[at + len(run) - 1].end]
