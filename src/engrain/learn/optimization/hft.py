"""HFT: half of the matrices, drawn for each lesson, stand still while it is learned.

Source: Hui et al., "HFT: Half Fine-Tuning for Large Language Models", arXiv 2404.18466. With a
mask M over whole matrices, drawn anew for every lesson and constant within it,

    min over theta of  loss(theta)   with   (1 - M)(theta - theta_0) = 0:

the half that stands still keeps what earlier lessons left there. ``level`` says what is drawn:

    category   in each layer ``ratio`` of its attention matrices, of its feed-forward matrices and
               of its norms. Where that is no whole number (of 3 matrices 1.5) as many layers take
               one more as make the sum over all layers right: 2 in half of them, 1 in the others
    layer      ``ratio`` of the layers, whole
    model      ``ratio`` of all matrices and norms of the layers, wherever they are.

The draw depends on the seed and the lesson's id: after R lessons 2^-R of the matrices were never
moved. A matrix and its bias, and both of LoRA's matrices of a map, stand or move together. Shares
count matrices, not numbers: with grouped queries, keys and values are small, and two of the four
attention matrices may be few of the numbers or most; the rule's attribute ``share`` tells. What a
model has fused (phi3's qkv_proj) is one matrix here, so its attention is halved as one of two.

With ``half_reset``, the source's Half-Reset, all moves in the lesson, and at its end what was not
drawn goes back to theta_0. It costs a copy of that half, on which the other has learned to lean.

The source has no code. It trains embeddings and output layer always; that the last norm belongs to
them, and that half of the norms is drawn, is inferred. ``outside`` off protects them, too: in small
models with large vocabularies they hold most of the numbers.

Memory: nothing of its own; state and gradients of the half that moves, 8 n ratio with AdamW; a
stored lesson holds what moved only. Time: no weight gradients for the other half. Use it as the
first choice when lessons are consolidated into full weights. It protects within a lesson, not for
ever: after some lessons everything has moved, so add replay. With LoRA it is untested.

In the source, LLaMA-2-7B on eight tasks in turn (TRACE): overall 45.7 with full fine-tuning and
51.3 with this, backward transfer -10.2% and -5.6%; by layers 47.9, over the whole model 46.9. With
replay 54.3 and 54.1. Six general tasks after instruction tuning: 41.0 and 42.9.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.blocks import Place, in_layers, layers_of, numbers, places
from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Rule, Setting, option


@dataclass(frozen=True)
class HFTConfig:
    """Hyper-parameters of half fine-tuning."""

    ratio: float = option(0.5, "share of the matrices that move", low=0.0, high=1.0)
    level: str = option(
        "category",
        "what is halved: each kind of matrix in each layer, the layers, or all matrices at once",
        choices=("category", "layer", "model"),
    )
    outside: bool = option(True, "embeddings, output layer and last norm always move")
    half_reset: bool = option(False, "all move, and what was not drawn goes back at the end")


@register("hft")
class HFT(Rule):
    """A mask over whole matrices, one for each lesson.

    ``share`` is that of the trained numbers that move in this one.
    """

    Config = HFTConfig
    _moving: frozenset[str] = frozenset()

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Draw what moves in this lesson."""
        super().prepare(parameters, setting, optimization)
        self._parameters = dict(parameters)
        self._moving = frozenset(self._chosen(places(parameters, setting), setting))
        still = [name for name in parameters if self.config.half_reset and name not in self._moving]
        self._before = {name: parameters[name].detach().clone() for name in still}
        self.share = numbers(self._moving, parameters) / max(1, numbers(parameters, parameters))

    def moves(self, name: str, step: int) -> bool:
        """Whether the parameter's matrix was drawn, or all move until the end."""
        return self.config.half_reset or name in self._moving

    @torch.no_grad()
    def end(self, step: int) -> None:
        """After the last step, give back what was not drawn."""
        if step + 1 == self.setting.steps:
            for name, before in self._before.items():
                self._parameters[name].copy_(before)

    def at_once(
        self, parameters: Mapping[str, nn.Parameter], setting: Setting
    ) -> Mapping[str, nn.Parameter]:
        """What moves while the setting's lesson is learned."""
        found = places(parameters, setting)
        if self.config.half_reset or not in_layers(found):
            return parameters
        return {name: parameters[name] for name in self._chosen(found, setting)}

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """With ``half_reset`` what was not drawn, in its type; all of them before the draw."""
        still = [name for name in parameters if self.config.half_reset and name not in self._moving]
        return sum(parameters[name].nbytes for name in still)

    def state_dict(self) -> dict[str, Tensor]:
        """What goes back, as it was before the lesson."""
        return dict(self._before)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it back."""
        self._before = {name: tensor.clone() for name, tensor in state.items()}

    def _chosen(self, found: Mapping[str, Place], setting: Setting) -> list[str]:
        """The names of what moves."""
        units = self._drawn(found, setting.rng("hft", setting.lesson.id))
        return [
            name
            for name, place in found.items()
            if (self.config.outside if place.layer is None else place.unit in units)
        ]

    def _drawn(self, found: Mapping[str, Place], rng: random.Random) -> set[str]:
        """The units of the layers that move."""
        ratio, layers = self.config.ratio, layers_of(self.name, found)
        within = sorted({p.unit for p in found.values() if p.layer is not None})
        if self.config.level == "model":
            return set(rng.sample(within, round(ratio * len(within))))
        if self.config.level == "layer":
            chosen = set(rng.sample(layers, round(ratio * len(layers))))
            return {place.unit for place in found.values() if place.layer in chosen}
        drawn: set[str] = set()
        for kind in ("attention", "feed_forward", "norm"):
            groups = [
                sorted({p.unit for p in found.values() if p.layer == layer and p.kind == kind})
                for layer in layers
            ]
            drawn |= share_of_each(groups, ratio, rng)
        return drawn


def share_of_each(groups: Sequence[Sequence[str]], ratio: float, rng: random.Random) -> set[str]:
    """A share of each group, so that groups of one size differ by one at most and sum up."""
    sizes: dict[int, list[Sequence[str]]] = defaultdict(list)
    for group in groups:
        sizes[len(group)].append(group)
    drawn: set[str] = set()
    for size, alike in sorted(sizes.items()):
        count, more = divmod(round(ratio * size * len(alike)), len(alike))
        lucky = set(rng.sample(range(len(alike)), more))
        for number, group in enumerate(alike):
            drawn |= set(rng.sample(group, count + (number in lucky)))
    return drawn
