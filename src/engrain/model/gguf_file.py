"""A GGUF file as metadata and tensors; the tensors are read in slices of rows and never mapped.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
The header is read here and not by the ``gguf`` package, whose reader makes several objects of every
token: more memory than the weights of a small model. Its dequantisers are used as they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from engrain.errors import CorruptModelError, UnsupportedModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SLICE = 1 << 22
"""Values that are dequantised at once: some 60 MB with numpy's intermediate arrays."""
MOST = 1 << 28
"""No count in a header is larger: a file that says so is damaged."""

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in the file, and how; the shape is torch's, rows first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    row_bytes: int

    @property
    def rows(self) -> int:
        """How many rows there are; a vector has one."""
        return math.prod(self.shape[:-1])

    @property
    def numel(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)


class GGUFFile:
    """The metadata of a file and its tensors by name.

    Raises:
        CorruptModelError: no GGUF, another version, or the file ends too early.
        UnsupportedModelError: a tensor is stored in a way that can't be dequantised here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        with path.open("rb") as file:
            header = _Header(file, path, self.size)
            self.metadata: dict[str, Any] = header.metadata
            self.kinds = header.kinds
            self._pairs = header.pairs
            self.tensors: dict[str, StoredTensor] = {t.name: t for t in header.tensors()}

    def head(self) -> bytes:
        """The metadata alone: a whole GGUF file that holds no tensor."""
        count, start, end = self._pairs
        with self.path.open("rb") as file:
            version = file.read(8)
            file.seek(start)
            return version + struct.pack("<QQ", 0, count) + file.read(end - start)

    def read(self, name: str, rows: Iterator[int] | np.ndarray | None = None) -> Iterator[Tensor]:
        """The values of one tensor as fp32, some rows at a time, in order or as ``rows`` says."""
        from gguf import GGMLQuantizationType, dequantize

        tensor = self.tensors[name]
        kind = GGMLQuantizationType(tensor.kind)
        step = max(1, SLICE // tensor.shape[-1])
        with self.path.open("rb") as file:
            if rows is not None:
                # Only the small tensors of attention are reordered: whole, as they are stored.
                whole = _read(file, tensor, 0, tensor.rows)[np.asarray(rows)]
                chunks: Iterator[np.ndarray] = (
                    whole[first : first + step] for first in range(0, tensor.rows, step)
                )
            else:
                chunks = (
                    _read(file, tensor, first, min(step, tensor.rows - first))
                    for first in range(0, tensor.rows, step)
                )
            for chunk in chunks:
                values = dequantize(np.ascontiguousarray(chunk), kind)
                yield torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _read(file: BinaryIO, tensor: StoredTensor, first: int, count: int) -> np.ndarray:
    file.seek(tensor.offset + first * tensor.row_bytes)
    data = np.fromfile(file, np.uint8, count * tensor.row_bytes)
    if data.size != count * tensor.row_bytes:
        raise _truncated(Path(file.name))
    return data.reshape(count, tensor.row_bytes)


class _Header:
    """Reads the head of a file from front to back."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        magic = file.read(4)
        if magic != MAGIC:
            raise CorruptModelError(
                f"{path} is no GGUF file: it begins with {magic!r}.",
                remedy="Give a file whose name ends in .gguf, as llama.cpp reads it.",
            )
        version = self._number("<u4")
        if version not in VERSIONS:
            raise UnsupportedModelError(
                f"{path} is GGUF of version {version}; versions 2 and 3 (little endian) are read.",
                remedy="Convert the model again with a current llama.cpp.",
            )
        self.count, pairs = self._count(), self._count()
        self.metadata = {}
        self.kinds: dict[str, tuple[int, int | None]] = {}
        """The type of each value, and of the values in it where it is an array."""
        begin = file.tell()
        for _ in range(pairs):
            key, kind = self._string(), self._number("<u4")
            self._inner: int | None = None
            self.metadata[key] = self._value(kind)
            self.kinds[key] = (kind, self._inner)
        self.pairs = (pairs, begin, file.tell())

    def tensors(self) -> list[StoredTensor]:
        """The directory of tensors, checked against the length of the file."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        found = []
        for _ in range(self.count):
            name = self._string()
            shape = tuple(self._number("<u8") for _ in range(self._number("<u4")))[::-1]
            kind, offset = self._number("<u4"), self._number("<u8")
            sizes = _dequantised(kind)
            if sizes is None or not shape or min(shape) < 1 or shape[-1] % sizes[0]:
                known = kind in list(GGMLQuantizationType)
                label = GGMLQuantizationType(kind).name if known else f"number {kind}"
                raise UnsupportedModelError(
                    f"{self.path} stores {name!r} as {label} {list(shape)}, which can't be "
                    "dequantised.",
                    remedy="Take the file in Q4_K_M, Q8_0 or F16, or update the gguf package.",
                )
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            found.append((name, shape, kind, offset, shape[-1] // block * block_bytes))
        alignment = max(1, int(self.metadata.get("general.alignment", 32)))
        start = -(-self.file.tell() // alignment) * alignment
        tensors = [
            StoredTensor(name, shape, kind, start + offset, row_bytes)
            for name, shape, kind, offset, row_bytes in found
        ]
        if any(t.offset + t.rows * t.row_bytes > self.size for t in tensors):
            raise _truncated(self.path)
        return tensors

    def _bytes(self, count: int) -> bytes:
        data = self.file.read(count) if 0 <= count <= self.size else b""
        if len(data) != count:
            raise _truncated(self.path)
        return data

    def _number(self, kind: str) -> int:
        return int(np.frombuffer(self._bytes(np.dtype(kind).itemsize), kind)[0])

    def _count(self) -> int:
        count = self._number("<u8")
        if count > MOST:
            raise _truncated(self.path)
        return count

    def _string(self) -> str:
        return self._bytes(self._number("<u8")).decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("<u4"), self._count()
            self._inner = inner
            if inner in _NUMBERS:
                width = np.dtype(_NUMBERS[inner]).itemsize
                return np.frombuffer(self._bytes(count * width), _NUMBERS[inner]).tolist()
            if inner != _STRING:
                raise _truncated(self.path)
            return [self._value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise _truncated(self.path)
        data = self._bytes(np.dtype(_NUMBERS[kind]).itemsize)
        if kind == _BOOL:
            return bool(data[0])
        if kind == 6:
            return shortest(struct.unpack("<f", data)[0])
        return np.frombuffer(data, _NUMBERS[kind])[0].item()


def shortest(value: float) -> float:
    """The shortest decimal number that is this fp32 number: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value)))


def _dequantised(kind: int) -> tuple[int, int] | None:
    """Block length and bytes of a storage type, if it can be dequantised."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits

    if kind not in list(GGMLQuantizationType):
        return None
    known = GGMLQuantizationType(kind)
    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    return GGML_QUANT_SIZES[known] if known in plain or known in _type_traits else None


def _truncated(path: Path) -> CorruptModelError:
    return CorruptModelError(
        f"{path} is damaged: it ends before what its header announces.",
        remedy="Get the file again; the download was not finished.",
    )
