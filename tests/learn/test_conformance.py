"""Every registered technique passes the public conformance suite."""

import pytest

from engrain.learn import registry
from engrain.learn.technique import CATEGORIES
from engrain.learn.testing import check_technique

ALL = [(category, name) for category in CATEGORIES for name in registry.names(category)]


@pytest.mark.parametrize(("category", "name"), ALL)
def test_technique_conforms(category: str, name: str) -> None:
    assert "is_deterministic" in check_technique(category, name)


def test_suite_fails_for_a_technique_that_leaks_state() -> None:
    from dataclasses import dataclass

    from engrain.learn.registry import register
    from engrain.learn.replay.reservoir import Reservoir

    @dataclass(frozen=True)
    class LeakyConfig:
        pass

    @register("leaky")
    class Leaky(Reservoir):
        Config = LeakyConfig

        def prepare(self, setting):  # type: ignore[no-untyped-def]
            self.config_share = 1
            self._examples = [setting.encode(text) for text in setting.lesson.facts()]
            self._calls = 0

        def draw(self, step):  # type: ignore[no-untyped-def]
            self._calls += 1
            return [self._examples[self._calls % len(self._examples)]]

    try:
        with pytest.raises(AssertionError):
            check_technique("replay", "leaky")
    finally:
        registry._techniques["replay"].pop("leaky")
