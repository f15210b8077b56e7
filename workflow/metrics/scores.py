"""Metrics of a binary classifier's scores.

A score is the model's probability of yes. A target is hard, 0 or 1, or soft: the probability of
yes, e.g. a share of votes. For soft targets

- accuracy, balanced_accuracy, f1, auc, average_precision and best_threshold count a record as yes
  if its target is at least 0.5;
- brier and log_loss are expectations over a label that is yes with the target's probability, so
  they are minimal, but not 0, if every score equals its target;
- ece, rmse, mae, pearson and spearman use them as they are.
"""

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.metrics.bootstrap import Floats, as_points, resampled_counts, with_intervals
from workflow.metrics.ranking import Ranked, found_and_wrong, of_resamples, rank

_IN_THE_RANGE = frozenset({"rmse", "rmse_ci95", "mae"})


def score_metrics(scores: Floats, targets: Floats, seed: int = 0) -> dict[str, Any]:
    """All metrics of scores against targets; {} without records, None for undefined metrics.

    See the module's docstring for soft targets. With "<name>_ci95", [low, high]:

    - accuracy, 0..1: share of records where "score >= 0.5" is right; balanced_accuracy, 0..1: mean
      of that share among yes and among no; f1, 0..1: that of yes, 0 if none is found.
    - auc, 0..1: area under the ROC curve, the probability that a yes outscores a no, ties counted
      half (Hanley and McNeil 1982).
    - average_precision, 0..1: sum over thresholds of the recall gained × the precision there,
      without interpolation.
    - brier, 0..1: mean squared error of the probability of the label (Brier 1950); log_loss, in
      nats, 0..36.05: of scores clipped to [eps, 1 - eps], eps being float64's 2.2e-16.
    - ece, 0..1: expected calibration error (Guo et al. 2017, arXiv:1706.04599), the sum over 15
      bins (`ECE_BINS`) of share × |mean score - mean target|.
    - rmse, 0..1: root of the mean squared difference of score and target.

    Without an interval:

    - mae, 0..1: mean absolute difference; pearson and spearman, -1..1: correlations.
    - best_threshold: the t with the highest accuracy of "yes if score >= t", and
      best_threshold_accuracy, 0..1, which is optimistic, since t is chosen on the same records.
      Candidates are the midpoints of adjacent distinct scores, 0 (all yes) and 1 (all no; the next
      float above 1 if a score is 1). Ties go to the one nearest to 0.5, then to the greater one.

    Undefined are balanced_accuracy and auc if all records are of one class, f1 and
    average_precision if none is yes, pearson and spearman if scores or targets are constant.

    Intervals are 95% percentile bootstrap intervals (Efron 1979) over records: 1,000 resamples,
    the same for all metrics, except those where the metric is undefined. Resampling inflates a
    small ece, so its interval may be above it.

    Args:
        scores: (records,), 0..1.
        targets: (records,), 0..1.
        seed: of the resamples.

    Raises:
        ValueError: scores and targets differ in shape, or are not all in 0..1.
    """
    _check(scores, targets)
    if not scores.size:
        return {}
    ranked = rank(scores, targets)[0]
    resampled = of_resamples(ranked, resampled_counts(scores.size, seed))
    return with_intervals(_points(ranked), resampled)


def score_points(scores: Floats, targets: Floats) -> dict[str, float | None]:
    """The metrics of `score_metrics` without intervals, for at least one record."""
    _check(scores, targets)
    return _points(rank(scores, targets)[0])


def resampled_score_metrics(scores: Floats, targets: Floats, seed: int = 0) -> dict[str, Floats]:
    """Each metric with an interval in every resample, (resamples,), NaN if undefined.

    Resamples are drawn from the given order of records, so that for the same records in the same
    order the values of two models can be subtracted.
    """
    _check(scores, targets)
    ranked, order = rank(scores, targets)
    drawn = resampled_counts(scores.size, seed)
    return of_resamples(ranked, (counts[:, order] for counts in drawn))


def to_unit(values: Floats, target_min: float, target_max: float) -> Floats:
    """Scores or targets of a range scaled to 0..1 and clipped."""
    return np.clip((values - target_min) / (target_max - target_min), 0.0, 1.0)


def in_range(measured: dict[str, Any], target_min: float, target_max: float) -> dict[str, Any]:
    """Scale metrics of targets in 0..1 to another range of targets; None stays.

    Args:
        measured: numbers, intervals as lists, or arrays with a number per resample.
    """
    width = target_max - target_min
    scaled = {
        name: [end * width for end in value] if isinstance(value, list) else value * width
        for name, value in measured.items()
        if name in _IN_THE_RANGE and value is not None
    }
    if measured.get("best_threshold") is not None:
        scaled["best_threshold"] = target_min + measured["best_threshold"] * width
    return measured | scaled


def _check(scores: Floats, targets: Floats) -> None:
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError("scores and targets must be vectors of the same length")
    for values in (scores, targets):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError("scores and targets must be numbers from 0 to 1")


def _points(ranked: Ranked) -> dict[str, float | None]:
    """All metrics of all records."""
    scores, targets = ranked.scores, ranked.targets
    of_all = of_resamples(ranked, [np.ones((1, len(scores)), np.uint8)])
    mae = {"mae": float(np.abs(scores - targets).mean())}
    by_libraries = _of_ranking(ranked.yes, scores) | mae | _correlations(scores, targets)
    return as_points(of_all) | by_libraries | _best_threshold(ranked)


def _of_ranking(yes: npt.NDArray[np.bool_], scores: Floats) -> dict[str, float]:
    """Average precision and auc by scikit-learn, if defined.

    `ranking` gives the same except for rounding; it is faster for many resamples.
    """
    from sklearn import metrics  # type: ignore[import-untyped]  # a slow import

    points = {}
    if yes.any():
        points["average_precision"] = float(metrics.average_precision_score(yes, scores))
    if yes.any() and not yes.all():
        points["auc"] = float(metrics.roc_auc_score(yes, scores))
    return points


def _correlations(scores: Floats, targets: Floats) -> dict[str, float | None]:
    if np.ptp(scores) == 0 or np.ptp(targets) == 0:
        return {"pearson": None, "spearman": None}
    from scipy import stats  # type: ignore[import-untyped]  # a slow import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values may be nearly constant
        found = {
            "pearson": float(stats.pearsonr(scores, targets).statistic),
            "spearman": float(stats.spearmanr(scores, targets).statistic),
        }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _best_threshold(ranked: Ranked) -> dict[str, float]:
    records, levels = len(ranked.yes), ranked.scores[ranked.ends]
    found, wrong = found_and_wrong(ranked, np.ones(records, np.uint8))
    right = np.append(0, found - wrong) + np.count_nonzero(~ranked.yes)
    midpoints = (levels[:-1] + levels[1:]) / 2
    # The midpoint of adjacent floats may round to the lower one, which then counts as yes.
    midpoints = np.where(midpoints > levels[1:], midpoints, levels[:-1])
    all_no = 1.0 if levels[0] < 1 else np.nextafter(1.0, 2.0)
    thresholds = np.concatenate([[all_no], midpoints, [0.0]])
    best = np.flatnonzero(right == right.max())
    nearest = best[np.argmin(np.abs(thresholds[best] - 0.5))]
    return {
        "best_threshold": float(thresholds[nearest]),
        "best_threshold_accuracy": float(right[nearest] / records),
    }
