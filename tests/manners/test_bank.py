"""The bank of everyday talk and the texts that lesson zero is made of."""

import json
import random
from pathlib import Path

import pytest

from engrain.exam.probes import says_unknown
from engrain.study import requests
from training.manners import bank, data

FILES = sorted(file for file in bank.FOLDER.glob("*.jsonl"))
STREAM = Path("../shared/data/everyday/everyday_dev.jsonl")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_situation_is_whole_whatever_is_drawn(file: Path) -> None:
    for situation in bank.read(file):
        for seed in range(3):
            assert bank.faults(situation, random.Random(seed)) == [], situation["id"]


def test_a_fault_is_named() -> None:
    situation = next(bank.read(bank.FOLDER / "example.jsonl"))
    fact = situation["facts"][0]
    fact["asks"][0] = f"Is it {fact['value']}?"
    fact["near"].pop()
    found = " ".join(bank.faults(situation, random.Random(0)))
    assert "holds the value" in found and "near needs 3 pairs" in found


def test_equal_seeds_give_equal_texts_and_others_give_others() -> None:
    assert data.texts(20, 3) == data.texts(20, 3) != data.texts(20, 4)


def test_a_step_asks_a_dozen_things_of_one_talk_each_on_its_own() -> None:
    made = data.steps(120, 1)
    sizes = [len(step) for step in made]
    assert max(sizes) == 16 and sorted(sizes)[len(sizes) // 3] >= 14
    for step in made:
        talks = {text.messages[: len(text.messages) - 2] for text in step}
        shortest = min(talks, key=len)
        # Other turns may stand between the talk and the question, never before the talk.
        assert all(talk[: len(shortest)] == shortest for talk in talks)
        for text in step:
            roles = [message.role for message in text.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            assert text.answers == 1
    assert any(len(text.messages) == 2 for step in made for text in step), "none closed"
    assert any("+" in text.group for step in made for text in step), "never two talks"


def test_most_of_what_is_asked_after_a_talk_was_told() -> None:
    heads = [
        request.partition("{")[0]
        for request in (requests.CLAIMS, requests.WORDINGS, requests.FOLLOW)
    ]
    heads.append(requests.VERDICT.partition("{")[0])
    asked = [
        text.target
        for step in data.steps(150, 3)
        for text in step
        if not any(text.question.startswith(head) for head in heads)
    ]
    assert 0.05 <= sum(map(says_unknown, asked)) / len(asked) <= 0.2


def test_as_much_is_written_as_is_wanted_of_each_kind() -> None:
    few, many = (
        [sum("one a line" in t.question or "One line" in t.question for t in step) for step in made]
        for made in (data.steps(40, 3, 16, 2), data.steps(40, 3, 16, 8))
    )
    assert max(few) == 2 and sorted(many)[20] == 8 == max(many)


def test_a_piece_is_shown_with_the_words_around_it_and_asked_for_in_one_line() -> None:
    rng = random.Random(1)
    one = bank.drawn(next(bank.read(bank.FOLDER / "en-home.jsonl")), rng)
    for fact in one["facts"]:
        asked, line = data.piece(one["talk"][fact["from"]], fact, rng)
        value, bar, question = line.partition(" | ")
        assert value == fact["value"] in asked and bar and question in fact["asks"]


def test_the_requests_are_those_of_self_study() -> None:
    asked = {m.content for t in data.texts(200, 2) for m in t.messages if m.role == "user"}
    for begins in (requests.CLAIMS, requests.WORDINGS, requests.VERDICT):
        head = begins.partition("{")[0]
        assert any(text.startswith(head) for text in asked), head


def test_what_is_listed_stands_in_the_message_and_traps_are_not_listed() -> None:
    rng = random.Random(5)
    for situation in data.situations():
        one = bank.drawn(situation, rng)
        for place, message in enumerate(one["talk"]):
            lines = requests.claims_in(data.claims(one, place, rng)) if place % 2 == 0 else []
            for question, answer in lines:
                assert question == requests.WISH or answer in message
        listed = {f["value"] for f in one["facts"]}
        for trap in one.get("traps", ()):
            assert trap["value"] not in listed, one["id"]


@pytest.mark.skipif(not STREAM.exists(), reason="the everyday stream is not shipped")
def test_nothing_of_the_stream_that_is_measured_on_is_trained() -> None:
    asked = {
        probe["messages"][-1]["content"].casefold()
        for line in STREAM.read_text(encoding="utf-8").splitlines()
        for probe in json.loads(line)["probes"]
    }
    trained = {m.content.casefold() for t in data.texts(400, 6) for m in t.messages}
    assert not asked & trained


@pytest.mark.parametrize("language", ["en", "de", "es", "fr"])
def test_not_knowing_is_heard_in_every_language_and_knowing_is_not_taken_for_it(
    language: str,
) -> None:
    rng, untold, told = random.Random(7), [], []
    for situation in data.situations():
        if situation["lang"] == language:
            one = bank.drawn(situation, rng)
            for fact in one["facts"]:
                told.append(fact["tells"])
                untold += [answer for _, answer in fact["near"]]
    unheard = [answer for answer in untold if not says_unknown(answer)]
    taken = [answer for answer in told if says_unknown(answer)]
    assert len(unheard) <= 0.05 * len(untold), unheard[:20]
    assert len(taken) <= 0.01 * len(told), taken
