"""Low-dimensional views of a matrix's gradient: pure functions over a plain dict of tensors.

A gradient is looked at along its smaller side, as ``(small, large)`` (:func:`along_smaller`; a
square one is turned). A space of rank r holds one of

    basis      (r, small), orthonormal rows, fp32: 4 r small bytes;
    indices    (r,), int32: which vectors of the discrete cosine transform, 4 r bytes;

and :func:`basis_of` gives the rows of either. With B for the basis, ``B G`` is the gradient in the
space and ``B^T x`` is the way back. Which space is taken (:data:`KINDS`):

    gram      the leading left singular vectors, from the eigenvectors of G G^T (small x small);
    svd       the same, from G itself: slower, and more exact where singular values are tiny;
    power     one step of block power iteration from the space before (Halko et al., 0909.4061);
    random    the row space of a random Gaussian matrix;
    dct       the r cosine vectors with the largest sum of |coefficients| (arXiv 2505.17967);
    dct-l2    those with the largest sum of squares, the best ones for the error of projection.

Rows of singular vectors point so that their largest entry is positive, and power iteration keeps
the direction of the rows before, so that a refresh turns no sign without need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import torch
from torch import Tensor

KINDS = ("gram", "svd", "power", "random", "dct", "dct-l2")
SPACE = ("basis", "indices")
"""The keys under which a space is kept."""
LINES = 128
"""Lines of a gradient that are transformed at once."""


def along_smaller(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, as a view ``(small, large)``."""
    return matrix if matrix.shape[0] < matrix.shape[1] else matrix.t()


def generator_of(*names: object) -> torch.Generator:
    """Random numbers that depend on the names only."""
    generator = torch.Generator()
    generator.manual_seed(random.Random(":".join(map(str, names))).getrandbits(62))
    return generator


def new_space(kind: str, rank: int, small: int, like: Tensor) -> dict[str, Tensor]:
    """The tensors of a space that has not been chosen yet."""
    if kind.startswith("dct"):
        return {"indices": like.new_zeros(rank, dtype=torch.int32)}
    return {"basis": like.new_zeros((rank, small), dtype=torch.float32)}


def choose_space(
    kind: str, state: dict[str, Tensor], gradient: Tensor, generator: torch.Generator
) -> None:
    """Put the space for a gradient ``(small, large)`` into the state, beside what else it holds."""
    if kind.startswith("dct"):
        power = 2 if kind == "dct-l2" else 1
        state["indices"] = cosine_indices(gradient, len(state["indices"]), power)
        return
    rank = len(state["basis"])
    if kind == "gram":
        state["basis"] = _leading(torch.linalg.eigh(gradient @ gradient.t())[1].flip(1), rank)
    elif kind == "svd":
        state["basis"] = _leading(torch.linalg.svd(gradient, full_matrices=False)[0], rank)
    elif kind == "power":
        before = state["basis"]
        if not bool(before.any()):
            before = _noise(before, generator)
        state["basis"] = orthonormal(gradient @ (before @ gradient).t())
    else:
        state["basis"] = orthonormal(_noise(state["basis"], generator).t())


def basis_of(state: Mapping[str, Tensor], small: int) -> Tensor:
    """The orthonormal rows ``(rank, small)`` of a space."""
    return cosines(state["indices"], small) if "indices" in state else state["basis"]


def overlap(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
    """The rows of one space in those of another, ``(rank, rank)``; of cosines 0 or 1."""
    if "indices" in after:
        return (after["indices"][:, None] == before["indices"]).float()
    return after["basis"] @ before["basis"].t()


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal rows ``(rank, small)`` that span the columns ``(small, rank)``, alike in sign."""
    found, triangle = torch.linalg.qr(columns)
    rows: Tensor = (found * _signs(triangle.diagonal())).t().contiguous()
    return rows


def turn_moments(
    first: Tensor, second: Tensor, turn: Tensor, how: str, count: int, betas: tuple[float, float]
) -> None:
    """Carry Adam's moments ``(rank, large)`` into another space, in place.

    ``rotate`` turns them; ``transport`` also keeps the second moment apart into the square of the
    mean and the variance about it, as LDAdam does (arXiv 2410.16103); ``count`` steps were taken.
    """
    turned = turn @ first
    if how == "transport":
        mean, square = first / (1 - betas[0] ** count), 1 - betas[1] ** count
        spread = second.div_(square).sub_(mean.square())
        moved = (turn.square() @ spread).add_((turned / (1 - betas[0] ** count)).square())
        second.copy_(moved.mul_(square).abs_())
    else:
        second.copy_(turn.square() @ second)
    first.copy_(turned)


def cosines(indices: Tensor, size: int) -> Tensor:
    """Rows of the orthonormal cosine transform (DCT-II), ``(rank, size)``."""
    # Angles are taken from one turn of whole numbers: products of large ones would lose digits.
    turn = torch.arange(4 * size, dtype=torch.float64, device=indices.device)
    table = torch.cos(turn * (math.pi / (2 * size))).mul_(math.sqrt(2 / size)).float()
    places = 2 * torch.arange(size, device=indices.device) + 1
    rows = table[(indices[:, None].long() * places) % (4 * size)]
    return torch.where(indices[:, None] == 0, rows * math.sqrt(0.5), rows)


def cosine_scores(gradient: Tensor, power: int = 1) -> Tensor:
    """Sum of |coefficient|^power of each cosine vector, ``(small,)``, by one Fourier transform.

    Makhoul's way: the even places ascending, then the odd ones descending, transformed and turned
    by a quarter of their angle. The real part of entry i is coefficient i, the negative imaginary
    part is coefficient ``small - i``.
    """
    size, places = len(gradient), torch.arange(len(gradient), device=gradient.device)
    places = torch.cat((places[0::2], places[1::2].flip(0)))
    # Lines are transformed as they lie in memory, as many at once as fit into a cache.
    side = int(gradient.stride(0) < gradient.stride(1))
    lines = gradient.t() if side else gradient
    angle = torch.arange(size // 2 + 1, device=gradient.device) * (-math.pi / (2 * size))
    factor = torch.polar(torch.ones_like(angle), angle)
    factor = factor if side else factor[:, None]
    sums = gradient.new_zeros(size // 2 + 1, 2)
    for some in lines.split(LINES, dim=1 - side):
        found = torch.fft.rfft(some.index_select(side, places), dim=side).mul_(factor)
        parts = torch.view_as_real(found)
        sums += (parts.abs() if power == 1 else parts.square()).sum(1 - side)
    sums.mul_(math.sqrt(2 / size) ** power)
    sums[0] *= math.sqrt(0.5) ** power
    return torch.cat((sums[:, 0], sums[1 : (size + 1) // 2, 1].flip(0)))


def cosine_indices(gradient: Tensor, rank: int, power: int = 1) -> Tensor:
    """The cosine vectors of the largest scores, ascending, int32."""
    return torch.topk(cosine_scores(gradient, power), rank).indices.sort().values.int()


def some_columns(columns: int, count: int, generator: torch.Generator) -> Tensor:
    """Different columns, ascending."""
    return torch.randperm(columns, generator=generator)[:count].sort().values


def some_entries(entries: int, count: int, generator: torch.Generator) -> Tensor:
    """One entry of each of ``count`` equal stretches, ascending: drawn without a permutation."""
    # Products below 2^53 are whole in fp64, and no quotient of them rounds up to the next number.
    edges = torch.arange(count + 1, dtype=torch.float64).mul_(entries).div_(max(1, count))
    edges.floor_()
    width = edges[1:] - edges[:-1]
    drawn = torch.rand(count, generator=generator).double().mul_(width).floor_()
    return drawn.add_(edges[:-1]).long()


def _leading(columns: Tensor, rank: int) -> Tensor:
    rows = columns[:, :rank].t()
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return (rows * _signs(largest)).contiguous()


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)


def _signs(tensor: Tensor) -> Tensor:
    """1 or -1, and 1 for 0."""
    return torch.where(tensor < 0, -1.0, 1.0)
