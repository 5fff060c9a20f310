"""SST: sparse spectral training; all singular values of a matrix, a few of its singular vectors.

Source: Sparse Spectral Training, arXiv 2405.15481 (version 3). For each targeted matrix W of shape
(m, n), k = min(m, n), with W = U diag(s) V^T from an SVD and G = dL/dW:

    draw:    r indices without replacement, p(i) = (1 / k + s_i / sum s) / 2
    values:  g_i = u_i^T G v_i for all i;   s <- max(s - step, 0)
    vectors: of the drawn indices, with the enhanced gradients G v_i and G^T u_i, which are the true
             ones without their factor s_i; after each step u_i and v_i are divided by their norms.

After ``draw`` steps the vectors are put back and others are drawn, whose moments begin anew and
whose steps rise to their size over ``warmup`` steps. After ``round`` draws (as many as it takes to
draw k of them, unless said otherwise) the product is decomposed anew, which makes U and V
orthogonal again; the moments of s go, since the order of the values may have changed.

Where this differs: the paper keeps U, s and V in the place of W. Here W stays, the change since the
start is computed as a matrix of its own, whose terms are differences from the last draw, and added
to W: so the function is the same to the bit at the start, at each draw and at each decomposition,
whatever an SVD loses. The paper's interval, warm-up and length of a round could not be read; those
here are ours.

On disk it is a full difference, as of ``full``: 4 m n bytes a matrix. Memory while it trains,
beside W, in bytes a matrix: 4 (k (m + n) + 2 m n + 2 r (m + n) + 2 k), which is about W four times;
for AdamW 8 (r (m + n) + k) of state, a little of the 8 m n of full training. Time: a product of
m k n in each forward and another in each backward, which is the work of k more tokens, and an SVD
of each matrix a round. Use it to train all directions with little optimizer state, where many
tokens make a step. Not to save memory on the whole, nor for a short lesson: LoRA is smaller.

In the source, perplexity on OpenWebText at 130M and 1.3B weights (LLaMA): 23.35 and 14.59, full
rank 20.04 and 14.54, LoRA 29.71 and 16.50.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engrain.learn.architecture.lora import targeted
from engrain.learn.registry import register
from engrain.learn.restarts import Extended, decomposed, ease, extend, generator, give_back, shapes
from engrain.learn.technique import (
    Architecture,
    Optimization,
    Setting,
    meta_parameter,
    option,
    warn_of_rank,
)
from engrain.learn.update import resettable
from engrain.model.adapter import Adapter

PARTS = ("values", "left", "right")


@dataclass(frozen=True)
class SstConfig:
    """Hyper-parameters of SST."""

    rank: int = option(16, "pairs of singular vectors that are trained at a time", low=1, high=8192)
    draw: int = option(20, "steps after which other vectors are drawn", low=1)
    warmup: int = option(3, "steps over which drawn vectors rise to whole steps", low=0)
    round: int = option(0, "draws between decompositions; 0 takes k / rank", low=0)
    targets: str = option("all", "which linear maps", choices=("all", "mlp", "attention"))
    layers: float = option(
        1.0, "share of the layers that are changed, from the highest down", low=0.01, high=1.0
    )


class Spectral(Extended):
    """A linear map, its singular vectors and values at the last draw, and what is trained of them.

    ``u`` (m, k), ``s`` (k,), ``v`` (k, n) are as of the last draw, ``moved`` (m, n) is the change
    up to it; ``values`` (k,), ``left`` (m, r) and ``right`` (r, n) are trained, the vectors with
    the indices ``drawn`` (r,).
    """

    def __init__(self, base: Any, rank: int) -> None:
        super().__init__(base)
        whole = self.matrix().detach().float()
        self.u, self.s, self.v = decomposed(whole)
        self.moved = torch.zeros_like(whole)
        self.drawn = torch.arange(min(rank, len(self.s)), device=whole.device)
        self.values = nn.Parameter(self.s.clone())
        self.left = nn.Parameter(self.u[:, self.drawn].clone())
        self.right = nn.Parameter(self.v[self.drawn].clone())
        self.hold()

    def change(self) -> Tensor:
        """The change of the matrix since the start ``(m, n)``."""
        change: Tensor = _Change.apply(self.values, self.left, self.right, self)  # type: ignore[no-untyped-call]
        return change

    def forward(self, inputs: Tensor) -> Tensor:
        """The map of the base matrix and its change."""
        weight = (self.matrix() + self.change()).to(inputs.dtype)
        return linear(inputs, weight, self.base_layer.bias)

    def hold(self) -> None:
        """Remember the trained vectors as they are before a step."""
        self.held = {part: getattr(self, part).detach().clone() for part in ("left", "right")}

    @torch.no_grad()
    def settle(self, taken: int, over: int) -> None:
        """After a step: no value below zero, vectors eased in and of norm 1."""
        self.values.clamp_(min=0)
        for part, dim in (("left", 0), ("right", 1)):
            vectors = getattr(self, part)
            ease(self.held[part], vectors, taken, over)
            vectors.div_(torch.linalg.vector_norm(vectors, dim=dim, keepdim=True))

    @torch.no_grad()
    def put_back(self) -> None:
        """End a draw: what was trained becomes part of the decomposition and of the change."""
        self.moved = self.change()
        self.u[:, self.drawn], self.v[self.drawn] = self.left.detach(), self.right.detach()
        self.s.copy_(self.values)

    @torch.no_grad()
    def decompose(self) -> None:
        """End a round: orthogonal vectors of the same product."""
        self.u, self.s, self.v = decomposed((self.u * self.s) @ self.v)
        self.values.copy_(self.s)

    @torch.no_grad()
    def draw(self, random: torch.Generator) -> None:
        """Take other vectors into training."""
        chosen = torch.multinomial(self.chances().cpu(), len(self.drawn), generator=random)
        self.drawn = chosen.sort().values.to(self.s.device)
        self.left.copy_(self.u[:, self.drawn])
        self.right.copy_(self.v[self.drawn])

    def chances(self) -> Tensor:
        """How likely each index is drawn first ``(k,)``: half evenly, half by its value."""
        even = torch.full_like(self.s, 1 / len(self.s))
        total = self.s.sum()
        return (even + (self.s / total if total > 0 else even)) / 2


class _Change(torch.autograd.Function):
    """The change of a matrix, with the gradient of its values and enhanced ones of its vectors."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, left: Tensor, right: Tensor, layer: Spectral) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(left, right)
        drawn, sizes = layer.drawn, values[layer.drawn]
        old_left, old_right = layer.u[:, drawn], layer.v[drawn]
        # Differences from the last draw: exactly zero until something moves.
        high = [layer.u * (values - layer.s), left * sizes, (left - old_left) * sizes]
        low = [layer.v, right - old_right, old_right]
        with torch.autocast(values.device.type, enabled=False):
            return torch.addmm(layer.moved, torch.cat(high, 1), torch.cat(low))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (left, right), layer = ctx.saved_tensors, ctx.layer
        with torch.autocast(gradient.device.type, enabled=False):
            g_right = left.t() @ gradient
            g_values = ((layer.u.t() @ gradient) * layer.v).sum(1)
            g_values[layer.drawn] = (g_right * right).sum(1)
            return g_values, gradient @ right.t(), g_right, None


@register("sst")
class Sst(Architecture):
    """The spectrum of the linear maps as the place where a lesson lives."""

    Config = SstConfig

    def attach(self, setting: Setting) -> None:
        """Decompose the targeted maps and draw the first vectors."""
        self._setting, self._model = setting, setting.loaded.model
        paths = self._targets(setting)
        warn_of_rank(self.name, self.config.rank, shapes(setting, paths).values())
        self._layers = extend(self._model, paths, lambda _, base: Spectral(base, self.config.rank))
        for path, layer in self._layers.items():
            layer.draw(self._random(path, 0))
            layer.hold()

    def _targets(self, setting: Setting) -> list[str]:
        return targeted(setting, self.config.targets, self.config.layers)

    def _random(self, path: str, draw: int) -> torch.Generator:
        return generator(self._setting, "sst", path, draw)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Singular values of every targeted map, and the vectors that are drawn."""
        return {
            f"{path}.{part}": getattr(layer, part)
            for path, layer in self._layers.items()
            for part in PARTS
        }

    def stepped(self, step: int, optimization: Optimization) -> None:
        """Hold values and vectors to what they are; after some steps draw, decompose."""
        moving = resettable(optimization, self.name)
        draws, within = divmod(step + 1, self.config.draw)
        for path, layer in self._layers.items():
            layer.settle(step % self.config.draw, self.config.warmup)
            if within == 0:
                layer.put_back()
                if draws % (self.config.round or math.ceil(len(layer.s) / len(layer.drawn))) == 0:
                    layer.decompose()
                    moving.forget(f"{path}.values")
                layer.draw(self._random(path, draws))
                moving.forget(f"{path}.left")
                moving.forget(f"{path}.right")
            layer.hold()

    def adapter(self) -> Adapter:
        """The difference of every targeted matrix, in fp32."""
        tensors = {}
        for path, layer in self._layers.items():
            change = layer.change().detach()
            tensors[f"{path}.weight"] = change.t().contiguous() if layer.transposed else change
        return Adapter(self.name, tensors)

    def detach(self) -> None:
        """Put the original modules back; they were never written."""
        give_back(self._model, self._layers)

    @classmethod
    def fold(cls, adapter: Adapter, weights: dict[str, Tensor]) -> None:
        """W += delta, in fp32."""
        for name, delta in sorted(adapter.tensors.items()):
            weights[name] += delta.float()

    def storage_bytes(self, setting: Setting) -> int:
        """4 * out * in summed over the targeted maps."""
        return sum(4 * m * n for m, n in shapes(setting, self._targets(setting)).values())

    def working_bytes(self, setting: Setting) -> int:
        """4 (k (m + n) + 2 m n + 2 r (m + n) + 2 k) summed over the targeted maps."""
        found = 0
        for m, n in shapes(setting, self._targets(setting)).values():
            k = min(m, n)
            found += 4 * (2 * m * n + (k + 2 * min(self.config.rank, k)) * (m + n) + 2 * k)
        return found

    def would_train(self, setting: Setting) -> dict[str, nn.Parameter]:
        """Singular values and drawn vectors of every targeted map."""
        found = {}
        for path, (m, n) in shapes(setting, self._targets(setting)).items():
            rank = min(self.config.rank, m, n)
            found[f"{path}.values"] = meta_parameter(min(m, n))
            found[f"{path}.left"] = meta_parameter(m, rank)
            found[f"{path}.right"] = meta_parameter(rank, n)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The decompositions, what is trained of them, and the change so far."""
        state = {}
        for path, layer in self._layers.items():
            for name in (*PARTS, "u", "s", "v", "moved", "drawn"):
                state[f"{path}.{name}"] = getattr(layer, name).detach()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take everything back."""
        with torch.no_grad():
            for path, layer in self._layers.items():
                for name in (*PARTS, "u", "s", "v", "moved", "drawn"):
                    getattr(layer, name).copy_(state[f"{path}.{name}"])
                layer.hold()
