"""Learn to mastery: what is known, what is trained next, when it ends."""

import math

import pytest
import torch

from engrain.data.examples import Batch, Example
from engrain.errors import ConfigError, ResumeError
from engrain.learn import learner as learner_module
from engrain.learn.learner import Further, Learner
from engrain.learn.mastery import Mastery
from engrain.learn.recipe import named
from engrain.learn.representation.full_context import example_max
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model


@pytest.fixture(scope="module")
def loaded():
    return tiny_model("llama")


def setting(loaded, seed=0):
    return Setting(loaded, sample_lesson(), seed=seed)


def examples(count):
    return [Example((1, 2, 3), (False, True, True), 1, lesson=str(i)) for i in range(count)]


def test_what_is_not_known_comes_first_and_the_longest_unseen_of_it(loaded):
    mastery = Mastery(examples(5), setting(loaded))
    first = mastery.draw(2)
    mastery.saw(torch.tensor([0.1, 2.0]), 0)
    second = mastery.draw(3)
    assert first[0] not in second and first[1] not in second
    mastery.saw(torch.tensor([2.0, 0.1, 0.1]), 1)
    third = mastery.draw(3)
    assert third[:2] == [first[1], second[0]], "the unknown, in the order in which they were seen"
    assert third[2] is first[0], "then the known one that was not seen for longest"


def test_known_means_that_greedy_decoding_says_every_token(loaded):
    mastery = Mastery(examples(2), setting(loaded))
    mastery.draw(2)
    mastery.saw(torch.tensor([math.log(2) - 1e-3, math.log(2) + 1e-3]), 0)
    assert mastery.known == 1 and not mastery.done


def test_what_was_known_and_is_lost_comes_again(loaded):
    mastery = Mastery(examples(2), setting(loaded))
    mastery.draw(2)
    mastery.saw(torch.tensor([0.0, 0.0]), 0)
    assert mastery.done
    mastery.draw(1)
    mastery.saw(torch.tensor([5.0]), 1)
    assert not mastery.done


def test_state_goes_on_where_it_was_taken(loaded):
    one, other = (Mastery(examples(4), setting(loaded)) for _ in range(2))
    one.draw(3)
    one.saw(torch.tensor([0.1, 3.0, 0.1]), 0)
    other.load_state_dict(one.state_dict())
    assert one.draw(3) == other.draw(3)


def test_the_hardest_target_of_each_example():
    rows = [Example((1, 2, 3), (False, True, True), 1), Example((1, 2), (False, True), 1)]
    batch = Batch.of(rows, 0)
    assert example_max(torch.tensor([0.5, 2.0, 1.0]), batch).tolist() == [2.0, 1.0]


def test_a_run_ends_when_all_is_known_and_no_sooner(loaded):
    recipe = named("naive-lora").with_settings(
        {
            "mastery": True,
            "architecture": "full",
            "optimization.learning_rate": 5e-3,
            "min_steps": 1,
            "max_steps": 400,
            "epochs": 400.0,
            "batch_size": 4,
        }
    )
    result = Learner(recipe).run(loaded, sample_lesson())
    assert 1 < result.steps < 400
    short = Learner(recipe.with_settings({"max_steps": 2})).run(loaded, sample_lesson())
    assert short.steps == 2, "the cap holds where it is not known by then"


# ---------------------------------------------------------------------------- a second round
def small(**changes):
    return named("naive-lora").with_settings(
        {
            "mastery": True,
            "optimization.learning_rate": 5e-3,
            "min_steps": 6,
            "max_steps": 6,
            "batch_size": 3,
            **changes,
        }
    )


def asked(lesson, thing):
    return frozenset(text.question for text in lesson.facts() if thing in text.question)


def test_what_a_first_round_taught_counts_as_known(loaded):
    mastery = Mastery(examples(4), setting(loaded), [True, False, True, False])
    assert mastery.known == 2 and not mastery.done
    drawn = [int(e.lesson) for e in mastery.draw(3)]
    assert set(drawn[:2]) == {1, 3} and drawn[2] in (0, 2), "what is known only fills the batch"
    mastery.saw(torch.tensor([0.0, 0.0, 5.0]), 0)
    assert not mastery.done, "what was taken for known and is not comes again"


def test_texts_of_a_lesson_that_is_missing_from_the_weights_are_not_drawn(loaded):
    mastery = Mastery(examples(4), setting(loaded))
    assert all(e.lesson != "2" for e in mastery.draw(4, missing="2"))
    mastery.saw(torch.tensor([0.0, 0.0, 0.0]), 0)
    assert mastery.known == 3 and not mastery.done


def test_a_second_round_takes_half_of_the_steps_and_to_mastery():
    recipe = named("default").with_settings({"rounds": 2})
    again = recipe.further(24)
    assert (again.max_steps, again.min_steps, again.mastery, again.rounds) == (12, 12, True, 1)
    assert named("chat").further(1).max_steps == 1
    assert named("chat").rounds == 2 and named("default").rounds == 1


def test_a_second_round_goes_on_from_the_adapter_of_the_first(loaded, fp32):
    lesson, recipe = sample_lesson(), small()
    first = Learner(recipe).run(loaded, lesson)
    still = recipe.with_settings({"optimization.learning_rate": 0.0})
    begun = Further(first.adapter, asked(lesson, "boat"))
    kept = Learner(still.further(first.steps)).run(loaded, lesson, further=begun)
    assert tensor_digest(dict(kept.adapter.tensors)) == tensor_digest(dict(first.adapter.tensors))
    second = Learner(recipe.further(first.steps)).run(loaded, lesson, further=begun)
    assert 1 <= second.steps <= 3
    assert second.losses[0] < first.losses[0]
    assert second.adapter.tensors.keys() == first.adapter.tensors.keys(), "it is one adapter still"
    assert tensor_digest(dict(second.adapter.tensors)) != tensor_digest(dict(first.adapter.tensors))


def test_a_second_round_resumes_to_the_bit_and_from_its_own_checkpoint_alone(loaded, tmp_path):
    lesson, recipe = sample_lesson(), small(max_steps=12, min_steps=12)
    first = Learner(recipe).run(loaded, lesson, checkpoint=tmp_path / "first", save_every=3)
    begun = Further(first.adapter, asked(lesson, "boat"))
    learner = Learner(recipe.further(first.steps))
    whole = learner.run(loaded, lesson, further=begun)

    class StoppedError(Exception):
        pass

    def stop(done, steps, loss):
        if done == 4:
            raise StoppedError

    own = tmp_path / "second"
    with pytest.raises(StoppedError):
        learner.run(loaded, lesson, further=begun, checkpoint=own, save_every=3, on_step=stop)
    resumed = learner.run(loaded, lesson, further=begun, checkpoint=own, save_every=3)
    assert resumed.resumed_from == 3 and resumed.losses == whole.losses
    with pytest.raises(ResumeError):
        learner.run(loaded, lesson, further=begun, checkpoint=tmp_path / "first")
    with pytest.raises(ResumeError):
        other = Further(first.adapter, asked(lesson, "kite"))
        learner.run(loaded, lesson, further=other, checkpoint=own)


def test_weak_texts_of_an_earlier_lesson_are_trained_until_they_are_known(loaded):
    old = sample_lesson("old", "Corvath")
    weak = [("old", text) for text in old.facts()]
    drawn = []

    class Spied(Mastery):
        def draw(self, count, missing=""):
            found = super().draw(count, missing)
            drawn.append((missing, {e.lesson for e in found}))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_module, "Mastery", Spied)
        first = Learner(small()).run(loaded, old)
        recipe = small(absence=0.5, max_steps=20, min_steps=20)
        Learner(recipe).run(
            loaded, sample_lesson(), earlier=[old], adapters=[first.adapter], weak=weak
        )
    drawn = drawn[first.steps :]
    assert {"old", "new"} <= set().union(*(lessons for _, lessons in drawn))
    assert any(missing == "old" for missing, _ in drawn)
    assert all("old" not in lessons for missing, lessons in drawn if missing == "old")


def test_an_architecture_that_can_not_go_on_has_no_second_round():
    with pytest.raises(ConfigError, match="switchlora"):
        named("chat").with_settings({"architecture": "switchlora"})
    named("chat").with_settings({"rounds": 1, "architecture": "switchlora"})
    with pytest.raises(ConfigError, match="rounds is 3"):
        named("chat").with_settings({"rounds": 3})


# ---------------------------------------------------------------------------- facts in many words
def of_facts(loaded, count, facts):
    texts = examples(count)
    return Mastery(texts, setting(loaded), groups=[facts[i % len(facts)] for i in range(count)])


def test_unseen_wordings_of_a_fact_that_is_known_at_sight_are_left(loaded):
    mastery = of_facts(loaded, 12, ["boat", "dog"])
    groups = {str(i): ["boat", "dog"][i % 2] for i in range(12)}
    sights = {"boat": 0, "dog": 0}
    for step in range(40):
        drawn = mastery.draw(1)
        group = groups[drawn[0].lesson]
        sights[group] += 1
        # The boat is known from its second wording on, the dog never at first sight.
        known = group == "boat" and sights["boat"] > 1
        mastery.saw(torch.tensor([0.1 if known or sights["dog"] > 6 else 3.0]), step)
        if mastery.done:
            break
    assert mastery.done
    # One unknown, two known at sight, and the first once more.
    assert sights["boat"] == 4 and sights["dog"] >= 6


def test_known_at_sight_counts_only_in_a_row_and_only_what_is_unseen(loaded):
    mastery = of_facts(loaded, 6, ["boat"])
    for loss in (0.1, 3.0, 0.1):
        mastery.draw(1)
        mastery.saw(torch.tensor([loss]), 0)
    assert mastery.known == 2
    mastery.draw(1)
    mastery.saw(torch.tensor([0.1]), 1)
    # Two in a row: the two unseen ones count, the one that was missed comes first.
    assert mastery.known == 5 and not mastery.done
    mastery.draw(1)
    mastery.saw(torch.tensor([0.1]), 2)
    assert mastery.done


def test_what_is_never_known_does_not_keep_the_others_waiting(loaded):
    mastery = Mastery(examples(4), setting(loaded))
    steps = 0
    while not mastery.done:
        drawn = mastery.draw(1)
        mastery.saw(torch.tensor([9.0 if drawn[0].lesson == "0" else 0.1]), steps)
        steps += 1
    assert mastery.known == 3 and steps == 3 + 6


def test_nothing_is_given_up_where_little_is_known(loaded):
    mastery = Mastery(examples(4), setting(loaded))
    for step in range(60):
        drawn = mastery.draw(1)
        mastery.saw(torch.tensor([0.1 if drawn[0].lesson in "12" else 9.0]), step)
        assert not mastery.done, "it is the learning that is slow"
