"""The compact forward: one token of each row through Llama-like layers, on the live parameters.

A step through transformers' own modules spends more time in Python than a small model spends in
its matrix products. Here a layer is about twenty calls into torch. No weight is copied or fused:
every plan holds the parameters themselves and lives for one answer, so weights that change in place
are in force at the next token. What a layer is made of is read off its modules, and whether that
reading was right is measured against the model's own forward before the first use; a model that the
compact forward does not reproduce keeps the ordinary way.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers.cache_utils import Cache

from engrain.model.cache import GrowingLayer
from engrain.model.loading import LoadedModel

ROPE_BLOCK = 256
"""Positions whose rotations are computed at once."""
CHANGING_ROPE = ("dynamic", "longrope")
"""Kinds of rotary embedding whose angles depend on the length of the text."""


class Unsupported(Exception):
    """A model is made of something that the compact forward does not know; the text says what."""


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    eps: float
    plus_one: bool
    zeros: Tensor

    def vector(self, x: Tensor) -> Tensor:
        """The norm of one row ``(dim,)`` in two calls instead of the six of ``rms_norm``."""
        wide = x if x.dtype == torch.float32 else x.float()
        scale = 1.0 / math.sqrt(torch.dot(wide, wide).item() / wide.numel() + self.eps)
        y = torch.addcmul(self.zeros, wide, self.weight, value=scale)
        if self.plus_one:
            y.add_(wide, alpha=scale)
        return y if y.dtype == x.dtype else y.to(x.dtype)

    def rows(self, x: Tensor) -> Tensor:
        """The norm over the last dimension."""
        weight = self.weight
        if self.plus_one:
            weight = 1.0 + weight.float()
            return rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)
        return rms_norm(x, weight.shape, weight, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The parameters of one layer, and how they are put together."""

    before: _Norm | None
    after: _Norm | None
    feed_before: _Norm | None
    feed_after: _Norm | None
    projections: tuple[nn.Linear, ...]
    out: nn.Linear
    q_norm: _Norm | None
    k_norm: _Norm | None
    heads: int
    kv_heads: int
    dim: int
    scale: float
    window: int | None
    softcap: float | None
    rope: str | None
    inward: tuple[nn.Linear, ...]
    down: nn.Linear
    activation: nn.Module | None
    classes: tuple[type[nn.Module], ...]


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


@dataclass(slots=True)
class _Rope:
    """Rotations by position, computed by the model's own module."""

    module: nn.Module
    kind: str
    like: Tensor
    cos: Tensor = field(init=False)
    sin: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.cos = self.sin = self.like.new_empty(0, 0)

    def reach(self, length: int) -> None:
        """Have the rotations of the first ``length`` positions."""
        if self.cos.shape[0] >= length:
            return
        end = -(-length // ROPE_BLOCK) * ROPE_BLOCK
        positions = torch.arange(end, device=self.like.device)[None]
        more = {"layer_type": self.kind} if self.kind else {}
        cos, sin = self.module(self.like[None, None], positions, **more)
        cos, sin = cos[0].to(self.like.dtype), sin[0].to(self.like.dtype)
        self.cos, self.sin = cos.contiguous(), sin[:, : sin.shape[-1] // 2].contiguous()


class Plan:
    """A model read for stepping: valid for one answer or one batch of answers.

    Raises:
        Unsupported: the model has parts that the compact forward does not know.
    """

    def __init__(self, loaded: LoadedModel) -> None:
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
        self.head = _linear(model.get_output_embeddings(), "output layer")
        self.norm = _norm(getattr(tower, "norm", None))
        config = model.config.get_text_config(decoder=True)
        cap = getattr(config, "final_logit_softcapping", None)
        self.cap = float(cap) if cap else None
        rotary = getattr(tower, "rotary_emb", None)
        if self.norm is None or rotary is None:
            raise Unsupported("it has no final norm or no rotary embedding of the whole model")
        self.layers = read_layers(loaded)
        _check_rope(config)
        like = self.norm.weight.detach()
        self._ropes = {
            layer.rope: _Rope(rotary, layer.rope, like)
            for layer in self.layers
            if layer.rope is not None
        }
        self._rooms: dict[tuple[int, int, int], _Room] = {}

    @property
    def signature(self) -> tuple[Any, ...]:
        """What decides how the parameters are put together; the same for the same structure."""
        return tuple(
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
        buffers = [layer.room(stop) for layer in rows]
        last = int(positions.max())
        for rope in self._ropes.values():
            rope.reach(last + 1)
        if tokens.shape[0] == 1:
            hidden = self._one(tokens, last, buffers, stop, bias)
        else:
            hidden = self._many(tokens, positions, buffers, stop, bias)
        for layer in rows:
            layer.extend_to(stop)
        if self.cap is not None:
            hidden = torch.tanh(hidden / self.cap) * self.cap
        return hidden

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

    def _room(self, layer: _Layer, like: Tensor) -> _Room:
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
    layer: _Layer, query: Tensor, keys: Tensor, values: Tensor, stop: int, bias: Tensor | None
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


def _feed(layer: _Layer, parts: list[Tensor]) -> Tensor:
    gate, up = parts if len(parts) == 2 else parts[0].chunk(2, dim=-1)
    gate = silu(gate, inplace=True) if layer.activation is None else layer.activation(gate)
    return gate.mul_(up)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin)
    return turned


def _split(x: Tensor, norm: _Norm) -> Tensor:
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


# Reading a layer


def _but(model: nn.Module, one: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if module is not one)


def _linear(module: Any, what: str) -> nn.Linear:
    # A wrapped module, as PEFT makes it, is another class: it computes something else.
    if type(module) is not nn.Linear:
        raise Unsupported(f"its {what} is no plain linear module")
    return module


def _norm(module: nn.Module | None) -> _Norm | None:
    if module is None:
        return None
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or weight.dim() != 1:
        raise Unsupported(f"a {type(module).__name__} is no RMS norm with a weight")
    kind = type(module)
    if kind not in _PLUS_ONE:
        _PLUS_ONE[kind] = _adds_one(module, weight, eps)
    return _Norm(weight, eps, _PLUS_ONE[kind], torch.zeros_like(weight, dtype=torch.float32))


_PLUS_ONE: dict[type[nn.Module], bool] = {}
"""Whether a class of norms multiplies with one more than its weight."""


@torch.no_grad()
def _adds_one(module: nn.Module, weight: Tensor, eps: float) -> bool:
    """What the module does to a few numbers, which its name does not tell."""
    x = torch.linspace(-1.0, 2.0, weight.shape[0], device=weight.device, dtype=weight.dtype)
    bare = rms_norm(x.float(), weight.shape, None, eps)
    got = module(x).float()
    plain, more = bare * weight.float(), bare * (1.0 + weight.float())
    return bool((got - more).abs().sum() < (got - plain).abs().sum())


def read_layers(loaded: LoadedModel) -> list[_Layer]:
    """What each layer of a model is made of.

    Raises:
        Unsupported: a layer has parts that are not known.
    """
    tower = loaded.model.get_submodule(loaded.profile.layers_path.rpartition(".")[0])
    rotary: Any = getattr(tower, "rotary_emb", None)
    if rotary is None:
        raise Unsupported("it has no rotary embedding of the whole model")
    by_type = "layer_type" in inspect.signature(rotary.forward).parameters
    config: Any = loaded.model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or []
    layers: Any = tower.layers
    return [
        _read(layer, loaded.profile.layers[i], str(kinds[i]) if by_type and i < len(kinds) else "")
        for i, layer in enumerate(layers)
    ]


def _read(layer: nn.Module, profile: Any, kind: str) -> _Layer:
    attention = getattr(layer, "self_attn", None)
    feed = getattr(layer, "mlp", None)
    if attention is None or feed is None:
        raise Unsupported(f"a {type(layer).__name__} has no attention or no feed-forward part")
    if next(attention.parameters(recurse=False), None) is not None:
        raise Unsupported("its attention has parameters of its own")
    projections: tuple[nn.Linear, ...]
    inward: tuple[nn.Linear, ...]
    if hasattr(attention, "qkv_proj"):
        projections = (_linear(attention.qkv_proj, "attention projection"),)
    else:
        projections = tuple(
            _linear(getattr(attention, name, None), "attention projection")
            for name in ("q_proj", "k_proj", "v_proj")
        )
    if hasattr(feed, "gate_up_proj"):
        inward = (_linear(feed.gate_up_proj, "feed-forward part"),)
    else:
        inward = tuple(
            _linear(getattr(feed, name, None), "feed-forward part")
            for name in ("gate_proj", "up_proj")
        )
    activation = getattr(feed, "act_fn", getattr(feed, "activation_fn", None))
    if not isinstance(activation, nn.Module):
        raise Unsupported("its activation is no module")
    norms = {name: _norm(getattr(layer, name, None)) for name in NORMS}
    if norms["pre_feedforward_layernorm"] is not None:
        order = NORMS
    elif norms["input_layernorm"] is not None:
        order = ("input_layernorm", "", "post_attention_layernorm", "")
    else:
        order = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
    for module, known in ((layer, {*order, *LAYER}), (attention, ATTENTION), (feed, FEED)):
        strange = [name for name, _ in module.named_children() if name not in known]
        if strange:
            raise Unsupported(f"a {type(module).__name__} has a part {strange[0]!r}")
    before, after, feed_before, feed_after = (norms.get(name) for name in order)
    sliding = profile.window is not None
    softcap = getattr(attention, "attn_logit_softcapping", None)
    turns = bool(getattr(attention, "use_rope", True))
    return _Layer(
        before=before,
        after=after,
        feed_before=feed_before,
        feed_after=feed_after,
        projections=projections,
        out=_linear(getattr(attention, "o_proj", None), "attention projection"),
        q_norm=_norm(getattr(attention, "q_norm", None)),
        k_norm=_norm(getattr(attention, "k_norm", None)),
        heads=profile.heads,
        kv_heads=profile.kv_heads,
        dim=profile.head_dim,
        scale=float(attention.scaling),
        window=int(profile.window) if sliding else None,
        softcap=float(softcap) if softcap else None,
        rope=kind if turns else None,
        inward=inward,
        down=_linear(getattr(feed, "down_proj", None), "feed-forward part"),
        activation=None if type(activation).__name__.startswith("SiLU") else activation,
        classes=(type(layer), type(attention), type(feed)),
    )


NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


LAYER = frozenset({"self_attn", "mlp", "resid_attn_dropout", "resid_mlp_dropout"})
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm"})
FEED = frozenset(
    {"gate_proj", "up_proj", "gate_up_proj", "down_proj", "act_fn", "activation_fn", "dropout"}
)
"""Parts that are computed, or do nothing outside of training; any other part is unknown."""


def _check_rope(config: Any) -> None:
    given = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in given.values() if isinstance(value, dict)]
    for parameters in nested or [given]:
        if parameters.get("rope_type") in CHANGING_ROPE:
            raise Unsupported(f"its rotary embedding is {parameters['rope_type']!r}")
        if float(parameters.get("partial_rotary_factor") or 1.0) != 1.0:
            raise Unsupported("its rotary embedding turns a part of a head only")
