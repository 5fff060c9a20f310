"""Explicit examples: an instruction with its answer, as fine-tuning files have them."""

from __future__ import annotations

from typing import Any

from engrain.data.sources.draft import Draft, NotRead
from engrain.data.sources.registry import Record, shape

PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
"""Keys of a question and its answer; the first two of which one holds a text."""
CONTEXT = ("input", "context")
"""Keys of what an instruction is about."""


def _keys(record: Record) -> tuple[str, str] | None:
    both = [pair for pair in PAIRS if pair[0] in record and pair[1] in record]
    either = [pair for pair in PAIRS[2:3] if pair[0] in record or pair[1] in record]
    return next(iter([*both, *either]), None)


@shape("pairs", "Alpaca, or prompts with completions", looks=lambda r: _keys(r) is not None)
def pairs(draft: Draft, record: Record) -> None:
    """``{"instruction": ..., "input": ..., "output": ...}``, or a prompt with a completion."""
    asked, answered = _keys(record) or PAIRS[0]
    draft.id = record.get("id")
    question, answer = _text(record, asked), _text(record, answered)
    if asked == "instruction":
        given = next((record[key] for key in CONTEXT if record.get(key)), "")
        if given and not isinstance(given, str):
            raise NotRead(f"it has no text in {CONTEXT[0]!r}")
        question = f"{question}\n\n{given.strip()}" if given and given.strip() else question
    system = record.get("system")
    if isinstance(system, str) and system.strip():
        draft.say("system", system.strip())
    for before in record["history"] if isinstance(record.get("history"), list) else ():
        if isinstance(before, list) and len(before) == 2:
            draft.say("user", before[0])
            draft.say("assistant", before[1], weight=0)
    draft.say("user", question)
    draft.say("assistant", answer, weight=1)


def _text(record: Record, key: str) -> str:
    value: Any = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise NotRead(f"it has no text in {key!r}")
    return value.strip()
