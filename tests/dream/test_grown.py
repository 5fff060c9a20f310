"""Grown frames: many, clean, and none of the exams'."""

import random
from itertools import islice

import pytest

from engrain.data import facts_heldout
from engrain.data.facts import Fact, FactSampler
from engrain.dream.frames import NEUTRAL_FRAMES, Parts, fill
from engrain.dream.grown import grown_frames
from engrain.dream.self_study import EFFORTS, study
from engrain.study.wording import similarity
from training.pocket import development

from .scripted import Scripted, conversation
from .test_self_study import AUNT, CAT, told

THING = Parts.of_thing("my aunt's cat")


def shown(frame: str) -> str:
    for slot, text in THING.slots().items():
        frame = frame.replace(f"{{{slot}}}", text)
        frame = frame.replace(f"{{{slot.upper()}}}", text[0].upper() + text[1:])
    return frame


def test_frames_are_many_and_each_holds_what_is_asked_for_once() -> None:
    frames = list(islice(grown_frames(random.Random(0)), 2000))
    assert len(set(frames)) > 1000
    for frame in frames:
        text = fill(frame, THING)
        assert text == shown(frame) and text.count("my aunt's cat") + text.count("My aunt's") == 1
        assert text[0].isupper() and text[-1] in ".?"


@pytest.mark.parametrize("half", [facts_heldout, development])
def test_frames_are_not_those_of_the_exams(half: object) -> None:
    frames = set(islice(grown_frames(random.Random(1)), 3000))
    exams = half.QUESTIONS  # type: ignore[attr-defined]
    assert max(similarity(frame, question) for frame in frames for question in exams) < 0.65


def test_a_settled_fact_is_taught_in_frames_that_were_not_read() -> None:
    sampler = FactSampler(3)
    facts = [sampler.fact() for _ in range(3)]
    engine = Scripted(facts)
    result = study(engine, told(facts, 3), seed=3)
    asked = {call[-1].content for call in engine.calls}
    for fact in result.facts:
        assert len(set(fact.questions)) == EFFORTS["normal"].wordings
        assert len(set(fact.questions) - asked) > EFFORTS["normal"].wordings / 2
        assert not any(
            similarity(question, probe) >= 0.92
            for question in fact.questions
            for probe in fact.held_out
        )
    wanted = {fact.answer() for fact in facts}
    assert {text.target for text in result.texts if text.kind == "fact"} == wanted


def test_what_is_not_read_in_neutral_frames_is_taught_only_as_it_was_read() -> None:
    parts = Parts.of_thing("my aunt's cat")
    unread = {fill(frame, parts): "I don't know." for frame in NEUTRAL_FRAMES}
    engine = Scripted([Fact(AUNT, CAT, "Gorla")], overrides=unread)
    result = study(engine, conversation("My aunt's cat is Gorla.", "OK"))
    asked = {call[-1].content for call in engine.calls}
    assert set(result.facts[0].questions) <= asked
