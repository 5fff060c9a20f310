"""A lean Llama forward pass for training on a CPU.

All documents of a batch lie behind one another in one flat row of T tokens, so the matrix products
see no padding; only the attention runs document by document (causal, positions from 0), which
keeps documents apart and costs nothing for the part of the mask that would be empty. Weights are
kept in float32 ("master") and computed in bfloat16. Parity with transformers is tested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama model with as many key heads as query heads and tied embeddings."""

    vocab: int = 8192
    width: int = 256
    layers: int = 12
    heads: int = 4
    head_dim: int = 64
    ffn: int = 704
    theta: float = 10000.0
    eps: float = 1e-5
    positions: int = 2048


def init_params(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Random float32 weights; output projections are scaled down by the depth."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float = 0.02) -> Tensor:
        return torch.empty(size).normal_(0.0, std, generator=gen)

    d, inner, small = shape.width, shape.heads * shape.head_dim, 0.02 / math.sqrt(2 * shape.layers)
    params = {"embed": normal(shape.vocab, d)}
    for i in range(shape.layers):
        params[f"{i}.attn_norm"] = torch.ones(d)
        params[f"{i}.qkv"] = normal(3 * inner, d)
        params[f"{i}.o"] = normal(d, inner, std=small)
        params[f"{i}.mlp_norm"] = torch.ones(d)
        params[f"{i}.gate_up"] = normal(2 * shape.ffn, d)
        params[f"{i}.down"] = normal(d, shape.ffn, std=small)
    params["norm"] = torch.ones(d)
    return params


def from_hf(state: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Weights under transformers' names -> float32 weights under ours (q, k, v joined, ...)."""

    def get(name: str) -> Tensor:
        return state[f"model.{name}.weight"].float()

    params = {"embed": get("embed_tokens").clone()}
    for i in range(shape.layers):
        at, ml = f"layers.{i}.self_attn", f"layers.{i}.mlp"
        params[f"{i}.attn_norm"] = get(f"layers.{i}.input_layernorm").clone()
        params[f"{i}.qkv"] = torch.cat([get(f"{at}.{x}_proj") for x in "qkv"])
        params[f"{i}.o"] = get(f"{at}.o_proj").clone()
        params[f"{i}.mlp_norm"] = get(f"layers.{i}.post_attention_layernorm").clone()
        params[f"{i}.gate_up"] = torch.cat([get(f"{ml}.gate_proj"), get(f"{ml}.up_proj")])
        params[f"{i}.down"] = get(f"{ml}.down_proj").clone()
    params["norm"] = get("norm").clone()
    return params


def to_hf(params: dict[str, Tensor], shape: Shape, dtype: torch.dtype) -> dict[str, Tensor]:
    """The inverse of `from_hf`, in `dtype` (tied embeddings: no `lm_head`)."""
    out = {"embed_tokens": params["embed"], "norm": params["norm"]}
    for i in range(shape.layers):
        at, ml = f"layers.{i}.self_attn", f"layers.{i}.mlp"
        for x, part in zip("qkv", params[f"{i}.qkv"].chunk(3), strict=True):
            out[f"{at}.{x}_proj"] = part
        out[f"{at}.o_proj"] = params[f"{i}.o"]
        gate, up = params[f"{i}.gate_up"].chunk(2)
        out[f"{ml}.gate_proj"], out[f"{ml}.up_proj"] = gate, up
        out[f"{ml}.down_proj"] = params[f"{i}.down"]
        out[f"layers.{i}.input_layernorm"] = params[f"{i}.attn_norm"]
        out[f"layers.{i}.post_attention_layernorm"] = params[f"{i}.mlp_norm"]
    return {f"model.{k}.weight": v.detach().to(dtype).contiguous() for k, v in out.items()}


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in float32 over the last dimension; returns bfloat16 (or float64 for tests)."""
    y = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return y * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [T, H, D], cos and sin [T, 1, D/2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


BLOCK = 256  # rows of queries that are handled together


def _blocks(n: int) -> list[tuple[int, int]]:
    """Query blocks of a piece of n tokens; block (a, b) looks at keys 0 to b only."""
    edges = [*range(0, max(1, n - BLOCK // 2), BLOCK), n]
    return list(itertools.pairwise(edges))


def _rows(parts: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Query rows (a, b) of a document with the keys that they look at: 0 to p, and s to b."""
    trunk, s = parts[0], 0
    rows = []
    for number, n in enumerate(parts):
        rows += [(s + a, s + b, s, trunk if number else 0) for a, b in _blocks(n)]
        s += n
    return rows


def _keys(x: Tensor, p: int, s: int, b: int) -> Tensor:
    return torch.cat((x[:, :p], x[:, s:b]), 1) if p else x[:, s:b]


class _Attend(torch.autograd.Function):
    """Causal attention inside each document: q (scaled), k, v [T, H, D] -> [T, H * D].

    A document is a trunk, and maybe branches: each goes on from the trunk and sees no other branch.
    The probabilities are kept for the backward pass: for documents of some hundred tokens plain
    matrix products beat the fused kernel on a CPU by a factor of 2 to 4.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, docs: Sequence[Sequence[int]]) -> Tensor:
        out, saved, start = torch.empty_like(v), [], 0
        top = max(parts[0] + max((0, *parts[1:])) for parts in docs)
        mask = torch.full((top, top), float("-inf"), dtype=q.dtype).triu_(1)
        for parts in docs:
            n = sum(parts)
            qi, ki, vi = (x[start : start + n].transpose(0, 1) for x in (q, k, v))  # [H, n, D]
            for a, b, s, p in _rows(parts):
                w = p + b - s
                keys = _keys(ki, p, s, b).transpose(1, 2)
                score = torch.baddbmm(mask[w - (b - a) : w, :w], qi[:, a:b], keys)
                probs = torch.softmax(score, -1)
                out[start + a : start + b] = torch.bmm(probs, _keys(vi, p, s, b)).transpose(0, 1)
                saved.append(probs)
            start += n
        ctx.save_for_backward(q, k, v, *saved)
        ctx.docs = docs
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *saved = ctx.saved_tensors
        g = grads[0].view_as(v)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        kept, start = iter(saved), 0
        for parts in ctx.docs:
            n, rows = sum(parts), _rows(parts)
            qi, ki, vi, gi = (x[start : start + n].transpose(0, 1) for x in (q, k, v, g))
            sums = [torch.zeros_like(ki), torch.zeros_like(vi)] if len(rows) > 1 else []
            for a, b, s, p in rows:
                probs = next(kept)
                ds = torch.bmm(gi[:, a:b], _keys(vi, p, s, b).transpose(1, 2))
                ds = torch._softmax_backward_data(ds, probs, -1, probs.dtype)
                dq[start + a : start + b] = torch.bmm(ds, _keys(ki, p, s, b)).transpose(0, 1)
                new = (
                    torch.bmm(ds.transpose(1, 2), qi[:, a:b]),
                    torch.bmm(probs.transpose(1, 2), gi[:, a:b]),
                )
                for total, x in zip(sums, new, strict=False):
                    total[:, :p] += x[:, :p]
                    total[:, s:b] += x[:, p:]
            for into, x in zip((dk, dv), sums or new, strict=True):
                into[start : start + n] = x.transpose(0, 1)
            start += n
        return dq, dk, dv, None


class Lean:
    """The forward pass. `dtype` is the one of the matrix products, `residual` the stream's."""

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype = torch.bfloat16,
        residual: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self.shape, self.dtype, self.residual = shape, dtype, residual
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angle = torch.outer(torch.arange(shape.positions).float(), shape.theta**-half)
        self.cos, self.sin = angle.cos(), angle.sin()  # [positions, D/2]
        wrap: Callable[..., Any] = torch.compile if compiled else (lambda f, **_: f)
        self._first = wrap(self._before, dynamic=False)
        self._between = wrap(self._after_before, dynamic=False)
        self._last = wrap(self._after, dynamic=False)
        self._head = wrap(self._loss, dynamic=True)

    def working_copy(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leaves that get gradients: matrices in the compute type, embedding and norms as is."""
        out = {}
        for name, p in params.items():
            kind = self.dtype if p.dim() == 2 and name != "embed" else p.dtype
            out[name] = p.detach().to(kind, copy=True).requires_grad_(True)
        return out

    def _before(
        self, x: Tensor, norm: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, projections and rotation: x [T, d] -> q (scaled), k, v [T, H, D]."""
        h = _norm(x, norm, self.shape.eps).to(self.dtype)
        q, k, v = F.linear(h, qkv).view(len(x), 3, self.shape.heads, -1).unbind(1)
        q = q * self.shape.head_dim**-0.5
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    def _after(
        self, x: Tensor, att: Tensor, o: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        """Output projection and feed-forward: x [T, d], att [T, H * D] -> [T, d]."""
        x = x + F.linear(att, o)
        h = _norm(x, norm, self.shape.eps).to(self.dtype)
        gate, up = F.linear(h, gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, down)

    def _after_before(self, x: Tensor, att: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """`_after` of one layer and `_before` of the next, so that they compile together."""
        x = self._after(x, att, *rest[:4])
        return (x, *self._before(x, *rest[4:]))

    def _loss(self, h: Tensor, norm: Tensor, embed: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy: h [N, d], target [N]."""
        h = _norm(h, norm, self.shape.eps).to(self.dtype)
        return F.cross_entropy(F.linear(h, embed.to(self.dtype)).float(), target)

    def hidden(self, w: dict[str, Tensor], ids: Tensor, docs: Sequence[Sequence[int]]) -> Tensor:
        """Token ids [T] of documents -> states before the last norm [T, d].

        A document is given by the lengths of its trunk and of its branches, if it has some.
        """
        where = torch.cat(
            [
                torch.arange(n) + (parts[0] if i else 0)
                for parts in docs
                for i, n in enumerate(parts)
            ]
        )
        cos = self.cos[where].unsqueeze(1).to(self.dtype)
        sin = self.sin[where].unsqueeze(1).to(self.dtype)
        x = F.embedding(ids, w["embed"]).to(self.residual)
        q, k, v = self._first(x, w["0.attn_norm"], w["0.qkv"], cos, sin)
        for i in range(self.shape.layers):
            att: Tensor = _Attend.apply(q, k, v, docs)  # type: ignore[no-untyped-call]
            tail = [w[f"{i}.{n}"] for n in ("o", "mlp_norm", "gate_up", "down")]
            if i + 1 == self.shape.layers:
                last: Tensor = self._last(x, att, *tail)
                return last
            head = [w[f"{i + 1}.attn_norm"], w[f"{i + 1}.qkv"], cos, sin]
            x, q, k, v = self._between(x, att, *tail, *head)
        raise ValueError("a model needs at least one layer")

    def loss(
        self, w: dict[str, Tensor], ids: Tensor, docs: Sequence[Sequence[int]], where: Tensor
    ) -> Tensor:
        """Mean loss of predicting the tokens at positions `where` (none first in a part)."""
        h = self.hidden(w, ids, docs)
        loss: Tensor = self._head(h[where - 1], w["norm"], w["embed"], ids[where])
        return loss
