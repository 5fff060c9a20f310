import random

import pytest

from engrain.data import facts_heldout
from engrain.data.facts import Attribute, FactSampler
from engrain.dream.asking import clause_questions, plain_questions
from engrain.dream.clauses import Clause
from engrain.dream.frames import (
    NEUTRAL_FRAMES,
    Parts,
    asked_otherwise,
    direct,
    fill,
    frame_of,
    joined,
    parts_of,
    parts_of_fact,
    split_thing,
)


def test_neutral_frames_are_not_those_of_the_exams() -> None:
    held_out = {template.lower() for template in facts_heldout.QUESTIONS}
    assert not held_out & {frame.lower() for frame in NEUTRAL_FRAMES}


def test_parts_of_direct_questions() -> None:
    assert parts_of("Who is my aunt's boss?") == Parts(
        "my aunt's boss", "who is my aunt's boss", "who my aunt's boss is"
    )
    assert parts_of("What do I collect?") == Parts(direct="what do I collect")
    assert parts_of("Tell me what my motto is.") == Parts()
    assert direct("What is my motto, again?") == ""


def test_parts_come_from_questions_and_answers() -> None:
    pairs = [
        ("Do you remember my aunt's cat?", "Your aunt's cat is Gorla."),
        ("I wonder what my aunt's cat is.", "You told me that your aunt's cat is Gorla."),
    ]
    assert parts_of_fact(pairs, "Gorla").thing == "my aunt's cat"
    pairs = [
        ("What do I collect?", "You collect pictures of otters."),
        ("Do you know what I collect?", "You collect pictures of otters."),
    ]
    parts = parts_of_fact(pairs, "pictures of otters")
    assert (parts.thing, parts.direct, parts.inside) == (
        "",
        "what do I collect",
        "what I collect",
    )
    assert parts_of_fact([("Gorla?", "Gorla.")], "Gorla") == Parts()


def test_a_thing_is_asked_for_with_the_word_that_most_questions_use() -> None:
    """One "who is my bedtime" must not set the question word of all frames."""
    questions = ["Who is my bedtime?", "What is my bedtime?", "Tell me what my bedtime is."]
    pairs = [(question, "Your bedtime is 12:30.") for question in questions]
    assert parts_of_fact(pairs, "12:30").direct == "what is my bedtime"
    assert parts_of_fact(pairs[:2], "12:30").direct == "what is my bedtime"
    people = [("Who is my dentist?", "Your dentist is Esther.")]
    assert parts_of_fact(people, "Esther").direct == "who is my dentist"


def test_stem_of_an_answer() -> None:
    assert parts_of("What is my aunt's cat?").answer_stem == "Your aunt's cat is"
    assert parts_of("Who were our first guests?").answer_stem == "Your first guests were"
    assert parts_of("What is Vorn's motto?").answer_stem == "Vorn's motto is"
    assert parts_of("What do I collect?").answer_stem == ""


def test_names_keep_their_capital() -> None:
    parts = parts_of_fact([("What is Vorn's cat?", "Vorn's cat is Gorla.")], "Gorla")
    assert parts.thing == "Vorn's cat"
    assert fill("Tell me {n}.", parts) == "Tell me Vorn's cat."


@pytest.mark.parametrize("frame", NEUTRAL_FRAMES)
def test_frames_and_parts_are_inverse(frame: str) -> None:
    one, two = Parts.of_thing("my aunt's cat"), Parts.of_thing("Vorn's motto")
    question = fill(frame, one)
    assert question
    taken = frame_of(question, one)
    assert fill(taken, one) == question
    assert fill(taken, two) == fill(frame, two)


def test_frame_wants_parts_and_fits_the_question_word() -> None:
    assert fill("I wonder {e}.", Parts(direct="what do I collect")) == ""
    assert fill("What is {n}?", Parts.of_thing("my dentist", "who")) == ""
    assert frame_of("What is my cat's name?", Parts.of_thing("my dog")) == ""


@pytest.mark.parametrize("seed", range(30))
def test_frames_of_the_generator(seed: int) -> None:
    """Parts taken from a fact's questions ask for that fact again."""
    sampler = FactSampler(seed)
    fact = sampler.fact()
    pairs = [(fact.question(sampler.rng), fact.answer()) for _ in range(8)]
    parts = parts_of_fact(pairs, fact.value)
    if isinstance(fact.relation, Attribute):
        assert parts.thing == fact.relation.phrase(fact.owner, 0)
        assert parts.inside == fact.relation.embedded(fact.owner, 0)


def test_things_are_split_and_joined() -> None:
    for thing in ("my aunt's cat", "my motto", "Vorn's car", "our team's color"):
        assert joined(*split_thing(thing)) == thing
    assert split_thing("our team's color") == ("our team", "color")
    assert split_thing("the capital of Vorn") == ("", "")


def test_plain_sentences_become_questions() -> None:
    assert "What is Vorn's motto?" in plain_questions("As for Vorn's motto, that would be Go.")
    assert plain_questions("My sister studies Latin.") == []
    assert plain_questions("I think my sister studies Latin.") == []
    assert plain_questions("It rained.") == []


def test_what_somebody_does_becomes_a_question_with_the_stem_of_its_answer() -> None:
    study = ("What does my sister study?", "Your sister studies")
    assert clause_questions("I think my sister studies Latin.") == [study]
    raised = [
        ("Where was I raised?", "You were raised in"),
        ("What was I raised in?", "You were raised in"),
    ]
    assert clause_questions("It turns out that I was raised in Otsni.") == raised
    assert clause_questions("It seems that Claude Orn craves hummus at midnight.")[-1] == (
        "What does Claude Orn crave?",
        "Claude Orn craves",
    )
    assert clause_questions("My aunt adored Gorla.") == [
        ("Do you know what my aunt adored?", "Your aunt adored")
    ]
    assert clause_questions("We live in Otsni.")[0] == ("Where do we live?", "You live in")
    assert clause_questions("I really adore Gorla.") == [("What do I adore?", "You adore")]
    assert clause_questions("I never adore Gorla.") == []
    assert clause_questions("You should know it.") == clause_questions("It rained.") == []


def test_what_we_do_can_be_asked_of_somebody_else() -> None:
    assert (
        Clause("we", "are", "fond of").of("my uncle").inside("what") == "what my uncle is fond of"
    )
    assert Clause("we", "adore").of("my uncle").direct("what") == "what does my uncle adore"


def test_a_frame_is_found_whichever_word_asks() -> None:
    coach = Parts.of_clause(Clause("my coach", "adores"), "who")
    for wh in ("who", "what"):
        assert frame_of(f"Do you know {wh} my coach adores?", coach) == "Do you know {e}?"
        assert frame_of(f"So, {wh} does my coach adore?", coach) == "So, {q}?"
    assert frame_of("Which one does my coach adore?", coach) == ""


def test_who_is_also_asked_for_as_a_thing() -> None:
    brand = Parts.of_thing("my detergent", "who")
    assert asked_otherwise(brand) == Parts.of_thing("my detergent")
    assert asked_otherwise(Parts.of_thing("my cat")) == Parts.of_thing("my cat")
    assert asked_otherwise(Parts.of_thing("my twins", "who", "are")).direct == "what are my twins"
    adored = Clause("my aunt", "adores")
    assert asked_otherwise(Parts.of_clause(adored, "who")) == Parts.of_clause(adored)
    assert asked_otherwise(Parts(direct="who do I know")) == Parts(direct="who do I know")


def test_plain_questions_of_the_generator() -> None:
    sampler, rng, found = FactSampler(5), random.Random(5), 0
    facts = [f for f in (sampler.fact() for _ in range(120)) if isinstance(f.relation, Attribute)]
    for fact in facts:
        asked = fact.relation.asked(fact.owner)
        said = fact.statement(rng)
        found += any(asked.lower() in text.lower() for text in plain_questions(said))
    assert found / len(facts) > 0.9
