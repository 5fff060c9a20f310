"""What techniques that restart or grow a low-rank change have in common.

Linear maps are extended in place and given back as the very modules that they were; random numbers
depend on names, never on call order; factors of a product are made orthogonal and balanced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from engrain.learn.technique import Setting


class Extended(nn.Module):
    """A linear map and what changes it; the map is never written.

    ``base_layer`` keeps its matrix as ``(out, in)``, or transposed as GPT-2's modules do.
    """

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.transposed = not isinstance(base_layer, nn.Linear)

    def matrix(self) -> Tensor:
        """The base matrix ``(out, in)``."""
        weight: Tensor = self.base_layer.weight
        return weight.t() if self.transposed else weight

    def extra_repr(self) -> str:
        """The shape that it maps."""
        return " x ".join(map(str, self.matrix().shape))


Layer = TypeVar("Layer", bound=Extended)


def extend(
    model: nn.Module, paths: Sequence[str], make: Callable[[str, Any], Layer]
) -> dict[str, Layer]:
    """Put ``make(path, module)`` in the place of each module; nothing else takes gradients."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = {path: make(path, model.get_submodule(path)) for path in paths}
    for path, layer in layers.items():
        model.set_submodule(path, layer)
    return layers


def give_back(model: nn.Module, layers: Mapping[str, Extended]) -> None:
    """Put the modules back that :func:`extend` took."""
    for path, layer in layers.items():
        model.set_submodule(path, layer.base_layer)


def shapes(setting: Setting, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The shape (out, in) of each linear map, extended or not."""
    found = {}
    for path in paths:
        module = setting.loaded.model.get_submodule(path)
        module = module.base_layer if isinstance(module, Extended) else module
        one, other = module.weight.shape
        found[path] = (one, other) if isinstance(module, nn.Linear) else (other, one)
    return found


def generator(setting: Setting, *names: str | int) -> torch.Generator:
    """Random numbers that depend on the run's seed and on names only."""
    return torch.Generator().manual_seed(setting.rng(*names).getrandbits(62))


def ease(before: Tensor, weight: Tensor, taken: int, over: int) -> None:
    """Take a part of a step, in place: step ``taken`` (from 0) of ``over`` that rise to a whole."""
    if taken < over:
        torch.lerp(before, weight, (taken + 1) / (over + 1), out=weight)


def decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values ``(m, k), (k,), (k, n)`` of an fp32 matrix, signs fixed.

    The largest entry of each left vector is positive, so that equal matrices give equal vectors.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    signs = _signs(left)
    return left * signs, values, right * signs[:, None]


def _signs(columns: Tensor) -> Tensor:
    largest = columns.abs().argmax(0, keepdim=True)
    return torch.where(columns.gather(0, largest) < 0, -1.0, 1.0)[0]


@dataclass(frozen=True)
class Refactored:
    """The balanced factors of a product, and how they come from the old ones.

    ``b`` ``(m, rank)`` and ``a`` ``(rank, n)`` have the product of the old factors; b = old b
    ``into`` and a = ``onto`` old a, in the directions that are alive. ``values`` ``(rank,)`` are
    the product's singular values, 0 for dead directions.
    """

    b: Tensor
    a: Tensor
    into: Tensor
    onto: Tensor
    values: Tensor


def refactored(b: Tensor, a: Tensor, threshold: float) -> Refactored:
    """Split ``b a`` into U sqrt(S) and sqrt(S) V^T, by QR of the factors and an SVD of their cores.

    Directions whose singular value is not above ``threshold`` of the largest are dead: both factors
    would be zero there, and no gradient would ever wake them. Their column of b is zero, and their
    row of a is orthogonal to the others and as long as the rows of the old a in the mean, as in a
    fresh LoRA. Everything is computed in fp32.
    """
    b, a, rank = b.float(), a.float(), len(a)
    left, upper = torch.linalg.qr(b)
    right, lower = torch.linalg.qr(a.t())
    u, values, v = torch.linalg.svd(upper @ lower.t())
    count = len(values)
    alive = values > threshold * values.max()
    roots = values.sqrt() * alive
    signs = _signs(left @ u[:, :count])
    u, v = u[:, :count] * signs, v[:count] * signs[:, None]
    length = torch.linalg.vector_norm(a) / rank**0.5
    new_b = left.new_zeros(b.shape)
    new_b[:, :count] = left @ (u * roots)
    # Where the rank is above a side of the matrix, the rows that are left over stay as they are.
    new_a = a.clone()
    new_a[:count] = torch.where(alive, roots, length)[:, None] * (v @ right.t())
    into, onto = left.new_zeros(rank, rank), left.new_zeros(rank, rank)
    into[:, :count] = torch.linalg.pinv(upper) @ (u * roots)
    onto[:count] = (roots[:, None] * v) @ torch.linalg.pinv(lower.t())
    kept = values.new_zeros(rank)
    kept[:count] = values * alive
    return Refactored(new_b, new_a, into, onto, kept)
