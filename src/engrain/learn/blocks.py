"""What block schedules share: which block a trained parameter belongs to, and whose turn it is.

A parameter's layer and kind are read from the model's profile and modules, so a schedule serves any
architecture, and weights and LoRA's matrices alike: both matrices of a map, and its bias, are one
unit with it. Whatever moves is chosen by the setting's seed, the lesson and the number of the turn
alone, so a resumed run needs nothing stored.

A block that stands still gets no gradient: backward ends at the lowest layer that moves, and an
optimization keeps no state for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from engrain.errors import ConfigError
from engrain.learn.technique import Optimization, Rule, Setting
from engrain.model.profile import ATTENTION_NAMES, STATEFUL_NAMES

LONGEST = 50
"""Most steps of a turn whose length the run decides: OwLore's value, and the least of BAdam's."""

_OWN_NAME = re.compile(r"(?:\.lora_\w+?(?:\.\w+)?)?\.(?:weight|bias)$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trained parameter belongs.

    ``layer`` is its layer's number, None outside of the layers; ``kind`` is ``attention``,
    ``feed_forward`` or ``norm``, or ``outside``; ``unit`` names the map or norm that it is a part
    of: its weight, its bias, and LoRA's A and B have one unit.
    """

    layer: int | None
    kind: str
    unit: str


def unit_of(name: str) -> str:
    """The map or norm that a parameter is a part of.

    Example:
        >>> unit_of("model.layers.0.mlp.up_proj.lora_A.default.weight")
        'model.layers.0.mlp.up_proj'
    """
    return _OWN_NAME.sub("", name)


def places(names: Iterable[str], setting: Setting) -> dict[str, Place]:
    """The place of each parameter by name; one outside of the text tower's layers has none."""
    loaded = setting.loaded
    path = loaded.profile.layers_path
    within = re.compile(rf"(?:^|\.){re.escape(path)}\.(\d+)\.(.+)")
    modules = dict(loaded.model.named_modules())
    found = {}
    for name in names:
        unit = unit_of(name)
        match = within.search(unit)
        if match is None:
            found[name] = Place(None, "outside", unit)
            continue
        module = modules.get(f"{path}.{match[1]}.{match[2]}")
        found[name] = Place(int(match[1]), _kind(match[2], module), unit)
    return found


def _kind(inner: str, module: nn.Module | None) -> str:
    """What a part of a layer does; what is neither attention nor a norm feeds forward."""
    if module is not None and "norm" in type(module).__name__.lower():
        return "norm"
    attends = inner.split(".")[0] in ATTENTION_NAMES + STATEFUL_NAMES
    return "attention" if attends else "feed_forward"


def in_layers(found: Mapping[str, Place]) -> bool:
    """Whether any parameter belongs to a layer; one that only stands for a size does not."""
    return any(place.layer is not None for place in found.values())


def layers_of(rule: str, found: Mapping[str, Place]) -> list[int]:
    """The numbers of the layers that hold trained parameters, from the lowest up.

    Raises:
        ConfigError: no trained parameter belongs to a layer.
    """
    layers = sorted({place.layer for place in found.values() if place.layer is not None})
    if not layers:
        raise ConfigError(
            f"{rule} chooses among layers, and no trained parameter belongs to one.",
            remedy="Choose an architecture that trains the layers, such as full or lora.",
        )
    return layers


def numbers(names: Iterable[str], parameters: Mapping[str, nn.Parameter]) -> int:
    """How many numbers the named parameters hold."""
    return sum(parameters[name].numel() for name in names)


class Turns(Rule):
    """A rule under which a set of parameters moves for ``interval`` steps, then another.

    An ``interval`` of 0 makes turns of :data:`LONGEST` steps, or of as much less as it takes for
    every layer to have one in the run, but of one step at least; they differ by a step at most.
    """

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Find the place of each parameter."""
        super().prepare(parameters, setting, optimization)
        self._turn = -1
        self._moving: frozenset[str] = frozenset()

    def moving(self, turn: int) -> frozenset[str]:
        """The names of what moves in a turn, as a pure function of the setting."""
        raise NotImplementedError

    def enough(self) -> int:
        """The turns in which every layer can have one."""
        raise NotImplementedError

    def turn(self, step: int) -> int:
        """The number of the turn that a step is in."""
        if self.config.interval:
            return step // int(self.config.interval)
        steps = self.setting.steps
        return step * max(-(-steps // LONGEST), min(self.enough(), steps)) // steps

    def begin(self, step: int) -> None:
        """Let the next set have its turn."""
        turn = self.turn(step)
        if turn != self._turn:
            self._turn, self._moving = turn, self.moving(turn)

    def moves(self, name: str, step: int) -> bool:
        """Whether it is the parameter's turn."""
        return name in self._moving
