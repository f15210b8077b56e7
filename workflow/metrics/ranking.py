"""Records ranked by their scores, and what a yes/no model is worth in resamples of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workflow.metrics.bootstrap import Counts, Floats, weighted_sums

ECE_BINS = 15
"""Equally wide bins of the score, closed at their upper ends."""
NUMBERS_AT_ONCE = 4_000_000
"""Numbers held at once while sums are made (32 MB)."""
LEVELS_AT_ONCE = 65_536
"""Different scores, or records, looked at at once: they stay in the processor's cache."""

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int32]
Indexes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Ranked:
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


def rank(scores: Floats, targets: Floats) -> tuple[Ranked, Indexes]:
    """The records sorted by both, so that no result depends on their order; and where each was."""
    order = np.lexsort((targets, scores))[::-1]
    scores, targets = scores[order], targets[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)).astype(np.int32)
    return Ranked(scores, targets, targets >= 0.5, ends), order


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


def of_resamples(ranked: Ranked, blocks: Iterable[Counts]) -> dict[str, Floats]:
    """Each metric of each resample, (resamples,), NaN where undefined.

    Args:
        blocks: how often each record is drawn, (resamples of this block, records).
    """
    found = [_of_block(ranked, counts) for counts in blocks]
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}


def _of_block(ranked: Ranked, counts: Counts) -> dict[str, Floats]:
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


def _ranking(ranked: Ranked, counts: Counts) -> tuple[float, float]:
    """How many pairs of a yes and a no are in order, ties half; the precisions of all yes, summed.

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
        # Not "@": where other processes keep the machine busy, BLAS's threads wait for each other.
        pairs += float((newly_wrong * (found - newly_found / 2)).sum())
        precisions += float((newly_found * precision).sum())
        before = found[-1], wrong[-1]
    return pairs, precisions


def found_and_wrong(ranked: Ranked, counts: Counts) -> tuple[Integers, Integers]:
    """How many yes and how many no score at least as high as each level, (levels,).

    Args:
        counts: of one resample, (records,).
    """
    found = np.cumsum(counts * ranked.yes, dtype=np.int32)[ranked.ends]
    wrong = np.cumsum(counts * ~ranked.yes, dtype=np.int32)[ranked.ends]
    return found, wrong
