"""Metrics of a binary classifier over resamples of ranked records."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workflow.metrics.bootstrap import Counts, Floats, weighted_sums

ECE_BINS = 15
"""Score bins of equal width, including their upper ends."""
NUMBERS_AT_ONCE = 4_000_000
"""Numbers in memory while summing (32 MB)."""
LEVELS_AT_ONCE = 65_536
"""Distinct scores, or records, processed together, so that they fit in the CPU cache."""

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int32]
Indexes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Ranked:
    """Records in descending order of their scores.

    Attributes:
        scores, targets: (records,).
        yes: whether the target is at least 0.5, (records,).
        ends: index of the last record of each level, i.e. distinct score, (levels,).
    """

    scores: Floats
    targets: Floats
    yes: Bools
    ends: Integers

    def statistics(self, rows: int) -> Iterator[Floats]:
        """Each record's terms of the sums over records, in blocks of `rows`.

        They are recomputed on each call, since they take 11 times the memory of the scores.
        """
        for start in range(0, len(self.scores), rows):
            part = slice(start, start + rows)
            yield _statistics(self.scores[part], self.targets[part])


def rank(scores: Floats, targets: Floats) -> tuple[Ranked, Indexes]:
    """The records sorted by score and target, and their original indexes.

    Sorting by both makes results independent of the order of records.
    """
    order = np.lexsort((targets, scores))[::-1]
    scores, targets = scores[order], targets[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)).astype(np.int32)
    return Ranked(scores, targets, targets >= 0.5, ends), order


def _statistics(scores: Floats, targets: Floats) -> Floats:
    """The records' terms of the sums over records, (records, 7 + bins)."""
    yes, chosen = targets >= 0.5, scores >= 0.5
    eps = np.finfo(np.float64).eps
    clipped = np.clip(scores, eps, 1 - eps)
    squared = (scores - targets) ** 2
    gaps = np.zeros((len(scores), ECE_BINS))
    gaps[np.arange(len(scores)), ece_bins(scores)] = scores - targets
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


def of_resamples(ranked: Ranked, blocks: Iterable[Counts]) -> dict[str, Floats]:
    """Each metric of each resample, (resamples,), NaN if undefined.

    Args:
        blocks: how often each record is drawn, (resamples of this block, records).
    """
    found = [_of_block(ranked, counts) for counts in blocks]
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}


def _of_block(ranked: Ranked, counts: Counts) -> dict[str, Floats]:
    """`of_resamples` for one block of counts, (resamples, records)."""
    records = len(ranked.yes)
    rows = min(LEVELS_AT_ONCE, NUMBERS_AT_ONCE // len(counts))
    sums = weighted_sums(counts, ranked.statistics(rows))
    right, hits, yes, chosen, brier, log_loss, squared, *gaps = sums.T
    no = positive(records - yes)
    yes = positive(yes)
    # One resample at a time fits in the CPU cache.
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


def ece_bins(scores: Floats) -> Indexes:
    """The bin of each score, 0..14: (0, 1/15], (1/15, 2/15] and so on; 0 is in the first."""
    return np.digitize(scores, np.arange(1, ECE_BINS) / ECE_BINS, right=True)


def positive(numbers: Floats) -> Floats:
    """The numbers with NaN for 0, so that dividing by them does not warn."""
    return np.where(numbers > 0, numbers, np.nan)


def _ranking(ranked: Ranked, counts: Counts) -> tuple[float, float]:
    """The number of correctly ordered pairs of yes and no, ties counted half, and the sum of the
    precisions at each yes.

    Args:
        counts: of one resample, (records,).
    """
    pairs = precisions = 0.0
    all_found, all_wrong = found_and_wrong(ranked, counts)
    before = (0, 0)
    for start in range(0, len(all_found), LEVELS_AT_ONCE):
        part = slice(start, start + LEVELS_AT_ONCE)
        found, wrong = all_found[part].astype(np.float64), all_wrong[part].astype(np.float64)
        newly_found, newly_wrong = (
            np.diff(found, prepend=before[0]),
            np.diff(wrong, prepend=before[1]),
        )
        precision = found / np.maximum(found + wrong, 1)
        # Not "@": on a busy machine, BLAS's threads wait for each other.
        pairs += float((newly_wrong * (found - newly_found / 2)).sum())
        precisions += float((newly_found * precision).sum())
        before = found[-1], wrong[-1]
    return pairs, precisions


def found_and_wrong(ranked: Ranked, counts: Counts) -> tuple[Integers, Integers]:
    """The numbers of yes and no that score at least as high as each level, (levels,).

    Args:
        counts: of one resample, (records,).
    """
    found = np.cumsum(counts * ranked.yes, dtype=np.int32)[ranked.ends]
    wrong = np.cumsum(counts * ~ranked.yes, dtype=np.int32)[ranked.ends]
    return found, wrong
