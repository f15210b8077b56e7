"""Pure planning: from lengths, seed and step to the examples of a step and their micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int64]

PADDING_BOUND = 1.10
"""Padded positions of a step at most, over the real ones, whatever the number of micro-batches."""

MICRO_BATCH_COSTS = (256, 128, 64, 32, 16, 8, 4, 2, 1, 0)
"""What a micro-batch is taken to cost beside its positions, in positions; tried in this order."""


ROW_LENGTHS = (64, 96, 128)
"""Source tokens that short examples are packed to; longer rows cost more in attention."""

MicroBatch = tuple[Indexes, ...]
"""Rows that are computed together; each names the examples that stand in it, one after another."""


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: which examples are computed together, and the positions that takes."""

    micro_batches: tuple[MicroBatch, ...]
    real_positions: int
    padded_positions: int

    @property
    def examples(self) -> Indexes:
        """All examples of the step."""
        return np.concatenate([row for rows in self.micro_batches for row in rows])


def step_examples(step: int, batch_size: int, count: int, seed: int) -> Indexes:
    """The examples of step 1, 2, …: a slice of the epochs' shuffled orders, one after the other.

    Depends on nothing but the arguments, so a resumed run sees what it would have seen.
    """
    start, stop = (step - 1) * batch_size, step * batch_size
    parts = []
    while start < stop:
        epoch, first = divmod(start, count)
        part = _epoch_order(epoch, count, seed)[first : first + stop - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _epoch_order(epoch: int, count: int, seed: int) -> Indexes:
    return np.random.default_rng([seed, epoch]).permutation(count)


def plan_step(
    examples: Indexes,
    source_lengths: Lengths,
    target_lengths: Lengths,
    max_positions: int,
    packs: bool = False,
) -> StepPlan:
    """Cut the examples of a step into micro-batches.

    As few as keep padded positions within PADDING_BOUND of the real ones and each micro-batch
    within `max_positions` (rows × (longest source + longest target)); an example that is longer
    by itself is computed by itself.

    Args:
        examples: indexes of the step's examples.
        source_lengths, target_lengths: lengths of all examples, in tokens.
        packs: whether short examples may share a row.
    """
    sources, targets = source_lengths[examples], target_lengths[examples]
    real = int(sources.sum() + targets.sum())
    candidates = [order for rows in _candidate_rows(sources, targets, max_positions, packs)
                  for order in _orders(rows, sources, targets)]  # fmt: skip
    lengths = [_row_lengths(rows, sources, targets) for rows in candidates]
    for cost in MICRO_BATCH_COSTS:
        cuts = [_cut(*of_rows, max_positions, cost) for of_rows in lengths]
        padded = [_padded(*of_rows, cut) for of_rows, cut in zip(lengths, cuts, strict=True)]
        costs = [p + cost * len(cut) for p, cut in zip(padded, cuts, strict=True)]
        best = int(np.argmin(costs))
        if padded[best] <= PADDING_BOUND * real:
            break
    rows = [examples[row] for row in candidates[best]]
    micro_batches = tuple(tuple(rows[start:stop]) for start, stop in cuts[best])
    return StepPlan(micro_batches, real, padded[best])


def _candidate_rows(
    sources: Lengths, targets: Lengths, max_positions: int, packs: bool
) -> list[list[Indexes]]:
    """Ways to put the examples into rows: each by itself, or packed to several lengths."""
    alone = [np.array([index]) for index in range(len(sources))]
    if not packs:
        return [alone]
    lengths = [length for length in ROW_LENGTHS if 2 * length <= max_positions]
    return [_pack(sources, targets, length) for length in lengths] or [alone]


def _pack(sources: Lengths, targets: Lengths, row_length: int) -> list[Indexes]:
    """Examples put into rows by best fit, the longest first.

    A row holds `row_length` source tokens and, in proportion, target tokens; an example that is
    longer has a row by itself.
    """
    most = np.array([row_length, max(1, row_length * targets.sum() // sources.sum())])
    needed = np.stack([sources, targets], axis=1) / most
    rows: list[list[int]] = []
    free = np.zeros((0, 2))
    for index in np.argsort(-needed.sum(axis=1), kind="stable"):
        fits = (free >= needed[index]).all(axis=1)
        if fits.any():
            left = np.where(fits, (free - needed[index]).sum(axis=1), np.inf)
            row = int(np.argmin(left))
            rows[row].append(int(index))
            free[row] -= needed[index]
        else:
            rows.append([int(index)])
            free = np.vstack([free, 1 - needed[index]])
    return [np.array(row) for row in rows]


def _row_lengths(
    rows: list[Indexes], sources: Lengths, targets: Lengths
) -> tuple[Lengths, Lengths]:
    return (
        np.array([sources[row].sum() for row in rows]),
        np.array([targets[row].sum() for row in rows]),
    )


def _orders(rows: list[Indexes], sources: Lengths, targets: Lengths) -> list[list[Indexes]]:
    """The rows with like beside like: by source, by target, by target roughly then source."""
    source, target = _row_lengths(rows, sources, targets)
    orders = {
        tuple(np.lexsort(keys).tolist())
        for keys in ((target, source), (source, target), (source, target // 16))
    }
    return [[rows[i] for i in order] for order in sorted(orders)]


def _cut(
    sources: Lengths, targets: Lengths, max_positions: int, cost: int
) -> list[tuple[int, int]]:
    """The cheapest cut of a sorted row of examples into neighbours, by dynamic programming.

    A piece costs its padded positions and `cost` more.
    """
    count = len(sources)
    cheapest = np.zeros(count + 1)
    begins = np.zeros(count + 1, np.int64)
    most_rows = max(1, max_positions // int((sources + targets).min()))
    rows = np.arange(1, count + 1)
    for stop in range(1, count + 1):
        first = max(0, stop - most_rows)
        backwards = slice(stop - 1, first - 1 if first > 0 else None, -1)
        widths = np.maximum.accumulate(sources[backwards])
        widths = widths + np.maximum.accumulate(targets[backwards])
        positions = widths * rows[: stop - first]
        total = cheapest[backwards] + positions + cost
        total[1:][positions[1:] > max_positions] = np.inf
        best = int(np.argmin(total))
        cheapest[stop] = total[best]
        begins[stop] = stop - 1 - best
    cuts = []
    stop = count
    while stop > 0:
        cuts.append((int(begins[stop]), stop))
        stop = int(begins[stop])
    return cuts[::-1]


def _padded(sources: Lengths, targets: Lengths, cuts: Sequence[tuple[int, int]]) -> int:
    return sum(
        int((sources[start:stop].max() + targets[start:stop].max()) * (stop - start))
        for start, stop in cuts
    )


def batches_by_positions(
    source_lengths: Lengths,
    target_lengths: Lengths,
    max_positions: int,
    max_rows: int | None = None,
) -> list[Indexes]:
    """Every index once, the longest first, in batches of at most `max_positions` padded positions.

    Args:
        source_lengths, target_lengths: lengths of all rows, in tokens.
        max_rows: rows of a batch at most; where given, it is the only bound.
    """
    order = np.argsort(-(source_lengths + target_lengths), kind="stable")
    batches: list[list[int]] = []
    source = target = 0
    for index in order:
        source, target = max(source, source_lengths[index]), max(target, target_lengths[index])
        rows = len(batches[-1]) + 1 if batches else 1
        full = rows > max_rows if max_rows else (source + target) * rows > max_positions
        if not batches or full:
            batches.append([])
            source, target = source_lengths[index], target_lengths[index]
        batches[-1].append(int(index))
    return [np.array(batch) for batch in batches]


def seed_from(*parts: int) -> int:
    """One 64-bit seed from several numbers, such that near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0])
