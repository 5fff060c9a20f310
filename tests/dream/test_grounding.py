import random

import pytest

from engrain.data.facts import FactSampler, told_conversation
from engrain.data.messages import Conversation
from engrain.dream.grounding import Mention, Sentence, UserWords, split_sentences
from engrain.study.wording import key_runs, words

from .scripted import conversation

TALK = conversation(
    "Fun fact: my godmother's favorite cheese is Brellin. I collect pictures of otters. "
    "I am named after my aunt Vela. My roommate adores Dr. Mirvo.",
    "Noted. Is that all?",
    "In truth, my godmother's favorite cheese is Gorla, not Brellin. My dog is called Rolo.",
)


@pytest.mark.parametrize(
    ("question", "value", "surface"),
    [
        ("What is my godmother's favorite cheese?", "gorla", "Gorla"),
        ("What is my favorite cheese?", "gorla", None),  # whose?
        ("What is my sister's favorite cheese?", "gorla", None),
        ("What do I collect?", "pictures of otters", "pictures of otters"),
        ("I forgot who my roommate adores.", "dr mirvo", "Dr. Mirvo"),
        ("Who do I adore?", "dr mirvo", None),
        ("Who am I named after?", "aunt vela", "aunt Vela"),
        ("Who is my dog?", "gorla", None),  # the value of another fact
        ("What is my dog called?", "rolo", "Rolo"),
        ("What is my dog called?", "snoopy", None),  # never said
    ],
)
def test_binding(question: str, value: str, surface: str | None) -> None:
    mention = UserWords.of(TALK).evidence(question, tuple(value.split()))
    assert (mention.surface if mention else None) == surface


def test_only_the_user_counts() -> None:
    said = UserWords.of(conversation("Hi there.", "Your cat is Gorla.", "Oh."))
    assert said.mentions(("gorla",)) == []


def test_pronouns_point_back_and_answers_borrow_the_question() -> None:
    said = UserWords.of(conversation("I have a new parrot. It is called Zorbo.", "OK"))
    mention = said.evidence("What is my parrot called?", ("zorbo",))
    assert mention is not None
    said = UserWords.of(conversation("Hello.", "What is your nickname?", "Zorbo.", "OK"))
    assert said.evidence("What is my nickname?", ("zorbo",)) is not None


def test_retraction_and_recency() -> None:
    said = UserWords.of(TALK)
    assert said.retracted(("brellin",))
    assert not said.retracted(("gorla",))
    assert said.recency(("gorla",)) > said.recency(("brellin",))
    there_and_back = UserWords.of(
        conversation("My cat is Ara.", "OK", "Now my cat is Bo.", "OK", "No, my cat is Ara.")
    )
    assert there_and_back.recency(("ara",)) > there_and_back.recency(("bo",))


@pytest.mark.parametrize("seed", range(40))
def test_corrections_of_the_generator(seed: int) -> None:
    """In every held-out wording of a correction the new value wins over the old one."""
    sampler, rng = FactSampler(seed), random.Random(seed)
    fact = sampler.fact()
    new = sampler.value(fact.relation)
    talk = Conversation.from_messages(told_conversation([fact], rng, [(fact, new)]))
    said = UserWords.of(talk)
    old_run, new_run = tuple(words(fact.value)), tuple(words(new))
    assert said.recency(new_run) > said.recency(old_run)
    assert not said.retracted(new_run)


@pytest.mark.parametrize("seed", range(25))
def test_every_told_fact_is_bound_to_its_own_value(seed: int) -> None:
    sampler, rng = FactSampler(seed), random.Random(seed)
    facts = [sampler.fact() for _ in range(6)]
    said = UserWords.of(Conversation.from_messages(told_conversation(facts, rng)))
    for fact in facts:
        for _ in range(4):
            question = fact.question(rng)
            runs = [r for r in key_runs(fact.answer(), [question]) if said.mentions(r)]
            assert runs and said.evidence(question, runs[0]) is not None, question
            for other in facts:
                if other is not fact:
                    wrong = said.evidence(question, tuple(words(other.value)))
                    assert wrong is None, (question, other.value)


def test_sentences() -> None:
    assert split_sentences("My cat is Gorla, and my motto is Go.") == [
        "My cat is Gorla",
        "my motto is Go.",
    ]
    for one in (
        "My sister and my brother live in Rome.",
        "My boss is rude and my aunt adores him.",
    ):
        assert split_sentences(one) == [one]
    assert split_sentences("I met Dr. Mirvo at 7.30. Really?! Yes\nno") == [
        "I met Dr. Mirvo at 7.30.",
        "Really?!",
        "Yes",
        "no",
    ]


def test_what_something_is_said_of_is_no_value() -> None:
    def told_of(text: str, value: str) -> bool:
        return Mention(Sentence(0, 0, text, frozenset(), frozenset()), value, False).told_of

    assert told_of("Vorn's nail polish is petpask.", "nail polish")
    assert told_of("I think my old cat's name was Gorla.", "name")
    assert not told_of("Vorn's nail polish is petpask.", "petpask")
    assert not told_of("Gorla is my cat.", "Gorla")
    assert not told_of("I live with my aunt.", "aunt")


def test_what_the_user_has_no_word_of_is_unheard() -> None:
    said = UserWords.of(conversation("My aunt's cat is Gorla.", "OK"))
    assert said.unheard("What is my stove?")
    # Whose it is does not count: "my aunt's stove" was not told either.
    assert said.unheard("What is my aunt's stove?")
    assert not said.unheard("What is Vorn's cat?")


@pytest.mark.parametrize(
    "sentence, negated",
    [
        ("Drop Gorla from your notes.", True),
        ("Please delete Gorla.", True),
        ("My cat is Gorla, you can erase Brellin.", False),
        ("I drop Gorla at school.", False),
        ("On Monday I remove Gorla stains.", False),
    ],
)
def test_what_is_to_be_forgotten_is_not_told(sentence: str, negated: bool) -> None:
    [mention] = UserWords.of(conversation(sentence, "OK")).mentions(("gorla",))
    assert mention.negated is negated
