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


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: which examples are computed together, and the positions that takes."""

    micro_batches: tuple[Indexes, ...]
    real_positions: int
    padded_positions: int


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
    examples: Indexes, source_lengths: Lengths, target_lengths: Lengths, max_positions: int
) -> StepPlan:
    """Cut the examples of a step into micro-batches.

    As few as keep padded positions within PADDING_BOUND of the real ones and each micro-batch
    within `max_positions` (rows × (longest source + longest target)); an example that is longer
    by itself is computed by itself.

    Args:
        examples: indexes of the step's examples.
        source_lengths, target_lengths: lengths of all examples, in tokens.
    """
    sources, targets = source_lengths[examples], target_lengths[examples]
    real = int(sources.sum() + targets.sum())
    orders = _orders(sources, targets)
    for cost in MICRO_BATCH_COSTS:
        cuts = [_cut(sources[o], targets[o], max_positions, cost) for o in orders]
        padded = [_padded(sources[o], targets[o], cut) for o, cut in zip(orders, cuts, strict=True)]
        costs = [p + cost * len(cut) for p, cut in zip(padded, cuts, strict=True)]
        best = int(np.argmin(costs))
        if padded[best] <= PADDING_BOUND * real:
            break
    chosen = examples[orders[best]]
    micro_batches = tuple(chosen[start:stop] for start, stop in cuts[best])
    return StepPlan(micro_batches, real, padded[best])


def _orders(sources: Lengths, targets: Lengths) -> list[Indexes]:
    """Orders that put like beside like: by source, by target, and by target roughly then source."""
    candidates = [
        np.lexsort((targets, sources)),
        np.lexsort((sources, targets)),
        np.lexsort((sources, targets // 16)),
    ]
    return [order for n, order in enumerate(candidates)
            if not any(np.array_equal(order, other) for other in candidates[:n])]  # fmt: skip


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
