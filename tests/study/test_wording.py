import pytest
from hypothesis import given
from hypothesis import strategies as st

from engrain.study.wording import (
    as_user,
    find_run,
    jaccard,
    key_runs,
    normal,
    owners,
    question_fault,
    question_lines,
    similarity,
    stem,
    tidy,
    topic,
)


def test_lists_are_taken_apart() -> None:
    text = '1. What is my motto?\n- "Who is my aunt?"\n\nQ3: Where do I live?\n* **Tell me more**'
    assert list(question_lines(text)) == [
        "What is my motto?",
        "Who is my aunt?",
        "",
        "Where do I live?",
        "Tell me more",
    ]
    assert tidy("What is 7. 8?") == "What is 7. 8?"


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("", "empty"),
        ("What is " + "very " * 60 + "big?", "too long"),
        ("What is this conversation about?", "about the conversation itself"),
        ("I live in Oslo.", "not a question"),
        ("Motto?", "not a question"),
        ("What is my motto? Who is my aunt?", "more than one question"),
        ("What is it?", "asks about nothing in particular"),
        ("Think hard: what is I crave walnut bread?", "ungrammatical"),
        ("What are he like?", "ungrammatical"),
        ("What do you know about Chifla\ufffd?", "ungrammatical"),
        ("Where was I raised, and who are they?", ""),
        ("What is my motto?", ""),
        ("Name my favorite cheese, please.", ""),
        ("It slipped my mind what my motto is.", ""),
        ("I cannot recall who my dentist is.", ""),
    ],
)
def test_faults_of_questions(question: str, fault: str) -> None:
    assert question_fault(question) == fault


def test_heldout_wordings_are_questions() -> None:
    """The wordings of exams must count as questions, or good ones of a model would not either."""
    from engrain.data.facts import FactSampler

    sampler = FactSampler(0)
    for _ in range(200):
        question = sampler.fact().question(sampler.rng)
        assert question_fault(question) in ("", "more than one question"), question


def key(answer: str, question: str) -> str:
    runs = key_runs(answer, [question])
    return " ".join(runs[0]) if runs else ""


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("Your motto is Steady on.", "What is my motto?", "steady"),
        ("Your cat is Gorla, not Brellin.", "What is my cat?", "gorla"),
        ("You collect pictures of otters.", "What do I collect?", "pictures of otters"),
        ("You told me that your dentist is Dr. Mirvo.", "Who is my dentist?", "dr mirvo"),
        ("Your commute is 45 minutes.", "How long is my commute?", "45 minutes"),
        ("It is 7:45.", "When do I get up?", "7:45"),
        ("Your motto is your motto.", "What is my motto?", ""),
        ("Yes, you told me.", "Do you know it?", ""),
        ("Your sister adores Vorn.", "Who does my sister adore?", "vorn"),
    ],
)
def test_key_is_what_the_answer_adds(answer: str, question: str, expected: str) -> None:
    assert key(answer, question) == expected


def test_statement_as_question_has_no_key() -> None:
    said = "My cat is Gorla."
    assert key_runs("Your cat is Gorla.", [said]) == []


def test_owners_topics_and_persons() -> None:
    assert owners("What is my aunt's cat's name? It's late.") == {"aunt", "cat"}
    assert topic("Do you still remember what my favorite cheese is?") == {
        stem("favorite"),
        stem("cheese"),
    }
    assert as_user("You were tired, and your dog knows you're here.") == (
        "I was tired, and my dog knows I'm here."
    )


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_symmetric_and_bounded(first: str, second: str) -> None:
    value = similarity(first, second)
    assert 0 <= value <= 1
    assert value == similarity(second, first)
    assert similarity(first, first) == 1
    assert normal(normal(first)) == normal(first) or "'" in first


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=3))
def test_runs_are_found_where_they_are(hay: list[str], needle: list[str]) -> None:
    places = find_run(needle, hay)
    expected = [i for i in range(len(hay)) if needle and hay[i : i + len(needle)] == needle]
    assert places == expected


def test_jaccard_of_nothing() -> None:
    assert jaccard([], []) == 1.0
    assert jaccard(["a"], []) == 0.0
