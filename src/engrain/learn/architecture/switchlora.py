"""SwitchLoRA: a LoRA whose directions are exchanged one by one, so that the change grows in rank.

Source: SwitchLoRA, arXiv 2406.06564, algorithm 1, and its authors' code. For each targeted matrix W
of shape (m, n), k = min(m, n), with B (m, rank), A (rank, n), both drawn and neither zero:

    h = W x + (alpha / rank) (B A - B0 A0) x,      B0 A0: the product at the start.

After a step the next row of A is exchanged for the next of k candidates, or the next column of B::

    exchanges a step and side:   (rank / interval) decay^((t + 1) / (ratio steps))
    A_i <- c:   the function keeps what the pair b_i a_i did; column i of B, whose gradient is now
                another one, loses its moments and step count and stands still for ``frozen`` steps.
    B_i <- c:   the same the other way round.

Entries of A and B are uniform with standard deviations (sqrt(m) rank / n^1.5)^1/4 and
(rank / sqrt(m n))^1/4, times 3^-1/4, which suit ``alpha`` 1. Rows go round in order, columns half
a round ahead; an interval of at least 2 ``frozen`` keeps a pair from standing still on both sides.

Where this differs: (1) the paper writes what a pair did into W at every exchange, rounded. Here it
stays in two columns of its own, b (a - a0) + (b - b0) a0 with the pair's values a0, b0 since its
last exchange, so the base is never written, an exchange changes no term of the sum, and small
changes survive bf16. (2) The exchange follows the step instead of standing between backward and
step, so no gradient of an exchanged vector is used. (3) Whether a fraction of an exchange is
rounded up is decided by one random phase a matrix, so the exchanges are a function of the step;
each step's expectation is the paper's. (4) A candidate is drawn when it is needed, from a seed; one
that was trained is kept only if its turn comes again.

On disk it is a PEFT LoRA of rank 2 rank + 2 E for the E exchanges of a matrix. Memory: 4 (2 rank +
2 E) (m + n) bytes a matrix and 4 (m + n) for each trained candidate that comes again, against the
paper's 4 k (m + n) in host memory beside a W that is written; for AdamW 8 rank (m + n) + 8 rank
bytes of state. Time: a LoRA of rank 2 rank + 2 E. Use it for long runs in which LoRA's rank is too
small. Not for a lesson of some hundred steps: the published interval exchanges rank steps / 480
rows, so it is a LoRA with a costlier start. Once 2 E nears k, full weights are smaller.

In the source, pre-training of 1.3B weights: perplexity 15.01, full rank 15.23.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engrain.errors import ConfigError
from engrain.learn.architecture.lora import PREFIX, Lora, changed, settings_of
from engrain.learn.registry import register
from engrain.learn.restarts import Extended, extend, generator, give_back, shapes
from engrain.learn.technique import Optimization, Setting, meta_parameter, option, warn_of_rank
from engrain.learn.update import by_vector, resettable
from engrain.model.adapter import Adapter

SIDES = ("A", "B")


@dataclass(frozen=True)
class SwitchLoraConfig:
    """Hyper-parameters of SwitchLoRA."""

    rank: int = option(16, "directions that are trained at a time", low=1, high=1024)
    alpha: float = option(1.0, "the change is scaled by alpha / rank", low=0.0)
    interval: float = option(40.0, "steps in which every direction is exchanged once", low=1.0)
    frozen: int = option(5, "steps for which the other side of an exchange stands still", low=0)
    decay: float = option(0.3, "rate of exchanges after ratio of the steps", low=1e-6, high=1.0)
    ratio: float = option(0.1, "share of the steps in which the rate decays once", low=1e-3)
    targets: str = option("all", "which linear maps", choices=("all", "mlp", "attention"))
    layers: float = option(
        1.0, "share of the layers that are changed, from the highest down", low=0.01, high=1.0
    )


@dataclass(frozen=True)
class Switches:
    """Which vectors of a matrix are exchanged after which step: a function of the run alone.

    Exchanges of a side are numbered from 0. The one of number j takes candidate j mod ``pool`` and
    gives back candidate (j - rank) mod ``pool``, which its place held.
    """

    rank: int
    pool: int
    frozen: int
    done: Mapping[str, list[int]] = field(repr=False)
    """Exchanges before each step, by side; the last entry is of the whole run."""
    first: Mapping[str, int] = field(repr=False)
    """The place of the first exchange, by side."""

    @classmethod
    def of(cls, config: Any, shape: tuple[int, int], steps: int, phase: float) -> Switches:
        """The exchanges of a matrix in a run of that many steps; ``phase`` is in [0, 1)."""
        rank, pool = min(config.rank, *shape), min(shape)
        positions, position = [0.0], 0.0
        # After the last step there is nothing left to exchange for.
        for step in range(steps - 1):
            if rank < pool:
                position += (
                    rank / config.interval * config.decay ** ((step + 1) / (config.ratio * steps))
                )
            positions.append(position)
        # Half a round between the sides, also where the rank is odd.
        phases = {"A": phase, "B": phase + rank % 2 / 2}
        # Sums of many fractions are off by their last bits, and a whole number must count as one.
        done = {
            side: [math.floor(round(p + own, 9)) - math.floor(own) for p in positions]
            for side, own in phases.items()
        }
        first = {"A": 0, "B": (math.floor(phases["B"]) + rank // 2) % rank}
        return cls(rank, pool, config.frozen, done, first)

    @property
    def count(self) -> int:
        """Exchanges of the whole run, both sides."""
        return self.before(len(self.done["A"]))

    def before(self, step: int) -> int:
        """Exchanges before a step, both sides."""
        return sum(self._done(side, step) for side in SIDES)

    def after(self, side: str, step: int) -> range:
        """The numbers of the exchanges that follow a step."""
        return range(self._done(side, step), self._done(side, step + 1))

    def place(self, side: str, number: int) -> int:
        """The row of A or column of B that an exchange is of."""
        return (number + self.first[side]) % self.rank

    def still(self, side: str, step: int) -> list[int]:
        """Vectors of a side that stand still in a step: the other side of theirs was exchanged."""
        other = SIDES[side == "A"]
        numbers = range(self._done(other, step - self.frozen), self._done(other, step))
        return sorted({self.place(other, number) for number in numbers})

    def returns(self, side: str, number: int) -> bool:
        """Whether the candidate that an exchange gives back is taken once more."""
        return number - self.rank + self.pool < self.done[side][-1]

    def _done(self, side: str, step: int) -> int:
        known = self.done[side]
        return known[min(max(step, 0), len(known) - 1)]


class Switched(Extended):
    """A linear map, the factors that are trained, and what exchanged pairs left behind.

    ``start`` holds both factors as they were when each pair was last exchanged; ``left`` (m, 2 E)
    and ``right`` (2 E, n) hold the pairs that were exchanged.
    """

    left: Tensor
    right: Tensor

    def __init__(self, base: Any, a: Tensor, b: Tensor, scale: float, switches: Switches) -> None:
        super().__init__(base)
        self.scale, self.switches = scale, switches
        self.factors = {"A": by_vector(nn.Parameter(a), 0), "B": by_vector(nn.Parameter(b), 1)}
        self.start = {"A": a.clone(), "B": b.clone()}
        self.left = b.new_zeros(len(b), 2 * switches.count)
        self.right = a.new_zeros(2 * switches.count, a.shape[1])
        self.trained: dict[str, dict[int, Tensor]] = {side: {} for side in SIDES}
        self.step = 0
        for side, factor in self.factors.items():
            self.register_parameter(f"switched_{side}", factor)
            factor.register_hook(lambda gradient, side=side: self._moving(side, gradient))

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """The change as two factors (2 rank + 2 E, n) and (m, 2 rank + 2 E), without the scale.

        Differences are taken in fp32: zero at the start and after an exchange to the bit.
        """
        a, b = self.factors["A"], self.factors["B"]
        low = torch.cat([a - self.start["A"], self.start["A"], self.right])
        return low, torch.cat([b, b - self.start["B"], self.left], 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """The base's output and the change's."""
        low, high = self.low_rank()
        layer = self.base_layer
        if not self.transposed:
            return changed(inputs, layer, low, high, self.scale)
        found = linear(linear(inputs.to(low.dtype), low), high)
        out: Tensor = layer(inputs)
        return out + (self.scale * found).to(out.dtype)

    def _moving(self, side: str, gradient: Tensor) -> Tensor:
        """The gradient without the vectors that stand still."""
        still = self.switches.still(side, self.step)
        if not still:
            return gradient
        index = torch.tensor(still, device=gradient.device)
        return gradient.index_fill(0 if side == "A" else 1, index, 0)

    def vector(self, side: str, place: int, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """A view of a row of A, or of a column of B."""
        tensor = (tensors or self.factors)[side].detach()
        return tensor[place] if side == "A" else tensor[:, place]

    def switch(self, side: str, number: int, column: int, candidate: Tensor) -> None:
        """Exchange one vector; what its pair did goes to columns of its own."""
        place, pool = self.switches.place(side, number), self.switches.pool
        pair = {s: self.vector(s, place) for s in SIDES}
        start = {s: self.vector(s, place, self.start) for s in SIDES}
        self.right[column], self.left[:, column] = pair["A"] - start["A"], pair["B"]
        self.right[column + 1], self.left[:, column + 1] = start["A"], pair["B"] - start["B"]
        if self.switches.returns(side, number):
            self.trained[side][(number - self.switches.rank) % pool] = pair[side].clone()
        pair[side].copy_(candidate)
        for s in SIDES:
            start[s].copy_(pair[s])


@register("switchlora")
class SwitchLora(Lora):
    """LoRA with exchanged directions as the place where a lesson lives."""

    Config = SwitchLoraConfig
    # What was exchanged lies in columns of its own, and a second round has other exchanges.
    goes_on = False

    def attach(self, setting: Setting) -> None:
        """Extend the targeted maps; what the first factors do is taken off again.

        Raises:
            ConfigError: vectors would stand still on both sides of a pair.
        """
        if self.config.interval < 2 * self.config.frozen:
            raise ConfigError(
                f"architecture.interval is {self.config.interval}, and vectors stand still for "
                f"{self.config.frozen} steps: both sides of a direction could at once.",
                remedy="Make interval at least twice frozen.",
            )
        self._setting, self._model = setting, setting.loaded.model
        self._plans = self._plans_of(setting)
        warn_of_rank(self.name, self.config.rank, (shape for _, shape in self._plans.values()))
        self._layers = extend(self._model, list(self._plans), self._extended)

    def _plans_of(self, setting: Setting) -> dict[str, tuple[Switches, tuple[int, int]]]:
        """The exchanges and the shape (out, in) of each targeted map."""
        found = {}
        for path, shape in shapes(setting, self._targets(setting)).items():
            phase = setting.rng("switchlora", path).random()
            found[path] = Switches.of(self.config, shape, setting.steps, phase), shape
        return found

    def _extended(self, path: str, base: Any) -> Switched:
        plan, shape = self._plans[path]
        first = plan.pool - plan.rank
        vectors: dict[str, list[Tensor]] = {"A": [], "B": []}
        for side in SIDES:
            # The places hold the last candidates, in the order in which they are exchanged.
            slots = {plan.place(side, number): first + number for number in range(plan.rank)}
            vectors[side] = [
                self.candidate(path, side, slots[place], shape) for place in range(plan.rank)
            ]
        device = base.weight.device
        a, b = torch.stack(vectors["A"]), torch.stack(vectors["B"], 1)
        return Switched(base, a.to(device), b.to(device), self.config.alpha / plan.rank, plan)

    def candidate(self, path: str, side: str, slot: int, shape: tuple[int, int]) -> Tensor:
        """A candidate as it was drawn: ``(n,)`` for A, ``(m,)`` for B."""
        m, n = shape
        rank = min(self.config.rank, m, n)
        if side == "A":
            deviation = (math.sqrt(m) * rank / n**1.5) ** 0.25 * 3**-0.25
        else:
            deviation = (rank / math.sqrt(m * n)) ** 0.25 * 3**-0.25
        drawn = torch.rand(
            n if side == "A" else m,
            generator=generator(self._setting, "switchlora", path, side, slot),
        )
        return drawn.sub(0.5).mul(2 * math.sqrt(3) * deviation)

    def parameters(self) -> dict[str, nn.Parameter]:
        """A and B of every targeted map."""
        return {
            f"{path}.switched_{side}": layer.factors[side]
            for path, layer in self._layers.items()
            for side in SIDES
        }

    @torch.no_grad()
    def stepped(self, step: int, optimization: Optimization) -> None:
        """Hold what stands still, then exchange what is due."""
        moving = resettable(optimization, self.name)
        for path, layer in self._layers.items():
            plan = layer.switches
            for side in SIDES:
                still = plan.still(side, step)
                for place in still:
                    # It had no gradient; decay or a rule may have moved it all the same.
                    layer.vector(side, place).copy_(layer.vector(side, place, layer.start))
                if still:
                    moving.forget(f"{path}.switched_{side}", still)
            column = 2 * plan.before(step)
            for side, other in (SIDES, SIDES[::-1]):
                for number in plan.after(side, step):
                    layer.switch(side, number, column, self._next(path, side, number))
                    moving.forget(f"{path}.switched_{other}", [plan.place(side, number)])
                    column += 2
            layer.step = step + 1

    def _next(self, path: str, side: str, number: int) -> Tensor:
        """The candidate that an exchange takes: as it was trained, or as it was drawn."""
        layer = self._layers[path]
        slot = number % layer.switches.pool
        trained = layer.trained[side].pop(slot, None)
        if trained is not None:
            return trained
        return self.candidate(path, side, slot, self._plans[path][1])

    def adapter(self) -> Adapter:
        """The whole change as PEFT's two files: a LoRA of higher rank, the scale within B."""
        import peft

        tensors, ranks = {}, {}
        for path, layer in self._layers.items():
            low, high = (factor.detach() for factor in layer.low_rank())
            tensors[f"{PREFIX}{path}.lora_A.weight"] = low.clone()
            tensors[f"{PREFIX}{path}.lora_B.weight"] = layer.scale * high
            ranks[path] = len(low)
        config = peft.LoraConfig(
            r=max(ranks.values()),
            lora_alpha=max(ranks.values()),
            rank_pattern=ranks,
            alpha_pattern=dict(ranks),
            target_modules=list(ranks),
            fan_in_fan_out=any(layer.transposed for layer in self._layers.values()),
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=self._setting.loaded.source,
        )
        return Adapter(self.name, tensors, settings_of(config))

    def detach(self) -> None:
        """Put the original modules back; they were never written."""
        give_back(self._model, self._layers)

    def storage_bytes(self, setting: Setting) -> int:
        """4 (2 rank + 2 exchanges) (out + in) summed over the targeted maps."""
        return sum(
            8 * (plan.rank + plan.count) * sum(shape)
            for plan, shape in self._plans_of(setting).values()
        )

    def working_bytes(self, setting: Setting) -> int:
        """The factors as they are stored, and the trained candidates that come again."""
        kept = 0
        for plan, (m, n) in self._plans_of(setting).values():
            for side, length in (("A", n), ("B", m)):
                again = sum(plan.returns(side, j) for j in range(plan.done[side][-1]))
                kept += 4 * length * min(again, plan.pool - plan.rank)
        return self.storage_bytes(setting) + kept

    def would_train(self, setting: Setting) -> dict[str, nn.Parameter]:
        """A and B of every targeted map."""
        found = {}
        for path, (plan, (m, n)) in self._plans_of(setting).items():
            found[f"{path}.switched_A"] = by_vector(meta_parameter(plan.rank, n), 0)
            found[f"{path}.switched_B"] = by_vector(meta_parameter(m, plan.rank), 1)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The factors, where each pair started, what was exchanged, and how far the run is."""
        state = {}
        for path, layer in self._layers.items():
            for side in SIDES:
                state[f"{path}.{side}"] = layer.factors[side].detach()
                state[f"{path}.{side}.start"] = layer.start[side]
                for slot, vector in layer.trained[side].items():
                    state[f"{path}.{side}.trained.{slot}"] = vector
            state |= {f"{path}.left": layer.left, f"{path}.right": layer.right}
            state[f"{path}.step"] = torch.tensor(layer.step)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take everything back; which exchanges are due follows from the step."""
        with torch.no_grad():
            for path, layer in self._layers.items():
                for side in SIDES:
                    layer.factors[side].copy_(state[f"{path}.{side}"])
                    layer.start[side].copy_(state[f"{path}.{side}.start"])
                    kept = f"{path}.{side}.trained."
                    layer.trained[side] = {
                        int(name.removeprefix(kept)): tensor.to(layer.left.device, copy=True)
                        for name, tensor in state.items()
                        if name.startswith(kept)
                    }
                layer.left.copy_(state[f"{path}.left"])
                layer.right.copy_(state[f"{path}.right"])
                layer.step = int(state[f"{path}.step"])
