"""Rounding into bf16: the mean is right, the numbers are counter-based, nothing is lost."""

import pytest
import torch

from engrain.learn.rounding import BLOCK, round_into

NOTHING = torch.empty(0)


def rounded(values: torch.Tensor, mode: str, *names: object) -> torch.Tensor:
    weight = torch.empty(values.shape, dtype=torch.bfloat16)
    round_into(weight, values.clone(), mode, *names, lost=NOTHING)
    return weight.float()


def test_stochastic_rounding_takes_a_neighbour_and_is_right_in_the_mean() -> None:
    value = 1.0 + 0.3 * 2**-7
    values = torch.full((200_000,), value)
    found = rounded(values, "stochastic", 0, "weight", 3)
    assert set(found.unique().tolist()) == {1.0, 1.0 + 2**-7}
    share = float((found > 1).float().mean())
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 200_000) ** 0.5


def test_mean_is_right_for_each_element_over_steps_and_for_negative_numbers() -> None:
    values = -torch.linspace(0.5, 3.0, 64)
    steps = torch.stack([rounded(values, "stochastic", 1, "w", step) for step in range(4000)])
    gap = values.abs().log2().floor().exp2() * 2**-7
    assert bool(((steps.mean(0) - values).abs() < 5 * gap * 0.5 / 4000**0.5).all())
    neighbours = torch.stack([row.unique() for row in steps.t() if len(row.unique()) == 2])
    assert len(neighbours) > 50


def test_small_steps_add_up_where_rounding_to_the_nearest_loses_them() -> None:
    def walked(mode: str) -> float:
        weight = torch.ones(4096, dtype=torch.bfloat16)
        lost = torch.zeros(4096, dtype=torch.bfloat16) if mode == "kahan" else NOTHING
        for step in range(200):
            round_into(weight, weight.float() + 1e-4, mode, 0, "w", step, lost=lost)
        return float((weight.float() + (lost.float() if mode == "kahan" else 0)).mean())

    assert walked("nearest") == 1.0
    assert walked("stochastic") == pytest.approx(1.02, abs=5e-4)
    # What is kept is bf16 itself: 200 roundings of at most 2^-9 of half a step of 2^-7.
    assert walked("kahan") == pytest.approx(1.02, abs=200 * 2**-9 * 2**-8)


def test_what_bf16_holds_is_not_changed() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2**-130, float("inf"), -float("inf")])
    for step in range(20):
        assert torch.equal(rounded(values, "stochastic", 0, "w", step), values)
    assert bool(rounded(torch.tensor([float("nan")]), "stochastic", 0, "w", 0).isnan().all())


def test_random_numbers_depend_on_seed_name_step_and_position_alone() -> None:
    values = torch.full((BLOCK + 1000,), 1.0 + 0.5 * 2**-7)
    first = rounded(values, "stochastic", 0, "w", 0)
    torch.manual_seed(99)
    torch.rand(10)
    assert torch.equal(first, rounded(values, "stochastic", 0, "w", 0))
    others = [(1, "w", 0), (0, "v", 0), (0, "w", 1)]
    for names in others:
        other = rounded(values, "stochastic", *names)
        assert 0.4 < float((first == other).float().mean()) < 0.6, names
    # Blocks differ, too, and neighbours are not alike.
    assert 0.4 < float((first[:1000] == first[BLOCK:]).float().mean()) < 0.6
    assert 0.45 < float((first[1:] == first[:-1]).float().mean()) < 0.55
