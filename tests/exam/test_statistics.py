import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engrain.exam import statistics as s


def pairs(interval: s.Interval) -> tuple[float, float]:
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.30849711),  # 1 - 0.025 ** (1 / 10)
        (10, 10, 0.69150289, 1.0),
        (5, 10, 0.18708603, 0.81291397),
        (1, 1, 0.025, 1.0),
        (81, 263, 0.2527, 0.3676),  # Agresti and Coull's often-cited example
        (4, 20, 0.05733, 0.43661),
    ],
)
def test_clopper_pearson_against_known_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    digits = 1e-4 if trials in (263, 20) else 1e-7
    assert pairs(s.clopper_pearson(successes, trials)) == pytest.approx((low, high), abs=digits)


def test_nothing_asked_says_nothing() -> None:
    assert pairs(s.clopper_pearson(0, 0)) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="impossible"):
        s.clopper_pearson(3, 2)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_is_what_it_says(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = s.clopper_pearson(successes, trials)
    assert interval.low <= successes / trials <= interval.high
    if successes:
        assert s.binomial_tail(successes, trials, interval.low) == pytest.approx(0.025, abs=1e-9)
    if successes < trials:
        below = 1 - s.binomial_tail(successes + 1, trials, interval.high)
        assert below == pytest.approx(0.025, abs=1e-9)
    mirrored = s.clopper_pearson(trials - successes, trials)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)


@given(st.integers(1, 40), st.integers(0, 41), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_the_sum(trials: int, at_least: int, share: float) -> None:
    wanted = math.fsum(
        math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
        for k in range(at_least, trials + 1)
    )
    assert s.binomial_tail(at_least, trials, share) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 2, 4.30265273),
        (0.975, 4, 2.77644511),
        (0.95, 9, 1.83311293),
        (0.975, 1000, 1.96233908),
        (0.5, 3, 0.0),
        (0.025, 2, -4.30265273),
    ],
)
def test_student_t_against_the_tables(probability: float, degrees: int, value: float) -> None:
    assert s.t_quantile(probability, degrees) == pytest.approx(value, abs=1e-6)


def test_normal_quantile() -> None:
    assert s.normal_quantile(0.975) == pytest.approx(1.959963985, abs=1e-8)


def test_t_interval_over_seeds() -> None:
    interval = s.t_interval([0.9, 0.94, 0.92])
    half = 4.30265273 * 0.02 / math.sqrt(3)
    assert pairs(interval) == pytest.approx((0.92 - half, 0.92 + half), abs=1e-8)
    assert not s.t_interval([0.9]).known
    assert s.t_interval([0.9]).to_dict()["low"] is None
    assert s.t_interval([0.9, math.nan, 0.94]).known
    again = s.Interval.from_dict(s.t_interval([0.9]).to_dict())
    assert not again.known


def test_summary() -> None:
    found = s.summarise([1.0, math.nan, 3.0])
    assert (found.mean, found.count) == (2.0, 2)
    assert found.deviation == pytest.approx(math.sqrt(2))
    assert found.to_dict()["values"] == [1.0, None, 3.0]
    assert math.isnan(s.summarise([]).mean)


def test_bootstrap_is_seeded_and_holds_the_mean() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.5, 0.31, 0.47, 0.73, 0.18]
    first = s.bootstrap_interval(values, seed=1)
    assert first == s.bootstrap_interval(values, seed=1)
    assert first != s.bootstrap_interval(values, seed=2)
    assert s.mean(values) in first
    assert pairs(s.bootstrap_interval([2.0] * 5)) == (2.0, 2.0)
    heavy = s.bootstrap_interval(values, weights=[1e-9] * 3 + [1] + [1e-9] * 5)
    assert heavy.high == pytest.approx(0.9, abs=1e-6)
    assert not s.bootstrap_interval([1.0, math.inf]).known
    assert not s.bootstrap_interval([1.0]).known


def test_sign_test() -> None:
    assert s.sign_test(5, 0, two_sided=False) == pytest.approx(1 / 32)
    assert s.sign_test(5, 0) == pytest.approx(2 / 32)
    assert s.sign_test(0, 5, two_sided=False) == 1.0
    assert s.sign_test(3, 3) == 1.0
    assert s.sign_test(0, 0) == 1.0
    # McNemar's exact test on 10 against 3 differing pairs
    assert s.sign_test(10, 3) == pytest.approx(2 * 378 / 8192)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_the_permutation_test_is_exact_when_small(differences: list[int]) -> None:
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(a * b for a, b in zip(sign, differences, strict=True))) for sign in signs]
    wanted = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    assert s.permutation_test([float(d) for d in differences]) == pytest.approx(wanted)


def test_the_permutation_test_draws_when_large() -> None:
    shifted = [0.5 + 0.01 * i for i in range(30)]
    assert s.permutation_test(shifted, seed=3) < 0.001
    even = [(-1.0) ** i for i in range(30)]
    assert s.permutation_test(even) == 1.0
    assert s.permutation_test([]) == 1.0


def test_paired_difference() -> None:
    found = s.paired_difference([1.0, 2.0, 3.0, math.nan], [2.0, 3.0, 5.0, 9.0])
    assert found.count == 3
    assert found.mean == pytest.approx(4 / 3)
    assert found.p_sign == pytest.approx(0.25)
    with pytest.raises(ValueError, match="after"):
        s.paired_difference([1.0], [])


def test_paired_counts() -> None:
    before = {"a": True, "b": True, "c": False, "d": False, "gone": True}
    after = {"a": True, "b": False, "c": True, "d": False, "new": True}
    counts = s.PairedCounts.of(before, after)
    assert (counts.kept, counts.broken, counts.gained, counts.wrong) == (1, 1, 1, 1)
    assert (counts.total, counts.before, counts.after, counts.lost) == (4, 2, 2, 0)
    assert counts.drop == 0
    assert s.PairedCounts.of({}, {}).drop == 0
