"""The fold: the served weights are the base plus the active adapters, in the order accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch

from engrain.learn import registry
from engrain.learn.technique import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from engrain.model.adapter import Adapter
    from engrain.model.loading import LoadedModel


def fold(
    base: Mapping[str, Tensor], adapters: Sequence[Adapter], *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Fold adapters over base weights, in fp32 and in order; the base is not written.

    The sum is always taken from the base on, never by subtracting, so that dropping an adapter
    gives to the bit what never having learned it would give. The result is of the base's type, or
    of another ``dtype``.
    """
    weights = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in base.items()}
    for adapter in adapters:
        technique = cast(type[Architecture], registry.get("architecture", adapter.architecture))
        technique.fold(adapter, weights)
    return {name: tensor.to(dtype or base[name].dtype) for name, tensor in weights.items()}


def fold_into(loaded: LoadedModel, adapter: Adapter) -> None:
    """Fold one adapter over the base weights straight into a model, one tensor at a time.

    The bits are those that :func:`fold` gives; the whole model is never there in fp32.
    """
    technique = cast(type[Architecture], registry.get("architecture", adapter.architecture))
    technique.fold(adapter, _Live(loaded))


class _Live(dict[str, "Tensor"]):
    """Weights of a fold: read from the base in fp32, written into a model's parameters."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self._base, self._live = loaded.stored(), loaded.weights()

    def __getitem__(self, name: str) -> Tensor:
        return self._base[name].detach().float().clone()

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._live[name].copy_(value)
