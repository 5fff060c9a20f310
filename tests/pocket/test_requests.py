"""Dialogues with the requests of self-study: sent as self-study sends them, and answered right."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from engrain.data.facts import is_heldout
from engrain.data.messages import Message
from engrain.exam.probes import holds
from engrain.study import requests as sent
from engrain.study.reader import in_context
from training.pocket import development, generator, requests, traps, wordings
from training.pocket.evaluate import passes
from training.pocket.talk import Talk

BEGINS = {
    name: template.partition("{")[0].partition('"')[0]
    for name, template in {
        "claims": sent.CLAIMS,
        "wordings": sent.WORDINGS,
        "verdict": sent.VERDICT,
    }.items()
}


def talks(seed: int, count: int = 150) -> list[tuple[Talk, int]]:
    """Talks with their requests, and where the requests begin."""
    found = []
    for number in range(count):
        talk = Talk(random.Random(f"{seed}/{number}"), 160)
        requests.tell(talk)
        begun, talk.budget = len(talk.messages), 480
        requests.ask_for(talk)
        found.append((talk, begun))
    return found


TALKS = talks(1)


def turns(talk: Talk, begun: int, kind: str) -> list[tuple[str, str]]:
    pairs = zip(talk.messages[begun::2], talk.messages[begun + 1 :: 2], strict=True)
    asked = [(q["content"], a["content"]) for q, a in pairs]
    return [pair for pair in asked if pair[0].startswith(BEGINS[kind])]


@pytest.mark.parametrize("kind", list(BEGINS))
def test_every_request_is_made(kind: str) -> None:
    assert sum(bool(turns(*one, kind)) for one in TALKS) > 20


def test_a_request_stands_after_the_talk_as_self_study_sends_it() -> None:
    """No system prompt, no worked example: the talk, and the request as one turn of the user."""
    for talk, begun in TALKS:
        view = [Message(m["role"], m["content"]) for m in talk.messages[:begun]]
        assert in_context(view, "x")[:-1] == view
        assert view[0].role == "user"
        assert talk.messages[begun]["branch"] and not any(
            "branch" in m for m in talk.messages[:begun]
        )
        for place, message in enumerate(talk.messages[begun:]):
            if message["content"].startswith(tuple(BEGINS.values())):
                assert message["branch"] and place % 2 == 0


def test_claims_are_what_a_message_tells_and_stand_in_it() -> None:
    listed = 0
    for talk, begun in TALKS:
        told = {sent.claims_of(m["content"]).content: i for i, m in enumerate(talk.messages)}
        for asked, answer in turns(talk, begun, "claims"):
            place = told[asked]
            pairs = sent.claims_in(answer)
            for question, value in pairs:
                assert holds(talk.messages[place]["content"], value) and not holds(question, value)
            stand = [f for f in talk.tells.get(place, ()) if talk.told.get(f.key) == f]
            assert [value for _, value in pairs] == [f.value for f in stand] or len(pairs) < len(
                stand
            )
            assert pairs or answer == sent.NONE
            listed += len(pairs) == len(stand) > 0
    assert listed > 50


def test_nothing_that_was_supposed_corrected_or_taken_back_is_listed() -> None:
    for talk, begun in TALKS:
        wrong = {f.value for f in talk.untold} | {f.value for f in talk.old.values()}
        wrong -= {f.value for f in talk.told.values()}
        for _, answer in turns(talk, begun, "claims"):
            assert not wrong & {value for _, value in sent.claims_in(answer)}


def test_wordings_ask_for_the_same_and_hold_no_answer() -> None:
    for talk, begun in TALKS:
        owners = {fact.owner.name for fact in talk.told.values()}
        for asked, answer in turns(talk, begun, "wordings"):
            [(question, value)] = sent.pairs_of(asked.partition(": ")[2])
            lines = sent.lines_of(answer)
            assert len(lines) >= 4 and question not in lines
            assert not any(holds(line, value) for line in lines)
            for owner in filter(None, owners):
                if owner in question:
                    assert all(owner in line for line in lines)


def test_a_verdict_is_yes_for_what_stands_alone() -> None:
    words = []
    for talk, begun in TALKS:
        stand = {(fact.fill("{Q}?"), fact.value) for fact in talk.told.values()}
        untold = {(f.fill("{Q}?"), f.value) for f in [*talk.untold, *talk.old.values()]} - stand
        for asked, word in turns(talk, begun, "verdict"):
            [pair] = sent.pairs_of(asked.partition("? ")[2].partition("\n")[0])
            words.append(word)
            assert word in ("yes", "no")
            assert not (pair in stand and word == "no") and not (pair in untold and word == "yes")
    assert 0.4 < words.count("yes") / len(words) < 0.6


def test_the_assistants_guess_is_not_learned() -> None:
    guesses = [
        m
        for talk, begun in TALKS
        for m in talk.messages[:begun]
        if not m["loss"] and m["role"] != "user"
    ]
    assert guesses and all(re.match("Maybe|Perhaps|I guess|Is it", m["content"]) for m in guesses)


def test_traps_are_none_of_the_development_sets() -> None:
    def normal(text: str) -> str:
        return re.sub(r"[^a-z{}]", "", text.lower())

    mine = {normal(frame) for frame in traps.FRAMES}
    assert len(mine) > 50 and not mine & {normal(frame) for frame in development.TRAPS}
    assert not mine & {normal(frame) for frame in wordings.STATEMENTS}


@pytest.mark.parametrize("half", ["train", "development", "heldout"])
def test_request_exam(half: str) -> None:
    """Right answers pass, wrong ones don't, and values are of the half."""
    items = generator.request_exam(random.Random(3), half, n=100)
    kinds = [item["kind"] for item in items]
    assert (kinds.count("claims"), kinds.count("so"), kinds.count("not so")) == (40, 25, 25)
    for item in items:
        said = right(item)
        assert passes(said, item)
        assert not passes({"yes": "no", "no": "yes"}.get(said, "x | What?"), item)
        if item["kind"] == "claims":
            assert not passes(said.splitlines()[0].partition("|")[0], item)
            assert all(is_heldout(value) == (half != "train") for value, *_ in item["listed"])


def right(item: dict[str, Any]) -> str:
    if item["kind"] in ("so", "not so"):
        return str(item["answers"][0])
    return "\n".join(f"{v} | {' '.join(words)}?" for v, *words in item["listed"]) or sent.NONE
