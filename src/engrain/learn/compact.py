"""A decoder layer as one step of the graph: forward and backward written out, on live weights.

An ordinary layer is some sixty operations of autograd, and most of what it keeps can be had again
for less than it costs to keep. Here a layer of the Llama kind keeps what enters it, its queries,
keys, values and attention, what enters its feed-forward part, and that part's two inner products,
all in bf16; norms and the gated product are computed again. With x a layer's input, n a norm, A the
attention and s the activation,

    x' = x + A(n1(x) Wq, n1(x) Wk, n1(x) Wv) Wo,
    y  = x' + (s(n2(x') Wg) * (n2(x') Wu)) Wd,

and backward goes through the same products the other way. Each direction is one call of a compiled
kernel (compact.c): between its products no thread waits for Python. What a layer is made of is read
off its modules as for decoding (:mod:`engrain.model.layers`); other layers, adapted ones among
them, keep their own forward.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engrain.learn.passes import ROUNDINGS, RULES
from engrain.model import attention, kernels
from engrain.model.attention import Seen, attends
from engrain.model.context import attended
from engrain.model.layers import Unsupported, read_layers

if TYPE_CHECKING:
    from engrain.learn.passes import Product
    from engrain.learn.update import GradientRelease
    from engrain.model.loading import LoadedModel

NORMS = ("before", "middle", "query_norm", "key_norm")
MAPS = ("query", "key", "value", "out", "gate", "up", "down")
ACTIVATIONS = {"SiLU": 0, "SiLUActivation": 0, "GELUTanh": 1, "PytorchGELUTanh": 1}


class _NormCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in "weight gradient".split()),
        *((name, ctypes.c_float) for name in "epsilon one".split()),
    ]


class _MapCall(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in "weight bias gradient bias_gradient numbers".split()),
        *((name, ctypes.c_int32) for name in "rule rounding".split()),
        *((name, ctypes.c_uint32) for name in "key1 key2".split()),
    ]


class _Call(ctypes.Structure):
    """A layer's call, as compact.c has it."""

    _fields_ = [
        ("attention", attention.Call),
        *((name, _NormCall) for name in NORMS),
        *((name, _MapCall) for name in MAPS),
        *((name, ctypes.c_int64) for name in "width inner".split()),
        *((name, ctypes.c_void_p) for name in "x cos sin change y change_x kept room".split()),
        *((name, ctypes.c_int32) for name in "activation turns".split()),
    ]


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm over the last dimension; its weight is ``weight + one``."""

    weight: Tensor
    epsilon: float
    one: float


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
        norms: list[Norm | None] = [getattr(self, name) for name in NORMS]
        maps: list[nn.Linear] = [getattr(self, name) for name in MAPS]
        found = [None if norm is None else norm.weight for norm in norms]
        return found + [part for each in maps for part in (each.weight, each.bias)]

    def call(self, rows: int, tokens: int, seen: Seen) -> _Call:
        """A call with the layer's weights and sizes."""
        call = _Call()
        call.attention = attention.call_of(rows, tokens, self.heads, self.groups, self.dim, seen)
        for name in NORMS:
            norm: Norm | None = getattr(self, name)
            if norm is not None:
                weight = norm.weight.data_ptr()
                setattr(call, name, _NormCall(weight, None, norm.epsilon, norm.one))
        for name in MAPS:
            module: nn.Linear = getattr(self, name)
            bias = None if module.bias is None else module.bias.data_ptr()
            setattr(call, name, _MapCall(module.weight.data_ptr(), bias))
        call.inner, call.width = self.gate.weight.shape
        call.activation, call.turns = self.activation, self.turns
        return call


@dataclass
class Room:
    """Scratch memory that the layers use one after another."""

    _memory: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def of(self, size: int) -> int:
        """The address of so many bytes."""
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory.data_ptr()


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
        weights = [m.weight for m in (*part.projections, part.out, *part.inward, part.down)]
        if any(w.shape[0] % 2 or w.shape[1] % 2 or not w.is_contiguous() for w in weights):
            return "its matrices are of odd width, or don't lie in one piece"
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
        self.release, self._step, self._uses = release, -1, 0

    def used(self) -> None:
        """Its layer was run with a graph."""
        if self.release is not None:
            self._uses = self._uses + 1 if self._step == self.release.step else 1
            self._step = self.release.step

    def product(self, parameter: Tensor) -> Product | None:
        """How a parameter moves by the factors of its gradient; None if that must be formed."""
        if self.release is None or self._uses != 1:
            return None
        return self.release.product(parameter)


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
    room = Room()
    for module, layer in zip(modules, layers, strict=True):
        module.forward = _forward(layer, module.forward, Taking(release), room)
    try:
        yield ""
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _forward(
    layer: Layer, ordinary: Callable[..., Any], taking: Taking, room: Room
) -> Callable[..., Any]:
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
                hidden, cos, sin, layer, around, taking, room, *layer.tensors()
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
        room: Room,
        *tensors: Tensor | None,
    ) -> Tensor:
        hidden, out = hidden.contiguous(), torch.empty_like(hidden)
        rows, tokens, _ = hidden.shape
        call = layer.call(rows, tokens, seen)
        kept = torch.empty(_sizes(call, room), dtype=torch.uint8)
        _run("engrain_layer", call, hidden, cos, sin, kept, y=out)
        ctx.save_for_backward(hidden, cos, sin, kept)
        ctx.layer, ctx.seen, ctx.taking, ctx.room = layer, seen, taking, room
        return out

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        layer: Layer = ctx.layer
        taking: Taking = ctx.taking
        hidden, cos, sin, kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[7:]
        rows, tokens, _ = hidden.shape
        call = layer.call(rows, tokens, ctx.seen)
        gradients: list[Tensor | None] = [None] * len(wanted)
        taken: dict[str, Product] = {}
        alive = []

        def form(place: int, weight: Tensor) -> int | None:
            """Where a gradient goes, if it is wanted."""
            if not wanted[place]:
                return None
            gradients[place] = found = torch.empty_like(weight)
            return found.data_ptr()

        for place, name in enumerate(NORMS):
            norm: Norm | None = getattr(layer, name)
            if norm is not None:
                getattr(call, name).gradient = form(place, norm.weight)
        for number, name in enumerate(MAPS):
            module, into = getattr(layer, name), getattr(call, name)
            place = len(NORMS) + 2 * number
            if module.bias is not None:
                into.bias_gradient = form(place + 1, module.bias)
            product = taking.product(module.weight) if wanted[place] else None
            if product is None:
                into.gradient = form(place, module.weight)
                continue
            taken[name] = product
            alive.append(numbers := product.move.numbers(1.0))
            into.numbers, into.rule = ctypes.addressof(numbers), RULES[product.move.rule]
            into.rounding = ROUNDINGS[product.rounding]
            into.key1, into.key2 = product.keys
        # Below the lowest layer that is trained nobody asks for the gradient of what came in.
        below = ctx.needs_input_grad[0] or wanted[0]
        given = torch.empty_like(hidden) if below else None
        _sizes(call, ctx.room)
        change = change.contiguous()
        wrong = _run(
            "engrain_layer_back", call, hidden, cos, sin, kept, change=change, change_x=given
        )
        if taking.release is not None:
            if wrong:
                raise taking.release.refused(taken[MAPS[wrong - 2]])
            for product in taken.values():
                taking.release.took(product)
        return given, *(None,) * 6, *gradients


def _sizes(call: _Call, room: Room) -> int:
    """Bytes that a call keeps for backward; it is given its scratch memory."""
    library = kernels.library()
    assert library is not None
    kept, scratch = ctypes.c_int64(), ctypes.c_int64()
    library.engrain_layer_sizes(ctypes.byref(call), ctypes.byref(kept), ctypes.byref(scratch))
    call.room = room.of(scratch.value)
    return kept.value


def _run(
    name: str, call: _Call, hidden: Tensor, cos: Tensor, sin: Tensor, kept: Tensor, **more: Any
) -> int:
    """Call a kernel; 2 + i where the gradient of map i is not finite, and it has not moved."""
    library = kernels.library()
    assert library is not None
    call.x, call.cos, call.sin = hidden.data_ptr(), cos.data_ptr(), sin.data_ptr()
    call.kept = kept.data_ptr()
    for key, tensor in more.items():
        setattr(call, key, None if tensor is None else tensor.data_ptr())
    wrong: int = getattr(library, name)(ctypes.byref(call))
    if wrong == 1:
        raise MemoryError("The attention kernel got no scratch memory.")
    return wrong
