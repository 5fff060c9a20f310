import pytest

from engrain.dream.clauses import Clause, begins_with_deed, clause_in, clause_told
from engrain.dream.frames import Parts, parts_of_fact
from engrain.study.wording import as_user


@pytest.mark.parametrize(
    ("said", "value", "direct", "inside"),
    [
        ("Your aunt adores Gorla.", "Gorla", "what does my aunt adore", "what my aunt adores"),
        ("You crave a bun at noon.", "bun", "what do I crave at noon", "what I crave at noon"),
        ("Your boss carries tea.", "tea", "what does my boss carry", "what my boss carries"),
        ("Vorn was moved by Lix.", "Lix", "what was Vorn moved by", "what Vorn was moved by"),
        ("You are hopeless at golf.", "golf", "what am I hopeless at", "what I am hopeless at"),
        ("My vet teaches chess.", "chess", "what does my vet teach", "what my vet teaches"),
        # The plain form of "adopted" is not known for sure, so there is no direct question.
        ("Your son adopted a seal.", "seal", "", "what my son adopted"),
    ],
)  # fmt: skip
def test_questions_follow_from_the_answer(said: str, value: str, direct: str, inside: str) -> None:
    clause = clause_in(as_user(said), value)
    assert clause is not None
    assert (clause.direct("what"), clause.inside("what")) == (direct, inside)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("My cat is Gorla.", "Gorla"),
        ("Gorla.", "Gorla"),
        ("It is said, my aunt adores Gorla.", "Gorla"),
        ("My aunt adores Gorlas.", "Gorla"),
        ("The weather brings rain.", "rain"),
        ("My aunt adores Gorla more than all the others in town.", "Gorla"),
    ],
)
def test_what_is_no_plain_deed(said: str, value: str) -> None:
    assert clause_in(said, value) is None


def test_where_drops_the_word_of_place() -> None:
    clause = Clause("I", "was", "raised in")
    assert clause.direct("where") == "where was I raised"
    assert Clause("my aunt", "comes", "from").inside("where") == "where my aunt comes from"


def test_others_do_the_same() -> None:
    assert Clause("I", "crave").of("my uncle").inside("what") == "what my uncle craves"
    assert Clause("I", "am", "fond of").of("Vorn").direct("what") == "what is Vorn fond of"
    assert Clause("Vorn", "adopted").of("my uncle").inside("what") == "what my uncle adopted"


def test_a_fact_takes_its_clause_before_a_broken_question() -> None:
    pairs = [("What is my aunt adores?", "Your aunt adores Gorla.")]
    parts = parts_of_fact(pairs, "Gorla")
    assert parts == Parts.of_clause(Clause("my aunt", "adores"))
    assert parts.name == "what my aunt adores"
    who = [("Who is my aunt adores?", "Your aunt adores Gorla."), *pairs, *pairs[:0]]
    assert parts_of_fact([who[0]] * 2, "Gorla").inside == "who my aunt adores"


def test_who_does_what_is_taken_from_the_user() -> None:
    told = "It may help you to know that Glitkood collects pictures of a jalty."
    garbled = [("What does Glitkood hold pictures of?", "Glitkood holds pictures of a jalty.")]
    assert parts_of_fact(garbled, "jalty", told).direct == "what does Glitkood collect pictures of"
    claims = [("What was I inherited?", "You said that you were inherited a toy.")]
    assert parts_of_fact(claims, "toy", "For the record, I inherited a toy.").inside == (
        "what I inherited"
    )
    raised = [("Who was I raised in?", "You were raised in Otsni.")]
    assert parts_of_fact(raised, "Otsni", "I was raised in Otsni.").direct == "where was I raised"


@pytest.mark.parametrize(
    ("sentence", "value", "stem"),
    [
        ("Forget what you heard: I inherited a toy, not a boat.", "toy", "You inherited"),
        ("You know that Anna Orn craves hummus at noon.", "hummus", "Anna Orn craves"),
        ("My boss was moved by Lix.", "Lix", "Your boss was moved by"),
        ("My cat is Gorla.", "Gorla", None),
        ("I adore cats.", "Gorla", None),
    ],
)
def test_a_clause_in_a_longer_sentence(sentence: str, value: str, stem: str | None) -> None:
    clause = clause_told(sentence, value)
    assert (clause and clause.answer_stem) == stem


def test_a_value_that_begins_with_a_deed_is_told_from_a_name() -> None:
    assert begins_with_deed("obsessed with ice skating") and begins_with_deed("fond of Gorla")
    for value in ("Gorla", "Bay of Plenty", "ice skating", "June 3 at noon"):
        assert not begins_with_deed(value)
