"""Metrics of a classifier with several classes, and of pairs of answers shown in both orders.

A target is hard, one class, or soft: a probability for each class, e.g. shares of votes. With soft
targets, metrics of classes take the most likely class as the label; log_loss, brier and ece are
expectations over a label drawn from the target. Of equally likely classes the first counts, in
predictions and targets.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workflow.metrics.bootstrap import (
    Counts,
    Floats,
    as_points,
    resampled_counts,
    weighted_sums,
    with_intervals,
)
from workflow.metrics.ranking import ECE_BINS, NUMBERS_AT_ONCE, ece_bins, positive

_EPS = np.finfo(np.float64).eps


def class_metrics(
    probabilities: Floats, targets: Floats, names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """All metrics of probabilities against targets; {} without records, None for undefined metrics.

    With "<name>_ci95", [low, high], as in `scores`:

    - accuracy, 0..1; balanced_accuracy, 0..1: mean recall of the classes that have records, as in
      scikit-learn; macro_f1, 0..1: mean f1 of all `names`, in which a class without records and
      predictions counts 0 (scikit-learn's with labels=names and zero_division=0).
    - log_loss, in nats, 0..36.05: of probabilities clipped to [eps, 1 - eps]; brier, 0..2: squared
      errors summed over classes (Brier 1950), for two classes twice that of `scores`.
    - ece, 0..1: expected calibration error (Guo et al. 2017) of the predicted class in 15 bins;
      that of `scores` bins the probability of yes, so for two classes they differ.

    Without an interval:

    - precision/NAME, recall/NAME, f1/NAME: undefined without predictions, records, or both.
    - what chance gives on these records: majority_accuracy, of always predicting the most frequent
      class; frequencies_log_loss and frequencies_brier, of always predicting the frequencies.

    Args:
        probabilities, targets: (records, classes), 0..1; each row sums to 1.

    Raises:
        ValueError: probabilities or targets are not as described.
    """
    if not len(targets):
        return {}
    resampled = resampled_class_metrics(probabilities, targets, names, seed)
    return with_intervals(class_points(probabilities, targets, names), resampled)


def class_points(
    probabilities: Floats, targets: Floats, names: Sequence[str]
) -> dict[str, float | None]:
    """The metrics of `class_metrics` without intervals, for at least one record."""
    sums = _sums(np.ones((1, len(targets)), np.uint8), probabilities, targets, names)
    right, predicted, true = sums[:, : 3 * len(names)].reshape(3, -1, 1)
    frequencies = targets.mean(axis=0)
    entropy = -(frequencies * np.log(np.clip(frequencies, _EPS, 1 - _EPS))).sum()
    values = _of_sums(sums, len(targets)) | {
        "majority_accuracy": true.max(axis=0) / len(targets),
        "frequencies_log_loss": np.array([entropy]),
        "frequencies_brier": np.array([(frequencies * (1 - frequencies)).sum()]),
    }
    divisors = {"precision": predicted, "recall": true, "f1": (predicted + true) / 2}
    for kind, divisor in divisors.items():
        of_classes = right / positive(divisor)
        values |= {f"{kind}/{name}": of_classes[i] for i, name in enumerate(names)}
    return as_points(values)


def resampled_class_metrics(
    probabilities: Floats, targets: Floats, names: Sequence[str], seed: int = 0
) -> dict[str, Floats]:
    """Each metric with an interval in every resample, (resamples,).

    For the same records in the same order the values of two models can be subtracted.
    """
    drawn = resampled_counts(len(targets), seed)
    sums = [_sums(counts, probabilities, targets, names) for counts in drawn]
    return _of_sums(np.concatenate(sums), len(targets))


def pair_metrics(
    as_given: Floats, swapped: Floats, names: Sequence[str]
) -> dict[str, float | None]:
    """Metrics of pairs that are shown in both orders; {} without records.

    - swap_consistency, 0..1: share of records with the same most likely class in both orders.
    - first_place_share, 0..1: share that prefers the answer shown first, of the results of both
      orders that prefer one; 0.5 is unbiased. None if there are none.

    Args:
        as_given, swapped: (records, classes), with a or b shown first; in both, a is the record's.
    """
    if not len(as_given):
        return {}
    a, b = names.index("a"), names.index("b")
    given, other = as_given.argmax(axis=1), swapped.argmax(axis=1)
    first = np.count_nonzero(given == a) + np.count_nonzero(other == b)
    both = first + np.count_nonzero(given == b) + np.count_nonzero(other == a)
    share = first / both if both else None
    return {"swap_consistency": float((given == other).mean()), "first_place_share": share}


def _sums(counts: Counts, probabilities: Floats, targets: Floats, names: Sequence[str]) -> Floats:
    """Sums of the records' statistics for each row of counts, (resamples, statistics)."""
    for rows in (probabilities, targets):
        fit = rows.shape == (len(targets), len(names)) and np.all(rows >= 0)
        if not fit or not np.allclose(rows.sum(axis=1), 1, atol=1e-3):
            raise ValueError("not probabilities of each record for each class")
    at_once = 1 + NUMBERS_AT_ONCE // max(len(counts), 3 * len(names) + 2 + ECE_BINS)
    parts = (slice(i, i + at_once) for i in range(0, len(targets), at_once))
    blocks = (_statistics(probabilities[part], targets[part]) for part in parts)
    return weighted_sums(counts, blocks)


def _statistics(probabilities: Floats, targets: Floats) -> Floats:
    """The records' terms of the sums, (records, 3 * classes + 2 + bins).

    One-hot for each class, as there may be too many pairs of classes: whether it is predicted
    rightly, predicted, and true. Then log loss, Brier score, and the calibration gap in its bin.
    """
    records, k = targets.shape
    each, chosen, label = np.arange(records), probabilities.argmax(axis=1), targets.argmax(axis=1)
    confidence, clipped = probabilities[each, chosen], np.clip(probabilities, _EPS, 1 - _EPS)
    found = np.zeros((records, 3 * k + 2 + ECE_BINS))
    found[each, chosen] = chosen == label
    found[each, k + chosen] = found[each, 2 * k + label] = 1
    found[:, 3 * k] = -(targets * np.log(clipped)).sum(axis=1)
    found[:, 3 * k + 1] = ((probabilities - targets) ** 2 + targets * (1 - targets)).sum(axis=1)
    found[each, 3 * k + 2 + ece_bins(confidence)] = confidence - targets[each, chosen]
    return found


def _of_sums(sums: Floats, records: int) -> dict[str, Floats]:
    """The metrics with intervals, for each row of sums."""
    k = (sums.shape[1] - 2 - ECE_BINS) // 3
    ends = [k, 2 * k, 3 * k, 3 * k + 2]
    right, predicted, true, (log_loss, brier), gaps = np.split(sums.T, ends)
    return {
        "accuracy": right.sum(axis=0) / records,
        "balanced_accuracy": np.nanmean(right / positive(true), axis=0),
        "macro_f1": (2 * right / np.maximum(predicted + true, 1)).mean(axis=0),
        "log_loss": log_loss / records,
        "brier": brier / records,
        "ece": np.abs(gaps).sum(axis=0) / records,
    }
