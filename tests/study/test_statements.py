"""What can't be asked about is learned in the user's own line, and listed as weak."""

import pytest

from engrain.data.lessons import chat
from engrain.data.messages import Conversation
from engrain.lesson.weak import unexamined
from engrain.study.lesson import STATED, make_lesson
from engrain.study.statements import LONGEST
from tests.study.test_study import Scripted

TOLD = chat(
    "Wir fahren am Freitag nach Ulm, Jule bringt Kuchen.\nHätte ich ein Boot, hieße es Klabauter.",
    "Viel Spaß!",
)
SAID = "Wir fahren am Freitag nach Ulm, Jule bringt Kuchen."


def studied(notes, told=TOLD, **how):
    lists = {"Notes": notes, "Other": "", "Questions": ""}
    engine = Scripted(lists, mark="Viel Spaß!", **how)
    return make_lesson(engine, [Conversation(told)], name="l1")


def stated(preview):
    return [fact for fact in preview.facts if fact.weak == STATED]


def test_a_claim_without_a_question_becomes_the_users_own_line():
    preview = studied("Kuchen | Was bringt Jule?")
    (fact,) = stated(preview)
    assert (fact.value, fact.said, fact.held_out) == ("Kuchen", SAID, ())
    (text,) = preview.lesson.facts()
    assert (text.question, text.target) == ("Wir fahren am Freitag nach Ulm, Jule bringt ...", SAID)
    assert not preview.lesson.probes
    assert unexamined(preview.lesson) == [text.group]
    assert preview.to_dict()["facts"][0]["weak"] == STATED
    assert SAID not in " ".join(preview.missed), "something was learned from its message"
    assert preview.questions, "why it could not be asked is told still"


def test_what_is_told_in_the_middle_is_left_open_there():
    texts = studied("Freitag | Wann ist es?").lesson.facts()
    assert {text.target for text in texts} == {SAID}
    assert [text.question for text in texts] == [
        "Wir fahren am ...",
        "Wir fahren am ... nach Ulm, Jule bringt Kuchen.",
    ]


@pytest.mark.parametrize(
    "said", ["Für Dr. Braun ist am 3. Mai der Kuchen.", "Mrs. Brown brings Kuchen on No. 5."]
)
def test_a_full_stop_within_a_name_or_a_date_ends_nothing(said):
    (text, *_) = studied("Kuchen | Was ist es?", told=chat(said, "Viel Spaß!")).lesson.facts()
    assert text.target == said


def test_what_can_be_asked_about_is_no_statement():
    notes = "Ulm | Wohin fahren wir am Freitag?\nUlm | Was ist dort?"
    preview = studied(notes)
    assert [fact.value for fact in preview.facts] == ["Ulm"] and not stated(preview)


@pytest.mark.parametrize(
    "notes",
    [
        "Klabauter | Wie heißt mein Boot?",
        "Klabauter | Wie heißt mein Boot?\nein Boot | Was hätte ich gern?",
    ],
)
def test_nothing_of_a_line_that_is_supposed(notes):
    assert not studied(notes).facts


def test_what_the_weights_hold_is_no_statement():
    assert not studied("Ulm | Wohin fahren wir am Freitag?", known=("Ulm",)).facts
    # Asked in a way that fails, but completed without the conversation as well.
    assert not studied("Kuchen | Was bringt Jule?", known=("Kuchen",)).facts


def test_a_value_that_is_all_that_was_said_has_nothing_to_complete():
    assert not studied("Ja, Jule | Was ist es?", told=chat("Ja, Jule.", "Viel Spaß!")).facts


def test_a_line_without_an_end_is_too_long():
    long = "Freitag nach Ulm " + "und weiter " * LONGEST
    assert not studied("Freitag | Was ist es?", told=chat(long, "Viel Spaß!")).facts


def test_two_statements_never_correct_each_other():
    one = studied("Kuchen | Was bringt Jule?").lesson
    told = chat("Freitag nach Ulm geht nicht: Jule bringt Brot.", "Viel Spaß!")
    other = studied("Brot | Was bringt Jule?", told=told).lesson
    assert one.facts() and other.facts()
    assert not any(other.supersedes(text) for text in one.facts())
