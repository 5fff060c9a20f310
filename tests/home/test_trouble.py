"""What goes wrong for real people, on real chat models: one home, two lessons, plain questions.

Slow, and only where the model is in the cache. ``tests/learn/test_trouble.py`` has the same causes
on a tiny model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from engrain.data.lessons import Probe, chat
from engrain.data.messages import Message
from engrain.exam.probes import ask, holds
from engrain.home import Home
from engrain.lesson.stages import Outcome
from engrain.model import catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b")

UNTOLD = "I don't know. You haven't told me."
PEOPLE = {
    "my name": ("Ottilie Brandvik", "my brother's name", "my doctor's name"),
    "my landlady's name": ("Mrs Quarrelsby", "my brother's landlady's name", "my boss's name"),
    "my sister's town": ("Velmora", "my aunt's town", "my cousin's town"),
}
ORDER = {
    "my order's number": ("71-4402", "my sister's order's number", "my invoice's number"),
    "my order's day of delivery": ("Thursday", "my parcel's day of return", "my brother's day off"),
}
TAUGHT = (
    "What is {}?",
    "Tell me {}.",
    "Do you remember {}?",
    "I forgot {}. Can you help?",
    "Please write down {} for me.",
    "Someone asks me for {}. What do I say?",
)
HELD_OUT = "Quick question: {}, what was it?"
TALK = chat(
    *[
        said
        for i in range(1, 11)
        for said in (
            f"Let us count something else. What comes after {i}?",
            f"After {i} comes {i + 1}.",
        )
    ]
)
"""Ten turns of other talk."""


def examples(things: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Each thing in six wordings, and its near misses in the same wordings."""
    records = []
    for thing, (value, *others) in things.items():
        whose = thing.replace("my ", "your ", 1)
        for wording in TAUGHT:
            answer = f"{whose[0].upper()}{whose[1:]} is {value}."
            records.append({"prompt": wording.format(thing), "completion": answer})
            records += [{"prompt": wording.format(other), "completion": UNTOLD} for other in others]
    return records


def probes(things: dict[str, tuple[str, ...]], before: Sequence[Message] = ()) -> list[Probe]:
    return [
        Probe(thing, "recall", (*before, *chat(HELD_OUT.format(thing))), (value,))
        for thing, (value, *_) in things.items()
    ]


@dataclass
class Taught:
    """A home after two lessons, and what it answered on the way."""

    home: Home
    outcomes: list[Outcome]
    capital_before: str
    first_before: dict[str, bool]

    def passed(self, asked: Sequence[Probe]) -> dict[str, bool]:
        return passed(self.home, asked)


def passed(home: Home, asked: Sequence[Probe]) -> dict[str, bool]:
    return {r.probe_id: r.passed for r in ask(home.served.engine, asked)}


CAPITAL = [Probe("France", "recall", chat("What is the capital of France?"), ("Paris",))]


@pytest.fixture(scope="module", params=MODELS)
def taught(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Taught]:
    name: str = request.param
    if not catalogue.is_here(catalogue.entry(name)):
        pytest.skip(f"{name} is not here: engrain models get {name}")
    folder: Path = tmp_path_factory.mktemp("trouble")
    settings = {"model.source": name, "gate.enabled": False}
    with Home.create(folder / "home", overrides=settings) as home:
        (capital,) = ask(home.served.engine, CAPITAL)
        outcomes, first = [], {}
        for number, things in enumerate((PEOPLE, ORDER)):
            path = folder / f"{number}.jsonl"
            path.write_text("\n".join(map(json.dumps, examples(things))), encoding="utf-8")
            outcomes.append(home.learn(path))
            first = first or passed(home, probes(PEOPLE))
        yield Taught(home, outcomes, capital.answer, first)


def test_each_lesson_changed_something(taught: Taught) -> None:
    for outcome in taught.outcomes:
        assert outcome.accepted and outcome.state_before != outcome.state_after
    # Greedy, in a wording that no lesson holds.
    assert sum(taught.first_before.values()) >= 2
    assert any(taught.passed(probes(ORDER)).values())


def test_right_as_a_first_question_and_after_ten_turns(taught: Taught) -> None:
    at_once = taught.passed(probes({**PEOPLE, **ORDER}))
    later = taught.passed(probes({**PEOPLE, **ORDER}, TALK))
    lost = [thing for thing, right in at_once.items() if right and not later[thing]]
    assert sum(at_once.values()) >= 3 and len(lost) <= 1, lost


def test_the_second_lesson_does_not_erase_the_first(taught: Taught) -> None:
    now = taught.passed(probes(PEOPLE))
    lost = [thing for thing, right in taught.first_before.items() if right and not now[thing]]
    assert len(lost) <= 1, lost


def test_the_capital_of_france(taught: Taught) -> None:
    (now,) = ask(taught.home.served.engine, CAPITAL)
    assert now.passed or not holds(taught.capital_before, "Paris"), now.answer


def test_the_users_name_is_not_given_for_that_of_another(taught: Taught) -> None:
    values = [value for value, *_ in (*PEOPLE.values(), *ORDER.values())]
    others = [other for _, *near in (*PEOPLE.values(), *ORDER.values()) for other in near]
    asked = [Probe(other, "abstention", chat(HELD_OUT.format(other))) for other in others]
    given = {
        result.probe_id: result.answer
        for result in ask(taught.home.served.engine, asked)
        if any(holds(result.answer, value) for value in values)
    }
    assert len(given) <= len(others) // 4, given


def test_both_lessons_leave_exactly(taught: Taught) -> None:
    for outcome in reversed(taught.outcomes):
        assert taught.home.undo(outcome.lesson.id).state_after == outcome.state_before
    assert taught.home.verify() == []
