import pytest

from engrain.data.messages import Conversation, Message
from engrain.dream.reader import Reader, in_context, windows
from engrain.errors import UsageError

from .scripted import Scripted, conversation


def roles(messages: list[Message]) -> str:
    return "".join(message.role[0] for message in messages)


def test_turns_are_strict_whatever_the_conversation() -> None:
    user, bot = Message("user", "u"), Message("assistant", "a")
    system = Message("system", "s")
    for messages in ([], [user], [bot], [user, user, bot, bot], [system, bot], [bot, user, user]):
        assert roles(in_context(messages, "q")).lstrip("s") in ("u", "uau", "uauau", "uaua" + "u")
        assert in_context(messages, "q")[-1] == Message("user", "q")
    merged = in_context([user, Message("user", "v")], "q")
    assert merged[0].content == "u\n\nv"


def test_windows_cover_the_conversation_in_order() -> None:
    talk = conversation(*[f"message {i} " + "word " * 40 for i in range(40)])
    engine = Scripted(max_length=700)
    pieces = windows(engine, talk)
    assert len(pieces) > 1
    assert [m for piece in pieces for m in piece] == list(talk.messages)
    assert all(piece[0].role == "user" for piece in pieces)
    assert len(windows(Scripted(max_length=100_000), talk)) == 2


def test_short_conversation_is_one_window_and_short_context_is_refused() -> None:
    talk = conversation("Hi.", "Hello.")
    assert windows(Scripted(), talk) == [talk.messages]
    assert windows(Scripted(), Conversation(())) == []
    with pytest.raises(UsageError, match="too few"):
        windows(Scripted(max_length=256), talk)


def test_user_turns_go_on_where_they_began() -> None:
    class Echo(Scripted):
        def complete(self, texts, **_):  # type: ignore[no-untyped-def]
            self.texts = list(texts)
            return [" cat?"] * len(self.texts)

    engine = Echo()
    reader = Reader.of(engine, conversation("My cat is Gorla.", "OK"), 0)
    assert reader.continue_user(["What is my"]) == ["What is my cat?"]
    assert engine.texts == ["<|im_start|>user\nWhat is my"]
    reader.continue_user(["What is my"], after=[0])
    assert engine.texts[0].endswith("OK<|im_end|>\n<|im_start|>user\nWhat is my")


def test_a_narrow_window_holds_one_message_with_what_it_answers_and_its_reply() -> None:
    talk = conversation("My cat is Gorla.", "And your dog?", "Rolo.", "OK", "Bye.", "Bye!")
    reader = Reader.of(Scripted(), talk, 0)
    assert (reader.whole, reader.windows) == (1, [talk.messages])
    first, second, third = (reader.narrow(number) for number in (0, 2, 4))
    assert reader.windows[first] == talk.messages[:2]
    assert reader.windows[second] == talk.messages[1:4]
    assert reader.windows[third] == talk.messages[4:]
    assert reader.narrow(2) == second
    assert (reader.whole, len(reader.windows)) == (1, 4)


def test_a_conversation_of_one_message_is_its_own_narrow_window() -> None:
    talk = conversation("My cat is Gorla.", "OK")
    reader = Reader.of(Scripted(), talk, 0)
    assert reader.narrow(0) == 0
    assert len(reader.windows) == 1


def test_what_an_answer_is_begun_with_stands_in_it() -> None:
    engine = Scripted()
    engine.stems = {"Your cat is": "Your cat is Gorla."}
    reader = Reader.of(engine, conversation("My cat is Gorla.", "OK"), 0)
    begun = ["Your cat is", ""]
    found = reader.read([(0, "What is my cat?"), (0, "What is my dog?")], begun=begun)
    assert found == ["Your cat is Gorla.", "I don't know. You have not told me."]
