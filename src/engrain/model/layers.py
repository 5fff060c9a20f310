"""What the layers of a Llama-like model are made of, read off its modules."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from engrain.model.loading import LoadedModel

ROPE_BLOCK = 256
"""Positions whose rotations are computed at once."""
CHANGING_ROPE = ("dynamic", "longrope")
"""Kinds of rotary embedding whose angles depend on the length of the text."""


class Unsupported(Exception):
    """A model is made of something that the compact forward does not know; the text says what."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm by the root of the mean square, times a weight ``(dim,)`` or one more than it."""

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
class Layer:
    """The parameters of one layer, and how they are put together."""

    before: Norm | None
    after: Norm | None
    feed_before: Norm | None
    feed_after: Norm | None
    projections: tuple[nn.Linear, ...]
    out: nn.Linear
    q_norm: Norm | None
    k_norm: Norm | None
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
class Rope:
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


def plain_linear(module: Any, what: str) -> nn.Linear:
    """The module, if it computes what its class says.

    Raises:
        Unsupported: it is of another class.
    """
    # A wrapped module, as PEFT makes it, is another class: it computes something else.
    if type(module) is not nn.Linear:
        raise Unsupported(f"its {what} is no plain linear module")
    return module


def read_norm(module: nn.Module | None) -> Norm | None:
    """The norm that a module computes; None for none.

    Raises:
        Unsupported: it is no RMS norm.
    """
    if module is None:
        return None
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or weight.dim() != 1:
        raise Unsupported(f"a {type(module).__name__} is no RMS norm with a weight")
    kind = type(module)
    if kind not in _PLUS_ONE:
        _PLUS_ONE[kind] = _adds_one(module, weight, eps)
    return Norm(weight, eps, _PLUS_ONE[kind], torch.zeros_like(weight, dtype=torch.float32))


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


def read_layers(loaded: LoadedModel) -> list[Layer]:
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


def _read(layer: nn.Module, profile: Any, kind: str) -> Layer:
    attention = getattr(layer, "self_attn", None)
    feed = getattr(layer, "mlp", None)
    if attention is None or feed is None:
        raise Unsupported(f"a {type(layer).__name__} has no attention or no feed-forward part")
    if next(attention.parameters(recurse=False), None) is not None:
        raise Unsupported("its attention has parameters of its own")
    projections: tuple[nn.Linear, ...]
    inward: tuple[nn.Linear, ...]
    if hasattr(attention, "qkv_proj"):
        projections = (plain_linear(attention.qkv_proj, "attention projection"),)
    else:
        projections = tuple(
            plain_linear(getattr(attention, name, None), "attention projection")
            for name in ("q_proj", "k_proj", "v_proj")
        )
    if hasattr(feed, "gate_up_proj"):
        inward = (plain_linear(feed.gate_up_proj, "feed-forward part"),)
    else:
        inward = tuple(
            plain_linear(getattr(feed, name, None), "feed-forward part")
            for name in ("gate_proj", "up_proj")
        )
    activation = getattr(feed, "act_fn", getattr(feed, "activation_fn", None))
    if not isinstance(activation, nn.Module):
        raise Unsupported("its activation is no module")
    norms = {name: read_norm(getattr(layer, name, None)) for name in NORMS}
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
    return Layer(
        before=before,
        after=after,
        feed_before=feed_before,
        feed_after=feed_after,
        projections=projections,
        out=plain_linear(getattr(attention, "o_proj", None), "attention projection"),
        q_norm=read_norm(getattr(attention, "q_norm", None)),
        k_norm=read_norm(getattr(attention, "k_norm", None)),
        heads=profile.heads,
        kv_heads=profile.kv_heads,
        dim=profile.head_dim,
        scale=float(attention.scaling),
        window=int(profile.window) if sliding else None,
        softcap=float(softcap) if softcap else None,
        rope=kind if turns else None,
        inward=inward,
        down=plain_linear(getattr(feed, "down_proj", None), "feed-forward part"),
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


def check_rope(config: Any) -> None:
    """Refuse rotations that depend on the text's length, or turn a part of a head.

    Raises:
        Unsupported: these are such.
    """
    given = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in given.values() if isinstance(value, dict)]
    for parameters in nested or [given]:
        if parameters.get("rope_type") in CHANGING_ROPE:
            raise Unsupported(f"its rotary embedding is {parameters['rope_type']!r}")
        if float(parameters.get("partial_rotary_factor") or 1.0) != 1.0:
            raise Unsupported("its rotary embedding turns a part of a head only")
