"""What became of a lesson, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engrain.cli.session import Answer, duration

if TYPE_CHECKING:
    from engrain.lesson.stages import Outcome

REFUSED = 3
"""The exit code of a lesson that the gate refused."""


def learned(outcome: Outcome, estimate: float | None) -> Answer:
    """What became of a lesson, in one line."""
    data = {**outcome.to_dict(), "estimated_seconds": estimate}
    code = 0 if outcome.accepted else REFUSED
    return Answer(data, sentence(outcome), [outcome.lesson.id], code)


def sentence(outcome: Outcome) -> str:
    """One line about a lesson."""
    found = outcome.to_dict()
    reasons = " ".join(found["reasons"])
    head = f"{found['verdict'].capitalize()}: lesson {found['lesson']} ({found['title']})"
    if outcome.accepted:
        return f"{head} in {duration(found['seconds'])}. {reasons}"
    again = ""
    if found["verdict"] == "quarantined":
        again = f" `engrain lessons enable {found['lesson']}` would serve it all the same."
    return f"{head}. {reasons} The served weights are unchanged.{again}"
