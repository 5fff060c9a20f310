from typing import Any

from engrain.data.general import anchors
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.learn.turns import MOST, TALKS, after_talk
from engrain.model.testing import tiny_model


def lesson() -> Lesson:
    facts = [
        TrainingText(chat(f"Question {i}, wording {j}?", f"Answer {i}."), "fact", f"fact {i}")
        for i in range(6)
        for j in range(4)
    ]
    reading = TrainingText(chat("Told.", "Ok.", "Question 0?", "Answer 0."), "reading", "fact 0")
    return Lesson("one", "one", (*facts, reading))


def test_a_share_of_the_questions_comes_after_other_talk() -> None:
    plain = lesson()
    varied = after_talk(plain, anchors(), 0.5, seed=1)
    pairs = list(zip(plain.texts, varied.texts, strict=True))
    moved = [(old, new) for old, new in pairs if old != new]
    assert 6 <= len(moved) <= 18
    assert plain.texts[-1] == varied.texts[-1]
    for old, new in moved:
        before = new.messages[:-2]
        assert new.messages[-2:] == old.messages and new.answers == 1
        assert 2 <= len(before) <= MOST
        assert [m.role for m in before] == ["user", "assistant"] * (len(before) // 2)
        # Nothing before the question tells its answer.
        assert all(old.target != message.content for message in before)
    # Each talk is read once before training, so there are few.
    assert 2 <= len({new.messages[:-2] for _, new in moved}) <= TALKS
    # Both sources are used: other facts of the lesson, and general talk.
    own = {text.target for text in plain.texts}
    assert {new.messages[1].content in own for _, new in moved} == {True, False}


def test_it_is_the_same_under_a_seed_and_nothing_without_a_share() -> None:
    plain = lesson()
    assert after_talk(plain, anchors(), 0.0, seed=1) is plain
    assert after_talk(plain, (), 0.5, seed=1) == after_talk(plain, (), 0.5, seed=1)
    assert after_talk(plain, (), 0.5, seed=1) != after_talk(plain, (), 0.5, seed=2)


def test_the_learner_trains_on_it() -> None:
    """Each batch is longer by the talk, and the ledger's lesson is as it was."""
    lengths: dict[float, list[int]] = {}
    for share in (0.0, 1.0):
        seen = lengths.setdefault(share, [])

        class Watched(Learner):
            def _batch(self, *given: Any, **how: Any) -> Any:
                batch = super()._batch(*given, **how)
                seen.append(int(batch.attention_mask.sum(-1).max()))  # noqa: B023
                return batch

        recipe = named("naive-lora").with_settings(
            {"after_talk": share, "min_steps": 2, "max_steps": 2}
        )
        plain = lesson()
        Watched(recipe).run(tiny_model("llama"), plain, anchors=anchors())
        assert plain == lesson()
    assert min(lengths[1.0]) > max(lengths[0.0])
