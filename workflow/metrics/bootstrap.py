"""Bootstrap confidence intervals of metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 1_000
"""Bootstrap resamples per interval."""

COUNTS_AT_ONCE = 16_000_000
"""Counts in memory while resampling (16 MB)."""
ROWS_AT_ONCE = 4_096
"""Rows per compressed block."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint8]


class Columns:
    """Rows of numbers, added one at a time and stored exactly in compact blocks."""

    def __init__(self, width: int):
        self.rows = 0
        self._blocks: list[list[npt.NDArray[Any]]] = []
        self._last = np.empty((ROWS_AT_ONCE, width))

    def add(self, row: Iterable[float]) -> None:
        place = self.rows % len(self._last)
        self._last[place] = list(row)
        self.rows += 1
        if place == len(self._last) - 1:
            self._blocks.append([_narrowed(column) for column in self._last.T])

    def latest(self) -> Floats:
        """The row that was added last, (width,); there must be a row."""
        row: Floats = self._last[(self.rows - 1) % len(self._last)]
        return row

    def blocks(self) -> Iterator[Floats]:
        """All rows in order, (rows of this block, width)."""
        for block in self._blocks:
            yield np.stack([column.astype(np.float64) for column in block], axis=1)
        left = self.rows % len(self._last)
        if left:
            yield self._last[:left]

    def sums(self) -> list[float]:
        """The sum of each column in one numpy sum, which is pairwise and so more exact."""
        left = self._last[: self.rows % len(self._last)]
        return [
            float(np.concatenate([*(block[i] for block in self._blocks), last]).sum())
            for i, last in enumerate(left.T)
        ]


def _narrowed(column: Floats) -> npt.NDArray[Any]:
    """A copy of the numbers in the smallest unsigned type, or in float64 if that is not exact."""
    whole = column.min() >= 0 and not np.any(column % 1)
    return column.astype(np.min_scalar_type(int(column.max())) if whole else np.float64)


def resampled_counts(records: int, seed: int) -> Iterator[Counts]:
    """How often each record is drawn in `RESAMPLES` resamples with replacement, block by block.

    A byte is enough: 256 draws of a record have a probability of 1 in 10^507.

    Args:
        records: number of records and of draws per resample, at least 1.

    Yields:
        Blocks of (resamples of this block, records), with at most `COUNTS_AT_ONCE` numbers or one
        resample.
    """
    generator = np.random.default_rng(seed)
    at_once = max(1, COUNTS_AT_ONCE // records)
    for start in range(0, RESAMPLES, at_once):
        counts = np.empty((min(at_once, RESAMPLES - start), records), np.uint8)
        for row in counts:
            row[:] = np.bincount(generator.integers(records, size=records), minlength=records)
        yield counts


def weighted_sums(counts: npt.NDArray[Any], blocks: Iterable[Floats]) -> Floats:
    """`counts` @ all rows, computed block by block: (resamples, width)."""
    sums, start = np.zeros(1), 0
    for block in blocks:
        stop = start + len(block)
        sums = sums + counts[:, start:stop].astype(np.float64) @ block
        start = stop
    return sums


def interval(values: Floats | Sequence[float]) -> list[float]:
    """[low, high], the 95% percentile interval of a metric's values in all resamples."""
    ends: list[float] = np.percentile(values, [2.5, 97.5]).tolist()
    return ends


def as_points(values: Mapping[str, Floats]) -> dict[str, float | None]:
    """Each metric of one sample, (1,), as a number; None for NaN, i.e. undefined."""
    return {name: None if np.isnan(value) else float(value) for name, (value,) in values.items()}


def with_intervals(
    points: Mapping[str, float | None], resampled: Mapping[str, Floats]
) -> dict[str, Any]:
    """Metrics, with "<name>_ci95" for the interval of each resampled one.

    Resamples in which a metric is undefined are ignored; None if it is undefined in all.
    """
    measured: dict[str, Any] = {}
    for name, value in points.items():
        measured[name] = value
        if name in resampled:
            defined = resampled[name][~np.isnan(resampled[name])]
            measured[f"{name}_ci95"] = interval(defined) if defined.size else None
    return measured
