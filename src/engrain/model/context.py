"""A conversation's keys and values as constants that a lesson's steps attend to, without copying.

Serving has computed keys and values of a conversation once; a lesson that learns what comes after
it needs the very same numbers. A :class:`Context` is a view of them. While a model is
:func:`attending` to one, its attention runs in two parts whose scores share one softmax,

    S = [Q Kc^T + mask | Q K^T + causal mask] * scale,     P = softmax(S),     O = Pc Vc + Po V,

with Kc, Vc of the context (constants) and K, V of the tokens in the graph. Grouped heads read their
keys in place. The backward computes the scores again instead of keeping them, and no gradient of
the context is ever formed: of the ten products of an ordinary attention, five are left.

Source: the reference system's notes, design A (context-frozen loss); recomputation of scores as in
FlashAttention (arXiv 2205.14135, section 3.1). Memory: queries, keys and values of the tokens in
the graph, and one layer's scores ``(heads, seq, context + seq)`` for a moment.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from engrain.errors import UnsupportedModelError
from engrain.model.attention import Seen, attend, attends
from engrain.model.cache import GrowingLayer, cache_argument, new_cache, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from engrain.model.loading import LoadedModel

NAME = "engrain_context"
"""The name under which the two-part attention is known to transformers."""
PREFILL = 512
"""Tokens of a context that are computed at once; it bounds the memory of a prefill."""
_UNKNOWN = ("s_aux", "position_bias", "head_mask")
"""Arguments of attentions that the two-part one does not know."""


@dataclass(frozen=True, eq=False)
class Context:
    """Keys and values of the first tokens of one or more sequences, read-only.

    ``keys``, ``values``: for each layer ``(rows, kv_heads, length, head_dim)``, where one row may
    stand for all rows of a batch; ``lengths``: how many tokens of each row are there, the rest is
    padding at its end. ``key`` names the weights that they were computed with.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    key: Hashable = None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def lengths_of(self, rows: int) -> Tensor:
        """The lengths of a batch's contexts, ``(rows,)``, int64."""
        return torch.tensor(self.lengths, dtype=torch.int64).expand(rows).contiguous()

    @classmethod
    def of(cls, contexts: Sequence[Context]) -> Context:
        """Contexts of one row each as the rows of one, padded at their ends; they are copied."""
        longest = max(max(context.lengths) for context in contexts)

        def rows(parts: Iterable[Tensor]) -> Tensor:
            return torch.cat([pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])

        return cls(
            tuple(rows(layer) for layer in zip(*(c.keys for c in contexts), strict=True)),
            tuple(rows(layer) for layer in zip(*(c.values for c in contexts), strict=True)),
            tuple(length for context in contexts for length in context.lengths),
        )

    @classmethod
    def view(cls, cache: Cache, length: int, key: Hashable = None) -> Context:
        """The first ``length`` tokens of a cache of one sequence, without copying."""
        layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
        keys, values = zip(*(layer.lend(length) for layer in layers), strict=True)
        return cls(keys, values, (length,), key)


def compute_context(
    loaded: LoadedModel, rows: Sequence[Sequence[int]], key: Hashable = None
) -> Context:
    """The keys and values of token sequences under the weights as they are, without a graph.

    Raises:
        UnsupportedModelError: the model's attention keeps more than keys and values.
    """
    check_context(loaded)
    ids, mask = padded([list(row) for row in rows], loaded.pad_id, left=False)
    cache = new_cache(loaded.model, loaded.profile)
    extend(loaded, cache, ids.to(loaded.device))
    lengths = tuple(int(count) for count in mask.sum(-1))
    # Rotations are computed in fp32, so keys come out of autocast in another type than values.
    layers: list[Any] = list(cache.layers)
    kind = layers[0].values.dtype
    keys = tuple(layer.keys.to(kind) for layer in layers)
    return Context(keys, tuple(layer.values for layer in layers), lengths, key)


@torch.no_grad()
def extend(loaded: LoadedModel, cache: Cache, ids: Tensor) -> None:
    """Append tokens ``(rows, seq)`` to a cache, some at a time; their logits are not computed."""
    done = cache.get_seq_length()
    with _filling(loaded):
        for part in ids.split(PREFILL, dim=1):
            positions = torch.arange(done, done + part.shape[1], device=ids.device)
            loaded.model(
                input_ids=part,
                position_ids=positions.expand(part.shape[0], -1),
                **cache_argument(loaded.model, cache),
                use_cache=True,
                logits_to_keep=1,
            )
            done += part.shape[1]


@contextmanager
def _filling(loaded: LoadedModel) -> Iterator[None]:
    """Let a cache be filled by the attention kernel, where it knows the model's attention.

    Torch's own attention in bf16 multiplies in fp32 on processors whose vendor library has no bf16
    product.
    """
    config: Any = loaded.model.config.get_text_config(decoder=True)
    kind = loaded.dtype
    if torch.is_autocast_enabled(loaded.device.type):
        kind = torch.get_autocast_dtype(loaded.device.type)
    known = (
        loaded.device.type == "cpu"
        and loaded.profile.cache_kind == "kv"
        and not getattr(config, "attn_logit_softcapping", None)
        and all(attends(kind, layer.head_dim, None) for layer in loaded.profile.layers)
        and not objection(loaded)
    )
    if not known:
        yield
        return
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    with attending_again(loaded.model, Attended(filling=True), NAME):
        yield


# Attention


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows of unequal length side by side in one, so that no layer computes padding.

    ``spread``: for each place of the padded rows the packed token, ``(batch * seq,)``; ``gather``:
    the place of each packed token, ``(tokens,)``; ``shape``: ``(batch, seq)``.
    """

    spread: Tensor
    gather: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """The packing of right-padded rows from their mask ``(batch, seq)``, bool."""
        flat = mask.reshape(-1)
        # A place of padding repeats the token before it; nothing reads it, nor flows back.
        return cls(
            flat.cumsum(0).sub(1).clamp_min(0),
            flat.nonzero()[:, 0],
            (int(mask.shape[0]), int(mask.shape[1])),
        )

    def padded(self, tensor: Tensor) -> Tensor:
        """``(1, heads, tokens, dim)`` to ``(batch, heads, seq, dim)``."""
        _, heads, _, width = tensor.shape
        spread = tensor[0].index_select(1, self.spread)
        return spread.view(heads, *self.shape, width).transpose(0, 1)

    def packed(self, tensor: Tensor) -> Tensor:
        """``(batch, heads, seq, dim)`` to ``(1, tokens, heads, dim)``."""
        _, heads, _, width = tensor.shape
        flat = tensor.transpose(1, 2).reshape(-1, heads, width)
        return flat.index_select(0, self.gather)[None]


@dataclass(frozen=True, eq=False)
class Attended:
    """The context of the forward that is running, and what its layers share.

    ``filling``: keys and values come with all that a cache holds before the forward's own tokens.
    """

    context: Context | None = None
    packing: Packing | None = None
    filling: bool = False
    masks: dict[tuple[int, ...], tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    counted: dict[int, Tensor] = field(default_factory=dict)
    turns: dict[tuple[int, ...], tuple[Tensor, ...]] = field(default_factory=dict)

    def lengths(self, rows: int) -> Tensor | None:
        """How many tokens of each row's context are there, ``(rows,)``, int64."""
        if self.context is None:
            return None
        if rows not in self.counted:
            self.counted[rows] = self.context.lengths_of(rows)
        return self.counted[rows]

    def turned(self, turn: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
        """Rotations ``(rows, seq, dim)`` as the kernels read them; copied once for all layers."""
        key = (id(turn[0]), id(turn[1]), rows)
        if key not in self.turns:
            # What the key names is kept, too, so that no other tensor takes its place.
            self.turns[key] = (*(t.expand(rows, -1, -1).contiguous() for t in turn), *turn)
        cos, sin, *_ = self.turns[key]
        return cos, sin

    def of(
        self, rows: int, tokens: int, window: int | None, device: torch.device | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Additive masks ``(rows or 1, 1, seq, context)`` and ``(1, 1, seq, seq)``, by window."""
        key = (rows, tokens, window or 0)
        if key not in self.masks:
            self.masks[key] = self._make(tokens, window, device)
        return self.masks[key]

    def _make(
        self, tokens: int, window: int | None, device: torch.device | None
    ) -> tuple[Tensor | None, Tensor]:
        own = torch.arange(tokens, device=device)
        distance = own[:, None] - own
        hidden = distance < 0
        if window:
            hidden |= distance >= window
        causal = torch.zeros(tokens, tokens, device=device)
        causal = causal.masked_fill_(hidden, -math.inf)[None, None]
        if self.context is None:
            return None, causal
        longest = int(self.context.keys[0].shape[2])
        lengths = torch.tensor(self.context.lengths, device=device)
        columns = torch.arange(longest, device=device)
        gone = (columns >= lengths[:, None])[:, None].expand(-1, tokens, -1)
        if window:
            gone = gone | ((lengths[:, None, None] + own[:, None]) - columns >= window)
        if not bool(gone.any()):
            return None, causal
        masked = torch.zeros(gone.shape, device=device).masked_fill_(gone, -math.inf)
        return masked[:, None], causal


_ATTENDED: ContextVar[Attended | None] = ContextVar("attended", default=None)


@contextmanager
def attending(
    model: PreTrainedModel, context: Context | None = None, packing: Packing | None = None
) -> Iterator[None]:
    """Let a model's forward see a context before its own tokens, or rows that are packed in one.

    Its tokens are right-padded ``(batch, seq)`` or packed ``(1, tokens)`` and take their positions
    from ``position_ids``; no attention mask is given. What the model's attention was before comes
    back afterwards.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    with attending_again(model, Attended(context, packing), NAME):
        yield


def attended() -> Attended | None:
    """What the forward that is running attends to, for whoever runs a part of it again."""
    return _ATTENDED.get()


@contextmanager
def attending_again(model: PreTrainedModel, seen: Attended | None, name: str) -> Iterator[None]:
    """Run a part of a forward again as it ran: what :func:`attended` found, and its attention."""
    before = model.config._attn_implementation
    if before != name:
        model.set_attn_implementation(name)
    token = _ATTENDED.set(seen)
    try:
        yield
    finally:
        _ATTENDED.reset(token)
        if before != name:
            model.set_attn_implementation(before)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers; ``query`` is ``(batch, heads, seq, head_dim)``."""
    seen = _ATTENDED.get()
    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if seen is None or unknown or dropout or attention_mask is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} can't attend to a frozen context"
            + (f" ({unknown[0]})" if unknown else "")
            + ".",
            remedy="Learn with --set representation=full_context.",
        )
    packing = seen.packing
    if packing is not None:
        query, key, value = packing.padded(query), packing.padded(key), packing.padded(value)
    rows, _, tokens, width = query.shape
    frozen: tuple[Tensor | None, Tensor | None] = (None, None)
    lengths = seen.lengths(rows)
    if seen.context is not None:
        layer = int(module.layer_idx)
        frozen = seen.context.keys[layer], seen.context.values[layer]
    elif seen.filling and key.shape[2] > tokens:
        held = key.shape[2] - tokens
        frozen = key[:, :, :held], value[:, :, :held]
        key, value = key[:, :, held:], value[:, :, held:]
        lengths = torch.full((rows,), held, dtype=torch.int64)
    scale = width**-0.5 if scaling is None else float(scaling)
    kind = query.dtype if frozen[0] is None else frozen[0].dtype
    if torch.is_autocast_enabled(query.device.type):
        kind = torch.get_autocast_dtype(query.device.type)
    if query.is_cpu and attends(kind, width, softcap):
        own = [part.to(kind).transpose(1, 2) for part in (query, key, value)]
        before_key, before_value = (None if part is None else part.to(kind) for part in frozen)
        around = Seen.of(before_key, before_value, lengths, sliding_window or 0, scale)
        found = attend(own[0], own[1], own[2], around).to(query.dtype)
        return (found if packing is None else packing.packed(found.transpose(1, 2))), None
    before, own_mask = seen.of(rows, tokens, sliding_window, query.device)
    out: Tensor = _TwoParts.apply(  # type: ignore[no-untyped-call]
        query, key, value, *frozen, before, own_mask, scale, softcap or 0.0
    )
    return (out.transpose(1, 2) if packing is None else packing.packed(out)), None


class _TwoParts(torch.autograd.Function):
    """Attention over constants and own keys under one softmax; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        frozen_key: Tensor | None,
        frozen_value: Tensor | None,
        before: Tensor | None,
        own: Tensor,
        scale: float,
        softcap: float,
    ) -> Tensor:
        ctx.types = query.dtype, key.dtype, value.dtype
        kind = query.dtype if frozen_key is None else frozen_key.dtype
        if torch.is_autocast_enabled(query.device.type):
            kind = torch.get_autocast_dtype(query.device.type)
        # Scaled once here, and not in scores that are many times larger.
        query, key, value = (query * scale).to(kind), key.to(kind), value.to(kind)
        if frozen_key is not None and frozen_value is not None:
            frozen_key, frozen_value = frozen_key.to(kind), frozen_value.to(kind)
        ctx.constants = frozen_key, frozen_value, before, own, scale, softcap
        with torch.autocast(query.device.type, enabled=False):
            weights, _ = _weights(query, key, frozen_key, before, own, softcap)
            out = _read(weights, value, frozen_value, query.shape)
        ctx.save_for_backward(query, key, value)
        return out.to(ctx.types[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        frozen_key, frozen_value, before, own, scale, softcap = ctx.constants
        rows, _, _, width = query.shape
        groups = key.shape[1]
        context = 0 if frozen_key is None else frozen_key.shape[2]
        gradient = gradient.to(query.dtype)
        with torch.autocast(query.device.type, enabled=False):
            weights, slope = _weights(query, key, frozen_key, before, own, softcap)
            change = _scores(gradient, value, frozen_value)
            grouped = gradient.reshape(rows, groups, -1, width)
            d_value = _own(weights, context, rows).transpose(-1, -2) @ grouped
            torch.ops.aten._softmax_backward_data.out(
                change, weights, -1, weights.dtype, grad_input=change
            )
            if slope is not None:
                change *= slope
            by_own = _own(change, context, rows)
            d_key = by_own.transpose(-1, -2) @ query.reshape(rows, groups, -1, width)
            d_query = _read(change, key, frozen_key, query.shape) * scale
        types = ctx.types
        return d_query.to(types[0]), d_key.to(types[1]), d_value.to(types[2]), *(None,) * 6


# Scores are laid out (context rows, kv_heads, batch / context rows * group * seq, context + seq):
# where one context serves the whole batch, all rows of the batch make one product with its keys.


def _fold(tensor: Tensor, groups: int, shared: bool) -> Tensor:
    """``(batch, heads, seq, dim)`` -> ``(context rows, kv_heads, all that reads them, dim)``."""
    rows, _, _, width = tensor.shape
    grouped = tensor.reshape(rows, groups, -1, width)
    if not shared or rows == 1:
        return grouped
    return grouped.transpose(0, 1).reshape(1, groups, -1, width)


def _unfold(tensor: Tensor, shape: torch.Size, groups: int) -> Tensor:
    """The inverse of :func:`_fold`."""
    rows = shape[0]
    if tensor.shape[0] != rows:
        tensor = tensor.reshape(groups, rows, -1, tensor.shape[-1]).transpose(0, 1)
    return tensor.reshape(shape)


def _own(scores: Tensor, context: int, rows: int) -> Tensor:
    """The part of scores on the tokens in the graph, ``(batch, kv_heads, group * seq, seq)``."""
    own = scores[..., context:]
    if own.shape[0] == rows:
        return own
    groups = own.shape[1]
    return own.reshape(groups, rows, -1, own.shape[-1]).transpose(0, 1)


def _scores(query: Tensor, key: Tensor, frozen: Tensor | None) -> Tensor:
    """Products with the context's and the own keys, side by side, unscaled."""
    rows, _, tokens, width = query.shape
    groups = key.shape[1]
    own = query.reshape(rows, groups, -1, width) @ key.transpose(-1, -2)
    if frozen is None:
        return own
    context = frozen.shape[2]
    folded = _fold(query, groups, frozen.shape[0] == 1)
    scores = folded.new_empty(*folded.shape[:3], context + tokens)
    for row in range(folded.shape[0]):
        # Into the wider rows of the scores at once: no product is copied.
        torch.bmm(folded[row], frozen[row].transpose(1, 2), out=scores[row, :, :, :context])
    if scores.shape[0] != rows:
        own = own.transpose(0, 1)
    scores[..., context:] = own.reshape(*scores.shape[:3], tokens)
    return scores


def _weights(
    query: Tensor,
    key: Tensor,
    frozen: Tensor | None,
    before: Tensor | None,
    own: Tensor,
    softcap: float,
) -> tuple[Tensor, Tensor | None]:
    """The softmax over context and own tokens, and the slope of a soft cap if there is one."""
    tokens = query.shape[2]
    scores = _scores(query, key, frozen)
    context = scores.shape[-1] - tokens
    slope = None
    if softcap:
        bounded = torch.tanh(scores / softcap)
        slope = 1 - bounded * bounded
        scores = bounded * softcap
    # One row of masks for each query, whatever the heads: (..., group, seq, columns).
    by_token = scores.view(*scores.shape[:2], -1, tokens, scores.shape[-1])
    by_token[..., context:] += own.to(scores.dtype)
    if before is not None:
        by_token[..., :context] += before.to(scores.dtype)[:, :, None]
    # In place; scores in bf16 have a softmax in fp32.
    torch.softmax(scores, -1, out=scores)
    return scores, slope


def _read(weights: Tensor, value: Tensor, frozen: Tensor | None, shape: torch.Size) -> Tensor:
    """Values read by weights: ``(batch, heads, seq, head_dim)``."""
    rows, groups = shape[0], value.shape[1]
    context = 0 if frozen is None else frozen.shape[2]
    out = (_own(weights, context, rows) @ value).reshape(shape)
    if frozen is not None:
        read = torch.matmul(weights[..., :context], frozen)
        out += _unfold(read, shape, groups)
    return out


# What a model can do is measured, not assumed.


def objection(loaded: LoadedModel) -> str:
    """Why a model can't attend in two parts as its own forward would; "" if it can.

    Measured when first asked.
    """
    verdict: str | None = getattr(loaded.model, _CHECKED, None)
    if verdict is None:
        # What is measured is measured on the model's own attention.
        setattr(loaded.model, _CHECKED, "it is being measured")
        verdict = _agreement(loaded)
        setattr(loaded.model, _CHECKED, verdict)
    return verdict


def check_context(loaded: LoadedModel) -> None:
    """Make sure that a model can learn on a frozen context.

    Raises:
        UnsupportedModelError: its layers keep more than keys and values, or its attention takes
            what the two-part one does not know.
    """
    if verdict := objection(loaded):
        raise UnsupportedModelError(
            f"{loaded.source} ({loaded.profile.model_type}) can't learn on a frozen context: "
            f"{verdict}.",
            remedy="Learn with --set representation=full_context.",
        )


_CHECKED = "_engrain_context_check"


@torch.no_grad()
def _agreement(loaded: LoadedModel) -> str:
    """Why a frozen context can't be used; "" where two forwards say the same."""
    profile = loaded.profile
    if not profile.cache_croppable:
        kinds = {
            "state": "its layers keep a state that can't be cut back",
            "shared": "its later layers read the keys of earlier ones",
        }
        return kinds.get(profile.cache_kind, f"its cache is of the kind {profile.cache_kind!r}")
    tokens, split = min(12, loaded.max_length), 7
    ids = (torch.arange(tokens)[None] * 7 + 1).to(loaded.device) % profile.vocab_size
    cache = new_cache(loaded.model, profile)
    with torch.autocast(ids.device.type, enabled=False):
        return _difference(loaded, cache, ids, split)


def _difference(loaded: LoadedModel, cache: Cache, ids: Tensor, split: int) -> str:
    try:
        whole = loaded.model(input_ids=ids, use_cache=False).logits[:, split:].float()
        extend(loaded, cache, ids[:, :split])
        with attending(loaded.model, Context.view(cache, split)):
            positions = torch.arange(split, ids.shape[1], device=ids.device)[None]
            rest = loaded.model(
                input_ids=ids[:, split:], position_ids=positions, use_cache=False
            ).logits.float()
    except (UnsupportedModelError, TypeError, ValueError, AttributeError) as error:
        return f"its attention is of another kind ({error})"
    tolerance = 1e-3 if loaded.dtype == torch.float32 else 0.1
    scale = float(whole.std())
    difference = float((whole - rest).abs().max())
    if difference > tolerance * max(scale, 1e-6):
        return f"its logits would differ by {difference:.2g}"
    return ""
