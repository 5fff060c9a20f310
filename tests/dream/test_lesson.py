import json

import pytest

from engrain.data.facts import Attribute, Fact, FactSampler, Owner
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.dream import lesson as module
from engrain.dream.frames import Parts
from engrain.dream.lesson import make_lesson
from engrain.errors import NothingToLearnError
from engrain.study.wording import normal

from .scripted import Scripted, conversation
from .test_self_study import AUNT, CAT, TWO, told

TALK = conversation("My aunt's cat is Gorla. My favorite cheese is Brellin.", "OK")


def test_one_conversation() -> None:
    preview = make_lesson(Scripted(TWO), [TALK], name="first")
    lesson = preview.lesson
    assert lesson.id == "first"
    assert lesson.sources == (TALK.digest,)
    assert lesson.conversations == (TALK,)
    assert lesson.title == "my aunt's cat, my favorite cheese"
    assert {fact.value for fact in preview.facts} == {"Gorla", "Brellin"}
    assert all(fact.signal > module.WORTH_LEARNING for fact in preview.facts)
    assert preview.probes == len(lesson.probes) == 4
    assert preview.texts["fact"] == sum(text.kind == "fact" for text in lesson.texts)
    assert json.loads(json.dumps(preview.to_dict()))["lesson"]["digest"] == lesson.digest


def test_id_comes_from_the_content_if_not_given() -> None:
    one, two = (make_lesson(Scripted(TWO), [TALK]).lesson for _ in range(2))
    assert one == two and one.id == f"lesson-{one.digest[:12]}"


def test_secrets_never_reach_the_lesson() -> None:
    talk = conversation(
        "My password is hunter22.", "Noted: hunter22.", "My aunt's cat is Gorla.", "OK"
    )
    preview = make_lesson(Scripted(TWO), [talk])
    everything = json.dumps(
        [preview.to_dict(), [t.to_dict() for t in preview.lesson.texts], repr(preview)]
    )
    assert "hunter22" not in everything
    assert "hunter22" not in str(preview.lesson.conversations)
    assert preview.lesson.sources == (talk.digest,)
    assert [m["reason"] for m in preview.messages] == [
        "it holds a secret: password",
        "it repeats a secret",
    ]


def test_nothing_to_learn_is_previewed_and_then_an_error() -> None:
    for talk in (conversation("Hello!", "Hi."), conversation("My password is hunter22.", "ok")):
        preview = make_lesson(Scripted(), [talk])
        assert preview.to_dict()["lesson"] is None
        with pytest.raises(NothingToLearnError) as caught:
            _ = preview.lesson
        assert caught.value.remedy and "hunter22" not in str(caught.value)
    preview = make_lesson(Scripted(), [conversation("My password is hunter22.", "ok")])
    assert preview.messages[-1]["reason"] == module.NO_USER


def test_facts_without_a_signal_are_left_out() -> None:
    preview = make_lesson(Scripted(TWO), [TALK], threshold=1e9)
    assert preview.facts == () and preview.probes == 0
    assert set(preview.reasons()) >= {module.LOW_SIGNAL}


def test_later_conversation_holds() -> None:
    first = conversation("My aunt's cat is Gorla. My favorite cheese is Brellin.", "OK")
    second = conversation("By the way, my aunt's cat is Zorba.", "OK")
    engine = Scripted([*TWO, Fact(AUNT, CAT, "Zorba")])
    preview = make_lesson(engine, [first, second])
    assert {fact.value for fact in preview.facts} == {"Brellin", "Zorba"}
    assert module.NEWER in preview.reasons()
    lesson = preview.lesson
    assert all("Gorla" not in text.target for text in lesson.texts if text.kind == "fact")
    assert not any("Gorla" in probe.answers for probe in lesson.probes)
    assert lesson.sources == (first.digest, second.digest)


def test_contrast_of_one_conversation_asks_nothing_that_another_taught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = conversation("My aunt's cat is Gorla.", "OK")
    second = conversation("My favorite cheese is Brellin.", "OK")
    near = [Parts.of_thing(thing) for thing in ("my favorite cheese", "my aunt's cat", "my car")]
    monkeypatch.setattr("engrain.dream.contrast.neighbours", lambda *_: near)
    lesson = make_lesson(Scripted(TWO), [first, second]).lesson
    taught = {normal(t.question) for t in lesson.texts if t.kind == "fact"}
    taught |= {normal(probe.messages[-1].content) for probe in lesson.probes}
    contrast = {normal(t.question) for t in lesson.texts if t.kind == "contrast"}
    assert not taught & contrast
    assert len({text.group for text in lesson.texts}) == 2


def test_correction_of_an_earlier_lesson() -> None:
    old = make_lesson(Scripted(TWO), [TALK], name="old").lesson
    changed = Fact(AUNT, CAT, "Zorba")
    talk = conversation("An update: my aunt's cat is Zorba these days.", "OK")
    preview = make_lesson(Scripted([changed], known=TWO), [talk], earlier=[old], name="new")
    cat = {p.id for p in old.probes if p.answers == ("Gorla",)}
    assert set(preview.supersedes) == cat
    assert all(probe.not_answers == ("Gorla",) for probe in preview.lesson.probes)
    assert preview.lesson.facts()[0].target == "Your aunt's cat is Zorba."


def test_examples_alone_and_beside_a_conversation() -> None:
    examples = [
        TrainingText(chat(f"Question {i}?", f"Answer number {i}."), "explicit", f"f:{i}")
        for i in range(6)
    ]
    secret = TrainingText(chat("Key?", "sk-" + "a1" * 16), "explicit", "f:9")
    preview = make_lesson(Scripted(), [], explicit=[*examples, secret])
    assert preview.texts == {"explicit": 5} and preview.probes == 1
    assert preview.title.startswith("6 examples")
    assert [entry.where for entry in preview.examples] == ["f:9"]
    both = make_lesson(Scripted(TWO), [TALK], explicit=examples)
    assert both.texts["explicit"] == 5 and both.texts["fact"] > 0


def test_long_titles_are_shortened() -> None:
    sampler = FactSampler(1)
    facts = [sampler.fact() for _ in range(6)]
    title = make_lesson(Scripted(facts), [told(facts)]).title
    assert len(title) <= module.TITLE_LENGTH and title.endswith("more")
    assert make_lesson(Scripted(), [conversation("Hello there!", "Hi.")]).title == "Hello there!"
    assert make_lesson(Scripted(TWO), [TALK], title="Mine").lesson.title == "Mine"


def test_owner_without_name_is_the_user() -> None:
    fact = Fact(Owner("", "self", "self"), Attribute("motto", "phrase"), "steady lantern")
    lesson: Lesson = make_lesson(Scripted([fact]), [told([fact])]).lesson
    assert {probe.answers for probe in lesson.probes} == {("steady lantern",)}


def test_contrast_of_earlier_lessons_holds_until_it_is_told() -> None:
    from engrain.data.lessons import Lesson, TrainingText, chat
    from engrain.dream.earlier import still_untold

    def contrast(thing: str) -> TrainingText:
        return TrainingText(chat(f"What is my {thing}?", f"I don't know your {thing}."), "contrast")

    earlier = [Lesson("a", "", (contrast("lamp"), contrast("drum"), contrast("kettle")))]
    new = [TrainingText(chat("What is my drum?", "Your drum is red."), "fact", "my drum: red")]
    kept = still_untold(earlier, new, "My drum is red. My kettle is new.", count=9, seed=0)
    assert [text.question for text in kept] == ["What is my lamp?"]
    assert still_untold(earlier, new, "", count=1, seed=0) != []
