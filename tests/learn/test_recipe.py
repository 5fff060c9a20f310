"""Recipes, registry and the errors that name what was meant."""

import pytest

from engrain.errors import ConfigError, UnknownNameError
from engrain.learn import recipe, registry
from engrain.learn.recipe import Recipe
from engrain.learn.testing import sample_lesson


def test_named_recipes_survive_a_round_trip() -> None:
    for name in recipe.names():
        known = recipe.named(name)
        again = Recipe.from_dict(known.to_dict())
        assert again.digest == known.digest


def test_digest_changes_with_any_setting() -> None:
    default = recipe.named("default")
    digests = {
        default.digest,
        default.with_settings({"optimization.learning_rate": 1e-4}).digest,
        default.with_settings({"replay.reservoir.share": 3.0}).digest,
        default.with_settings({"epochs": 3.0}).digest,
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("record", "hint"),
    [
        ({"name": "x", "optimisation": "adamw"}, "optimization"),
        ({"name": "x", "optimization": "adam"}, "adamw"),
        ({"name": "x", "architecture": {"name": "lora", "rnk": 4}}, "rank"),
        ({"name": "x", "replay": ["reservoire"]}, "reservoir"),
    ],
)
def test_misspellings_are_named(record: dict, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        Recipe.from_dict(record)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="rank"):
        registry.build("architecture", "lora", {"rank": 0})
    with pytest.raises(ConfigError, match="targets"):
        registry.build("architecture", "lora", {"targets": "heads"})


def test_steps_follow_the_lesson() -> None:
    lesson = sample_lesson()
    plain = Recipe("plain", epochs=10, batch_size=4, min_steps=1, max_steps=400)
    assert plain.steps(lesson) == 10
    assert Recipe("plain", min_steps=40).steps(lesson) == 40
    assert Recipe("plain", epochs=1e6, max_steps=50).steps(lesson) == 50
