"""Absence: earlier lessons are taken out of the weights for a step, so that they may be undone.

A lesson that always learns on top of all earlier ones leans on them: it stores only what they lack.
Undo one of them, and the later ones fall with it (docs/LOG.md: without the first of five lessons
10 of 46 questions about the others were answered, for 41 with it; with absence 41, for 43). So in a
share of the steps one earlier lesson, drawn at random, is missing: its adapter is taken out of the
weights, and its texts out of the replay. The idea is dropout (Srivastava et al., 2014) over the
terms of the fold instead of units.

Memory: one more copy of the linear weights while a lesson is missing. Time: the change of one
adapter, taken from the weights, in such a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.technique import Architecture, Regularization, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engrain.model.adapter import Adapter


class Absence:
    """Takes out one earlier lesson in a share of the steps.

    ``adapters`` are those of the setting's earlier lessons, in the same order. It is made before
    the architecture is attached, which may rename the parameters.
    """

    def __init__(self, setting: Setting, adapters: Sequence[Adapter], share: float) -> None:
        self._setting, self._share = setting, share
        self._lessons = list(zip(setting.earlier, adapters, strict=True)) if share else []
        self._parameters = dict(setting.loaded.model.named_parameters()) if self._lessons else {}
        self._whole = {name: parameter.data for name, parameter in self._parameters.items()}

    def refuse_steps_inside(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Refuse weights that would take their step while a lesson is missing from them.

        Raises:
            ConfigError: a trained parameter is a weight that lessons are taken out of.
        """
        own = {id(parameter) for parameter in self._parameters.values()}
        found = next((name for name, p in trained.items() if id(p) in own), None)
        if found is not None:
            raise ConfigError(
                f"{found} would take its step inside backward while an earlier lesson is missing "
                "from it, and lose the step when the lesson comes back.",
                remedy="Set absence to 0, or gradient_release to false.",
            )

    def refuse_what_holds_earlier(self, regularizations: Sequence[Regularization]) -> None:
        """Refuse what would teach the new lesson what the missing one did.

        Raises:
            ConfigError: a regularization holds the model to what earlier lessons taught.
        """
        found = next((r.name for r in regularizations if r.holds_earlier and self._lessons), None)
        if found is not None:
            raise ConfigError(
                f"{found} holds the model to what earlier lessons taught, while one of them is "
                "missing: this lesson would learn it in its place.",
                remedy=f"Set absence to 0, or take {found} out of the recipe.",
            )

    @contextmanager
    def of(self, step: int) -> Iterator[str]:
        """Gives the id of the lesson that is missing in a step, "" if none is."""
        rng = self._setting.rng("absence", step)
        if not self._lessons or rng.random() >= self._share:
            yield ""
            return
        lesson, adapter = rng.choice(self._lessons)
        held: list[tuple[nn.Parameter, Tensor]] = []
        changes = _change(adapter)
        try:
            for name in list(changes):
                # Taken out as it is used: changes and weights are not in memory together.
                change, parameter = changes.pop(name), self._parameters[name]
                held.append((parameter, parameter.data))
                # Frozen weights may be held rounded while a lesson is learned.
                whole = parameter.data if parameter.requires_grad else self._whole[name]
                parameter.data = (whole - change.to(whole.device)).to(parameter.dtype)
            yield lesson.id
        finally:
            for parameter, data in held:
                parameter.data = data


def _change(adapter: Adapter) -> dict[str, Tensor]:
    """What an adapter adds to each weight that it changes, in fp32."""
    technique = cast(type[Architecture], registry.get("architecture", adapter.architecture))
    change: dict[str, Any] = defaultdict(float)
    technique.fold(adapter, change)
    return dict(change)
