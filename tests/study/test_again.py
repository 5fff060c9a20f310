"""Fresh wordings for a second round: of the facts asked for, never a question that is known."""

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Conversation
from engrain.study.again import FRESH, asked_already, more_wordings
from engrain.study.checks import shape
from engrain.study.lesson import WISHED
from tests.study.test_study import TOLD, Scripted

ULM = "Wohin fahren wir am Freitag: Ulm"
RHYMES = f"{WISHED}Bitte antworte immer in Reimen."
TARGET = "Ihr fahrt nach Ulm."


def lesson():
    texts = [TrainingText(chat(q, TARGET), "fact", ULM) for q in ("Wohin fahren wir?", "Wohin?")]
    texts.append(
        TrainingText(chat("Wie ist Ulm?", "Ulm, das ist so: mal hell, mal roh."), group=RHYMES)
    )
    probes = (
        Probe("p", "paraphrase", chat("Wohin geht die Reise?"), ("Ulm",), group=ULM),
        Probe("n", "norm", chat("Wie spät ist es?"), ("so:",), group=RHYMES),
    )
    return Lesson("l1", "", tuple(texts), probes)


def fresh(lists, *groups, told=TOLD, engine=None, **how):
    engine = engine or Scripted(lists)
    found = more_wordings(engine, [Conversation(told)], lesson(), groups, **how)
    assert not {shape(text.question) for text in found} & asked_already(lesson())
    return found


def test_what_passes_the_round_trip_and_is_new_is_given():
    lists = {
        "Other ways": "Wohin geht die Reise?\nWohin reisen wir?\nWOHIN FAHREN WIR\nWann ist Ostern?"
    }
    (text,) = fresh(lists, ULM)
    assert (text.question, text.target, text.kind, text.group) == (
        "Wohin reisen wir?",
        TARGET,
        "fact",
        ULM,
    )


def test_a_probe_is_never_given_however_it_is_written():
    assert fresh({"Other ways": "wohin geht  die Reise ...\nWohin geht die Reise!"}, ULM) == []


def test_no_more_than_a_few_of_a_fact():
    lists = {"Other ways": "\n".join(f"Wohin im Fall {i}?" for i in range(3 * FRESH))}
    assert len(fresh(lists, ULM)) == FRESH


def test_only_the_facts_that_are_asked_for():
    lists = {"Other ways": "Wohin reisen wir?"}
    assert fresh(lists, "another fact: x") == [] and fresh(lists) == []
    engine = Scripted(lists)
    fresh(lists, ULM, told=chat("Hallo, wie geht es?", "Gut."), engine=engine)
    assert not engine.asked, "the conversation does not tell it"


def test_a_wish_gets_further_requests_that_show_its_mark():
    class Rhyming(Scripted):
        def _answer(self, prompt):
            if len(prompt) > 1 and prompt[-1].content.startswith("Wie"):
                return "Kein Reim." if "heiß" in prompt[-1].content else "Das ist so: ein Reim."
            return super()._answer(prompt)

    lists = {"Requests": "Wie alt bist du? | x\nWie heiß ist Blei? | y\nWie spät ist es? | z"}
    found = fresh(lists, RHYMES, engine=Rhyming(lists))
    assert [(t.question, t.target, t.group) for t in found] == [
        ("Wie alt bist du?", "Das ist so: ein Reim.", RHYMES)
    ]


def test_secrets_are_not_read_again():
    engine = Scripted({"Other ways": "Wohin reisen wir?"})
    told = chat("Mein Passwort ist hunter2-Zz9!, und wir fahren nach Ulm.", "Gut.")
    fresh(None, ULM, told=told, engine=engine, effort="high")
    assert not engine.asked, "the message is left out as a whole"
    told = chat("Mein Boot ist aus Holz, und wir fahren nach Ulm.", "Gut.")
    fresh(None, ULM, told=told, engine=engine, effort="high")
    assert any("nach Ulm" in question for question in engine.asked)
