"""Spaces of gradients and moments in 8 bits: what the pure functions promise."""

import math

import pytest
import torch

from engrain.learn import blockwise
from engrain.learn.projectors import (
    KINDS,
    basis_of,
    choose_space,
    cosine_indices,
    cosine_scores,
    cosines,
    generator_of,
    new_space,
    orthonormal,
    overlap,
    some_columns,
    some_entries,
    turn_moments,
)


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def space(kind: str, gradient: torch.Tensor, rank: int, times: int = 1) -> dict:
    state = new_space(kind, rank, len(gradient), gradient)
    for _ in range(times):
        choose_space(kind, state, gradient, generator_of(0, "w"))
    return state


def lost(gradient: torch.Tensor, basis: torch.Tensor) -> float:
    return float((gradient - basis.t() @ (basis @ gradient)).square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_rows_are_orthonormal_and_full_rank_loses_nothing(kind: str, zero: bool) -> None:
    gradient = torch.zeros(9, 14) if zero else matrix(9, 14)
    for rank in (3, 9):
        basis = basis_of(space(kind, gradient, rank), 9)
        assert torch.allclose(basis @ basis.t(), torch.eye(rank), atol=1e-5)
    assert lost(gradient, basis) < 1e-8 * (1 + float(gradient.square().sum()))


def test_singular_vectors_lose_the_tail_of_the_spectrum() -> None:
    gradient = matrix(12, 30) * torch.logspace(0, -2, 12)[:, None]
    tail = float(torch.linalg.svdvals(gradient)[4:].square().sum())
    assert lost(gradient, space("svd", gradient, 4)["basis"]) == pytest.approx(tail, rel=1e-3)
    assert lost(gradient, space("gram", gradient, 4)["basis"]) == pytest.approx(tail, rel=1e-3)
    assert lost(gradient, space("power", gradient, 4, times=3)["basis"]) <= 1.05 * tail
    assert lost(gradient, space("random", gradient, 4)["basis"]) > 2 * tail


def test_singular_vectors_have_one_sign_by_every_way() -> None:
    gradient = matrix(12, 30)
    first, second = (space(kind, gradient, 4)["basis"] for kind in ("svd", "gram"))
    assert torch.allclose(first, second, atol=1e-4)
    assert bool((first.gather(1, first.abs().argmax(1, keepdim=True)) > 0).all())


def test_power_iteration_turns_no_sign_of_what_it_has_found() -> None:
    gradient = matrix(12, 30)
    state = space("power", gradient, 4, times=40)
    before = state["basis"]
    choose_space("power", state, gradient, generator_of(0))
    assert torch.allclose(state["basis"], before, atol=1e-2)
    assert torch.allclose(orthonormal(before.t()), before, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
def test_cosines_are_orthonormal_and_found_by_fourier(size: int) -> None:
    whole = cosines(torch.arange(size, dtype=torch.int32), size)
    places, rows = torch.arange(size).double(), torch.arange(size).double()[:, None]
    expected = math.sqrt(2 / size) * torch.cos(math.pi * rows * (2 * places + 1) / (2 * size))
    expected[0] *= math.sqrt(0.5)
    assert torch.allclose(whole.double(), expected, atol=1e-6)
    assert torch.allclose(whole @ whole.t(), torch.eye(size), atol=1e-5)
    # More lines than are transformed at once, along both sides of memory.
    for gradient in (matrix(size, 300), matrix(300, size).t()):
        sums = (whole @ gradient).abs().sum(1)
        assert torch.allclose(cosine_scores(gradient), sums, rtol=1e-4, atol=1e-3)
        squares = (whole @ gradient).square().sum(1)
        assert torch.allclose(cosine_scores(gradient, 2), squares, rtol=1e-4, atol=1e-3)


def test_cosines_of_a_large_side_keep_their_digits() -> None:
    rows = cosines(torch.tensor([0, 1, 4095], dtype=torch.int32), 4096)
    assert torch.allclose(rows @ rows.t(), torch.eye(3), atol=1e-5)


def test_cosine_choice_is_the_best_by_squares() -> None:
    gradient, rank = matrix(16, 40), 5
    whole = cosines(torch.arange(16), 16)
    energies = (whole @ gradient).square().sum(1).sort(descending=True).values
    best = lost(gradient, cosines(cosine_indices(gradient, rank, 2), 16))
    assert best == pytest.approx(float(energies[rank:].sum()), rel=1e-4)
    assert best <= (1 - rank / 16) * float(gradient.square().sum())
    by_sums = cosine_indices(gradient, rank)
    assert by_sums.dtype == torch.int32 and bool((by_sums.diff() > 0).all())


def test_cosine_spaces_overlap_in_zeros_and_ones() -> None:
    one = {"indices": torch.tensor([1, 4, 6], dtype=torch.int32)}
    other = {"indices": torch.tensor([2, 4, 6], dtype=torch.int32)}
    assert overlap(one, one).tolist() == torch.eye(3).tolist()
    assert overlap(other, one).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_moments_turn() -> None:
    first, second = matrix(3, 5), matrix(3, 5, 1).square()
    for how in ("rotate", "transport"):
        m, v = first.clone(), second.clone()
        turn_moments(m, v, torch.eye(3), how, 4, (0.9, 0.99))
        assert torch.allclose(m, first, atol=1e-6) and torch.allclose(v, second, atol=1e-6)
        m, v = first.clone(), second.clone()
        turn = orthonormal(matrix(3, 3, 2))
        turn_moments(m, v, turn, how, 4, (0.9, 0.99))
        assert torch.allclose(m, turn @ first, atol=1e-6) and bool((v >= 0).all())
    # LDAdam's rule, spelled out.
    mean, square = first.double() / (1 - 0.9**4), 1 - 0.99**4
    spread = turn.double() ** 2 @ (second.double() / square - mean**2)
    expected = (square * (spread + (turn.double() @ mean) ** 2)).abs()
    assert torch.allclose(v.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("whole", "count"), [(10, 10), (10, 3), (7, 5), (1000, 1), (5, 0)])
def test_choices_are_different_ascending_and_seeded(whole: int, count: int) -> None:
    seen = set()
    for draw in range(60):
        for some in (some_entries, some_columns):
            found = some(whole, count, generator_of("x", draw))
            assert len(found) == count and bool((found.diff() > 0).all())
            assert not count or (int(found[0]) >= 0 and int(found[-1]) < whole)
            assert torch.equal(found, some(whole, count, generator_of("x", draw)))
        seen.update(some_entries(whole, count, generator_of("x", draw)).tolist())
    if count > 1:
        assert seen == set(range(whole))


# Moments in 8 bits (arXiv 2110.02861)


@pytest.mark.parametrize("count", [256, 4096, 5000, (1 << 17) + 3])
def test_codes_are_near_and_exact_at_the_peak(count: int) -> None:
    values = matrix(1, count)[0] * torch.logspace(0, -6, count)
    for signed in (True, False):
        value = values if signed else values.square()
        state = blockwise.packed("x", value, signed=signed)
        blockwise.encode(value.clone(), state["x"], state["x_peak"])
        back = blockwise.decode(state["x"], state["x_peak"])
        peak = state["x_peak"].repeat_interleave(256)[:count]
        assert torch.allclose(peak[:256], value[:256].abs().max().expand(256))
        share = (value.abs() / peak).clamp(min=1e-30)
        # Half a code's step, of the square root or of the fourth root.
        root, top = (2, 127) if signed else (4, 255)
        bound = (share ** (1 / root) + 0.5 / top) ** root - share
        bound = bound.clamp(min=0 if signed else top**-4) + 1e-6 * share
        assert bool(((back - value).abs() <= 1.001 * bound * peak).all())
        assert float(back.abs().max()) == pytest.approx(float(value.abs().max()), rel=1e-6)
        assert signed or bool((back > 0).all())


def test_codes_of_zeros_are_zeros() -> None:
    for signed in (True, False):
        state = blockwise.packed("x", torch.zeros(512), signed=signed)
        assert not bool(blockwise.decode(state["x"], state["x_peak"]).any())
        blockwise.encode(torch.zeros(512), state["x"], state["x_peak"])
        assert not bool(blockwise.decode(state["x"], state["x_peak"]).any())
