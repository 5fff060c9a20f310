import json

from engrain.data.lessons import chat
from engrain.data.messages import Conversation, Message
from engrain.study.curation import LONG_MESSAGE, curate


def talk_of(*contents: str) -> Conversation:
    return Conversation(chat(*contents))


def kept(*messages: tuple[str, str]) -> tuple[list[str], list[str]]:
    curated = curate(Conversation(tuple(Message(role, text) for role, text in messages)))
    return [m.content for m in curated.conversation.messages], [d.reason for d in curated.dropped]


def test_ordinary_talk_is_untouched() -> None:
    talk = talk_of("My motto is Steady on.", "Noted.", "What is it?", "Steady on.")
    curated = curate(talk)
    assert curated.conversation == talk
    assert curated.conversation.digest == talk.digest
    assert curated.kept == (0, 1, 2, 3)
    assert curated.dropped == ()


def test_secret_takes_its_reply_and_its_echo_with_it() -> None:
    texts, reasons = kept(
        ("user", "My password is hunter22."),
        ("assistant", "Thank you, I noted it."),
        ("user", "I live in Oslo."),
        ("assistant", "Good."),
        ("user", "What was it again?"),
        ("assistant", "It was Hunter22, I think."),
    )
    assert texts == ["I live in Oslo.", "Good.", "What was it again?"]
    assert reasons == [
        "it holds a secret: password",
        "a reply to a message that was left out",
        "it repeats a secret",
    ]


def test_report_never_shows_the_secret() -> None:
    talk = talk_of("The key is sk-" + "a1" * 16 + " and my card 4111 1111 1111 1111.", "OK")
    curated = curate(talk)
    report = json.dumps(curated.to_dict()) + repr(curated) + "".join(map(str, curated.dropped))
    assert "a1a1" not in report and "4111" not in report
    assert "[API key]" in report and "[card number]" in report
    assert not curated.has_user


def test_system_notes_and_recalled_text_are_no_evidence() -> None:
    texts, reasons = kept(
        ("system", "The user's cat is Gorla."),
        ("user", "[recalled] My cat is Gorla."),
        ("assistant", "Nice."),
        ("user", "Relevant memories from earlier: the cat is Gorla."),
        ("assistant", "Nice."),
        ("user", "I live in Oslo."),
    )
    assert texts == ["I live in Oslo."]
    assert reasons[0].startswith("a system note")
    assert reasons[1].startswith("it was recalled")
    assert reasons[3].startswith("it was recalled")


def test_recalled_block_is_cut_out_of_a_message() -> None:
    texts, reasons = kept(
        ("user", "<recalled>my cat is Gorla</recalled> My dog is Rolo."),
        ("assistant", "Nice dog."),
    )
    assert texts == ["My dog is Rolo.", "Nice dog."]
    assert reasons == ["a part that was marked as recalled from memory: it is no new evidence"]
    texts, _ = kept(("user", "<memory id=3>my cat is Gorla, unclosed"))
    assert texts == []


def test_titles_and_summaries_are_left_out() -> None:
    for text in (
        "Generate a concise, 3-5 word title for this conversation.",
        "### Task:\nGenerate tags",
        "Title: A walk in Oslo",
        "Summary of the conversation so far",
        "Summary: The user lives in Oslo.",
        '{"title": "Oslo"}',
    ):
        texts, reasons = kept(("user", text))
        assert texts == [], text
        assert reasons == ["a title or summary made by a program, not said by anyone"]
    texts, _ = kept(("user", "The title of my novel is Oslo."))
    assert texts == ["The title of my novel is Oslo."]


def test_pasted_text_is_left_out_and_long_talk_is_not() -> None:
    log = "\n".join(f"2024-05-17 12:00:{i:02d} GET /index.html 200 {i * 7919}" for i in range(60))
    texts, reasons = kept(("user", log))
    assert texts == [] and reasons[0].startswith("a pasted text of")
    talk = "I went to the market and bought apples. " * 60
    assert kept(("user", talk))[0] == [talk]
    texts, _ = kept(("user", "I talk and talk. " * (LONG_MESSAGE // 10)))
    assert texts == []


def test_user_flag_is_reported_in_words() -> None:
    curated = curate(talk_of("My password is hunter22.", "ok"))
    assert str(curated.dropped[0]) == (
        "message 1: it holds a secret: password (My password is [password].)"
    )
