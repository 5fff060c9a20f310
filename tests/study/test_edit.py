"""A proposed lesson as a text: what is kept, changed, deleted, added, and what can't be read."""

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.errors import UsageError
from engrain.study.edit import from_text, to_text

KEYS, DOG = "keys: Thursday", "dog: Pickle"
LESSON = Lesson(
    "l",
    "two things",
    (
        TrainingText(chat("When are the keys?", "On Thursday."), "fact", KEYS),
        TrainingText(chat("Keys, which day?", "On Thursday."), "fact", KEYS),
        TrainingText(chat("When is the van?", "I don't know."), "contrast", KEYS),
        TrainingText(chat("told", "ok", "When are the keys?", "On Thursday."), "reading", KEYS),
        TrainingText(chat("Whose dog?", "Pickle is Ewa's."), "fact", DOG),
    ),
    (
        Probe("p", "paraphrase", chat("The keys?"), ("Thursday",)),
        Probe("q", "abstention", chat("The piano?"), (), ("Thursday",)),
    ),
)


def test_an_untouched_text_gives_the_lesson_back():
    found = from_text(to_text(LESSON), LESSON)
    assert set(found.texts) == set(LESSON.texts) and found.probes == LESSON.probes
    assert from_text(to_text(found), found) == found


def test_what_is_deleted_is_not_learned_and_takes_its_reading_with_it():
    text = to_text(LESSON).split("[keys")[0] + to_text(LESSON)[to_text(LESSON).index("[dog") :]
    found = from_text(text, LESSON)
    assert {t.group for t in found.texts} == {DOG}


def test_a_changed_answer_and_an_added_question_are_learned():
    text = to_text(LESSON).replace("> On Thursday.", "? Keys when?\n> On Friday.")
    text = text.replace("= Thursday", "= Friday")
    found = from_text(text, LESSON)
    facts = [t for t in found.texts if t.group == KEYS and t.kind == "fact"]
    assert len(facts) == 3 and {t.target for t in facts} == {"On Friday."}
    assert found.probes[0].answers == ("Friday",) and found.probes[0].id != "p"


def test_a_probe_of_what_was_not_told_is_asked_without_an_answer():
    assert "- The piano?\n" in to_text(LESSON)
    found = from_text(to_text(LESSON) + "- The van?\n- Whose cat?\n", LESSON)
    assert found.probes[:2] == LESSON.probes
    added = found.probes[2:]
    assert [p.messages for p in added] == [chat("The van?"), chat("Whose cat?")]
    assert all(p.kind == "abstention" and p.answers == () for p in added)


def test_comments_and_empty_lines_say_nothing():
    assert from_text("# x\n\n" + to_text(LESSON) + "\n# y", LESSON).digest == (
        from_text(to_text(LESSON), LESSON).digest
    )
    assert from_text("# nothing\n", LESSON).facts() == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\n? who", "Line 2 asks something and has no answer"),
        ("[a]\n? who\n- what\n> x", "Line 2 asks"),
        ("[a]\n> x", "Line 2 can't be read"),
        ("hello", "Line 1 can't be read"),
        ("? who\n> x", "before the first"),
        ("[probes]\n? who\n> x", "Line 3 can't be read"),
        ("[probes]\n- who\n= x", "Line 3 can't be read"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text, words):
    with pytest.raises(UsageError, match=words):
        from_text(text, LESSON)
