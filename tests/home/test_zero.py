"""Lesson zero: it stands first, is undone like any other, and is the ground of the later ones."""

import pytest
import torch

from engrain.errors import LessonFileError
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.learn.testing import sample_lesson
from engrain.lesson import zero
from engrain.model.digest import tensor_digest
from engrain.model.loading import load_model
from tests.home.home_tools import examples_file, new_home, open_home


@pytest.fixture(scope="module")
def manners(model):
    """A lesson zero of the tiny model."""
    loaded = load_model(str(model))
    recipe = named("naive-lora").with_settings({"min_steps": 2, "max_steps": 2})
    adapter = Learner(recipe).run(loaded, sample_lesson()).adapter
    return zero.Portable(loaded.base_digest, recipe.to_dict(), {"tokens": 12}, adapter.to_bytes())


@pytest.fixture
def home(tmp_path, model, manners, monkeypatch):
    monkeypatch.setattr(zero, "shipped", lambda digest: manners)
    with new_home(tmp_path / "home", model) as made:
        yield made


def test_a_new_home_begins_with_it(home):
    (first,) = home.lessons()
    assert zero.is_zero(first) and first.status == "active"
    assert (
        home.state.lessons == (first.id,) and home.state.digest != home.ledger.history()[0].digest
    )
    assert home.show(first.id).decision["card"] == {"tokens": 12}
    assert home.verify() == []


def test_it_is_disabled_and_enabled_to_the_bit(home):
    before = home.state.digest
    home.disable("last")
    assert home.state.digest == home.ledger.history()[0].digest
    home.enable("last")
    assert home.state.digest == before


def test_later_lessons_stand_on_it_and_leave_it_alone(home, tmp_path):
    outcome = home.learn(examples_file(tmp_path, 1))
    assert outcome.accepted and len(home.state.lessons) == 2
    assert [lesson.id for lesson in home.asked.lessons()] == [outcome.lesson.id]
    assert len(home.asked.adapters()) == 1, "no step is taken without lesson zero"
    zero_adapter = home.state.adapters[0]
    with home.loaded.untaught():
        ground = tensor_digest({k: v.float() for k, v in home.loaded.weights().items()})
    assert ground == home._folding.fold_digest((zero_adapter,))
    home.undo("last")
    assert home.state.adapters == (zero_adapter,)
    assert home.verify() == []


def test_without_it_the_ground_is_the_base(home):
    home.disable("last")
    with home.loaded.untaught():
        live = {k: v.clone() for k, v in home.loaded.weights().items()}
    assert all(torch.equal(live[k], v.to(live[k].dtype)) for k, v in home.loaded.stored().items())


def test_a_home_may_begin_without_it(tmp_path, model, manners, monkeypatch):
    monkeypatch.setattr(zero, "shipped", lambda digest: manners)
    with new_home(tmp_path / "bare", model, **{"learn.manners": False}) as made:
        assert made.lessons() == []
    with open_home(tmp_path / "bare") as again:
        assert again.lessons() == []


def test_a_portable_lesson_is_one_file_and_any_damage_is_found(manners):
    raw = manners.to_bytes()
    assert zero.Portable.from_bytes(raw) == manners and manners.to_bytes() == raw
    at = raw.index(manners.adapter[-32:])
    for damaged in (b"", raw[:-40], raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]):
        with pytest.raises(LessonFileError):
            zero.Portable.from_bytes(damaged)


def test_no_file_of_another_base_is_taken():
    assert zero.shipped("0" * 64) is None
