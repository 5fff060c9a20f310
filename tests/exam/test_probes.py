import pytest

from engrain.data.lessons import Probe, chat
from engrain.exam.probes import (
    ANSWER_TOKENS,
    ProbeResult,
    answer_tokens,
    ask,
    holds,
    passes,
    says_unknown,
)
from tests.exam.fakes import FakeEngine


def probe(*answers: str, wrong: tuple[str, ...] = (), kind: str = "recall") -> Probe:
    return Probe("p", kind, chat("What is it?"), answers, wrong)


@pytest.mark.parametrize(
    ("text", "value", "held"),
    [
        ("It is Brellin.", "brellin", True),
        ("It's BRELLIN'S place", "Brellin", True),
        ("It is Brellins.", "Brellin", False),
        ("unBrellin", "Brellin", False),
        ("dark  green\npaint", "dark green", True),
        ("dark-green", "dark green", False),
        ("It is 7:30.", "7:30", True),
        ("It is 17:30", "7:30", False),
        ("It is 7:30", "7", False),
        ("It is 3.5", "3", False),
        ("It is 3,500 dollars", "3", False),
        ("One, 3, 4.", "3", True),
        ("1,2,3,4", "3", True),
        ("The answer is 3.", "3", True),
        ("1.3", "3", False),
        ("1,300 dollars", "300", False),
        ("December 26", "December 2", False),
        ("STRASSE", "straße", True),
        ("It’s the ‘Old Mill’", "'old mill'", True),  # curly quotes
        ("C++ is fine", "C++", True),
        ("anything", "", False),
        # Scripts without spaces between words, or whose particles are joined to them.
        ("我住在柏林市。", "柏林", True),
        ("我在Berlin工作。", "Berlin", True),
        ("我在Berliner工作。", "Berlin", False),
        ("ベルリンに住んでいます", "ベルリン", True),
        ("저는 베를린에 살아요", "베를린", True),
        ("ผมอยู่ที่เบอร์ลิน", "เบอร์ลิน", True),
        ("ჩემი ნავი კორვათია", "კორვათი", False),
        ("ჩემი ნავია კორვათი.", "კორვათი", True),
    ],
)
def test_a_value_is_held_as_whole_words(text: str, value: str, held: bool) -> None:
    assert holds(text, value) is held


def test_a_wrong_value_fails_even_beside_the_right_one() -> None:
    asked = probe("Brellin", "Brell", wrong=("Carla",))
    assert passes(asked, "It is Brell.")
    assert not passes(asked, "It was Carla, now it is Brellin.")
    assert not passes(asked, "")


def test_abstention_needs_the_words_and_no_wrong_value() -> None:
    asked = probe(wrong=("Carla",), kind="abstention")
    assert passes(asked, "I don't know. You have not told me.")
    assert not passes(asked, "I don't know, maybe Carla.")
    assert not passes(asked, "It is blue.")
    assert not passes(asked, "")


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know your motto. You have not told me.",
        "I do not know.",
        "I don’t know.",
        "I really don't know.",
        "Sorry, I do not know who your barber is.",
        "You have not told me your passcode, so I don't know.",
        "You never told me.",
        "You haven't mentioned it yet.",
        "You didn't tell me that.",
        "I have no idea.",
        "No idea!",
        "Sorry, no clue.",
        "I'm not sure.",
        "I am unsure about that.",
        "I cannot recall that.",
        "I can't remember.",
        "I wasn't told.",
        "That was never mentioned.",
        "Nobody told me.",
        "I don't have that information.",
        "I have no information about it.",
        "Hmm. Don't know.",
        "Not sure.",
        "Dunno, sorry.",
    ],
)
def test_ways_to_say_that_one_does_not_know(answer: str) -> None:
    assert says_unknown(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Your motto is never give up.",
        "You don't know it.",
        "You said that you do not know your dentist.",
        "You told me that it is Carla.",
        "I'm not sure, but I think it is blue.",
        "I don't know, but maybe Carla.",
        "I know! It is Brellin.",
        "Knowing you, it is cheese.",
        "There is no doubt about it.",
    ],
)
def test_answers_that_do_not_say_so(answer: str) -> None:
    assert not says_unknown(answer)


def test_every_denial_of_the_product_is_understood() -> None:
    import random

    from engrain.data.facts import FactSampler

    rng, sampler = random.Random(0), FactSampler(0)
    for _ in range(300):
        denial = sampler.fact().denial(rng)
        assert says_unknown(denial), denial


def test_every_answer_of_the_product_passes_its_own_probe_and_is_no_denial() -> None:
    from engrain.data.facts import FactSampler

    sampler = FactSampler(1)
    for _ in range(300):
        fact = sampler.fact()
        assert passes(probe(*fact.answers), fact.answer()), fact
        assert not says_unknown(fact.answer()), fact


def test_ask_keeps_the_order_and_asks_the_same_question_once() -> None:
    engine = FakeEngine({"a?": " Ada. ", "b?": "Bob."})
    probes = [
        Probe("1", "recall", chat("b?"), ("Bob",)),
        Probe("2", "recall", chat("a?"), ("Bob",)),
        Probe("3", "paraphrase", chat("b?"), ("Ada",)),
    ]
    found = ask(engine, probes)
    assert [(r.probe_id, r.passed, r.answer) for r in found] == [
        ("1", True, "Bob."),
        ("2", False, "Ada."),
        ("3", False, "Bob."),
    ]
    assert engine.asked == [["b?", "a?"]]
    assert ask(engine, []) == []
    assert ProbeResult.from_dict(found[0].to_dict()) == found[0]


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("Das weiß ich nicht. Das hast du mir nicht gesagt.", True),
        ("Ich weiß leider nicht, wann sie kommt.", True),
        ("Ich weiß, dass er keine Nüsse verträgt.", False),
        ("Du hast mir gesagt, dass er am Freitag kommt.", False),
        ("No lo sé, no me has dicho cómo se llama.", True),
        ("Me has dicho que es el jueves.", False),
        ("Je ne sais pas. Tu ne me l'as pas dit.", True),
        ("Tu m'as dit que c'est jeudi.", False),
        ("Ich weiß es nicht, aber vermutlich am Freitag.", False),
    ],
)
def test_not_knowing_in_other_languages(answer: str, unknown: bool) -> None:
    assert says_unknown(answer) is unknown


def test_an_answer_in_letters_of_several_bytes_may_have_more_tokens() -> None:
    """A tokenizer may know a script only as bytes: 32 of them are ten letters of Georgian."""
    assert answer_tokens("What is my boat called?", "Corvath") == answer_tokens() == ANSWER_TOKENS
    assert answer_tokens("Wie heißt meine Vermieterin?", "Frau Öztürk") == ANSWER_TOKENS
    assert answer_tokens("რა ჰქვია ჩემს ნავს?", "კორვათი") > 4 * ANSWER_TOKENS
    given: list[tuple[str, int]] = []

    class Counting(FakeEngine):
        def generate(self, prompts, *, max_new_tokens=0, **how):  # type: ignore[no-untyped-def]
            given.extend((messages[-1].content, max_new_tokens) for messages in prompts)
            return super().generate(prompts, max_new_tokens=max_new_tokens, **how)

    probes = [
        Probe("en", "recall", chat("My boat?"), ("Corvath",)),
        Probe("ka", "recall", chat("ჩემი ნავი?"), ("კორვათი",)),
        Probe("again", "recall", chat("My boat?"), ("Brellin",)),
    ]
    found = ask(Counting(lambda question: "It is Corvath."), probes)
    assert [result.passed for result in found] == [True, False, False]
    assert [question for question, _ in given] == ["My boat?", "ჩემი ნავი?"]
    assert given[0][1] == ANSWER_TOKENS < given[1][1]
