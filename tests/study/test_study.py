"""Self-study on a scripted model: what passes the round trip is learned, nothing else is."""

import re
from types import SimpleNamespace

import pytest

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.data.messages import Conversation
from engrain.errors import ConfigError, NothingToLearnError, UnknownNameError, UsageError
from engrain.model.testing import byte_tokenizer
from engrain.study import checks, requests
from engrain.study.lesson import EFFORTS, make_lesson
from engrain.study.reader import Reader, Room, in_context, windows
from engrain.study.requests import WORKED
from engrain.study.writer import EndpointWriter, ModelWriter

TOLD = chat(
    "Wir fahren am Freitag nach Ulm, Jule bringt Kuchen. Hätte ich ein Boot, hieße es Klabauter.",
    "Viel Spaß!",
    "Bitte antworte immer in Reimen.",
    "Gern, ich fang gleich damit an.",
)
UNKNOWN = "I don't know. You haven't told me."
NEAR = ("Wohin fahren wir am Montag?", "Wohin geht der Ausflug am Montag?")
MISREAD = "Wohin fahren wir am Reisetag?"
"""It is told, and believed; the reader only fails to find it."""


class Scripted:
    """A model that reads by a table and writes by another; it believes all but the boat."""

    def __init__(self, lists=None, *, known=(), foreign=(), mark="Freitag nach Ulm"):
        self.mark = mark
        self.answers = {"Wohin": "Ihr fahrt nach Ulm.", "Boot": "Es heißt Klabauter."}
        self.loaded = SimpleNamespace(tokenizer=byte_tokenizer(), max_length=4096)
        self.lists = lists or {
            "Notes": "Ulm | Wohin fahren wir am Freitag?\nKlabauter | Wie heißt mein Boot?",
            "Other ways": "Wohin geht die Reise am Freitag?\nWohin geht der Ausflug am Freitag?\n"
            "Wohin reisen wir?\nWann ist Ostern?",
        }
        self.known, self.foreign = known, foreign
        self.asked = []
        self.prompts = []

    def generate(self, prompts, **how):
        self.prompts += prompts
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt):
        question = prompt[-1].content
        self.asked.append(question)
        for begins, text in self.lists.items():
            if question.startswith(begins):
                return text
        if len(prompt) == 1:
            return UNKNOWN
        if question in (*NEAR, MISREAD):
            return UNKNOWN
        return next((a for key, a in self.answers.items() if key in question), "Das ist Jule.")

    def surprise(self, text):
        return []

    def expected(self, prompt, texts, *, most):
        """Of all words only the day is likelier with the chat in view."""
        seen = self.mark in prompt
        others = [" Montag", " Reisetag", " Ostertag", " Ulm"] if seen else [" Montag", "tag"]
        return [
            [
                (
                    at.start(),
                    at.end(),
                    1.0 if seen else 9.0 if "Freitag" in at.group() else 2.0,
                    others,
                )
                for at in re.finditer(r"\s?\w+|\W", text)
            ]
            for text in texts
        ]

    def log_likelihood(self, pairs, **how):
        found = []
        for prompt, text in pairs:
            seen = self.mark in prompt
            if text in ("yes", "no"):
                doubted = "| Klabauter" in prompt or any(q in prompt for q in NEAR)
                found.append((0.0 if (text == "no") == doubted else -5.0, 1))
            else:
                gains = not any(word in prompt for word in self.known)
                gains = gains and not any(word in text for word in self.foreign)
                found.append((-1.0 if seen and gains else -9.0, 4))
        return found


def lesson_of(engine, **how):
    return make_lesson(engine, [Conversation(TOLD)], name="l1", **how)


def test_a_claim_becomes_texts_probes_and_near_misses():
    preview = lesson_of(Scripted())
    lesson = preview.lesson
    facts = [text for text in lesson.texts if text.kind == "fact"]
    assert {text.target for text in facts} == {"Ihr fahrt nach Ulm."}
    assert all(len(text.messages) == 2 for text in facts), "the conversation is not in the input"
    held = {probe.messages[-1].content for probe in lesson.probes}
    assert held and not held & {text.question for text in lesson.texts if text.kind == "fact"}
    assert all(probe.answers == ("Ulm",) for probe in lesson.probes)
    near = {text.question: text.target for text in lesson.texts if text.kind == "contrast"}
    assert set(near) == set(NEAR) and MISREAD not in near
    assert set(near.values()) == {UNKNOWN}, "what the reader answers is no near miss"
    reading = [text for text in lesson.texts if text.kind == "reading"]
    assert len(reading) == 1 and "Freitag nach Ulm" in reading[0].messages[0].content


def test_what_is_only_supposed_is_doubted_and_never_taught():
    preview = lesson_of(Scripted())
    assert ("Wie heißt mein Boot?", checks.DOUBTED) in preview.questions
    assert all("Klabauter" not in text.target for text in preview.lesson.texts)


def test_a_wording_that_asks_for_something_else_is_dropped():
    assert ("Wann ist Ostern?", checks.NOT_READ) in lesson_of(Scripted()).questions


@pytest.mark.parametrize("best", ["Wohin reisen wir?", "Wohin fahren wir am Freitag?"])
def test_the_likeliest_question_names_the_fact_and_is_trained(best):
    class WellPut(Scripted):
        def log_likelihood(self, pairs, **how):
            found = super().log_likelihood(pairs, **how)
            return [
                (-0.5, 4) if text == best and self.mark in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    lesson = lesson_of(WellPut()).lesson
    assert list(lesson.groups()) == [f"{best.rstrip('?')}: Ulm"]
    assert lesson.texts[0].question == best


def test_no_more_questions_are_read_than_are_wanted_and_the_likeliest_of_them():
    ways = [f"Wohin im Fall {i}?" for i in range(30)]

    class WellPut(Scripted):
        def log_likelihood(self, pairs, **how):
            found = super().log_likelihood(pairs, **how)
            likely = {question: -0.1 * i for i, question in enumerate(reversed(ways))}
            return [
                (likely[text], 4) if text in likely and self.mark in prompt else one
                for (prompt, text), one in zip(pairs, found, strict=True)
            ]

    engine = WellPut()
    engine.lists["Other ways"] = "\n".join(ways)
    lesson_of(engine)
    read = {question for question in engine.asked if question in ways}
    wanted = EFFORTS["normal"].wordings - 1
    assert read == set(ways[-(wanted + wanted // 2) :])


ELSEWHERE = "Wohin reist der Reim?"


class OfTwoMessages(Scripted):
    """It expects a question about a thing of another message only with that message in view."""

    def __init__(self, *owing):
        super().__init__()
        self.lists["Other ways"] = (
            f"Wohin geht die Reise am Freitag?\n{ELSEWHERE}\nWohin reisen wir?"
        )
        self.owing = owing or (ELSEWHERE,)

    def log_likelihood(self, pairs, **how):
        found = super().log_likelihood(pairs, **how)
        return [
            (-9.0, 4) if text in self.owing and "Reimen" not in prompt else one
            for (prompt, text), one in zip(pairs, found, strict=True)
        ]


def all_asked(preview):
    asked = {text.question for text in preview.lesson.texts if text.kind == "fact"}
    return asked | {probe.messages[-1].content for probe in preview.lesson.probes}


def test_a_wording_about_a_thing_of_another_message_is_dropped():
    preview = lesson_of(OfTwoMessages())
    assert {"Wohin geht die Reise am Freitag?", "Wohin reisen wir?"} <= all_asked(preview)
    assert ELSEWHERE not in all_asked(preview)
    assert (ELSEWHERE, checks.ELSEWHERE) in preview.questions


def test_what_the_message_alone_answers_is_no_near_miss():
    class Misreads(Scripted):
        def _answer(self, prompt):
            alone = sum(message.role == "user" for message in prompt) == 2
            if prompt[-1].content == NEAR[0] and alone:
                return "Nach Ulm."
            return super()._answer(prompt)

    lesson = lesson_of(Misreads()).lesson
    assert {t.question for t in lesson.texts if t.kind == "contrast"} == {NEAR[1]}


def test_wordings_of_a_message_that_stands_on_others_may_owe_as_much_as_the_first():
    first = "Wohin fahren wir am Freitag?"
    assert ELSEWHERE in all_asked(lesson_of(OfTwoMessages(ELSEWHERE, first)))


def test_what_the_weights_hold_already_is_not_learned_again():
    preview = lesson_of(Scripted(known=("Wohin fahren",)))
    assert ("Wohin fahren wir am Freitag?", checks.KNOWN) in preview.questions
    with pytest.raises(NothingToLearnError, match="hold it already"):
        preview.lesson.facts()


def test_only_the_users_own_words_are_answers():
    lists = {"Notes": "Köln | Wohin fahren wir?", "O": ""}
    preview = lesson_of(Scripted(lists))
    assert not preview.facts and not any(q == "Wohin fahren wir?" for q, _ in preview.questions)


def test_what_an_earlier_lesson_taught_is_corrected_in_its_own_wordings():
    old = Lesson(
        "old",
        "",
        tuple(
            TrainingText(chat(q, "Nach Köln."), "fact", "Wohin fahren wir: Köln")
            for q in ("Wohin fahren wir?", "Wohin geht es?")
        ),
    )
    lesson = lesson_of(Scripted(), earlier=[old]).lesson
    assert lesson.corrects == ("Wohin fahren wir: Köln",)
    assert lesson.supersedes(old.texts[0])
    asked = {t.question for t in lesson.facts()} | {p.messages[-1].content for p in lesson.probes}
    assert {"Wohin fahren wir?", "Wohin geht es?"} <= asked


def test_a_question_that_fits_any_talk_corrects_nothing():
    class Vague(Scripted):
        def log_likelihood(self, pairs, **how):
            found = super().log_likelihood(pairs, **how)
            asked = [text == "Wohin?" and self.mark in prompt for prompt, text in pairs]
            return [(-5.0, 4) if vague else one for vague, one in zip(asked, found, strict=True)]

    old = Lesson("old", "", (TrainingText(chat("Wohin?", "Nach Bonn."), "fact", "Wohin: Bonn"),))
    assert lesson_of(Scripted(), earlier=[old]).lesson.corrects == ("Wohin: Bonn",)
    assert lesson_of(Vague(), earlier=[old]).lesson.corrects == ()


def test_a_question_about_another_thing_is_not_corrected():
    old = Lesson(
        "old", "", (TrainingText(chat(ELSEWHERE, "Nach Bonn."), "fact", f"{ELSEWHERE}: Bonn"),)
    )
    assert lesson_of(Scripted(), earlier=[old]).lesson.corrects == (f"{ELSEWHERE}: Bonn",)
    assert lesson_of(OfTwoMessages(), earlier=[old]).lesson.corrects == ()


def test_nothing_told_is_said_honestly():
    preview = lesson_of(Scripted({"Notes": "none", "Other": ""}))
    with pytest.raises(NothingToLearnError):
        preview.lesson.facts()
    assert len(preview.missed) == 2


def test_an_unknown_effort_is_named():
    with pytest.raises(UnknownNameError, match="'huge'"):
        lesson_of(Scripted(), effort="huge")


def test_a_long_conversation_is_read_in_windows_and_none_is_lost():
    engine = Scripted()
    many = [m for i in range(400) for m in chat(f"Zeile {i}", "Gut.")]
    pieces = list(windows(engine, many))
    assert len(pieces) > 1 and [m for piece in pieces for m in piece] == many
    engine.loaded.max_length = 300
    with pytest.raises(UsageError, match="300 tokens"):
        list(windows(engine, many))


def test_lines_are_read_whatever_stands_before_them():
    text = "1. Who? | Ann\n- Where? | York\nnone\nWho? | Ann\nno bar\n| x"
    assert requests.pairs_of(text) == [("Who?", "Ann"), ("Where?", "York")]
    assert requests.lines_of("None.\n\nA?\nA?") == ["A?"]


def test_the_view_is_in_strict_turns():
    turns = in_context(chat("a", "b", "c"), "d")
    assert [m.role for m in turns] == ["user", "assistant", "user", "assistant", "user"]


def test_the_reader_asks_with_the_conversation_before_the_question():
    engine = Scripted()
    assert Reader(engine, TOLD).answers(["Wohin?"]) == ["Ihr fahrt nach Ulm."]
    assert Reader(engine, ()).answers(["Wohin?"]) == [UNKNOWN]


REQUESTS = ("Notes", "Other ways", "Requests to")


def test_another_model_writes_and_the_one_that_learns_judges():
    reader, other = Scripted({"-": ""}), Scripted()
    other.loaded.max_length = 16384
    writer = ModelWriter(Reader(other, ()), taught=False)
    lesson = lesson_of(reader, writer=writer).lesson
    assert {text.target for text in lesson.facts()} == {"Ihr fahrt nach Ulm."}
    assert other.asked and all(text.startswith(REQUESTS) for text in other.asked)
    assert reader.asked and not any(text.startswith(REQUESTS) for text in reader.asked)
    assert all(prompt[: len(WORKED)] == list(WORKED) for prompt in other.prompts)


def test_a_model_without_lesson_zero_sees_worked_examples_when_it_writes_and_never_when_it_reads():
    engine = Scripted()
    engine.loaded.max_length = 16384
    lesson_of(engine, taught=False)
    for prompt in engine.prompts:
        assert prompt[-1].content.startswith(REQUESTS) == (prompt[0] == WORKED[0])
    plain = Scripted()
    lesson_of(plain)
    assert not any(prompt[0] == WORKED[0] for prompt in plain.prompts)


def test_worked_examples_leave_a_short_context_to_the_conversation():
    engine = Scripted()
    taken = sum(map(Room.of(engine.loaded).size, WORKED))
    engine.loaded.max_length = 384 + 2 * taken
    writer = ModelWriter(Reader(engine, ()), taught=False)
    assert writer.examples == WORKED and writer.room.tokens == taken
    engine.loaded.max_length -= 1
    assert writer.examples == () and writer.room.tokens == 2 * taken - 1


def test_windows_fit_the_writer_too():
    engine = Scripted()
    many = [m for i in range(60) for m in chat(f"Zeile {i}", "Gut.")]
    alone = list(windows(engine, many))
    room = Room(byte_tokenizer(), 200)
    pieces = list(windows(engine, many, room))
    assert len(pieces) > len(alone) and [m for piece in pieces for m in piece] == many
    assert all(sum(map(room.size, piece)) <= 200 for piece in pieces)


@pytest.mark.parametrize("address", ["http://example.org/v1", "https://10.0.0.1", "file:///etc"])
def test_a_writer_is_on_this_machine(address):
    with pytest.raises(ConfigError, match="not on this machine"):
        EndpointWriter(address)


def test_a_writer_that_does_not_answer_is_named():
    writer = EndpointWriter("http://127.0.0.1:9/v1", seconds=2)
    with pytest.raises(UsageError, match="gave no answer"):
        writer.write((), ["x"], temperature=0.0, turn=1)
