"""The metrics that `score_metrics` gives without an interval, in resamples."""

import numpy as np
import numpy.typing as npt

from workflow.metrics.bootstrap import Floats, resampled_counts

_NOTHING = 1e-28
"""Variance that may be due to rounding, for numbers from 0 to 1."""

Indexes = npt.NDArray[np.intp]


def resampled_correlations(scores: Floats, targets: Floats, seed: int = 0) -> dict[str, Floats]:
    """mae, pearson and spearman of every resample, (resamples,), NaN if undefined.

    The resamples are those of `scores.resampled_score_metrics`.
    """
    errors = np.abs(scores - targets)
    score_levels, target_levels = (
        np.unique(of_all, return_inverse=True)[1] for of_all in (scores, targets)
    )

    def of_resample(weights: Floats) -> tuple[float, ...]:
        return (
            float((weights * errors).sum() / len(errors)),
            _correlation(scores, targets, weights),
            _correlation(_ranks(score_levels, weights), _ranks(target_levels, weights), weights),
        )

    blocks = resampled_counts(len(scores), seed)
    found = [of_resample(row.astype(np.float64)) for counts in blocks for row in counts]
    return dict(zip(("mae", "pearson", "spearman"), np.array(found).T, strict=True))


def _correlation(some: Floats, others: Floats, weights: Floats) -> float:
    """Weighted Pearson correlation."""
    total = weights.sum()
    # Not "@": on a busy machine, BLAS's threads wait for each other.
    some = some - (weights * some).sum() / total
    others = others - (weights * others).sum() / total
    variances = [(weights * of_all**2).sum() / total for of_all in (some, others)]
    if min(variances) < _NOTHING:
        return float("nan")
    return float((weights * some * others).sum() / total / np.sqrt(np.prod(variances)))


def _ranks(levels: Indexes, weights: Floats) -> Floats:
    """The weighted rank of each number, 0..1; equal numbers get their mean rank.

    Args:
        levels: index of each number among the sorted distinct numbers.
    """
    of_level = np.bincount(levels, weights)
    ranks: Floats = ((np.cumsum(of_level) - of_level / 2) / weights.sum())[levels]
    return ranks
