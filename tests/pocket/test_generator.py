"""The training generator and the held-out exams never share what a model could memorise."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
for _path in (str(ROOT), str(ROOT / "src")):
    if _path not in sys.path:
        sys.path.insert(0, _path)

from engrain.data import facts, facts_heldout  # noqa: E402
from engrain.data.facts import unseen_tables  # noqa: E402
from engrain.data.life import life_stream  # noqa: E402
from training.pocket import (  # noqa: E402
    development,
    frames,
    generator,
    nouns,
    tables,
    wordings,
)
from training.pocket.talk import Talk  # noqa: E402


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower().replace("{v}", " ")))


def train_words() -> set[str]:
    nouns = [a.noun for group in tables.ATTRIBUTES.values() for a in group]
    nouns += [a.noun for a in tables._FAVORITES] + list(tables.HEADS) + list(tables.MODIFIERS)
    nouns += [owner.name for owner in tables.OWNERS]
    nouns += [f"{v.base} {v.form}" for group in tables.VERBS.values() for v in group]
    nouns += [v.tail for group in tables.VERBS.values() for v in group]
    return set().union(*map(words_of, nouns))


def test_tables_are_large() -> None:
    attributes = {a.noun for group in tables.ATTRIBUTES.values() for a in group}
    assert len(attributes) >= 450
    assert len(tables.OWNERS) >= 60
    assert sum(map(len, tables.VERBS.values())) >= 80
    assert len(set(wordings.STATEMENTS)) >= 40
    assert len(set(wordings.QUESTIONS)) >= 50
    assert len(facts.HELDOUT.attributes["self"]) >= 80
    assert len(facts.HELDOUT.owners) >= 15
    assert len(facts.HELDOUT.verbs["self"]) >= 12
    assert len(facts_heldout.STATEMENTS) >= 10
    assert len(facts_heldout.QUESTIONS) >= 12


def test_heldout_nouns_and_verbs_are_new() -> None:
    seen = train_words()
    heads = {a.noun.split()[-1].lower() for a in facts.HELDOUT.attributes["self"]}
    assert not heads & seen
    # "Son-in-law" is a word of its own, though "son" is trained on.
    assert not {o.name for o in facts.HELDOUT.owners} & seen
    for verb in facts.HELDOUT.verbs["self"]:
        content = (verb.base or verb.tail).split()[0]
        assert not {content, verb.form.split()[0] if verb.form else content} & seen, verb
    subjects = {o.name for o in tables.OWNERS} & {o.name for o in facts.HELDOUT.owners}
    assert not subjects


@pytest.mark.parametrize("half", [facts_heldout, development])
def test_grown_wordings_and_nouns_are_none_of_an_exam(half: ModuleType) -> None:
    rng = random.Random(0)
    for grow, theirs in (
        (frames.statement, half.STATEMENTS),
        (frames.question, half.QUESTIONS),
        (frames.correction, half.CORRECTIONS),
    ):
        grown = {normal(grow(rng, with_noun)) for with_noun in (True, False) * 10_000}
        assert not grown & {normal(t) for t in theirs}
    relations = unseen_tables(half.OWNERS, half.ATTRIBUTES, half.VERBS, facts.HELDOUT_WORDINGS)
    heads = {a.noun.split()[-1].lower() for a in relations.attributes["self"]}
    heads |= {o.name for o in relations.owners} | {v.base for v in relations.verbs["self"]}
    assert not heads & set(frames.NOUNS)


def normal(template: str) -> str:
    return re.sub(r"[^a-z{}]", "", template.lower())


def test_wordings_are_disjoint() -> None:
    for mine, theirs in (
        (wordings.STATEMENTS, facts_heldout.STATEMENTS),
        (wordings.QUESTIONS, facts_heldout.QUESTIONS),
        (wordings.CORRECTIONS, facts_heldout.CORRECTIONS),
        (wordings.ACKS, facts_heldout.ACKNOWLEDGEMENTS),
        (wordings.STATEMENTS, development.STATEMENTS),
        (wordings.QUESTIONS, development.QUESTIONS),
        (wordings.CORRECTIONS, development.CORRECTIONS),
    ):
        assert not {normal(t) for t in mine} & {normal(t) for t in theirs}
    assert not any(
        normal(t) in ("{s}", "{q}") for t in (*facts_heldout.STATEMENTS, *facts_heldout.QUESTIONS)
    )


@pytest.mark.parametrize("kind", [*facts.MAKERS, "u:kilos"])
def test_values_are_split(kind: str) -> None:
    rng = random.Random(kind)
    train = {facts.make_value(kind, rng, False) for _ in range(300)}
    heldout = {facts.make_value(kind, rng, True) for _ in range(100)}
    assert len(heldout) >= 6
    assert not train & heldout
    assert all(facts.is_heldout(v) for v in heldout)


def test_generation_is_deterministic() -> None:
    def several(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [generator.generate(rng) for _ in range(20)]

    assert several(5) == several(5)
    assert several(5) != several(6)
    assert life_stream(seed=3) == life_stream(seed=3)
    assert generator.exam(random.Random(1), "heldout") == generator.exam(
        random.Random(1), "heldout"
    )


@pytest.mark.parametrize("kind", list(generator.WEIGHTS))
def test_dialogues_are_well_formed(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(150):
        messages = generator.generate(rng, kind=kind)
        roles = [m["role"] for m in messages]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        for message in messages:
            text = message["content"]
            assert text and not re.search(r"[{}]|  |(?<!\.)\.\.(?!\.)", text), text
            if kind != "requests":  # there the assistant guesses, and is wrong
                assert message["loss"] or message["role"] != "assistant"
            if message["role"] == "user" and message["loss"]:
                assert len(text) < 220


def test_no_heldout_value_is_trained_on() -> None:
    rng = random.Random(9)
    for _ in range(200):
        talk = Talk(rng, 480)
        for fact in talk.plan(8):
            assert not facts.is_heldout(fact.value)


@pytest.mark.parametrize("relations", ["train", "heldout"])
def test_exam_answers_are_in_the_context(relations: str) -> None:
    items = generator.exam(random.Random(2), relations, n=100)
    kinds = [item["kind"] for item in items]
    assert kinds.count("recall") == 60 and kinds.count("abstention") == 25
    for item in items:
        assert item["messages"][-1]["role"] == "user"
        told = " ".join(m["content"] for m in item["messages"][:-1] if m["role"] == "user").lower()
        assert bool(item["answers"]) == (item["kind"] != "abstention")
        for value in item["answers"]:
            assert value.lower() in told
            assert value.lower() not in item["messages"][-1]["content"].lower()
            assert facts.is_heldout(value) == (relations == "heldout")
        for value in item["not_answers"]:
            assert value.lower() in told
        if item["kind"] == "correction":
            assert told.rindex(item["answers"][0].lower()) > told.index(
                item["not_answers"][0].lower()
            )


def test_answers_follow_the_last_statement() -> None:
    """In a dialogue every answer that gives a value gives the current one."""
    rng = random.Random(4)
    for _ in range(200):
        talk = Talk(rng, 480)
        generator._tell(talk)
        for key, fact in talk.told.items():
            old = talk.old.get(key)
            if old is not None:
                last = [
                    m["content"]
                    for m in talk.messages
                    if m["role"] == "assistant" and fact.answer() == m["content"]
                ]
                assert all(old.value not in text for text in last)


def test_life_stream() -> None:
    days = life_stream(days=30, facts_per_day=6, seed=1)
    assert len(days) == 30
    ids = [p["id"] for day in days for p in day["probes"]]
    assert len(ids) == len(set(ids))
    questions = [
        p["messages"][0]["content"]
        for day in days
        for p in day["probes"]
        if p["kind"] != "correction"
    ]
    assert len(questions) == len(set(questions))
    superseded = [i for day in days for i in day["supersedes"]]
    assert len(superseded) == len(set(superseded)) == 2 * 28
    values: set[str] = set()
    for number, day in enumerate(days, 1):
        kinds = [p["kind"] for p in day["probes"]]
        assert kinds.count("abstention") == 2
        assert kinds.count("recall") == kinds.count("paraphrase") == (6 if number < 3 else 5)
        assert kinds.count("correction") == (0 if number < 3 else 2)
        told = " ".join(
            m["content"] for c in day["conversations"] for m in c["messages"] if m["role"] == "user"
        ).lower()
        for probe in day["probes"]:
            assert len(probe["messages"]) == 1
            assert all(a.lower() in told and facts.is_heldout(a) for a in probe["answers"])
            if probe["kind"] == "recall":
                assert probe["answers"][0] not in values
                values.add(probe["answers"][0])


def test_sampler_never_repeats() -> None:
    sampler = facts.FactSampler(2)
    told = [sampler.fact() for _ in range(400)]
    assert len({f.key for f in told}) == 400
    assert len({f.value.lower() for f in told}) == 400
    near = [sampler.near_miss(f) for f in told[:100]]
    assert not {f.key for f in near} & {f.key for f in told}


def test_copying_says_only_what_was_said() -> None:
    """Every looked-up value and repeated sentence stands in what the user said before."""
    rng, copied = random.Random(4), 0
    for _ in range(60):
        heard = ""
        for message in generator.generate(rng, 400, "copying"):
            if message["role"] == "user":
                heard += " " + message["content"].lower()
                continue
            said = message["content"].rstrip(".").lower()
            if said in ("okay", "noted", "i have it", "got it") or "know" in said:
                continue
            value = re.split(r": | is ", said)[-1]
            assert value in heard, (value, heard)
            copied += 1
    assert copied > 200


def test_pieced_words_are_new_and_none_of_an_exam() -> None:
    rng = random.Random(2)
    words = {frames.pieced(rng) for _ in range(2000)}
    assert len(words) > 1900
    assert not words & nouns.heldout_words()
    assert sum(word in set(frames.NOUNS) for word in words) < 40
