"""A decoder layer as one step of the graph: forward and backward written out, on live weights.

An ordinary layer is some sixty operations of autograd, and most of what it keeps can be had again
for less than it costs to keep. Here a layer of the Llama kind keeps what enters it, its queries,
keys, values and attention, what enters its feed-forward part, and that part's two inner products,
all in the type that it computes in; norms and the gated product are computed again. With x a
layer's input, n a norm, A the attention and s the activation,

    x' = x + A(n1(x) Wq, n1(x) Wk, n1(x) Wv) Wo,
    y  = x' + (s(n2(x') Wg) * (n2(x') Wu)) Wd,

and backward goes through the same products the other way; norms, rotations and the gate are single
passes of compiled kernels. What a layer is made of is read off its modules as for decoding
(:mod:`engrain.model.layers`); other layers, adapted ones among them, keep their own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engrain.model import attention, kernels
from engrain.model.attention import Seen, attends
from engrain.model.context import attended
from engrain.model.kernels import run
from engrain.model.layers import Unsupported, read_layers

if TYPE_CHECKING:
    from engrain.learn.update import GradientRelease
    from engrain.model.loading import LoadedModel

PARTS = 16
"""Parts of the rows by which a norm's kernel sums its weight's gradient."""
KINDS = {torch.float32: 0, torch.bfloat16: 1}
ACTIVATIONS = {"SiLU": 0, "SiLUActivation": 0, "GELUTanh": 1, "PytorchGELUTanh": 1}


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm over the last dimension."""

    weight: Tensor
    epsilon: float
    one: float

    def forward(self, x: Tensor) -> Tensor:
        """The norm of each row ``(..., dim)``."""
        out = torch.empty_like(x)
        width = self.weight.shape[0]
        run(
            "engrain_norm",
            x,
            self.weight,
            out,
            KINDS[x.dtype],
            x.numel() // width,
            width,
            self.epsilon,
            self.one,
        )
        return out

    def backward(
        self, x: Tensor, change: Tensor, beside: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The gradient of ``x`` on top of ``beside``, and the weight's if it is wanted."""
        out, width = torch.empty_like(x), self.weight.shape[0]
        own = x.new_zeros((PARTS, width), dtype=torch.float32) if wanted else None
        run(
            "engrain_norm_back",
            x,
            self.weight,
            change,
            beside,
            out,
            own,
            KINDS[x.dtype],
            x.numel() // width,
            width,
            self.epsilon,
            self.one,
        )
        return out, None if own is None else own.sum(0).to(self.weight.dtype)


@dataclass(frozen=True)
class Layer:
    """What a layer is made of."""

    index: int
    before: Norm
    middle: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    activation: int
    heads: int
    groups: int
    dim: int
    window: int
    scale: float
    turns: bool

    def tensors(self) -> list[Tensor | None]:
        """All parameters, in one order; None for a bias that is not there."""
        norms = (self.before, self.middle, self.query_norm, self.key_norm)
        maps = (self.query, self.key, self.value, self.out, self.gate, self.up, self.down)
        found = [None if norm is None else norm.weight for norm in norms]
        return found + [part for each in maps for part in (each.weight, each.bias)]


def read(loaded: LoadedModel) -> list[Layer] | str:
    """The layers of a model, or why they can't be computed in this way."""
    if kernels.library() is None:
        return f"there are no kernels: {kernels.reason()}"
    if loaded.device.type != "cpu":
        return f"the model is on {loaded.device.type}"
    try:
        parts = read_layers(loaded)
    except Unsupported as problem:
        return str(problem)
    layers = []
    for index, part in enumerate(parts):
        name = "SiLU" if part.activation is None else type(part.activation).__name__
        before, middle = _norm(part.before), _norm(part.feed_before)
        query_norm, key_norm = _norm(part.q_norm), _norm(part.k_norm)
        if before is None or middle is None or part.after or part.feed_after or part.softcap:
            return "its norms or its attention are of another kind than Llama's"
        if len(part.projections) != 3 or len(part.inward) != 2 or name not in ACTIVATIONS:
            return "its projections are joint, or its activation is not known"
        if any(n is not None and n.weight.shape[0] != part.dim for n in (query_norm, key_norm)):
            return "its queries are normed across heads"
        query, key, value = part.projections
        gate, up = part.inward
        layers.append(
            Layer(
                index,
                before,
                middle,
                query_norm,
                key_norm,
                query,
                key,
                value,
                part.out,
                gate,
                up,
                part.down,
                ACTIVATIONS[name],
                part.heads,
                part.kv_heads,
                part.dim,
                part.window or 0,
                part.scale,
                part.rope is not None,
            )
        )
    return layers


class Taking:
    """Steps that are taken by products inside backward, without forming a gradient.

    Only where a parameter's whole gradient comes from one pass through its layer: a layer that is
    run twice for one step, for an anchor beside the lesson, has its gradients added up as usual.
    """

    def __init__(self, release: GradientRelease | None) -> None:
        self._release, self._step, self._uses = release, -1, 0

    def used(self) -> None:
        """Its layer was run with a graph."""
        if self._release is not None:
            self._uses = self._uses + 1 if self._step == self._release.step else 1
            self._step = self._release.step

    def take(self, parameter: Tensor, into: Tensor, inward: Tensor) -> bool:
        """Move a parameter by ``into^T inward``; False if its gradient must be formed."""
        return (
            self._release is not None
            and self._uses == 1
            and self._release.take(parameter, into, inward)
        )


def _norm(found: Any) -> Norm | None:
    return None if found is None else Norm(found.weight, found.eps, float(found.plus_one))


@contextmanager
def compacted(loaded: LoadedModel, release: GradientRelease | None = None) -> Iterator[str]:
    """Let a model's layers run as single steps of the graph; gives the reason if they can't.

    Only forwards that build a graph and attend as lessons do (:func:`engrain.model.context
    .attending`) are changed; all others run as before. With ``release`` a matrix takes its step
    from the two factors of its gradient, which is never formed.
    """
    layers = read(loaded)
    if isinstance(layers, str):
        yield layers
        return
    modules = list(loaded.model.get_submodule(loaded.profile.layers_path))
    before = [vars(module).get("forward") for module in modules]
    for module, layer in zip(modules, layers, strict=True):
        module.forward = _forward(layer, module.forward, Taking(release))
    try:
        yield ""
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _forward(layer: Layer, ordinary: Callable[..., Any], taking: Taking) -> Callable[..., Any]:
    def forward(hidden: Tensor, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            taking.used()
        seen, turn = attended(), named.get("position_embeddings")
        kind = layer.query.weight.dtype
        fits = (
            torch.is_grad_enabled()
            and seen is not None
            and seen.packing is None
            and turn is not None
            and hidden.dtype == kind
            and attends(kind, layer.dim, None)
        )
        if not fits:
            return ordinary(hidden, *given, **named)
        assert seen is not None and turn is not None
        rows = hidden.shape[0]
        key = value = lengths = None
        if seen.context is not None:
            key, value = seen.context.keys[layer.index], seen.context.values[layer.index]
            key, value = key.to(kind), value.to(kind)
            lengths = seen.lengths(rows)
        around = Seen.of(key, value, lengths, layer.window, layer.scale)
        cos, sin = seen.turned(turn, rows)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Pass.apply(  # type: ignore[no-untyped-call]
                hidden, cos, sin, layer, around, taking, *layer.tensors()
            )
            return found

    return forward


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        layer: Layer,
        seen: Seen,
        taking: Taking,
        *tensors: Tensor | None,
    ) -> Tensor:
        rows, tokens, _ = hidden.shape
        x = hidden.reshape(rows * tokens, -1)
        normed = layer.before.forward(x)
        first, second = _map(layer.query, normed), _map(layer.key, normed)
        value = _map(layer.value, normed)
        query = first if layer.query_norm is None else layer.query_norm.forward(first)
        key = second if layer.key_norm is None else layer.key_norm.forward(second)
        _turn(layer, query, key, cos, sin, 1.0)
        shape = (rows, tokens, -1, layer.dim)
        mixed, sums = attention.forward(query.view(shape), key.view(shape), value.view(shape), seen)
        middle = _map(layer.out, mixed.view(rows * tokens, -1)).add_(x)
        normed = layer.middle.forward(middle)
        gate, up = _map(layer.gate, normed), _map(layer.up, normed)
        inner = torch.empty_like(gate)
        run("engrain_gate", layer.activation, KINDS[x.dtype], gate.numel(), gate, up, inner)
        out = _map(layer.down, inner).add_(middle)
        # Before its norm a query is needed only where there is one.
        unnormed = (first, second) if layer.query_norm is not None else (None, None)
        ctx.save_for_backward(
            x, query, key, value, mixed, sums, middle, gate, up, cos, sin, *unnormed
        )
        ctx.layer, ctx.seen, ctx.taking = layer, seen, taking
        return out.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        layer: Layer = ctx.layer
        saved = ctx.saved_tensors
        x, query, key, value, mixed, sums, middle, gate, up, cos, sin, first, second = saved
        rows, tokens, _ = change.shape
        wanted = ctx.needs_input_grad
        change = change.reshape(rows * tokens, -1).contiguous()
        found: dict[str, Tensor | None] = {}

        def own(name: str, into: Tensor, inward: Tensor) -> None:
            """The gradients of a linear map, whose weight may take its step at once."""
            module: nn.Linear = getattr(layer, name)
            if module.weight.requires_grad and not ctx.taking.take(module.weight, into, inward):
                found[name] = into.t() @ inward
            if module.bias is not None and module.bias.requires_grad:
                found[f"{name}.bias"] = into.sum(0)

        def back(name: str, into: Tensor, inward: Tensor) -> Tensor:
            """The gradient of what went into a linear map; then the map's own."""
            module: nn.Linear = getattr(layer, name)
            given = into @ module.weight
            own(name, into, inward)
            return given

        kind = KINDS[x.dtype]
        # The product of the gate is made again below, so the last map's gradient comes second.
        inner = change @ layer.down.weight
        gate, up = gate.clone(), up.clone()
        run("engrain_gate_back", layer.activation, kind, gate.numel(), gate, up, inner)
        own("down", change, inner)
        normed = layer.middle.forward(middle)
        into = back("gate", gate, normed).add_(back("up", up, normed))
        change, found["middle"] = layer.middle.backward(middle, into, change, wanted[7])
        flat = mixed.view(rows * tokens, -1)
        into = back("out", change, flat).view(mixed.shape)
        shape = (rows, tokens, -1, layer.dim)
        parts = attention.backward(
            query.view(shape), key.view(shape), value.view(shape), ctx.seen, mixed, sums, into
        )
        into_query, into_key, into_value = (part.view(rows * tokens, -1) for part in parts)
        _turn(layer, into_query, into_key, cos, sin, -1.0)
        if layer.query_norm is not None:
            into_query, found["query_norm"] = layer.query_norm.backward(
                first, into_query, None, wanted[8]
            )
        if layer.key_norm is not None:
            into_key, found["key_norm"] = layer.key_norm.backward(second, into_key, None, wanted[9])
        normed = layer.before.forward(x)
        below = wanted[0] or wanted[6]
        if below:
            into = back("query", into_query, normed).add_(back("key", into_key, normed))
            into.add_(back("value", into_value, normed))
            change, found["before"] = layer.before.backward(x, into, change, wanted[6])
        else:
            own("query", into_query, normed)
            own("key", into_key, normed)
            own("value", into_value, normed)
        given = change.view(rows, tokens, -1) if below else None
        names = ("before", "middle", "query_norm", "key_norm")
        gradients = [found.get(name) for name in names]
        for name in ("query", "key", "value", "out", "gate", "up", "down"):
            gradients += [found.get(name), found.get(f"{name}.bias")]
        return given, *(None,) * 5, *gradients


def _map(module: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, module.weight, module.bias)


def _turn(layer: Layer, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, sign: float) -> None:
    """Turn queries and keys ``(tokens, heads * dim)`` by their positions, in place."""
    if not layer.turns:
        return
    tokens = query.shape[0]
    for part, heads in ((query, layer.heads), (key, layer.groups)):
        kind = KINDS[part.dtype]
        run("engrain_turn", part, cos, sin, kind, tokens, heads, layer.dim, sign)
