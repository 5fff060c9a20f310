"""FRUGAL: AdamW for a share of each matrix, signs without any state for the rest.

Source: Zmushko et al., arXiv 2411.07837, algorithm 1. Of each matrix a share ``density`` is chosen
at random every ``refresh`` steps; for its entries S and the others:

    W[S] <- AdamW's step, with moments that began at 0 when S was chosen
    W[others] <- W - rate free_scale sign(G) - rate weight_decay W      (``free`` sgd: G itself)

What S is made of (``choose``):

    columns   int(density n) of the n columns;
    randk     int(density m n) entries, one of each of as many equal stretches of the matrix (the
              authors draw from all entries at once, and store where they lie in 16 bytes each);
    blocks    whole matrices, round(density matrices) at a time, in an ``order`` through the model.

S is drawn anew from a seed at each step and never stored. With density 1 this is AdamW to the bit
while S stands; with density 0 it is signSGD, and keeps nothing. Moments may be kept through a
refresh (``on_refresh``), but then they are those of other entries. What has not two dimensions
takes AdamW's step.

Memory: 8 int(density n) m + 4 bytes for a matrix (m, n) by columns, 8 int(density m n) + 4 by
randk, 8 m n + 8 for each active matrix by blocks. Time: no product and no decomposition; the share
is gathered and scattered, and one pass takes signs. The step has full rank, and none costs less on
a CPU at this memory. Use it for full weights where a share of AdamW's state fits, not where all of
it does. Every entry of the rest moves by the same amount whatever the gradient, so ``free_scale``
is 0.1 as in the authors' fine-tuning (1 in their pre-training); take less, or ``free`` sgd or none,
for single examples. Keep AdamW for the output layer.

The source's abstract: at equal memory better than GaLore and BAdam on C4 from 60M to 1B weights,
near AdamW. Its tables were not at hand.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engrain.learn.optimization.adamw import AdamWConfig, adamw_step, moments
from engrain.learn.projected import Refreshed
from engrain.learn.projectors import generator_of, some_columns, some_entries
from engrain.learn.registry import register
from engrain.learn.technique import option


@dataclass(frozen=True)
class FrugalConfig(AdamWConfig):
    """Hyper-parameters of FRUGAL."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=100.0)
    beta2: float = option(0.999, "decay of the second moment", low=0.0, high=0.99999)
    clip: float = option(0.0, "largest gradient norm; 0 switches it off", low=0.0)
    density: float = option(0.25, "share of a matrix that has moments", low=0.0, high=1.0)
    choose: str = option(
        "columns", "what the share is made of", choices=("columns", "randk", "blocks")
    )
    order: str = option(
        "random",
        "in which order blocks take turns",
        choices=("random", "ascending", "descending", "mirror"),
    )
    refresh: int = option(200, "steps after which the share is chosen anew", low=1)
    on_refresh: str = option(
        "reset", "what becomes of the moments when it is", choices=("reset", "keep")
    )
    free: str = option("sign", "how entries without moments move", choices=("sign", "sgd", "none"))
    free_scale: float = option(0.1, "their rate as a share of the rate", low=0.0)


@register("frugal")
class Frugal(Refreshed):
    """A gradient that is split into a part with and a part without state."""

    Config = FrugalConfig

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments of the chosen share; those of a block are made when its turn comes."""
        if parameter.ndim != 2:
            return moments(parameter)
        shape = self._share(parameter.shape)
        return moments(torch.empty(shape, device=parameter.device)) if all(shape) else {}

    def _share(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape of what has moments in a matrix."""
        rows, columns = shape
        if self.config.choose == "blocks":
            return (0,)
        if self.config.choose == "columns":
            return rows, int(self.config.density * columns)
        return (int(self.config.density * rows * columns),)

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step of AdamW on the share, by signs on the rest."""
        if weight.ndim != 2:
            adamw_step(self._state[name], weight, gradient, rate, self.config)
        elif self.config.choose == "blocks":
            self._move_block(name, weight, gradient, rate, step)
        elif all(self._share(weight.shape)):
            self._move_share(name, weight, gradient, rate)
        else:
            self._move_freely(weight, gradient, rate)

    def _move_share(self, name: str, weight: Tensor, gradient: Tensor, rate: float) -> None:
        state, config = self._state[name], self.config
        side = 1 if config.choose == "columns" else 0
        target = weight if side else weight.view(-1)
        source = gradient if side else gradient.reshape(-1)
        count = taken = int(state["step"])
        chosen = self.chosen(name, weight.shape, self.draw(name, count)).to(weight.device)
        if config.on_refresh == "reset":
            taken = self.since(name, count)
            if not taken:
                state["exp_avg"].zero_(), state["exp_avg_sq"].zero_()
        own = {**state, "step": torch.full_like(state["step"], taken)}
        share = target.index_select(side, chosen)
        adamw_step(own, share, source.index_select(side, chosen), rate, config)
        state["step"] += 1
        self._move_freely(target, source.index_fill_(side, chosen, 0), rate)
        target.index_copy_(side, chosen, share)

    def _move_block(
        self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int
    ) -> None:
        state, turn = self._state[name], step // self.config.refresh
        if name not in self.active(turn):
            state.clear()
            self._move_freely(weight, gradient, rate)
            return
        kept = state and self.config.on_refresh == "keep"
        if not kept and int(state.get("turn", torch.tensor(-1))) != turn:
            state |= moments(weight)
        state["turn"] = torch.tensor(turn, dtype=torch.int32)
        adamw_step(state, weight, gradient, rate, self.config)

    def _move_freely(self, weight: Tensor, gradient: Tensor, rate: float) -> None:
        config = self.config
        if config.weight_decay:
            weight.mul_(1 - rate * config.weight_decay)
        if config.free != "none":
            change = gradient.sign_() if config.free == "sign" else gradient
            weight.add_(change, alpha=-rate * config.free_scale)

    def chosen(self, name: str, shape: torch.Size, draw: int) -> Tensor:
        """The columns, or the entries of the flat matrix, of a parameter's ``draw``-th share."""
        generator = generator_of(self._seed, self.name, name, draw)
        draws = some_columns if self.config.choose == "columns" else some_entries
        whole = shape[1] if self.config.choose == "columns" else shape.numel()
        return draws(whole, self._share(shape)[-1], generator)

    def active(self, turn: int) -> list[str]:
        """The matrices whose turn it is."""
        return [self._matrices()[place] for place in self._places(turn, len(self._matrices()))]

    def _matrices(self) -> list[str]:
        return [name for name, parameter in self._parameters.items() if parameter.ndim == 2]

    def _places(self, turn: int, count: int) -> list[int]:
        """Places in the model, as many as have moments at once."""
        active = round(self.config.density * count)
        if self.config.order == "random":
            return random.Random(f"{self._seed}:{self.name}:{turn}").sample(range(count), active)
        places = list(range(count))
        if self.config.order == "descending":
            places.reverse()
        elif self.config.order == "mirror":
            places = [(i // 2 if i % 2 == 0 else count - 1 - i // 2) for i in places]
        return [places[(turn * active + i) % count] for i in range(active)]

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Bytes of the state; of blocks those of the largest, which no turn exceeds."""
        found = super().state_bytes(parameters)
        if self.config.choose != "blocks":
            return found
        sizes = sorted(8 * p.numel() + 8 for p in parameters.values() if p.ndim == 2)
        active = round(self.config.density * len(sizes))
        return found + sum(sizes[len(sizes) - active :])
