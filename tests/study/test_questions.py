"""Facts: which claims are one thing, and whose wordings are whose."""

from engrain.study.checks import Checked
from engrain.study.questions import Fact, group, merge


def asked(question: str, value: str, target: str, message: int = 0) -> Checked:
    return Checked(question, value, target, message, 1.0)


LADY = "Deine Vermieterin ist Frau Okafor."
TITLE = Fact([asked("Wer ist meine Vermieterin?", "Frau", LADY)])
NAME = Fact([asked("Wie heißt meine Vermieterin?", "Okafor", LADY)])


def test_what_is_only_ever_answered_together_is_one_thing() -> None:
    (fact,) = merge([TITLE, NAME])
    assert fact.value == "Okafor"
    assert {wording.value for wording in fact.wordings} == {"Okafor"}
    assert [wording.question for wording in fact.wordings] == [
        "Wer ist meine Vermieterin?",
        "Wie heißt meine Vermieterin?",
    ]


def test_things_that_ask_for_one_another_stay_two() -> None:
    who = Fact([asked("Wer trägt das Klavier?", "Tomasz", "Tomasz trägt das Klavier.")])
    what = Fact([asked("Was trägt Tomasz?", "Klavier", "Tomasz trägt das Klavier.")])
    assert merge([who, what]) == [who, what]


def test_things_of_two_messages_stay_two() -> None:
    elsewhere = Fact([asked("Wie heißt meine Vermieterin?", "Okafor", LADY, 2)])
    assert len(merge([TITLE, elsewhere])) == 2


def test_one_answer_that_goes_without_the_other_keeps_them_apart() -> None:
    alone = asked("Vermieterin, Nachname?", "Okafor", "Okafor.")
    assert len(merge([TITLE, Fact([*NAME.wordings, alone])])) == 2


def test_claims_whose_values_hold_one_another_are_one_thing_in_its_shortest_form() -> None:
    pair = [
        asked("Wann?", "am Freitag", "Am Freitag."),
        asked("Welcher Tag?", "Freitag", "Am Freitag."),
    ]
    (fact,) = group(pair)
    assert fact.value == "Freitag" and len(fact.wordings) == 2
    assert len(group([pair[0], asked("Wann?", "Freitag", "Freitag.", 2)])) == 2
