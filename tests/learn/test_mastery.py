"""Learn to mastery: what is known, what is trained next, when it ends."""

import math

import pytest
import torch

from engrain.data.examples import Batch, Example
from engrain.learn.learner import Learner
from engrain.learn.mastery import Mastery
from engrain.learn.recipe import named
from engrain.learn.representation.full_context import example_max
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
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
