"""Explicit lessons: examples that the user wrote, as JSON lines.

Two shapes are read, also mixed in one file::

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}

The first is OpenAI's fine-tuning shape. Every answer of the assistant in it is learned, except one
with ``"weight": 0``. Examples with secrets are left out and reported.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engrain.data.lessons import Probe, ProbeKind, TrainingText, canonical_digest, chat
from engrain.data.messages import Conversation, read_records
from engrain.errors import ConversationError
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

_EXPECTED = (
    'Expected {"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]} or {"prompt": "...", "completion": "..."}.'
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that is not learned: where it stands, why, and its beginning, secrets masked."""

    where: str
    reason: str
    excerpt: str

    def to_dict(self) -> dict[str, str]:
        """The entry as JSON-ready values."""
        return {"where": self.where, "reason": self.reason, "excerpt": self.excerpt}


def read_source(path: Path) -> tuple[list[Conversation], list[TrainingText]]:
    """Read a file as conversations, or as examples where it holds such.

    Raises:
        ConversationError: with file and line: unreadable, empty, not JSON, or of a wrong shape.
    """
    records = list(read_records(path))
    if are_examples([record for _, record in records]):
        return [], take_examples(records)
    return [
        Conversation.from_messages(record.get("messages", ()), source=where)
        for where, record in records
    ], []


def take_examples(records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[TrainingText]:
    """Check records, each with the place that it came from.

    Example:
        >>> record = {"prompt": "What is my motto?", "completion": "Steady on."}
        >>> take_examples([("here", record)])[0].target
        'Steady on.'
    """
    return [text for where, record in records for text in _texts(record, where)]


def is_example(record: Mapping[str, Any]) -> bool:
    """Whether a record can only be an example: prompt and completion, or weighted answers."""
    if "prompt" in record or "completion" in record:
        return True
    messages = record.get("messages")
    return isinstance(messages, Sequence) and any(
        isinstance(message, Mapping) and "weight" in message for message in messages
    )


def are_examples(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the records of a file are examples rather than conversations.

    The two shapes are the same but for weights. Many records of one exchange each, all ending with
    the assistant, are what a fine-tuning file looks like.
    """
    if any(is_example(record) for record in records):
        return True
    return len(records) >= EXAMPLES_FROM and all(map(_one_exchange, records))


def _one_exchange(record: Mapping[str, Any]) -> bool:
    messages = record.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return False
    roles = [m.get("role") for m in messages if isinstance(m, Mapping)]
    return [role for role in roles if role != "system"] == ["user", "assistant"]


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


def _texts(record: Mapping[str, Any], where: str) -> list[TrainingText]:
    if "messages" in record:
        return _from_messages(record["messages"], where)
    prompt, completion = record.get("prompt"), record.get("completion")
    for name, value in (("prompt", prompt), ("completion", completion)):
        if not isinstance(value, str) or not value.strip():
            raise ConversationError(f"{where} has no text in {name!r}.", remedy=_EXPECTED)
    assert isinstance(prompt, str) and isinstance(completion, str)
    talk = Conversation.from_messages(
        [message.to_dict() for message in chat(prompt.strip(), completion.strip())], source=where
    )
    return [TrainingText(talk.messages, "explicit", where)]


def _from_messages(messages: Any, where: str) -> list[TrainingText]:
    talk = Conversation.from_messages(messages, source=where)
    if talk.messages[-1].role != "assistant":
        raise ConversationError(
            f"{where} ends with a message of the {talk.messages[-1].role}.",
            remedy="An example ends with the assistant's answer, which is what is learned.",
        )
    texts = []
    for place, message in enumerate(talk.messages):
        weight = messages[place].get("weight", 1)
        if "weight" in messages[place] and message.role != "assistant":
            raise ConversationError(
                f"{where}, message {place + 1} is by the {message.role} and has a weight.",
                remedy="Only messages of the assistant have a weight.",
            )
        if weight not in (0, 1) or isinstance(weight, bool):
            raise ConversationError(
                f"{where}, message {place + 1} has the weight {weight!r}.",
                remedy="A weight is 1 (learned) or 0 (only context).",
            )
        if message.role == "assistant" and weight == 1:
            if not any(earlier.role == "user" for earlier in talk.messages[:place]):
                continue  # a greeting answers nothing
            texts.append(TrainingText(talk.messages[: place + 1], "explicit", where))
    if not texts:
        raise ConversationError(
            f"{where} has no answer of the assistant to learn.",
            remedy="Give at least one message of the assistant the weight 1, after a user message.",
        )
    return texts


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
