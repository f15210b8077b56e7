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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.bootstrap import Counts, Floats, interval, resampled_counts, weighted_sums

ECE_BINS = 15
"""Equally wide bins of the score, closed at their upper ends."""
NUMBERS_AT_ONCE = 4_000_000
"""Numbers held at once while sums are made (32 MB)."""
LEVELS_AT_ONCE = 65_536
"""Different scores, or records, looked at at once: they stay in the processor's cache."""

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int32]


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
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError("each score needs one target")
    for values in (scores, targets):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError("scores and targets are numbers from 0 to 1")
    if not scores.size:
        return {}
    # Sorted by both, so that the order in which records come changes no result.
    order = np.lexsort((targets, scores))[::-1]
    scores, targets = scores[order], targets[order]
    del order  # as long as the scores
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)).astype(np.int32)
    ranked = _Ranked(scores, targets, targets >= 0.5, ends)
    blocks = [_resampled(ranked, counts) for counts in resampled_counts(scores.size, seed)]
    measured: dict[str, Any] = {}
    for name, (value,) in _resampled(ranked, np.ones((1, scores.size), np.uint8)).items():
        values = np.concatenate([block[name] for block in blocks])
        defined = values[~np.isnan(values)]
        measured[name] = None if math.isnan(value) else float(value)
        measured[f"{name}_ci95"] = interval(defined) if defined.size else None
    measured |= _points(targets >= 0.5, scores)
    measured["mae"] = float(np.abs(scores - targets).mean())
    return measured | _correlations(scores, targets) | _best_threshold(ranked)


@dataclass(frozen=True)
class _Ranked:
    """Records from the greatest score to the lowest.

    Attributes:
        scores, targets: (records,).
        yes: whether the target is at least 0.5, (records,).
        ends: index of the last record of each level, that is of each different score, (levels,).
    """

    scores: Floats
    targets: Floats
    yes: Bools
    ends: Integers

    def statistics(self, rows: int) -> Iterator[Floats]:
        """What each record adds to sums over records, block by block of so many rows.

        It is computed whenever it is asked for: kept, it would take 11 times as much as the scores.
        """
        for start in range(0, len(self.scores), rows):
            part = slice(start, start + rows)
            yield _statistics(self.scores[part], self.targets[part])


def _statistics(scores: Floats, targets: Floats) -> Floats:
    """What these records add to sums over records, (records, 7 + bins)."""
    yes, chosen = targets >= 0.5, scores >= 0.5
    eps = np.finfo(np.float64).eps
    clipped = np.clip(scores, eps, 1 - eps)
    squared = (scores - targets) ** 2
    bins = np.digitize(scores, np.arange(1, ECE_BINS) / ECE_BINS, right=True)
    gaps = np.zeros((len(scores), ECE_BINS))
    gaps[np.arange(len(scores)), bins] = scores - targets
    statistics = [
        yes == chosen,
        yes & chosen,
        yes,
        chosen,
        squared + targets * (1 - targets),
        -targets * np.log(clipped) - (1 - targets) * np.log1p(-clipped),
        squared,
        gaps,
    ]
    return np.column_stack(statistics)


def _resampled(ranked: _Ranked, counts: Counts) -> dict[str, Floats]:
    """Each metric of each resample, (resamples,), NaN where undefined.

    Args:
        counts: how often each record is drawn, (resamples, records).
    """
    records = len(ranked.yes)
    rows = min(LEVELS_AT_ONCE, NUMBERS_AT_ONCE // len(counts))
    sums = weighted_sums(counts, ranked.statistics(rows))
    right, hits, yes, chosen, brier, log_loss, squared, *gaps = sums.T
    no = _positive(records - yes)
    yes = _positive(yes)
    # One resample at a time, as that stays in the processor's cache.
    pairs, precisions = np.array([_ranking(ranked, row) for row in counts]).T
    return {
        "accuracy": right / records,
        "balanced_accuracy": (hits / yes + (right - hits) / no) / 2,
        "f1": 2 * hits / (yes + chosen),
        "auc": pairs / (yes * no),
        "average_precision": precisions / yes,
        "brier": brier / records,
        "log_loss": log_loss / records,
        "ece": np.abs(gaps).sum(axis=0) / records,
        "rmse": np.sqrt(squared / records),
    }


def _positive(numbers: Floats) -> Floats:
    """The numbers, NaN for 0: what is divided by it becomes NaN without a warning."""
    return np.where(numbers > 0, numbers, np.nan)


def _ranking(ranked: _Ranked, counts: Counts) -> tuple[float, float]:
    """How many pairs of a yes and a no are in order, ties half; the precisions of all yes, summed.

    Args:
        counts: of one resample, (records,).
    """
    pairs = precisions = 0.0
    all_found, all_wrong = _found_and_wrong(ranked, counts)
    before = (0, 0)
    for start in range(0, len(all_found), LEVELS_AT_ONCE):
        part = slice(start, start + LEVELS_AT_ONCE)
        found, wrong = all_found[part].astype(np.float64), all_wrong[part].astype(np.float64)
        newly_found, newly_wrong = (
            np.diff(found, prepend=before[0]),
            np.diff(wrong, prepend=before[1]),
        )
        precision = found / np.maximum(found + wrong, 1)
        # Not "@": where other processes keep the machine busy, BLAS's threads wait for each other.
        pairs += float((newly_wrong * (found - newly_found / 2)).sum())
        precisions += float((newly_found * precision).sum())
        before = found[-1], wrong[-1]
    return pairs, precisions


def _found_and_wrong(ranked: _Ranked, counts: Counts) -> tuple[Integers, Integers]:
    """How many yes and how many no score at least as high as each level, (levels,).

    Args:
        counts: of one resample, (records,).
    """
    found = np.cumsum(counts * ranked.yes, dtype=np.int32)[ranked.ends]
    wrong = np.cumsum(counts * ~ranked.yes, dtype=np.int32)[ranked.ends]
    return found, wrong


def _points(yes: npt.NDArray[np.bool_], scores: Floats) -> dict[str, float]:
    """What scikit-learn computes of all records, where it is defined.

    The formulas above give the same; they are there for resamples, of which there are many.
    """
    from sklearn import metrics  # type: ignore[import-untyped]  # here, as the import takes long

    chosen = scores >= 0.5
    points = {"accuracy": metrics.accuracy_score(yes, chosen)}
    if yes.any():
        points["f1"] = metrics.f1_score(yes, chosen, zero_division=0.0)
        points["average_precision"] = metrics.average_precision_score(yes, scores)
    if yes.any() and not yes.all():
        points["balanced_accuracy"] = metrics.balanced_accuracy_score(yes, chosen)
        points["auc"] = metrics.roc_auc_score(yes, scores)
    return {name: float(value) for name, value in points.items()}


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


def _best_threshold(ranked: _Ranked) -> dict[str, float]:
    records, levels = len(ranked.yes), ranked.scores[ranked.ends]
    found, wrong = _found_and_wrong(ranked, np.ones(records, np.uint8))
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
