"""The compact forward in C: a plan's structure as the kernels take it, made once for a plan.

The structures hold addresses of the live parameters. Each step compares them with where the
parameters are now, and what they point to is kept alive, so a parameter that got another memory is
followed, and none is ever read after its end.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engrain.model import kernels
from engrain.model.cache import GrowingLayer
from engrain.model.layers import Layer, Norm, Rope, Unsupported

TYPES = {torch.float32: 0, torch.bfloat16: 1}
"""The kernels' numbers of the types that they compute in."""
ACTIVATIONS: dict[int, Any] = {
    0: functional.silu,
    1: lambda x: functional.gelu(x, approximate="tanh"),
    2: functional.gelu,
}
"""What the kernels' numbers of activations stand for."""

_pointer, _size, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("weight", _pointer),
        ("bias", _pointer),
        ("rows", _size),
        ("columns", _size),
        ("stride", _size),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("size", _size), ("eps", _float), ("plus", _float)]


class _Heads(ctypes.Structure):
    _fields_ = [
        ("heads", _size),
        ("kv_heads", _size),
        ("dim", _size),
        ("window", _size),
        ("rope", _size),
        ("scale", _float),
        ("softcap", _float),
        ("query", _Norm),
        ("key", _Norm),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("before", "after", "feed_before", "feed_after")),
        *((name, _Matrix) for name in ("query", "key", "value", "out", "gate", "up", "down")),
        ("heads", _Heads),
        ("activation", _size),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("type", _size),
        ("width", _size),
        ("layers", _size),
        ("layer", ctypes.POINTER(_Layer)),
        ("norm", _Norm),
        ("head", _Matrix),
        ("softcap", _float),
    ]


class _Rope(ctypes.Structure):
    _fields_ = [("cos", _pointer), ("sin", _pointer)]


class _Cache(ctypes.Structure):
    _fields_ = [("keys", _pointer), ("values", _pointer), ("row", _size), ("head", _size)]


class _Step(ctypes.Structure):
    _fields_ = [
        ("rows", _size),
        ("stop", _size),
        ("input", _pointer),
        ("positions", _pointer),
        ("ropes", ctypes.POINTER(_Rope)),
        ("caches", ctypes.POINTER(_Cache)),
        ("bias", _pointer),
        ("logits", _pointer),
        ("scratch", _pointer),
        ("threads", _size),
    ]


class Compiled:
    """A plan as the kernels step it.

    Raises:
        Unsupported: there are no kernels, or they do not know a part of the model.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        norm: Norm,
        head: nn.Linear,
        softcap: float | None,
        ropes: dict[str, Rope],
    ) -> None:
        library = kernels.library()
        if library is None:
            raise Unsupported(f"no compiled kernels: {kernels.reason()}")
        self._step = library.engrain_decode
        self._scratch_bytes = library.engrain_decode_scratch
        self._step.restype, self._scratch_bytes.restype = None, _size
        self._dtype = norm.weight.dtype
        if self._dtype not in TYPES:
            raise Unsupported(f"the kernels do not compute in {self._dtype}")
        self._parts = (layers, norm, head, softcap)
        self._ropes = list(ropes.values())
        self._rope_numbers = {kind: number for number, kind in enumerate(ropes)}
        self._activations = [_activation(layer) for layer in layers]
        self._buffers: list[Any] = [None] * len(layers)
        self._caches = (_Cache * len(layers))()
        self._turns = (_Rope * max(1, len(ropes)))()
        self._turned: list[Tensor] = []
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._call = _Step(ropes=self._turns, caches=self._caches)
        self._read()

    def step(
        self,
        hidden: Tensor,
        positions: Tensor,
        caches: Sequence[GrowingLayer],
        stop: int,
        bias: Tensor | None,
    ) -> Tensor:
        """Logits ``(rows, vocabulary)`` of embedded tokens ``(rows, width)`` at ``positions``.

        Keys and values are written into the caches' buffers, at ``stop - 1``.
        """
        if [weight.data_ptr() for weight in self._weights] != self._addresses:
            self._read()
        self._find(caches, stop)
        hidden, positions = hidden.contiguous(), positions.contiguous()
        if bias is not None:
            bias = bias.to(self._dtype).contiguous()
        logits = hidden.new_empty(hidden.shape[0], self._model.head.rows)
        call = self._call
        call.rows, call.stop = hidden.shape[0], stop
        call.input, call.positions = hidden.data_ptr(), positions.data_ptr()
        call.bias = None if bias is None else bias.data_ptr()
        call.logits = logits.data_ptr()
        call.threads = torch.get_num_threads()
        needed = self._scratch_bytes(self._model_at, ctypes.byref(call))
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed + needed // 4, dtype=torch.uint8)
            call.scratch = self._scratch.data_ptr()
        self._step(self._model_at, ctypes.byref(call))
        return logits

    def _find(self, caches: Sequence[GrowingLayer], stop: int) -> None:
        """Where keys and values, and the rotations, are now."""
        for i, layer in enumerate(caches):
            buffers = layer.room(stop)
            if buffers is self._buffers[i]:
                continue
            keys, values = buffers
            if keys.dtype != self._dtype or not keys.is_contiguous() or not values.is_contiguous():
                raise Unsupported(f"its cache is {keys.dtype}, or not contiguous")
            self._buffers[i] = buffers
            row, head = keys.stride()[:2]
            self._caches[i] = _Cache(keys.data_ptr(), values.data_ptr(), row, head)
        turned = [table for rope in self._ropes for table in (rope.cos, rope.sin)]
        if len(turned) != len(self._turned) or any(
            a is not b for a, b in zip(turned, self._turned, strict=True)
        ):
            self._turned = turned
            for i, rope in enumerate(self._ropes):
                self._turns[i] = _Rope(rope.cos.data_ptr(), rope.sin.data_ptr())

    def _read(self) -> None:
        """Fill the structures from the parameters as they are."""
        layers, norm, head, softcap = self._parts
        self._weights: list[Tensor] = []
        self._alive: list[Tensor] = []
        self._layers = (_Layer * len(layers))(
            *(self._layer(*pair) for pair in zip(layers, self._activations, strict=True))
        )
        self._model = _Model(
            type=TYPES[self._dtype],
            width=norm.weight.shape[0],
            layers=len(layers),
            layer=self._layers,
            norm=self._norm(norm),
            head=self._matrices(head, [head.weight.shape[0]])[0],
            softcap=softcap or 0.0,
        )
        self._model_at = ctypes.byref(self._model)
        self._addresses = [weight.data_ptr() for weight in self._weights]

    def _layer(self, layer: Layer, activation: int) -> _Layer:
        widths = [n * layer.dim for n in (layer.heads, layer.kv_heads, layer.kv_heads)]
        if len(layer.projections) == 1:
            query, key, value = self._matrices(layer.projections[0], widths)
        else:
            query, key, value = (
                self._matrices(module, [width])[0]
                for module, width in zip(layer.projections, widths, strict=True)
            )
        inner = layer.down.weight.shape[1]
        if len(layer.inward) == 1:
            gate, up = self._matrices(layer.inward[0], [inner, inner])
        else:
            gate, up = (self._matrices(module, [inner])[0] for module in layer.inward)
        return _Layer(
            before=self._norm(layer.before),
            after=self._norm(layer.after),
            feed_before=self._norm(layer.feed_before),
            feed_after=self._norm(layer.feed_after),
            query=query,
            key=key,
            value=value,
            out=self._matrices(layer.out, [layer.out.weight.shape[0]])[0],
            gate=gate,
            up=up,
            down=self._matrices(layer.down, [layer.down.weight.shape[0]])[0],
            heads=_Heads(
                heads=layer.heads,
                kv_heads=layer.kv_heads,
                dim=layer.dim,
                window=layer.window or 0,
                rope=-1 if layer.rope is None else self._rope_numbers[layer.rope],
                scale=layer.scale,
                softcap=layer.softcap or 0.0,
                query=self._norm(layer.q_norm if layer.k_norm is not None else None),
                key=self._norm(layer.k_norm if layer.q_norm is not None else None),
            ),
            activation=activation,
        )

    def _matrices(self, module: nn.Linear, rows: Sequence[int]) -> list[_Matrix]:
        """The module's matrix, cut into parts of so many rows."""
        weight, bias = module.weight, module.bias
        if weight.shape[0] != sum(rows) or weight.stride(1) != 1:
            raise Unsupported("a matrix has another layout than the kernels take")
        at, first = self._address(weight), 0 if bias is None else self._address(bias)
        found, begin, size = [], 0, weight.element_size()
        stride = weight.stride(0)
        for count in rows:
            found.append(
                _Matrix(
                    weight=at + begin * stride * size,
                    bias=first + begin * size if bias is not None else None,
                    rows=count,
                    columns=weight.shape[1],
                    stride=stride,
                )
            )
            begin += count
        return found

    def _norm(self, norm: Norm | None) -> _Norm:
        if norm is None:
            return _Norm()
        at = self._address(norm.weight)
        return _Norm(at, norm.weight.shape[0], norm.eps, float(norm.plus_one))

    def _address(self, weight: Tensor) -> int:
        if weight.dtype != self._dtype or weight.device.type != "cpu" or weight.stride(-1) != 1:
            raise Unsupported(f"a weight is {weight.dtype} on {weight.device.type}, or not dense")
        self._weights.append(weight)
        # Holds the memory itself, whatever the parameter is given later.
        self._alive.append(weight.detach())
        return weight.data_ptr()


@torch.no_grad()
def _activation(layer: Layer) -> int:
    """The kernels' number of a layer's activation, told by what it does to a few numbers."""
    if layer.activation is None:
        return 0
    kind = type(layer.activation)
    if kind not in _KNOWN:
        x = torch.linspace(-4.0, 4.0, 65)
        got = layer.activation(x.clone())
        same = (n for n, f in ACTIVATIONS.items() if torch.allclose(got, f(x), atol=1e-6))
        _KNOWN[kind] = next(same, None)
    number = _KNOWN[kind]
    if number is None:
        raise Unsupported(f"the kernels do not know the activation {kind.__name__}")
    return number


_KNOWN: dict[type[nn.Module], int | None] = {}
"""Which of the kernels' activations a class of modules is; None: none of them."""
