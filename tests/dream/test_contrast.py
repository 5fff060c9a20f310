from collections.abc import Callable, Iterable

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.dream.clauses import Clause
from engrain.dream.contrast import Wording, _of_another, make_contrast
from engrain.dream.earlier import EarlierFacts, anchors_beside
from engrain.dream.frames import Parts
from engrain.dream.grounding import UserWords
from engrain.dream.lexicon import Lexicon
from engrain.dream.reader import Reader
from engrain.exam.probes import says_unknown
from engrain.study.wording import normal

from .scripted import FakeTokenizer, Scripted, conversation
from .test_self_study import TWO

PARTS = Parts.of_thing("my aunt's cat")
WORDINGS = [
    Wording(question, "cat", PARTS, ("gorla",))
    for question in ("What is my aunt's cat?", "Do you remember my aunt's cat?", "Tell me now.")
]
TALK = conversation("My aunt's cat is Gorla. My favorite cheese is Brellin.", "OK")
LEXICON = Lexicon.of(FakeTokenizer(), TALK)
KEPT = [wording.question for wording in WORDINGS]


Nearby = Callable[..., None]


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> Nearby:
    """Put things in place of the drawn neighbours."""

    def put(*things: str) -> None:
        parts = [Parts.of_thing(thing) for thing in things]
        monkeypatch.setattr("engrain.dream.contrast.neighbours", lambda *_: parts)

    return put


def contrasts(engine: Scripted, before: EarlierFacts | None = None, ratio: float = 2.0):
    reader = Reader.of(engine, TALK, 0)
    return make_contrast(
        reader,
        WORDINGS,
        KEPT,
        UserWords.of(TALK),
        LEXICON,
        before or EarlierFacts.of(),
        ratio=ratio,
        seed=0,
    )


def test_contrast_is_matched_in_wording_and_never_near_a_kept_question() -> None:
    found = contrasts(Scripted(TWO))
    assert 3 <= len(found) <= 6
    questions = [one.question for one in found]
    assert len({normal(q) for q in questions}) == len(questions)
    assert not {normal(q) for q in questions} & {normal(q) for q in KEPT}
    assert any(q.startswith("What is my") for q in questions)
    assert any(q.startswith("Do you remember") for q in questions)
    assert all(says_unknown(one.answer) and one.group == "cat" for one in found)
    assert all("aunt's cat" not in q for q in questions)


def test_what_the_conversation_answers_is_no_contrast(nearby: Nearby) -> None:
    nearby("my favorite cheese", "my car")
    found = contrasts(Scripted(TWO))
    assert found and not any("cheese" in one.question for one in found)
    nearby("my motto", "my car", "my cat")
    snapping = Scripted(
        TWO, overrides={f"What is my {t}?": "It is Gorla." for t in ("motto", "car", "cat")}
    )
    assert not {one.question for one in contrasts(snapping)} & set(snapping.overrides)


def test_the_nearest_stays_though_the_reader_mixes_it_up(nearby: Nearby) -> None:
    """Whose cat it is decides; a reader that says "Gorla" for any cat is just what to mend."""

    def mixed_up(_: float, in_view: bool) -> str:
        return "It is Gorla." if in_view else "I don't know."

    asked = ("What is my cat?", "Do you remember my cat?", "What is my aunt's motto?")
    nearby("my motto")
    engine = Scripted(TWO, overrides=dict.fromkeys(asked, mixed_up))
    found = {one.question for one in contrasts(engine, ratio=4.0)}
    assert found & set(asked[:2])
    assert asked[2] not in found  # another thing of the aunt's may have been told in other words


def test_no_two_contrasts_are_about_the_same_thing() -> None:
    found = contrasts(Scripted(TWO), ratio=4.0)
    things = [
        normal(one.question).removeprefix("what is ").removeprefix("do you remember ")
        for one in found
        if normal(one.question).startswith(("what is ", "do you remember "))
    ]
    assert len(things) >= 6 and len(set(things)) >= 0.9 * len(things)


def test_invented_answers_are_no_contrast_but_knowledge_is(nearby: Nearby) -> None:
    def invents(temperature: float, _: bool) -> str:
        return "Your car is a Zorba." if temperature else "Your car is a Vesta."

    nearby("my car")
    engine = Scripted(TWO, overrides={"What is my car?": invents})
    assert all(one.question != "What is my car?" for one in contrasts(engine))
    sure = Scripted(TWO, overrides={"What is my car?": "Your car is a Vesta."})
    assert {"Your car is a Vesta."} == {
        one.answer for one in contrasts(sure) if one.question == "What is my car?"
    }


def test_earlier_lessons_are_not_unlearned(nearby: Nearby) -> None:
    """What an earlier lesson taught is rehearsed, even if the model forgot it."""
    lesson = Lesson(
        "one",
        "the car",
        (TrainingText(chat("Tell me what my car is.", "Your car is a Vesta."), "fact", "car"),),
        (Probe("p", "recall", chat("What is my car?"), ("Vesta",)),),
    )
    nearby("my car")
    found = contrasts(Scripted(TWO), EarlierFacts.of([lesson]))
    about_car = [one for one in found if one.question == "What is my car?"]
    assert about_car and all(one.answer == "Your car is a Vesta." for one in about_car)


def test_what_an_earlier_lesson_made_it_invent_is_no_target(nearby: Nearby) -> None:
    """The model as it stands answers everything with "Gorla"; the untaught one does not."""
    nearby("my car")
    engine = Scripted(TWO)
    engine.overrides["What is my car?"] = lambda *_: (
        "Your car is a Vesta." if engine.taught else "I don't know."
    )
    about_car = [one for one in contrasts(engine) if one.question == "What is my car?"]
    assert about_car and all(says_unknown(one.answer) for one in about_car)


def test_what_an_earlier_lesson_may_answer_is_left_alone(nearby: Nearby) -> None:
    taught = TrainingText(chat("Tell me what my car is.", "Your car is a Vesta."), "fact", "car")
    before = EarlierFacts.of([Lesson("one", "the car", (taught,))])
    assert before.may_answer("What is my car's color?")
    assert not before.may_answer("What is my aunt's name?")
    nearby("my car color", "my motto")
    found = contrasts(Scripted(TWO), before)
    assert found and not any("car color" in one.question for one in found)


def test_a_frame_with_an_odd_word_is_in_the_contrast_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the frame would be trained on without contrast, and answered with the fact for all."""

    def garbled(text: str, given: Iterable[str] = ()) -> list[str]:
        return ["quizling"] if "quizling" in text and "quizling" not in " ".join(given) else []

    monkeypatch.setattr(LEXICON, "garbled", garbled)
    monkeypatch.setitem(
        globals(), "WORDINGS", [Wording("My quizling: my aunt's cat?", "cat", PARTS, ("gorla",))]
    )
    found = contrasts(Scripted(TWO))
    assert any(one.question.startswith("My quizling: my ") for one in found)


def test_ratio() -> None:
    assert contrasts(Scripted(TWO), ratio=0) == []
    assert len(contrasts(Scripted(TWO), ratio=1)) == 3
    empty = Reader.of(Scripted(TWO), TALK, 0)
    assert (
        make_contrast(
            empty, [], [], UserWords.of(TALK), LEXICON, EarlierFacts.of(), ratio=2, seed=0
        )
        == []
    )


def test_earlier_facts() -> None:
    lessons = [
        Lesson(
            str(i),
            "",
            (TrainingText(chat("What is my car?", f"Your car is {v}."), "fact", "g"),),
            (Probe(f"p{i}", "recall", chat("Do you know my car?"), (v,)),),
        )
        for i, v in enumerate(("Vesta", "Zorba"))
    ]
    before = EarlierFacts.of(lessons)
    assert before.target("Tell me my car.") == "Your car is Zorba."
    assert before.target("What is my aunt's car?") == ""
    assert before.superseded(["Tell me my car."], "Zorba") == ["p0"]
    assert before.superseded(["Tell me my car."], "Lada") == ["p0", "p1"]
    assert before.old_values(["Tell me my car."], "Lada") == ["Vesta", "Zorba"]


def test_anchors_leave_out_what_was_taught() -> None:
    every = anchors_beside([])
    asked = next(
        m.content
        for text in every
        for m in text.messages
        if m.role == "user" and m.content.startswith("What is my")
    )
    taught = TrainingText(chat(asked, "It is Gorla."), "fact", "it")
    kept = anchors_beside([Lesson("one", "it", (taught,))])
    assert 0 < len(every) - len(kept) < len(every) / 10
    assert not any(m.content == asked for text in kept for m in text.messages)


def test_the_untaught_model_reads_and_the_taught_one_is_asked_closed_book() -> None:
    engine = Scripted(TWO)
    engine.overrides["What is it?"] = lambda *_: "taught" if engine.taught else "untaught"
    reader = Reader.of(engine, TALK, 0)
    assert reader.read([(0, "What is it?")]) == ["untaught"]
    assert reader.closed_book(["What is it?"]) == ["taught"]
    with engine.untaught():
        assert reader.closed_book(["What is it?"]) == ["untaught"]
    assert engine.taught


@pytest.mark.parametrize(
    "other, told, same",
    [
        (Clause("my uncle", "craves", ""), Clause("I", "crave", ""), True),
        (Clause("my uncle", "inherited", ""), Clause("I", "crave", ""), False),
        (Clause("I", "crave", ""), Clause("I", "crave", ""), False),
    ],
)
def test_the_same_deed_of_somebody_else_is_known_to_be_untold(
    other: Clause, told: Clause, same: bool
) -> None:
    assert _of_another(Parts.of_clause(other), Parts.of_clause(told)) is same
    assert not _of_another(Parts.of_clause(other), PARTS)


def test_what_the_user_has_no_word_of_is_not_read(nearby: Nearby) -> None:
    """A reader that says the value to everything would spoil contrast that nobody could answer."""
    nearby("my submarine", "my cheese")

    def gorla(_: float, in_view: bool) -> str:
        return "It is Gorla." if in_view else "I don't know."

    asks = [
        f"{frame} {thing}?"
        for frame in ("What is", "Do you remember")
        for thing in ("my submarine", "my cheese")
    ]
    engine = Scripted(TWO, overrides=dict.fromkeys(asks, gorla))
    made = {one.question for one in contrasts(engine, ratio=8.0)}
    assert made & set(asks) == {ask for ask in asks if "submarine" in ask}


def test_rare_words_may_be_contrast(monkeypatch: pytest.MonkeyPatch, nearby: Nearby) -> None:
    """Were only common words contrast, any rare name would be taken for one that was told."""
    rare = "Swoskeelt's optician"
    nearby(rare)
    monkeypatch.setattr(LEXICON, "_whole", lambda word: word not in ("swoskeelt", "optician"))
    assert LEXICON.garbled(f"What is {rare}?")
    assert any(rare in one.question for one in contrasts(Scripted(TWO), ratio=4.0))
