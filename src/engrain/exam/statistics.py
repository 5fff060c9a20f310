"""Intervals and tests for few items and few seeds, without SciPy.

Fractions get exact (Clopper-Pearson) or Wilson intervals, means over seeds a Student t or a seeded
bootstrap interval, and two measurements of the same items are compared in pairs: how many that
were right became wrong, and how many the other way round (the exact sign test, which for paired
right/wrong answers is McNemar's exact test).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true figure in ``level`` of all repetitions; NaN where unknown."""

    low: float
    high: float
    level: float = 0.95
    method: str = ""

    @property
    def known(self) -> bool:
        """Whether both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """The interval as JSON-ready values; unknown ends are null."""
        return {
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "level": self.level,
            "method": self.method,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Interval:
        """The interval that :meth:`to_dict` gave."""
        low, high = record["low"], record["high"]
        return cls(
            math.nan if low is None else float(low),
            math.nan if high is None else float(high),
            float(record["level"]),
            str(record["method"]),
        )


# ---------------------------------------------------------------------------- distributions
def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        # The fraction converges fast on the near side of the mean only.
        return 1.0 - beta_cdf(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    upper, lower = 1.0, 1.0 - (a + b) * x / (a + 1)
    lower = 1.0 / (lower if abs(lower) > tiny else tiny)
    fraction = lower
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            lower = 1.0 + term * lower
            lower = 1.0 / (lower if abs(lower) > tiny else tiny)
            upper = 1.0 + term / upper
            upper = upper if abs(upper) > tiny else tiny
            fraction *= lower * upper
        if abs(lower * upper - 1.0) < 1e-15:
            break
    return front * fraction / a


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = probability, by bisection."""
    return _bisect(lambda x: beta_cdf(x, a, b) - probability, 0.0, 1.0)


def t_cdf(t: float, degrees: float) -> float:
    """Student's t distribution function."""
    tail = 0.5 * beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5)
    return 1.0 - tail if t >= 0 else tail


def t_quantile(probability: float, degrees: float) -> float:
    """The t with ``t_cdf(t, degrees) == probability``."""
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    high = 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2.0
    return _bisect(lambda t: t_cdf(t, degrees) - probability, 0.0, high)


def normal_quantile(probability: float) -> float:
    """The z with standard normal distribution function ``probability``."""
    return _bisect(lambda z: 0.5 * math.erfc(-z / math.sqrt(2.0)) - probability, -40.0, 40.0)


def binomial_tail(at_least: int, trials: int, probability: float) -> float:
    """P(X >= at_least) for X binomial with ``trials`` and ``probability``."""
    if at_least <= 0:
        return 1.0
    if at_least > trials:
        return 0.0
    return beta_cdf(probability, at_least, trials - at_least + 1)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


# ---------------------------------------------------------------------------- fractions
def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The exact interval of a fraction (Clopper and Pearson, 1934): never too narrow."""
    _check_counts(successes, trials)
    alpha = 1.0 - level
    low, high = 0.0, 1.0
    if successes > 0:
        low = beta_quantile(alpha / 2, successes, trials - successes + 1)
    if successes < trials:
        high = beta_quantile(1 - alpha / 2, successes + 1, trials - successes)
    return Interval(low, high, level, "Clopper-Pearson")


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")


# ---------------------------------------------------------------------------- means
def mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN, exactly rounded; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The interval of a mean over a few seeds; unknown with fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return Interval(math.nan, math.nan, level, "Student t")
    centre = mean(known)
    half = t_quantile(0.5 + level / 2, len(known) - 1) * deviation(known) / math.sqrt(len(known))
    return Interval(centre - half, centre + half, level, "Student t")


def bootstrap_interval(
    values: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a (weighted) mean; the same seed, the same interval."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2 or not np.isfinite(data).all():
        return Interval(math.nan, math.nan, level, "bootstrap")
    weight = np.ones_like(data) if weights is None else np.asarray(weights, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, data.size, (resamples, data.size))
    means = (data[drawn] * weight[drawn]).sum(axis=1) / weight[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, "bootstrap")


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over seeds: mean, sample deviation, number, interval, and the values themselves."""

    mean: float
    deviation: float
    count: int
    interval: Interval
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values; unknown numbers are null."""
        return {
            "mean": self.mean if math.isfinite(self.mean) else None,
            "deviation": self.deviation if math.isfinite(self.deviation) else None,
            "count": self.count,
            "interval": self.interval.to_dict(),
            "values": [value if math.isfinite(value) else None for value in self.values],
        }


def summarise(values: Iterable[float], level: float = 0.95) -> Summary:
    """Mean, deviation and t interval over seeds; NaN values are left out of all three."""
    everything = tuple(float(value) for value in values)
    known = [value for value in everything if not math.isnan(value)]
    return Summary(mean(known), deviation(known), len(known), t_interval(known, level), everything)


# ---------------------------------------------------------------------------- pairs
def sign_test(worse: int, better: int, *, two_sided: bool = True) -> float:
    """P value of the exact sign test on pairs that differ; 1.0 when none does.

    One-sided asks whether ``worse`` is too many for chance.
    """
    differing = worse + better
    if differing == 0:
        return 1.0
    if two_sided:
        return min(1.0, 2 * binomial_tail(max(worse, better), differing, 0.5))
    return binomial_tail(worse, differing, 0.5)


def permutation_test(
    differences: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided P value of a mean difference under random signs.

    All sign patterns are tried for up to 16 pairs (exact), seeded random ones beyond.
    """
    data = np.asarray([d for d in differences if math.isfinite(d)], dtype=np.float64)
    if data.size == 0:
        return 1.0
    if data.size <= 16:
        bits = (np.arange(2**data.size)[:, None] >> np.arange(data.size)) & 1
        extra = 0
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (resamples, data.size))
        extra = 1  # the observed pattern counts as one of the drawn ones
    sums = np.abs((2 * bits - 1) @ data)
    reached = int((sums >= abs(float(data.sum())) * (1 - 1e-12)).sum())
    return (reached + extra) / (len(sums) + extra)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two measurements of the same things: mean of after minus before, and its P values."""

    mean: float
    count: int
    interval: Interval
    p_sign: float
    p_permutation: float


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Compare two measurements of the same things, pair by pair; those not finite are left out."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} measurements before, {len(after)} after")
    differences = [b - a for a, b in zip(before, after, strict=True) if math.isfinite(b - a)]
    return PairedDifference(
        mean(differences),
        len(differences),
        t_interval(differences, level),
        sign_test(sum(d < 0 for d in differences), sum(d > 0 for d in differences)),
        permutation_test(differences, seed=seed),
    )


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """The same right/wrong items asked twice."""

    kept: int
    broken: int
    gained: int
    wrong: int

    @classmethod
    def of(cls, before: Mapping[str, bool], after: Mapping[str, bool]) -> PairedCounts:
        """Count over the items that both hold."""
        table = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for item, passed in before.items():
            if item in after:
                table[bool(passed), bool(after[item])] += 1
        return cls(table[True, True], table[True, False], table[False, True], table[False, False])

    @property
    def total(self) -> int:
        """Items in both."""
        return self.kept + self.broken + self.gained + self.wrong

    @property
    def before(self) -> int:
        """Right before."""
        return self.kept + self.broken

    @property
    def after(self) -> int:
        """Right after."""
        return self.kept + self.gained

    @property
    def lost(self) -> int:
        """Broken less gained; negative when it got better."""
        return self.broken - self.gained

    @property
    def drop(self) -> float:
        """The fall of the fraction right; 0 without items."""
        return self.lost / self.total if self.total else 0.0

    @property
    def p_worse(self) -> float:
        """One-sided exact sign test: the chance of so many broken if breaking were no likelier."""
        return sign_test(self.broken, self.gained, two_sided=False)
