"""Pieces: what of a message carries information, by the surprise of the model that reads it.

Lists leave out much of what a message tells. Here its words are weighed instead: those that the
model did not expect, of what stands before them, are what it can't know already (names, numbers,
places, things, of any language that has words). Runs of them become answers, and the writer is
asked for the question to each, in the very lines of its lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engrain.data.messages import Message
from engrain.data.templates import render
from engrain.study import requests
from engrain.study.claims import Claim
from engrain.study.reader import Reader
from engrain.study.writer import Writer

SURPRISING = 6.0
"""Nats of a word from which on it may be an answer."""
BEFORE, BEHIND = 5, 3
"""Words of its message that a piece is shown with."""
_WORD = re.compile(r"\S+")
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, slots=True)
class Piece:
    """Words of a message in a row, the words around them, and the nats of the most surprising."""

    text: str
    around: str
    message: int
    nats: float


def pieces(reader: Reader) -> list[Piece]:
    """The surprising words of the user's messages in view, those in a row together."""
    tokenizer = reader.engine.loaded.tokenizer
    whole = render(tokenizer, list(reader.view), add_generation_prompt=False)
    with reader.reading():
        tokens = reader.engine.surprise(whole)
    found: list[Piece] = []
    at = 0
    for place, message in enumerate(reader.view):
        # A template may strip what it is given.
        content = message.content.strip()
        start = whole.find(content, at)
        if start < 0:
            continue
        at = start + len(content)
        if message.role == "user":
            inside = [(a - start, b - start, n) for a, b, n in tokens if a < at and b > start]
            found += [Piece(text, around, place, n) for text, around, n in _runs(content, inside)]
    return found


def most_surprising(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """So many pieces, in their order."""
    chosen = sorted(pieces, key=lambda piece: -piece.nats)[:most]
    return [piece for piece in pieces if piece in chosen]


def _runs(content: str, tokens: Sequence[tuple[int, int, float]]) -> list[tuple[str, str, float]]:
    """Runs of surprising words of a text, each with the words around it and its nats."""
    words = list(_WORD.finditer(content))
    nats = [
        sum(n for start, end, n in tokens if start < word.end() and end > word.start())
        for word in words
    ]
    runs: list[list[int]] = [[]]
    for place, word in enumerate(words):
        bare = _EDGES.sub("", word.group())
        taken = bool(bare) and nats[place] >= SURPRISING
        if taken:
            runs[-1].append(place)
        # A mark behind a word ends the run, whatever it is.
        if runs[-1] and not (taken and word.group().endswith(bare)):
            runs.append([])
    return [
        (
            _EDGES.sub("", " ".join(words[place].group() for place in run)),
            around(content, words[run[0]].start(), words[run[-1]].end()),
            max(nats[place] for place in run),
        )
        for run in runs
        if run
    ]


def piece_of(view: Sequence[Message], message: int, value: str) -> Piece:
    """A value that a message tells, with the words around it; with its first words if not found."""
    content = view[message].content.strip()
    start = max(0, content.lower().find(value.lower()))
    return Piece(value, around(content, start, start + len(value)), message, 0.0)


def around(content: str, start: int, end: int) -> str:
    """The part of a text between two places, in whole words, with the words around it."""
    words = list(_WORD.finditer(content))
    run = [place for place, word in enumerate(words) if word.start() < end and word.end() > start]
    first, last = max(0, run[0] - BEFORE), run[-1] + 1 + BEHIND
    shown = " ".join(word.group() for word in words[first:last])
    return f"{'... ' if first else ''}{shown}{' ...' if last < len(words) else ''}"


def ask_for(
    writer: Writer, view: Sequence[Message], pieces: Sequence[Piece], *, samples: int, turn: int = 5
) -> list[list[Claim]]:
    """The questions that the writer has for each piece, in so many samples."""
    copies = [piece for piece in pieces for _ in range(samples)]
    lines = writer.write(
        view,
        [requests.CLAIMS.format(message=piece.around) for piece in copies],
        temperature=0.8,
        turn=turn,
        answers=[piece.text for piece in copies],
    )
    found: list[list[Claim]] = []
    for number, piece in enumerate(pieces):
        asked = dict.fromkeys(lines[number * samples : (number + 1) * samples])
        found.append(
            [Claim(q, piece.text, piece.message) for q in asked if requests.asks(q, piece.text)]
        )
    return found
