import pytest

from engrain.data.lessons import TrainingText, chat
from engrain.data.messages import Conversation
from engrain.dream.scoring import Signal, training_signal
from engrain.errors import UsageError

from .scripted import Scripted, conversation

TALK = conversation("My aunt's cat is Gorla.", "OK")
TEXT = TrainingText(chat("What is my aunt's cat?", "Your aunt's cat is Gorla."))


def test_signal_is_the_gap_of_the_answer() -> None:
    (signal,) = training_signal(Scripted(), [TEXT], TALK)
    assert signal.total > 0 and signal.mean == signal.total / signal.tokens
    assert signal.worth_learning() and not signal.learned()


def test_empty_conversation_gives_exactly_zero() -> None:
    for text in (TEXT, TrainingText(chat("a", "b", "c", "d"))):
        (signal,) = training_signal(Scripted(), [text], Conversation(()))
        assert signal.total == 0.0 and signal.learned()


def test_means_and_thresholds() -> None:
    assert Signal(0.0, 0).mean == 0.0
    assert not Signal(1.0, 10).worth_learning() and Signal(1.1, 10).worth_learning()
    assert Signal(0.2, 10).learned() and not Signal(0.3, 10).learned()
    assert Signal(1.0, 10).to_dict()["nats_per_token"] == 0.1


def test_best_window_counts() -> None:
    long = conversation(
        "My aunt's cat is Gorla.", "OK", *[f"{i} " + "word " * 100 for i in range(8)]
    )
    (signal,) = training_signal(Scripted(max_length=600), [TEXT], long)
    (whole,) = training_signal(Scripted(max_length=10_000), [TEXT], long)
    assert signal.total == whole.total > 0


def test_cut_answers_are_an_error() -> None:
    class Cuts(Scripted):
        def log_likelihood(self, pairs):  # type: ignore[no-untyped-def]
            return [(-1.0, len(prompt)) for prompt, _ in pairs]

    with pytest.raises(UsageError, match="tokens with the conversation"):
        training_signal(Cuts(), [TEXT], TALK)


@pytest.fixture(scope="module")
def engine():  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    from engrain.model.engine import Engine
    from engrain.model.testing import tiny_model

    torch.set_num_threads(1)
    return Engine(tiny_model(max_length=1024))


def test_zero_and_sign_on_a_real_model(engine) -> None:  # type: ignore[no-untyped-def]
    (zero,) = training_signal(engine, [TEXT], Conversation(()))
    assert zero.total == 0.0 and zero.tokens > 0
    (signal,) = training_signal(engine, [TEXT], TALK)
    assert signal.tokens == zero.tokens and signal.total != 0.0


def test_sums_over_parts_of_an_answer_add_up(engine) -> None:  # type: ignore[no-untyped-def]
    """D of y1 y2 is D of y1 plus D of y2 after y1, with and without the conversation."""
    talk, first, second = "a b c. ", "Your cat", " is Gorla."

    def gap(prompt: str, continuation: str) -> tuple[float, int]:
        (with_it, count), (alone, _) = engine.log_likelihood(
            [(talk + prompt, continuation), (prompt, continuation)]
        )
        return with_it - alone, count

    whole, tokens = gap("Who?", first + second)
    one, some = gap("Who?", first)
    two, rest = gap("Who?" + first, second)
    assert tokens == some + rest
    assert whole == pytest.approx(one + two, abs=1e-3)


def test_order_of_texts_does_not_matter(engine) -> None:  # type: ignore[no-untyped-def]
    texts = [TEXT, TrainingText(chat("Who am I?", "You are Zorba, I think."))]
    one = training_signal(engine, texts, TALK)
    two = training_signal(engine, texts[::-1], TALK)
    assert [s.total for s in one] == pytest.approx([s.total for s in two[::-1]], abs=1e-3)
