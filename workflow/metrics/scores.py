"""Pure functions over arrays: how good the scores of a yes/no model are.

A score is the model's probability of yes. A target is hard, 0 or 1, or soft: the probability of
yes, such as the share of votes for it. Of soft targets

- accuracy, balanced_accuracy, f1, auc, average_precision and best_threshold take a record for
  yes where its target is at least 0.5;
- brier and log_loss are expectations over a label that is yes with the target's probability, so
  that they are lowest, but not 0, where every score equals its target;
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
    """How near scores come to their targets; {} for no records, None for what is undefined.

    The module's text says what soft targets mean. With "<name>_ci95", [low, high]:

    - accuracy, 0..1: share of records where "score >= 0.5" is right; balanced_accuracy, 0..1: mean
      of that share among yes and among no; f1, 0..1: that of yes, 0 where none is found.
    - auc, 0..1: area under the ROC curve, the chance that a yes outscores a no, ties counted half
      (Hanley and McNeil 1982).
    - average_precision, 0..1: sum over thresholds of the recall gained × the precision there,
      without interpolation.
    - brier, 0..1: mean squared error of the probability of the label (Brier 1950); log_loss, in
      nats, 0..36.05: of scores clipped to [eps, 1 - eps], eps being float64's 2.2e-16.
    - ece, 0..1: expected calibration error (Guo et al. 2017, arXiv:1706.04599), the sum over 15
      bins (`ECE_BINS`) of share × |mean score - mean target|.
    - rmse, 0..1: root of the mean squared difference of score and target.

    Without an interval:

    - mae, 0..1: mean absolute difference; pearson and spearman, -1..1: correlations.
    - best_threshold: the t for which "yes where score >= t" is right most often, and
      best_threshold_accuracy, 0..1: how often. It is judged on the records it was chosen on, so
      expect a little less of others. Candidates are the midpoints of neighbouring different
      scores, 0 (all are yes) and 1 (all are no; where a score is 1, the next greater float). Of
      equally good ones it is the nearest to 0.5, of two as near the greater.

    Undefined are balanced_accuracy and auc where all records are of one class, f1 and
    average_precision where none is yes, pearson and spearman where scores or targets are all the
    same.

    Intervals are 95% percentile bootstrap intervals (Efron 1979) over records: 1,000 resamples,
    the same for all metrics, less those where the metric is undefined. Chance adds to a small
    ece, so that its interval may lie above it.

    Args:
        scores: (records,), 0..1.
        targets: (records,), 0..1.
        seed: of the resamples.

    Raises:
        ValueError: scores and targets do not pair up, or one of them is no number in 0..1.
    """
    _check(scores, targets)
    if not scores.size:
        return {}
    ranked = rank(scores, targets)[0]
    resampled = of_resamples(ranked, resampled_counts(scores.size, seed))
    return with_intervals(_points(ranked), resampled)


def score_points(scores: Floats, targets: Floats) -> dict[str, float | None]:
    """The metrics of `score_metrics` without their intervals; there must be a record."""
    _check(scores, targets)
    return _points(rank(scores, targets)[0])


def resampled_score_metrics(scores: Floats, targets: Floats, seed: int = 0) -> dict[str, Floats]:
    """Each metric that has an interval in every resample, (resamples,), NaN where undefined.

    A resample draws of these records as they come, not as the scores rank them: of the same
    records in the same order, the values of two models can be subtracted.
    """
    _check(scores, targets)
    ranked, order = rank(scores, targets)
    drawn = resampled_counts(scores.size, seed)
    return of_resamples(ranked, (counts[:, order] for counts in drawn))


def to_unit(values: Floats, target_min: float, target_max: float) -> Floats:
    """Scores or targets of a range as numbers from 0 to 1; those outside it as its ends."""
    return np.clip((values - target_min) / (target_max - target_min), 0.0, 1.0)


def in_range(measured: dict[str, Any], target_min: float, target_max: float) -> dict[str, Any]:
    """Metrics of targets in 0..1 as those of targets in another range; None stays.

    Args:
        measured: numbers, intervals as lists, or arrays of a number in each resample.
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
        raise ValueError("each score needs one target")
    for values in (scores, targets):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError("scores and targets are numbers from 0 to 1")


def _points(ranked: Ranked) -> dict[str, float | None]:
    """All metrics of all records."""
    scores, targets = ranked.scores, ranked.targets
    of_all = of_resamples(ranked, [np.ones((1, len(scores)), np.uint8)])
    mae = {"mae": float(np.abs(scores - targets).mean())}
    by_libraries = _of_ranking(ranked.yes, scores) | mae | _correlations(scores, targets)
    return as_points(of_all) | by_libraries | _best_threshold(ranked)


def _of_ranking(yes: npt.NDArray[np.bool_], scores: Floats) -> dict[str, float]:
    """What scikit-learn computes of how all records are ranked, where it is defined.

    `ranking` gives the same but for rounding; it is there for resamples, of which there are many.
    """
    from sklearn import metrics  # type: ignore[import-untyped]  # here, as the import takes long

    points = {}
    if yes.any():
        points["average_precision"] = float(metrics.average_precision_score(yes, scores))
    if yes.any() and not yes.all():
        points["auc"] = float(metrics.roc_auc_score(yes, scores))
    return points


def _correlations(scores: Floats, targets: Floats) -> dict[str, float | None]:
    if np.ptp(scores) == 0 or np.ptp(targets) == 0:
        return {"pearson": None, "spearman": None}
    from scipy import stats  # type: ignore[import-untyped]  # here, as the import takes long

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
    # The midpoint of neighbouring floats may round to the lower one, which is no longer below it.
    midpoints = np.where(midpoints > levels[1:], midpoints, levels[:-1])
    all_no = 1.0 if levels[0] < 1 else np.nextafter(1.0, 2.0)
    thresholds = np.concatenate([[all_no], midpoints, [0.0]])
    best = np.flatnonzero(right == right.max())
    nearest = best[np.argmin(np.abs(thresholds[best] - 0.5))]
    return {
        "best_threshold": float(thresholds[nearest]),
        "best_threshold_accuracy": float(right[nearest] / records),
    }
