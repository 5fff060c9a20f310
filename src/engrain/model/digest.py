"""Digests of weights: one SHA-256 over everything that decides what a model computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOLATILE_CONFIG = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
"""Configuration keys that say how a model was saved, not what it computes."""


def tensor_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and bytes, as hex.

    Equal digests mean equal bits: -0.0 and 0.0 differ, and so do fp32 and bf16 of one value.
    """
    return _digest((name, weights[name]) for name in sorted(weights))


def base_digest(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """SHA-256 over the tensors of a model as stored and over its configuration."""
    return _join(config_digest(config), tensor_digest(weights))


def file_digest(files: Iterable[Path], config: Mapping[str, Any]) -> str:
    """The :func:`base_digest` of the tensors in safetensors files, read one at a time."""
    from safetensors import safe_open

    where: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as handle:
            where.update(dict.fromkeys(handle.keys(), file))

    def tensors() -> Iterable[tuple[str, Tensor]]:
        opened: dict[Path, Any] = {}
        for name in sorted(where):
            file = where[name]
            if file not in opened:
                opened[file] = safe_open(file, framework="pt")
            yield name, opened[file].get_tensor(name)

    return _join(config_digest(config), _digest(tensors()))


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a model's configuration, as hex."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE_CONFIG}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    sha = hashlib.sha256()
    for name, tensor in tensors:
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)], ensure_ascii=True)
        # The length before the header keeps two different listings from giving the same bytes.
        sha.update(len(header).to_bytes(8, "little"))
        sha.update(header.encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _join(*digests: str) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
