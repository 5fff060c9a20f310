"""Conversations that give no lesson, or are very long: named or learned, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.data.messages import Conversation
from engrain.errors import NothingToLearnError
from engrain.home import Home
from engrain.lesson import job as jobbing
from tests.home.home_tools import live_digest


def test_a_conversation_in_which_nothing_is_told(taught: Home) -> None:
    """Studied by the model itself: a random one lists nothing that the user said."""
    talk = Conversation(chat("Hello!", "Hello, how are you?", "Fine, thanks. Bye!", "Bye!"))
    before, lessons = taught.state, len(taught.lessons())
    with pytest.raises(NothingToLearnError) as caught:
        taught.learn(talk)
    assert caught.value.remedy and "Nothing to learn" in caught.value.message
    assert taught.state == before and live_digest(taught) == before.digest
    assert len(taught.lessons()) == lessons and taught.jobs()[-1].status == "failed"
    # What was said is kept, to the letter.
    (entry,) = taught.ledger.list_conversations()
    assert taught.ledger.get_conversation(entry.digest) == talk
    assert taught.verify() == []


def test_a_conversation_of_two_thousand_messages(
    taught: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [text for i in range(1000) for text in (f"My thing {i} is W{i}.", "I see.")]
    talk = Conversation(chat(*lines))
    told = [told for told in lines if told.startswith("My")][-1]
    view = chat(told, "I see.", "What is my thing 999?", "W999.")
    lesson = Lesson(
        "",
        "thing 999",
        (
            TrainingText(chat("What is my thing 999?", "W999."), "fact", "thing: W999"),
            TrainingText(view, "reading", "thing: W999"),
        ),
        (Probe("p", "recall", chat("Name my thing 999."), ("W999",)),),
        (talk.digest,),
    )

    class Preview:
        def __init__(self, name: str) -> None:
            self.lesson = Lesson(
                name, lesson.title, lesson.texts, lesson.probes, lesson.sources, (talk,)
            )

    monkeypatch.setattr(jobbing, "make_lesson", lambda *_, name, **__: Preview(name))
    # Told beforehand, with a window's memory and not that of the whole.
    estimate = taught.estimate(talk)
    short = taught.estimate(Conversation(talk.messages[:200]))
    assert estimate.seconds and short.seconds and estimate.seconds > 3 * short.seconds
    assert estimate.memory.fits
    assert estimate.memory.phases["self_study"] == _same(short.memory.phases["self_study"])
    outcome = taught.learn(talk)
    assert outcome.accepted
    (entry,) = taught.ledger.list_conversations()
    assert taught.ledger.get_conversation(entry.digest) == talk and len(talk) == 2000
    assert taught.verify() == []


def _same(parts: Any) -> Any:
    """The parts of a phase, with what the process holds by now left aside."""
    return pytest.approx(dict(parts), rel=0.2)
