"""Claims: what a user told in a message, as a question and an answer that stands in the message.

Answer first: a writer lists what each message tells, greedily and in some samples; only what is in
the user's own words, letter by letter, counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engrain.data.messages import Message
from engrain.exam.probes import fold, holds
from engrain.study import requests
from engrain.study.writer import Writer


@dataclass(frozen=True, slots=True)
class Claim:
    """A question, its answer, and the place of the message that told it; or a standing wish."""

    question: str
    value: str
    message: int
    wish: bool = False


def find_claims(
    writer: Writer, view: Sequence[Message], *, samples: int, temperature: float = 0.8
) -> list[Claim]:
    """What the user's messages in view tell, as a writer lists it; each pair once."""
    places = [i for i, message in enumerate(view) if message.role == "user"]
    asked = [requests.claims_of(view[i].content).content for i in places]
    lists = list(zip(places, writer.write(view, asked, temperature=0.0, turn=1), strict=True))
    if samples:
        sampled = writer.write(view, asked * samples, temperature=temperature, turn=2)
        lists += zip(places * samples, sampled, strict=True)
    found: dict[tuple[str, str], Claim] = {}
    for place, text in lists:
        for question, value in requests.claims_in(text):
            if question.casefold() == requests.WISH:
                claim = Claim(requests.WISH, value, place, wish=True)
            elif holds(view[place].content, value) and requests.asks(question, value):
                claim = Claim(question, value, place)
            else:
                continue
            found.setdefault((fold(claim.question), fold(claim.value)), claim)
    return list(found.values())
