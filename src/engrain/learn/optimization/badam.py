"""BAdam: the layers take turns, each with an optimizer state of its own that ends with its turn.

Source: Luo, Yu, Li, arXiv 2404.02827, algorithm 1 (block coordinate descent). The trained
parameters are split into D blocks, one a layer. In each turn of K = ``interval`` steps one block
moves, from fresh state; all others stand still. K is 50 to 100 in the source; the default is 50, or
less in a run of less than 50 D steps, so that each block has a turn:

    turn j:  m, v <- 0;   K steps of the optimization on block pi(j);   its state is dropped.

``order`` is the permutation pi: ``random`` shuffles the blocks anew for every round of D turns,
``ascending`` goes from the lowest layer up, ``descending`` from the highest down. The source runs
Adam inside; here any per-parameter optimization does. What lies outside of the layers is frozen, as
in the released code, or makes a block before the lowest layer (embeddings) and one behind the
highest (output layer, last norm), or moves all the time.

Differences: the source keeps an fp32 copy of the block while its turn lasts; here bf16 weights are
rounded as the optimization's ``rounding`` says. The learning rate follows the run's schedule, not
one of each turn.

Memory: the state and gradients of one block: 8 n / D bytes on average with AdamW, against 8 n; the
largest block decides. Kept from turn to turn: nothing. Time: backward ends at the block's layer, so
a turn of a high layer is cheap. Use it for full weights where their AdamW state does not fit, and
with many steps for each block: under an ``interval`` of its own some layers never have a turn in a
run of less than D K steps, and a turn of a step or two is AdamW's first, which has the size of the
rate for every number. Not for LoRA, whose state is small as it is.

In the source's abstract, Llama 3-8B is trained whole on one card of 24 GB, and is a little above
LoRA on MT-bench.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from engrain.learn.blocks import Place, Turns, in_layers, layers_of, numbers, places
from engrain.learn.registry import register
from engrain.learn.technique import Optimization, Setting, option


@dataclass(frozen=True)
class BAdamConfig:
    """Hyper-parameters of BAdam."""

    interval: int = option(
        0, "steps of a block's turn; 0 takes 50, or less so that each has one", low=0
    )
    order: str = option(
        "random", "whose turn is next", choices=("random", "ascending", "descending")
    )
    outside: str = option(
        "frozen",
        "what lies outside of the layers: never moves, makes blocks of its own, or always moves",
        choices=("frozen", "blocks", "moves"),
    )


@register("badam")
class BAdam(Turns):
    """Block coordinate descent over the layers."""

    Config = BAdamConfig

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Split the parameters into blocks."""
        super().prepare(parameters, setting, optimization)
        self.blocks, self._always = self._split(parameters, setting)

    def _split(
        self, parameters: Mapping[str, nn.Parameter], setting: Setting
    ) -> tuple[list[list[str]], list[str]]:
        """The blocks from the input to the output, and what moves all the time."""
        found = places(parameters, setting)
        layers = layers_of(self.name, found)
        blocks = [[n for n, place in found.items() if place.layer == layer] for layer in layers]
        outside = [name for name, place in found.items() if place.layer is None]
        if self.config.outside == "moves":
            return blocks, outside
        if self.config.outside == "blocks":
            before, after = _around(found)
            blocks = [block for block in (before, *blocks, after) if block]
        return blocks, []

    def moving(self, turn: int) -> frozenset[str]:
        """One block, and what moves all the time."""
        return frozenset((*self.blocks[self.block(turn)], *self._always))

    def enough(self) -> int:
        """As many turns as there are blocks."""
        return len(self.blocks)

    def block(self, turn: int) -> int:
        """The number of the block whose turn it is."""
        round_, position = divmod(turn, len(self.blocks))
        order = list(range(len(self.blocks)))
        if self.config.order == "random":
            self.setting.rng("badam", self.setting.lesson.id, round_).shuffle(order)
        return order[-1 - position] if self.config.order == "descending" else order[position]

    def begin(self, step: int) -> None:
        """At the start of a turn: drop the state of the block that had the last one."""
        super().begin(step)
        if self.turn(step) != self.turn(step - 1):
            for block in self.blocks:
                for name in block:
                    self.optimization.forget(name)

    def at_once(
        self, parameters: Mapping[str, nn.Parameter], setting: Setting
    ) -> Mapping[str, nn.Parameter]:
        """The largest block, and what moves all the time."""
        if not in_layers(places(parameters, setting)):
            return parameters
        blocks, always = self._split(parameters, setting)
        largest = max(blocks, key=lambda block: numbers(block, parameters))
        return {name: parameters[name] for name in (*largest, *always)}


def _around(found: Mapping[str, Place]) -> tuple[list[str], list[str]]:
    """What the model lists before its layers, and what it lists behind them."""
    names = list(found)
    first = next(i for i, name in enumerate(names) if found[name].layer is not None)
    after = [name for name in names[first:] if found[name].layer is None]
    return names[:first], after
