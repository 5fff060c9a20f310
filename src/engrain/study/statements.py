"""Statements: what was told and can't be asked about is learned in the user's own words.

A claim counts here if the reader holds it for so and no question about it passes the round trip.
What is trained is the line in which the user told it, said in full after its beginning, and after
itself with the told thing left open. Nothing about it is held out: no exam can show that it was
learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engrain.exam.probes import holds
from engrain.study.checks import DOUBTED, FOREIGN, GAIN, KNOWN, NOT_READ, UNSURE, Checks, once
from engrain.study.claims import Claim
from engrain.study.questions import Fact

UNASKED = (NOT_READ, UNSURE, FOREIGN)
"""Why a question was refused that says nothing against what it asks for."""
LONGEST = 240
"""Characters of a line that is learned as it was said."""
OPEN = "..."
"""What stands for what is left open."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of the user, what in it could not be asked for, and what it completes."""

    value: str
    line: str
    message: int
    openings: tuple[str, ...]
    gain: float


def statements(claims: Sequence[Claim], facts: Sequence[Fact], checks: Checks) -> list[Statement]:
    """The claims that no question could be made of, in the lines in which they were told.

    A line with something doubted in it is left out whole: it may be a supposition.
    """
    found: list[Statement] = []
    told = [(w.message, w.value) for fact in facts for w in fact.wordings]
    told += [(c.message, c.value) for c in claims if checks.refused.get(c.question) == KNOWN]
    doubted = [c for c in claims if checks.refused.get(c.question) == DOUBTED]
    for claim in claims:
        if claim.wish or checks.refused.get(claim.question) not in UNASKED:
            continue
        if any(place == claim.message and _same(value, claim.value) for place, value in told):
            continue
        line = _line(checks.reader.view[claim.message].content, claim.value)
        openings = _openings(line, claim.value)
        if not openings or any(
            other.message == claim.message and holds(line, other.value) for other in doubted
        ):
            continue
        told.append((claim.message, claim.value))
        gain = min(checks.reader.gains([(opening, line) for opening in openings]))
        if gain > GAIN:
            found.append(Statement(claim.value, line, claim.message, openings, gain))
    return found


def _same(one: str, other: str) -> bool:
    return holds(one, other) or holds(other, one)


def _line(message: str, value: str) -> str:
    """The line of a message that holds a value; "" if none does, or it is too long.

    A full stop ends a line in one language and follows a title or a day in another.
    """
    found = next((line.strip() for line in message.splitlines() if holds(line, value)), "")
    return found if len(found) <= LONGEST else ""


def _openings(line: str, value: str) -> tuple[str, ...]:
    """The line up to a value, and the whole with the value left open."""
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", line, re.IGNORECASE)
    if found is None:
        return ()
    before, after = line[: found.start()].rstrip(), line[found.end() :]
    proposed = [f"{before} {OPEN}"] if len(before.split()) > 1 else []
    if before or any(character.isalnum() for character in after):
        proposed.append(f"{line[: found.start()]}{OPEN}{after}")
    return tuple(once(proposed, set()))
