"""Low-rank adapters as PEFT lays them out: whether one is, whether it fits, several as one.

    sum_i  s_i B_i A_i  =  [s_1 B_1 | s_2 B_2 | ...] [A_1; A_2; ...],

so lessons that were learned one after another are one LoRA whose rank is the sum of theirs. Nothing
is approximated; only the order in which fp32 numbers are added differs from the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engrain.errors import ExportError
from engrain.learn.architecture.lora import PREFIX
from engrain.model.adapter import Adapter

LOW, HIGH = ".lora_A.weight", ".lora_B.weight"


def is_low_rank(adapter: Adapter) -> bool:
    """Whether every tensor is a factor of a low-rank change."""
    names = list(adapter.tensors)
    return bool(names) and all(n.startswith(PREFIX) and n.endswith((LOW, HIGH)) for n in names)


def factors(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every changed matrix by its module's path, in fp32, the scale within B."""
    scale = float(adapter.settings["lora_alpha"]) / int(adapter.settings["r"])
    found = {}
    for name, low in sorted(adapter.tensors.items()):
        if name.endswith(LOW):
            path = name.removeprefix(PREFIX).removesuffix(LOW)
            high = adapter.tensors[f"{PREFIX}{path}{HIGH}"]
            found[path] = (low.float(), scale * high.float())
    return found


def unfit(adapter: Adapter, base: Mapping[str, Tensor]) -> str:
    """Why an adapter can't be folded over base weights; empty if it can.

    A wrong shape could pass unseen, since addition stretches a tensor of one row.
    """
    for name, tensor in adapter.tensors.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            return f"{name!r} holds numbers that are not finite"
    if not adapter.tensors:
        return "it has no tensors"
    if is_low_rank(adapter):
        return _unfit_factors(adapter, base)
    for name, tensor in adapter.tensors.items():
        if name not in base or tensor.shape != base[name].shape:
            return f"the base has no {name!r} of the shape {list(tensor.shape)}"
    return ""


def _unfit_factors(adapter: Adapter, base: Mapping[str, Tensor]) -> str:
    try:
        pairs = factors(adapter)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return f"its factors are not whole ({type(error).__name__}: {error})"
    if 2 * len(pairs) != len(adapter.tensors):
        return "its factors don't come in pairs"
    transposed = bool(adapter.settings.get("fan_in_fan_out"))
    for path, (low, high) in pairs.items():
        matrix = base.get(f"{path}.weight")
        if low.ndim != 2 or high.ndim != 2 or low.shape[0] != high.shape[1]:
            return f"the factors of {path!r} don't fit each other"
        shape = (high.shape[0], low.shape[1])
        if matrix is None or tuple(matrix.shape) != (shape[::-1] if transposed else shape):
            return f"the base has no {path!r} of the shape {list(shape)}"
    return ""


def combined(adapters: Sequence[Adapter]) -> Adapter:
    """Several low-rank adapters, folded one after another, as one.

    Raises:
        ExportError: there are none, or they are of models that keep matrices in different ways.
    """
    if not adapters:
        raise ExportError(
            "No lesson is in force.",
            remedy="Learn one, or enable one that is kept aside: see `engrain lessons list`.",
        )
    transposed = {bool(adapter.settings.get("fan_in_fan_out")) for adapter in adapters}
    if len(transposed) != 1:
        raise ExportError(
            "The lessons say different things of how the model keeps its matrices.",
            remedy="Write the merged model instead: --format transformers.",
        )
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        for path, pair in factors(adapter).items():
            parts.setdefault(path, []).append(pair)
    tensors, ranks = {}, {}
    for path, pairs in sorted(parts.items()):
        low = torch.cat([low for low, _ in pairs])
        tensors[f"{PREFIX}{path}{LOW}"] = low
        tensors[f"{PREFIX}{path}{HIGH}"] = torch.cat([high for _, high in pairs], 1)
        ranks[path] = len(low)
    return Adapter("lora", tensors, _settings(ranks, transposed.pop()))


def _settings(ranks: Mapping[str, int], transposed: bool) -> dict[str, Any]:
    """PEFT's settings of an adapter whose scale lies within B: alpha is the rank everywhere."""
    most = max(ranks.values())
    other = {path: rank for path, rank in ranks.items() if rank != most}
    return {
        "r": most,
        "lora_alpha": most,
        "rank_pattern": other,
        "alpha_pattern": dict(other),
        "target_modules": sorted(ranks),
        "fan_in_fan_out": transposed,
    }
