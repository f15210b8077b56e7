"""Tests of the difference between two settings, over seeds and records, and of many at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow.metrics.bootstrap import Floats

LEVEL = 0.05
"""A difference is significant if its corrected p is lower."""
_NOTHING = 1e-12
"""Rounding error of a metric."""
_LEAST = 1e-100
"""Lowest p that is searched for."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds, its 95% confidence interval and its two-sided p.

    Attributes:
        interval: None if nothing varies, or if there is no test.
        p: None if there is no test.
    """

    difference: float
    interval: tuple[float, float] | None = None
    p: float | None = None


def mean_difference(differences: Floats, shared: float = 0.0, records: int = 0) -> Difference:
    """Whether the mean of each seed's difference is 0, for other seeds and other records.

    With the sample variance s² of n seeds' differences (n - 1 degrees of freedom), and the
    variance B that all seeds share through their records (`shared_variance`), the mean's variance
    is s²/n + B: whatever records do to each seed alone is in s² already. The statistic is the mean
    divided by the root of that. Its critical value is the mean of Student's t with n - 1 and with
    records - 1 degrees of freedom, weighted by s²/n and B (Cochran and Cox 1950, Experimental
    Designs). Interval and p follow from it. One seed tests records alone; without records it is
    the paired t-test over seeds.

    With 3 to 5 seeds, this errs about as often as its p says, or less often, whichever of seeds
    and records varies more. A percentile bootstrap (Rao and Wu 1988) errs in 14% instead of 5%
    with 5 seeds that vary, and Satterthwaite's degrees of freedom in 2.5% instead of 0.5% with 3.

    Args:
        differences: (seeds,), at least one.
        shared: B; with one seed, all of the records' variance.
        records: number of records; 0 if only seeds count.
    """
    seeds, mean = len(differences), float(differences.mean())
    own = float(differences.var(ddof=1)) / seeds if seeds > 1 else 0.0
    error = math.sqrt(own + shared)
    if error <= _NOTHING:
        if not records:  # of other records, equal seeds say nothing
            return Difference(mean)
        # If all records agree, too: the p of a sign test.
        return Difference(mean, None, 1.0 if abs(mean) <= _NOTHING else 0.5 ** (records - 1))
    from scipy import optimize, special  # type: ignore[import-untyped]  # a slow import

    parts = [(own / error**2, seeds - 1), (shared / error**2, records - 1)]

    def critical(p: float) -> float:
        return -sum(w * float(special.stdtrit(free, p / 2)) for w, free in parts if w)

    ratio, half = abs(mean) / error, error * critical(LEVEL)
    p = _LEAST
    if critical(_LEAST) > ratio:
        p = float(optimize.brentq(lambda one: critical(one) - ratio, _LEAST, 1.0))
    return Difference(mean, (mean - half, mean + half), p)


def shared_variance(resampled: Floats, share: float = 1.0) -> float:
    """The variance over records that the differences of all seeds share.

    It is the mean covariance of two seeds over the same resamples of records, as in the crossed
    bootstrap of seeds and records, whose variance it corrects for what both count (Owen 2007, The
    pigeonhole bootstrap). If the seeds have only a share of the records in common, resamples do
    not show the covariance; then it is that share of a seed's variance, its greatest value.

    Args:
        resampled: (seeds, resamples), differences; at least 2 resamples.
        share: of the records that two seeds have in common, 0..1.
    """
    seeds, covariances = len(resampled), np.atleast_2d(np.cov(resampled))
    variances = float(np.trace(covariances))
    if seeds == 1 or share < 1:
        return share * variances / seeds
    return max(0.0, (float(covariances.sum()) - variances) / (seeds * (seeds - 1)))


def holm(values: Sequence[float], tests: int) -> list[float]:
    """Each p corrected for the number of tests by Holm's procedure, in the given order.

    Among those below 0.05, there is any false one with a probability of at most 5% (Holm 1979, A
    simple sequentially rejective multiple test procedure).

    Args:
        tests: at least the number of values; the tests without one count as not significant.
    """
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (tests - rank) * values[index]))
        corrected[index] = highest
    return corrected
