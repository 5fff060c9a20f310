import random
from types import SimpleNamespace

import pytest

from benchmarks.self_study import judge
from engrain.data.facts import Attribute, Fact, FactSampler, Owner, told_conversation
from engrain.data.messages import Conversation, Message
from engrain.dream import checks, gathered
from engrain.dream.asking import clause_questions
from engrain.dream.checks import Checked
from engrain.dream.clauses import Clause
from engrain.dream.frames import NEUTRAL_FRAMES, Parts, fill, frame_of
from engrain.dream.gathered import NEAR_DUPLICATE, TOO_VAGUE, GatheredFact, choose
from engrain.dream.grounding import Mention, Sentence
from engrain.dream.reader import Reader
from engrain.dream.self_study import EFFORTS, STAGES, SUPERSEDED, Study, study
from engrain.errors import UnknownNameError
from engrain.exam.probes import passes
from engrain.study.wording import normal, similarity

from .scripted import ABOUT, Scripted, conversation

CHEESE = Attribute("favorite cheese", "food")
CAT = Attribute("cat", "name")
AUNT = Owner("aunt")
TWO = [Fact(AUNT, CAT, "Gorla"), Fact(Owner("", "self", "self"), CHEESE, "Brellin")]


def told(facts: list[Fact], seed: int = 0, corrections: tuple[tuple[Fact, str], ...] = ()):
    return Conversation.from_messages(told_conversation(facts, random.Random(seed), corrections))


def sampled(seed: int, count: int = 6) -> list[Fact]:
    sampler = FactSampler(seed)
    return [sampler.fact() for _ in range(count)]


def reason_of(result, question: str) -> str:
    return dict(result.dropped).get(question, "")


@pytest.mark.parametrize("seed", range(8))
def test_good_reader_covers_everything(seed: int) -> None:
    facts = sampled(seed)
    result = study(Scripted(facts), told(facts, seed), seed=seed)
    row = judge(facts, [], [], result)
    assert row["covered"] == 1.0 and row["precision"] == 1.0
    assert row["probe_precision"] == 1.0 and row["contrast_harmful"] == 0
    assert result.coverage > 0.8
    assert row["contrast"] == round(EFFORTS["normal"].contrast * row["texts"])


def test_shape_of_a_study() -> None:
    talk = told(TWO)
    result = study(Scripted(TWO), talk)
    facts = [text for text in result.texts if text.kind == "fact"]
    reading = [text for text in result.texts if text.kind == "reading"]
    contrast = [text for text in result.texts if text.kind == "contrast"]
    assert {fact.group for fact in result.facts} == {text.group for text in facts}
    assert len(reading) == 2 and len(result.facts) == 2
    for text in reading:
        assert list(talk.messages) == list(text.messages[: len(talk)])
        assert any(text.target == fact.target for fact in facts)
    assert all(len(text.messages) == 2 for text in (*facts, *contrast))
    assert {text.group for text in contrast} <= {text.group for text in facts}
    assert len(contrast) == round(EFFORTS["normal"].contrast * len(facts))
    assert result.asked > 0 and result.seconds > 0
    assert set(result.to_dict()) >= {"texts", "probes", "dropped", "coverage", "facts"}


def test_probes_are_held_out() -> None:
    result = study(Scripted(TWO), told(TWO))
    trained = [text.question for text in result.texts if text.kind != "reading"]
    shapes = {normal(question) for question in trained}
    assert {probe.kind for probe in result.probes} == {"recall", "paraphrase"}
    assert len({probe.id for probe in result.probes}) == len(result.probes) == 4
    for probe in result.probes:
        question = probe.messages[-1].content
        assert normal(question) not in shapes
        fact = next(f for f in TWO if f.value == probe.answers[0])
        assert passes(probe, fact.answer())
        same_group = next(f.questions for f in result.facts if f.value == fact.value)
        assert len(same_group) >= 6
        assert max(similarity(question, other) for other in same_group) < NEAR_DUPLICATE


def test_same_seed_same_study_and_another_seed_another() -> None:
    talk = told(TWO)
    one, two = study(Scripted(TWO), talk, seed=1), study(Scripted(TWO), talk, seed=1)
    assert (one.texts, one.probes, one.dropped) == (two.texts, two.probes, two.dropped)
    assert study(Scripted(TWO), talk, seed=2).texts != one.texts


def test_targets_are_answers_with_the_conversation_and_inputs_come_without_it() -> None:
    result = study(Scripted(TWO), told(TWO))
    for text in result.texts:
        if text.kind == "fact":
            assert text.target in {fact.answer() for fact in TWO}
            assert [m.role for m in text.messages] == ["user", "assistant"]


def test_known_facts_are_not_learned_again() -> None:
    result = study(Scripted(TWO, known=TWO[:1]), told(TWO))
    assert {fact.value for fact in result.facts} == {"Brellin"}
    assert checks.KNOWN in {reason for _, reason in result.dropped}


def test_inconsistent_answers_are_refused() -> None:
    question = "What is my aunt's cat?"

    def wavers(temperature: float, _: bool) -> str:
        return "Your aunt's cat is Gorla." if not temperature else "Your aunt's cat is Brellin."

    about = f"{ABOUT}My aunt's cat is Gorla."
    engine = Scripted(TWO, overrides={question: wavers, about: question})
    result = study(engine, conversation("My aunt's cat is Gorla.", "OK"))
    assert reason_of(result, question) == checks.INCONSISTENT


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I don't know.", checks.NOT_KNOWN),
        ("Your aunt's cat is your cat.", checks.NOTHING_NEW),
        ("Your aunt's cat is Zorba.", checks.NOT_SAID),
        ("Your aunt's cat is Brellin.", checks.OTHER_FACT),
    ],
)
def test_wrong_answers_are_refused(answer: str, reason: str) -> None:
    question = "Listen, what is my aunt's cat?"
    about = f"{ABOUT}Fun fact: my aunt's cat is Gorla."
    engine = Scripted(TWO, overrides={question: answer, about: question})
    talk = conversation(
        "Fun fact: my aunt's cat is Gorla.", "OK", "My favorite cheese is Brellin.", "OK"
    )
    result = study(engine, talk)
    assert reason_of(result, question) == reason
    assert question not in {text.question for text in result.texts}


def test_bad_questions_are_refused_with_a_reason() -> None:
    about = f"{ABOUT}My aunt's cat is Gorla."
    for line, reason in (
        ("I like it.", "not a question"),
        ("What is this conversation about?", "about the conversation itself"),
        ("What is " + "very " * 50 + "big?", "too long"),
    ):
        engine = Scripted(TWO[:1], overrides={about: line})
        result = study(engine, conversation("My aunt's cat is Gorla.", "OK"))
        assert reason_of(result, line) == reason


@pytest.mark.parametrize("seed", range(8))
def test_corrected_value_is_learned_and_the_old_one_is_not(seed: int) -> None:
    sampler = FactSampler(seed)
    facts = [sampler.fact() for _ in range(3)]
    old, new = facts[0], sampler.value(facts[0].relation)
    changed = Fact(old.owner, old.relation, new, old.wordings)
    talk = told(facts, seed, ((old, new),))
    # The reader answers with the old value to one wording: that answer does not get through.
    stubborn = old.fill("Quick question: {q}?")
    engine = Scripted([*facts, changed], overrides={stubborn: old.answer()})
    result = study(engine, talk, seed=seed)
    targets = {text.target for text in result.texts if text.kind == "fact"}
    assert changed.answer() in targets and old.answer() not in targets


def test_a_deed_that_was_taken_for_a_part_of_the_value_is_asked_for() -> None:
    told_, answer = "My aunt is obsessed with chess.", "Your aunt is obsessed with chess."
    vague = "What is my aunt?"

    def says(_: float, in_view: bool) -> str:
        return answer if in_view else "I don't know."

    clause = Parts.of_clause(Clause("my aunt", "is", "obsessed with"))
    asked = {fill(frame, clause): says for frame in NEUTRAL_FRAMES}
    engine = Scripted(overrides={**asked, vague: says, f"{ABOUT}{told_}": vague})
    result = study(engine, conversation(told_, "OK"))
    assert [fact.value for fact in result.facts] == ["chess"]
    trained = result.facts[0].questions
    assert len(trained) > 4
    assert all("obsessed with" in question for question in trained if question != vague)


def test_a_deed_that_the_reader_often_misses_has_a_vote_too() -> None:
    """Read wrongly when asked once, mostly rightly when asked often; a value was found before."""
    told_, answer = "My aunt is obsessed with chess.", "Your aunt is obsessed with chess."
    vague = "What is my aunt?"

    def says(_: float, in_view: bool) -> str:
        return answer if in_view else "I don't know."

    def at_times(temperature: float, in_view: bool) -> str:
        return (
            says(0.0, in_view) if temperature or not in_view else "Your aunt is obsessed with it."
        )

    clause = Parts.of_clause(Clause("my aunt", "is", "obsessed with"))
    asked = {fill(frame, clause): says for frame in NEUTRAL_FRAMES}
    asked |= {q: at_times for q, _ in clause_questions(told_)}
    engine = Scripted(overrides={**asked, vague: says, f"{ABOUT}{told_}": vague})
    result = study(engine, conversation(told_, "OK"))
    assert [fact.value for fact in result.facts] == ["chess"]


def test_a_probe_in_no_frame_of_ours_bars_no_other_wording() -> None:
    """The empty name of no frame is no frame that was held out."""
    sentence = Sentence(0, 0, "My aunt's cat is Gorla.", frozenset({"cat"}), frozenset({"aunt"}))
    asks = [
        f"{word} would she call her cat, dear?" for word in ("What", "How", "Pray, what", "Now")
    ]
    pairs = [
        Checked(ask, 0, "model", "Gorla.", ("gorla",), Mention(sentence, "Gorla", False))
        for ask in asks
    ]
    refusals = SimpleNamespace(refuse=lambda *_: None)
    barred: set[str] = set()
    fact = GatheredFact(("gorla",), 0, pairs)
    _, probes = choose(fact, 6, 0.25, random.Random(0), refusals, barred)  # type: ignore[arg-type]
    assert probes and barred == set()


def test_old_value_that_both_were_read_is_superseded_and_forbidden() -> None:
    talk = conversation(
        "My aunt's cat is Gorla.", "OK", "Correction, my aunt's cat is Zorba these days.", "OK"
    )
    changed = Fact(AUNT, CAT, "Zorba")
    question = "What is my aunt's cat?"
    overrides = {
        question: lambda _, told: "Your aunt's cat is Gorla." if told else "I don't know.",
        f"{ABOUT}My aunt's cat is Gorla.": question,
    }
    engine = Scripted([changed], overrides=overrides)
    result = study(engine, talk)
    assert {fact.value for fact in result.facts} == {"Zorba"}
    assert reason_of(result, question) == SUPERSEDED
    assert all(probe.not_answers == ("gorla",) for probe in result.probes)


def test_same_value_of_two_facts_stays_two_facts() -> None:
    facts = [Fact(AUNT, CAT, "Gorla"), Fact(Owner("boss"), CHEESE, "Gorla")]
    talk = conversation("My aunt's cat is Gorla.", "OK", "My boss's favorite cheese is Gorla.", "k")
    result = study(Scripted(facts), talk)
    assert len(result.facts) == 2


def test_few_wordings_are_filled_from_frames() -> None:
    class OneWording(Scripted):
        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            text = super().say(prompt, rng, temperature)
            asks = prompt[-1].content.startswith(("List", "Write", "Ask"))
            return "\n".join(f.fill("{Q}?") for f in self.facts) if asks else text

    result = study(OneWording(TWO), told(TWO))
    assert all(len(fact.questions) >= 6 for fact in result.facts)


def test_wavering_reader_gets_a_second_chance_by_majority() -> None:
    facts = TWO[:1]

    class Wavers(Scripted):
        """Never right greedily, mostly right in samples."""

        right = 0.8

        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            text = super().say(prompt, rng, temperature)
            if text != facts[0].answer():
                return text
            return text if temperature and rng.random() < self.right else "I don't know."

    talk = conversation("My aunt's cat is Gorla.", "OK")
    checker = checks.Checker.of(Reader.of(Wavers(facts), talk, 0), talk)
    question = checks.Candidate("What is my aunt's cat?", 0, "list")
    assert checker.check([question]) == []
    assert checker.refused == {question.question: checks.NOT_KNOWN}
    (pair,) = checker.vote(checker.said.sentences)
    assert pair.answer == facts[0].answer() and pair.key == ("gorla",)
    assert checker.refused == {}
    Wavers.right = 0.2
    checker = checks.Checker.of(Reader.of(Wavers(facts), talk, 0), talk)
    checker.check([question])
    assert checker.vote(checker.said.sentences) == []
    assert checker.vote([]) == []


def test_a_reader_that_garbles_what_is_asked_is_given_the_stem_of_the_answer() -> None:
    """The stem helps to find the value; it opens no door to a value that the user did not say."""
    talk = conversation("My aunt's cat is Gorla.", "OK", "My favorite cheese is Brellin.", "OK")

    class Garbles(Scripted):
        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            text = super().say(prompt, rng, temperature)
            return "Your auntmower is unclear." if text == TWO[0].answer() else text

    def found(value: str) -> set[str]:
        engine = Garbles(TWO)
        engine.stems = {"Your aunt's cat is": f"Your aunt's cat is {value}."}
        result = study(engine, talk)
        taught = {text.target for text in result.texts if text.kind == "fact"}
        assert taught <= {fact.answer() for fact in TWO}
        return {fact.value for fact in result.facts}

    assert found("Gorla") == {"Gorla", "Brellin"}
    assert found("Brellin") == found("Zorba") == {"Brellin"}


def test_a_reader_that_mixes_up_neighbouring_messages_is_shown_one_at_a_time() -> None:
    talk = conversation("My aunt's cat is Gorla.", "OK", "My favorite cheese is Brellin.", "OK")

    class MixesUp(Scripted):
        """Right only while it sees nothing of the other fact."""

        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            text = super().say(prompt, rng, temperature)
            seen = " ".join(message.content for message in prompt)
            both = "Gorla" in seen and "Brellin" in seen
            return "Your aunt's cat is Brellin." if both and "Gorla" in text else text

    result = study(MixesUp(TWO), talk)
    assert {fact.value for fact in result.facts} == {"Gorla", "Brellin"}
    assert {t.target for t in result.texts if t.kind == "fact"} == {f.answer() for f in TWO}


def test_wordings_that_do_not_say_what_they_ask_for_are_refused() -> None:
    vague = "Who did my aunt call this?"
    about = f"{ABOUT}My aunt's cat is Gorla."
    answer = TWO[0].answer()
    overrides = {about: vague, vague: lambda _, told: answer if told else "I don't know."}
    engine = Scripted(TWO[:1], overrides=overrides)
    result = study(engine, conversation("My aunt's cat is Gorla.", "OK"))
    assert reason_of(result, vague) == TOO_VAGUE
    assert len(result.facts) == 1


def test_reader_that_follows_no_instruction_is_helped() -> None:
    class Plain(Scripted):
        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            if prompt[-1].content.startswith(("List", "Write", "Ask")):
                return "That is nice."
            return super().say(prompt, rng, temperature)

    result = study(Plain(TWO), told(TWO))
    assert {fact.value for fact in result.facts} == {"Gorla", "Brellin"}


def test_nothing_to_learn() -> None:
    result = study(Scripted(), conversation("Hello!", "Hi.", "Nice weather today.", "Indeed."))
    assert result.texts == () and result.probes == () and result.facts == ()
    assert result.coverage == 0.0
    assert study(Scripted(), Conversation(())).texts == ()


def test_long_conversations_are_studied_in_windows() -> None:
    facts = sampled(4)
    talk = told(facts, 4)
    filler = [Message("user", "chat " * 150), Message("assistant", "I see.")]
    long = Conversation((*talk.messages[:6], *filler, *filler, *talk.messages[6:]))
    result = study(Scripted(facts, max_length=600), long)
    assert judge(facts, [], [], result)["covered"] == 1.0


def test_limits_and_efforts() -> None:
    facts = sampled(2)
    result = study(Scripted(facts), told(facts, 2), max_facts=2)
    assert len(result.facts) == 2
    low = study(Scripted(facts), told(facts, 2), effort="low")
    high = study(Scripted(facts), told(facts, 2), effort="high")
    assert low.asked < high.asked and len(low.texts) < len(high.texts)
    with pytest.raises(UnknownNameError, match="effort"):
        study(Scripted(facts), told(facts, 2), effort="hihg")


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int]] = []
    study(Scripted(TWO), told(TWO), on_progress=lambda *step: seen.append(step))
    assert [stage for stage, _, _ in seen] == list(STAGES)
    assert seen[-1][1:] == (len(STAGES), len(STAGES))


def test_training_wordings_are_the_ones_least_alike() -> None:
    """Near-twins of the first wording come last, wherever they stood."""
    questions = [
        "What is my aunt's cat?",
        "What is my aunt's cat, please?",
        "What is my aunt's cat now?",
        "Somebody wants to hear it: tell me of the cat that my aunt has.",
        "I lost my notes.",
    ]
    pairs = [SimpleNamespace(question=question) for question in questions]
    chosen = [pair.question for pair in gathered.spread(pairs, 3)]  # type: ignore[arg-type]
    assert chosen[0] == questions[0] and set(chosen[1:]) == set(questions[3:])
    assert len(gathered.spread(pairs, 9)) == len(questions)  # type: ignore[arg-type]


def test_every_fact_gets_neutral_frames_beside_the_models_own() -> None:
    result = study(Scripted(TWO), told(TWO))
    (cat,) = (fact for fact in result.facts if fact.value == "Gorla")
    asked = {question.lower() for question in (*cat.questions, *cat.held_out)}
    neutral = {fill(frame, Parts.of_thing("my aunt's cat")).lower() for frame in NEUTRAL_FRAMES}
    assert len(neutral & asked) >= 4, asked


def test_words_of_a_neutral_frame_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks for what a model garbles refuse its own wordings, not those that people wrote."""
    talk = conversation("My aunt's cat is Gorla.", "OK")
    checker = checks.Checker.of(Reader.of(Scripted(TWO[:1]), talk, 0), talk)
    monkeypatch.setattr(checker, "_strange", lambda question: "odd")
    own = checks.Candidate("I am filling in a form. What is my aunt's cat?", 0, "list")
    neutral = checks.Candidate("They keep asking what my aunt's cat is.", 0, checks.NEUTRAL)
    assert list(checker.fresh([own, neutral])) == [neutral]


@pytest.mark.parametrize("seed", range(4))
def test_probes_are_clean_wordings(seed: int) -> None:
    result = study(Scripted(TWO), told(TWO), seed=seed)
    for fact in result.facts:
        thing = "my aunt's cat" if fact.value == "Gorla" else "my favorite cheese"
        neutral = {fill(frame, Parts.of_thing(thing)) for frame in NEUTRAL_FRAMES}
        assert fact.held_out and set(fact.held_out) <= neutral


def test_the_vote_shows_one_message_and_begins_the_answer() -> None:
    talk = conversation("My aunt's cat is Gorla.", "OK", "My favorite cheese is Brellin.", "OK")
    question = checks.Candidate("What is my aunt's cat?", 0, "list")

    class Weak(Scripted):
        """Right in one message only, and only if the answer is begun for it."""

        def generate(self, prompts, *, prefixes=None, **rest):  # type: ignore[no-untyped-def]
            begun = prefixes or [""] * len(prompts)
            return [
                " Gorla." if stem and "Brellin" not in str(prompt) else "I don't know."
                for prompt, stem in zip(prompts, begun, strict=True)
            ]

    checker = checks.Checker.of(Reader.of(Weak(), talk, 0), talk)
    assert checker.check([question]) == []
    (pair,) = checker.vote(checker.said.sentences)
    assert (pair.answer, pair.key) == ("Your aunt's cat is Gorla.", ("gorla",))


def test_the_vote_keeps_the_stem_that_a_rule_gave() -> None:
    talk = conversation("My aunt adored Gorla.", "OK", "My cheese is Brellin.", "OK")
    stem = "Your aunt adored"
    # No stem follows from this question by itself.
    question = checks.Candidate("Do you know what my aunt adored?", 0, "rule", stem=stem)

    class Weak(Scripted):
        """Right in one message only, and only if the answer is begun for it."""

        def generate(self, prompts, *, prefixes=None, **rest):  # type: ignore[no-untyped-def]
            begun = prefixes or [""] * len(prompts)
            return [
                " Gorla." if given == stem and "Brellin" not in str(prompt) else "I don't know."
                for prompt, given in zip(prompts, begun, strict=True)
            ]

    checker = checks.Checker.of(Reader.of(Weak(), talk, 0), talk)
    assert checker.check([question]) == []
    (pair,) = checker.vote(checker.said.sentences)
    assert pair.key == ("gorla",)


def test_own_wordings_of_a_settled_fact_must_ask_for_it() -> None:
    stray = "What is my aunt's ste cat thing?"
    answers = {f"{ABOUT}My aunt's cat is Gorla.": stray, stray: "Your aunt's cat is Gorla."}
    talk = conversation("My aunt's cat is Gorla.", "OK")
    first = next(iter(TWO))

    def known(_: float, in_view: bool) -> str:
        return "Your aunt's cat is Gorla." if in_view else "I don't know."

    engine = Scripted([first], overrides={**answers, stray: known})
    result = study(engine, talk)
    assert len(result.facts[0].questions) == EFFORTS["normal"].wordings
    assert stray not in result.facts[0].questions
    assert stray in {call[-1].content for call in engine.calls}


def frames_of(result: Study) -> list[str]:
    """The frames of all probes of two facts."""
    things = {"Gorla": "my aunt's cat", "Brellin": "my favorite cheese"}
    return [
        frame_of(question, Parts.of_thing(things[fact.value]))
        for fact in result.facts
        for question in fact.held_out
    ]


@pytest.mark.parametrize("seed", range(6))
def test_no_frame_is_held_out_of_every_fact(seed: int) -> None:
    """With chance alone two of four probes would share a frame in one seed of three."""
    held = frames_of(study(Scripted(TWO), told(TWO), seed=seed))
    assert len(held) == len(set(held)) == 4


def test_a_wording_that_is_read_only_with_help_is_no_probe() -> None:
    odd = "on file"

    class Puzzled(Scripted):
        """Understands all frames but one, unless its answer is begun."""

        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            said = super().say(prompt, rng, temperature)
            return "I am glad to hear that." if odd in prompt[-1].content else said

    asked: set[str] = set()
    taught: set[str] = set()
    for seed in range(12):
        engine = Puzzled(TWO)
        engine.stems = {
            "Your aunt's cat is": "Your aunt's cat is Gorla.",
            "Your favorite cheese is": "Your favorite cheese is Brellin.",
        }
        result = study(engine, told(TWO), seed=seed)
        asked |= {question for fact in result.facts for question in fact.held_out}
        taught |= {question for fact in result.facts for question in fact.questions}
    assert any(odd in question for question in taught)
    assert len(asked) > 10 and not any(odd in question for question in asked)


def test_one_answer_is_taught_for_all_wordings_of_a_fact() -> None:
    class Chatty(Scripted):
        """Right, but in ever other words."""

        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            said = super().say(prompt, rng, temperature)
            if said != TWO[0].answer() or len(prompt[-1].content) % 3 == 0:
                return said
            return f"You said that {said[0].lower()}{said[1:]}"

    result = study(Chatty(TWO), told(TWO))
    answers = [t.target for t in result.texts if t.kind == "fact" and "Gorla" in t.target]
    assert len(answers) > 4 and set(answers) == {"Your aunt's cat is Gorla."}


def test_what_somebody_does_is_found_though_the_model_asks_nothing() -> None:
    """The question comes by rule from the sentence; the answer is the model's own."""

    class Silent(Scripted):
        def say(self, prompt: list[Message], rng: random.Random, temperature: float) -> str:
            asked = prompt[-1].content
            if "volunteer" in asked and "?" in asked and len(prompt) > 1 and "do I" in asked:
                return "You volunteer in Tampa."
            return "I see."

    talk = conversation("Please note: I volunteer in Tampa.", "OK")
    assert {fact.value for fact in study(Silent(), talk).facts} == {"Tampa"}
