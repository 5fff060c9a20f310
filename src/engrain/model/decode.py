"""The compact forward: one token of each row through Llama-like layers, on the live parameters.

A step through transformers' own modules spends more time in Python than a small model spends in
its matrix products. Here all layers are one call into C (:mod:`engrain.model.compiled`), or, where
there are no kernels or they don't know a part of the model, about twenty calls into torch a layer.
No weight is copied or fused: every plan holds the parameters themselves and lives for one answer,
so weights that change in place are in force at the next token. What a layer is made of is read off
its modules, and whether that reading was right is measured against the model's own forward before
the first use; a model that the compact forward does not reproduce keeps the ordinary way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers.cache_utils import Cache

from engrain.model import kernels
from engrain.model.cache import GrowingLayer
from engrain.model.compiled import Compiled
from engrain.model.layers import (
    Layer,
    Norm,
    Rope,
    Unsupported,
    check_rope,
    plain_linear,
    read_layers,
    read_norm,
)
from engrain.model.loading import LoadedModel


@dataclass(slots=True)
class _Room:
    """Where one row's query, keys and values are written, with the views that are needed."""

    parts: tuple[Tensor, ...]
    joint: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    both: Tensor
    halves: tuple[Tensor, Tensor]
    turned: Tensor
    turned_halves: tuple[Tensor, Tensor]
    turned_query: Tensor
    turned_key: Tensor


class Plan:
    """A model read for stepping: valid for one answer or one batch of answers.

    Raises:
        Unsupported: the model has parts that the compact forward does not know.
    """

    def __init__(self, loaded: LoadedModel, *, compiled: bool = True) -> None:
        model = loaded.model
        profile = loaded.profile
        if profile.cache_kind != "kv":
            raise Unsupported(f"its cache is of the kind {profile.cache_kind!r}")
        if loaded.device.type != "cpu":
            raise Unsupported(f"it is on {loaded.device.type}")
        path = profile.layers_path.rpartition(".")[0]
        tower = model.get_submodule(path)
        self.embedding = model.get_input_embeddings()
        # Of all modules only the embedding is called, so a hook on another would go unheard.
        others = list(_but(model, self.embedding))
        if any(m._forward_hooks or m._forward_pre_hooks for m in others):
            raise Unsupported("a forward hook is attached")
        if any("forward" in vars(m) for m in others):
            raise Unsupported("a module has another forward than its class")
        self.head = plain_linear(model.get_output_embeddings(), "output layer")
        self.norm = read_norm(getattr(tower, "norm", None))
        config = model.config.get_text_config(decoder=True)
        cap = getattr(config, "final_logit_softcapping", None)
        self.cap = float(cap) if cap else None
        rotary = getattr(tower, "rotary_emb", None)
        if self.norm is None or rotary is None:
            raise Unsupported("it has no final norm or no rotary embedding of the whole model")
        self.layers = read_layers(loaded)
        check_rope(config)
        like = self.norm.weight.detach()
        self._ropes = {
            layer.rope: Rope(rotary, layer.rope, like)
            for layer in self.layers
            if layer.rope is not None
        }
        self._rooms: dict[tuple[int, int, int], _Room] = {}
        self._compiled: Compiled | None = None
        self.without_kernels = "they are not wanted"
        """Why torch computes the steps and not the kernels; empty where they do."""
        if compiled:
            try:
                self._compiled = Compiled(self.layers, self.norm, self.head, self.cap, self._ropes)
                self.without_kernels = ""
            except Unsupported as problem:
                self.without_kernels = str(problem)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What decides how the parameters are put together, and by which program."""
        layers = (
            (
                *(norm is not None for norm in (layer.before, layer.after, layer.feed_after)),
                *(norm is not None for norm in (layer.q_norm, layer.k_norm)),
                *(tuple(p.weight.shape) for p in (*layer.projections, *layer.inward)),
                layer.window,
                layer.rope,
                type(layer.activation),
                layer.classes,
            )
            for layer in self.layers
        )
        return (kernels.name() if self._compiled else "", self.cap, *layers)

    @torch.inference_mode()
    def step(
        self, tokens: Tensor, positions: Tensor, cache: Cache, bias: Tensor | None = None
    ) -> Tensor:
        """Logits ``(rows, vocabulary)`` after one more token of each row; the cache grows by it.

        ``tokens`` and ``positions`` are ``(rows,)``; ``bias`` is ``(rows, 1, 1, cached + 1)``, zero
        where a token of the cache may be seen and minus infinity where it is padding. The cache has
        growing layers; an error midway leaves it as it was.
        """
        stop = cache.get_seq_length() + 1
        rows = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
        last = int(positions.max())
        for rope in self._ropes.values():
            rope.reach(last + 1)
        logits = self._by_kernels(tokens, positions, rows, stop, bias)
        if logits is None:
            buffers = [layer.room(stop) for layer in rows]
            if tokens.shape[0] == 1:
                logits = self._one(tokens, last, buffers, stop, bias)
            else:
                logits = self._many(tokens, positions, buffers, stop, bias)
            if self.cap is not None:
                logits = torch.tanh(logits / self.cap) * self.cap
        for layer in rows:
            layer.extend_to(stop)
        return logits

    def _by_kernels(
        self,
        tokens: Tensor,
        positions: Tensor,
        rows: list[GrowingLayer],
        stop: int,
        bias: Tensor | None,
    ) -> Tensor | None:
        if self._compiled is None:
            return None
        hidden = self.embedding(tokens[:, None])[:, 0]
        try:
            return self._compiled.step(hidden, positions, rows, stop, bias)
        except Unsupported as problem:
            self._compiled, self.without_kernels = None, str(problem)
            return None

    def _one(
        self,
        tokens: Tensor,
        position: int,
        buffers: list[tuple[Tensor, Tensor]],
        stop: int,
        bias: Tensor | None,
    ) -> Tensor:
        # The embedding's result may be a view of its own buffer in some models.
        x = self.embedding(tokens[None]).reshape(-1).clone()
        turns = {
            kind: (rope.cos[position], rope.sin[position]) for kind, rope in self._ropes.items()
        }
        for layer, (keys, values) in zip(self.layers, buffers, strict=True):
            y = x if layer.before is None else layer.before.vector(x)
            room = self._room(layer, x)
            for projection, part in zip(layer.projections, room.parts, strict=True):
                _into(projection, y, part)
            if layer.q_norm is not None and layer.k_norm is not None:
                # One norm a head, or one over all heads: the weight's length says which.
                room.query.copy_(layer.q_norm.rows(_split(room.query, layer.q_norm)).view(-1))
                room.key.copy_(layer.k_norm.rows(_split(room.key, layer.k_norm)).view(-1))
            if layer.rope is None:
                room.turned.copy_(room.both)
            else:
                cos, sin = turns[layer.rope]
                first, second = room.halves
                torch.mul(room.both, cos, out=room.turned)
                room.turned_halves[0].addcmul_(second, sin, value=-1)
                room.turned_halves[1].addcmul_(first, sin)
            keys.select(2, stop - 1).copy_(room.turned_key)
            values.select(2, stop - 1).copy_(room.value)
            mixed = _attend(layer, room.turned_query, keys, values, stop, bias).view(-1)
            if layer.after is None:
                _add(layer.out, mixed, x)
            else:
                x.add_(layer.after.vector(_apply(layer.out, mixed)))
            y = x if layer.feed_before is None else layer.feed_before.vector(x)
            inner = _feed(layer, [_apply(part, y) for part in layer.inward])
            if layer.feed_after is None:
                _add(layer.down, inner, x)
            else:
                x.add_(layer.feed_after.vector(_apply(layer.down, inner)))
        assert self.norm is not None
        return _apply(self.head, self.norm.vector(x))[None]

    def _many(
        self,
        tokens: Tensor,
        positions: Tensor,
        buffers: list[tuple[Tensor, Tensor]],
        stop: int,
        bias: Tensor | None,
    ) -> Tensor:
        count = tokens.shape[0]
        x = self.embedding(tokens[:, None])[:, 0]
        turns = {
            kind: (rope.cos[positions][:, None], rope.sin[positions][:, None])
            for kind, rope in self._ropes.items()
        }
        for layer, (keys, values) in zip(self.layers, buffers, strict=True):
            y = x if layer.before is None else layer.before.rows(x)
            widths = [n * layer.dim for n in (layer.heads, layer.kv_heads, layer.kv_heads)]
            parts = [linear(y, part.weight, part.bias) for part in layer.projections]
            query, key, value = parts if len(parts) == 3 else parts[0].split(widths, dim=1)
            if layer.q_norm is not None and layer.k_norm is not None:
                query = layer.q_norm.rows(_split(query, layer.q_norm))
                key = layer.k_norm.rows(_split(key, layer.k_norm))
            query = query.reshape(count, layer.heads, layer.dim)
            key = key.reshape(count, layer.kv_heads, layer.dim)
            if layer.rope is not None:
                query, key = _turn(query, *turns[layer.rope]), _turn(key, *turns[layer.rope])
            keys.select(2, stop - 1).copy_(key)
            values.select(2, stop - 1).copy_(value.view(count, layer.kv_heads, layer.dim))
            query = query.view(count, layer.kv_heads, -1, layer.dim)
            mixed = _attend(layer, query, keys, values, stop, bias).reshape(count, -1)
            mixed = linear(mixed, layer.out.weight, layer.out.bias)
            x = x + (mixed if layer.after is None else layer.after.rows(mixed))
            y = x if layer.feed_before is None else layer.feed_before.rows(x)
            inner = _feed(layer, [linear(y, part.weight, part.bias) for part in layer.inward])
            inner = linear(inner, layer.down.weight, layer.down.bias)
            x = x + (inner if layer.feed_after is None else layer.feed_after.rows(inner))
        assert self.norm is not None
        return linear(self.norm.rows(x), self.head.weight, self.head.bias)

    def _room(self, layer: Layer, like: Tensor) -> _Room:
        shape = (layer.heads, layer.kv_heads, layer.dim)
        room = self._rooms.get(shape)
        if room is None:
            room = self._rooms[shape] = _new_room(*shape, len(layer.projections), like)
        return room


def _new_room(heads: int, kv_heads: int, dim: int, projections: int, like: Tensor) -> _Room:
    joint = like.new_empty((heads + 2 * kv_heads) * dim)
    query, key, value = joint.split([heads * dim, kv_heads * dim, kv_heads * dim])
    both = joint[: (heads + kv_heads) * dim].view(heads + kv_heads, dim)
    turned = torch.empty_like(both)
    half = dim // 2
    return _Room(
        parts=(query, key, value) if projections == 3 else (joint,),
        joint=joint,
        query=query,
        key=key,
        value=value.view(1, kv_heads, dim),
        both=both,
        halves=(both[:, :half], both[:, half:]),
        turned=turned,
        turned_halves=(turned[:, :half], turned[:, half:]),
        turned_query=turned[:heads].view(1, kv_heads, heads // kv_heads, dim),
        turned_key=turned[heads:].view(1, kv_heads, dim),
    )


def _attend(
    layer: Layer, query: Tensor, keys: Tensor, values: Tensor, stop: int, bias: Tensor | None
) -> Tensor:
    """Attention of ``(rows, kv_heads, group, dim)`` queries to the buffers' first ``stop`` tokens.

    The queries that share a key head stand where a longer text would have its positions, so no key
    is repeated.
    """
    start = 0 if layer.window is None else max(0, stop - layer.window)
    keys, values = keys.narrow(2, start, stop - start), values.narrow(2, start, stop - start)
    if bias is not None:
        bias = bias[..., start:]
    if layer.softcap is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=layer.scale)
    scores = torch.matmul(query, keys.transpose(2, 3)) * layer.scale
    scores = torch.tanh(scores / layer.softcap) * layer.softcap
    if bias is not None:
        scores = scores + bias
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, values)


def _feed(layer: Layer, parts: list[Tensor]) -> Tensor:
    gate, up = parts if len(parts) == 2 else parts[0].chunk(2, dim=-1)
    gate = silu(gate, inplace=True) if layer.activation is None else layer.activation(gate)
    return gate.mul_(up)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin)
    return turned


def _split(x: Tensor, norm: Norm) -> Tensor:
    return x.reshape(*x.shape[:-1], -1, norm.weight.shape[0])


def _into(module: nn.Linear, x: Tensor, out: Tensor) -> None:
    if module.bias is None:
        torch.mv(module.weight, x, out=out)
    else:
        torch.addmv(module.bias, module.weight, x, out=out)


def _apply(module: nn.Linear, x: Tensor) -> Tensor:
    if module.bias is None:
        return torch.mv(module.weight, x)
    return torch.addmv(module.bias, module.weight, x)


def _add(module: nn.Linear, x: Tensor, to: Tensor) -> None:
    to.addmv_(module.weight, x)
    if module.bias is not None:
        to.add_(module.bias)


def _but(model: nn.Module, one: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if module is not one)
