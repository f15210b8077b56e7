"""Plan a step from lengths, seed and step number: its examples and their micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from workflow.data.bin_packing import (
    Piece,
    cut_pieces,
    deal_rows,
    even_pieces,
    fill_pieces,
    pack_evenly,
)
from workflow.data.example_lengths import ExampleLengths, Indexes, Lengths

PADDING_BOUND = 1.10
"""Maximum ratio of padded to real positions in a step."""

MICRO_BATCH_COSTS = (256, 128, 64, 32, 16, 8, 4, 2, 1, 0)
"""Assumed fixed costs of a micro-batch, in positions; tried in this order."""

ROW_LENGTHS = (64, 96, 128)
"""Row lengths for packing short examples, in source tokens; attention makes longer rows slower.
Twice as long where each row repeats what its examples share."""

POSITIONS_AT_ONCE = 16_384
"""Positions (source + new tokens, of every sample and beam) of an automatic generation batch."""

LOGITS_AT_ONCE = 1 << 25
"""Logits of all texts of a generation batch at one position: 128 MB in float32."""

MicroBatch = tuple[Indexes, ...]
"""Rows that are computed together; each row lists the examples packed in it."""


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: its micro-batches, and the positions they take.

    Attributes:
        micro_steps: for each micro-step one micro-batch per rank, `()` for a rank without work.
        filler: the step's shortest example; a rank without work computes it with weight zero.
        tokens: of all examples.
        padded_positions: of all ranks, without fillers.
        imbalance: the time of all ranks, each micro-step as long as its largest micro-batch, over
            the time with evenly spread padded positions.
        shared: tokens that all sources begin with, which each row holds once.
    """

    micro_steps: tuple[tuple[MicroBatch, ...], ...]
    filler: MicroBatch
    tokens: int
    padded_positions: int
    imbalance: float = 1.0
    shared: int = 0

    @property
    def examples(self) -> Indexes:
        """All examples of the step, each once."""
        return np.concatenate(list(self.rows))

    @property
    def rows(self) -> Iterator[Indexes]:
        """The rows of all micro-batches."""
        return (row for ranks in self.micro_steps for rows in ranks for row in rows)

    @property
    def computed(self) -> int:
        """Positions without padding: tokens that a row shares are computed once."""
        return self.tokens - sum(self.shared * (len(row) - 1) for row in self.rows)

    def of_rank(self, rank: int) -> tuple[MicroBatch, ...]:
        """One rank's micro-batch, or `()`, for each micro-step."""
        return tuple(ranks[rank] for ranks in self.micro_steps)


def plan_step(
    examples: Indexes,
    lengths: ExampleLengths,
    max_positions: int,
    packs: bool = False,
    world_size: int = 1,
) -> StepPlan:
    """Split the examples of a step into micro-batches and assign them to the ranks.

    Uses the fewest micro-batches that keep padded positions within PADDING_BOUND of the real ones,
    and each micro-batch within `max_positions` (rows × (longest source + longest target)); a longer
    example gets a micro-batch of its own. All ranks wait for the slowest at every micro-step, so
    the micro-batches of a micro-step have similar positions.

    Args:
        examples: indexes of the step's examples.
        lengths: of these examples.
        packs: whether short examples may share a row.
        world_size: the number of ranks.
    """
    planned = (
        _plan_for_one(lengths, max_positions, packs)
        if world_size == 1
        else _plan_for_many(lengths, max_positions, packs, world_size)
    )
    idle: MicroBatch = ()
    micro_steps = [
        [tuple(examples[row] for row in planned.rows[start:stop]) for start, stop, _ in pieces]
        for pieces in planned.micro_steps
    ]
    return StepPlan(
        tuple((*ranks, *[idle] * (world_size - len(ranks))) for ranks in micro_steps),
        filler=(examples[[np.argmin(lengths.sources + lengths.targets)]],),
        tokens=lengths.tokens,
        shared=lengths.shared,
        padded_positions=planned.padded,
        imbalance=world_size * planned.slowest / planned.padded,
    )


@dataclass(frozen=True)
class _Plan:
    """Sorted rows and, for each micro-step, the slices that the ranks compute."""

    rows: list[Indexes]
    micro_steps: list[list[Piece]]

    @property
    def padded(self) -> int:
        return sum(positions for pieces in self.micro_steps for *_, positions in pieces)

    @property
    def slowest(self) -> int:
        """Padded positions of each micro-step's largest piece, summed."""
        return sum(max(positions for *_, positions in pieces) for pieces in self.micro_steps)

    def cost(self, of_micro_step: int) -> int:
        return self.slowest + of_micro_step * len(self.micro_steps)

    def keeps_bound(self, lengths: ExampleLengths) -> bool:
        return self.padded <= PADDING_BOUND * lengths.computed(len(self.rows))


def _plan_for_one(lengths: ExampleLengths, max_positions: int, packs: bool) -> _Plan:
    candidates = _candidates(lengths, max_positions, packs)
    of_rows = [lengths.of_rows(rows) for rows in candidates]
    for cost in MICRO_BATCH_COSTS:
        plans = [
            _Plan(rows, [[piece] for piece in cut_pieces(*of_each, max_positions, cost)])
            for rows, of_each in zip(candidates, of_rows, strict=True)
        ]
        best = plans[int(np.argmin([plan.cost(cost) for plan in plans]))]
        if best.keeps_bound(lengths):
            break
    return best


def _plan_for_many(
    lengths: ExampleLengths, max_positions: int, packs: bool, world_size: int
) -> _Plan:
    """The fewest micro-steps that memory and PADDING_BOUND allow, or more while each saves time.

    There is always a solution: one row per piece has no padding.
    """
    cost = MICRO_BATCH_COSTS[0]
    candidates = _candidates(lengths, max_positions, packs, world_size)
    of_rows = [[of_each.tolist() for of_each in lengths.of_rows(rows)] for rows in candidates]

    @cache
    def cheapest(micro_steps: int) -> _Plan | None:
        dealt = [deal_rows(s, t, max_positions, micro_steps, world_size) for s, t in of_rows]
        plans = [_Plan(rows, steps) for rows, steps in zip(candidates, dealt, strict=True)]
        allowed = [plan for plan in plans if plan.micro_steps and plan.keeps_bound(lengths)]
        return min(allowed, key=lambda plan: plan.cost(cost), default=None)

    totals = [np.minimum(np.add(*of_each), max_positions).sum() for of_each in of_rows]
    least = int(min(totals))
    low = high = -(-least // (world_size * max_positions))
    while cheapest(high) is None:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if cheapest(middle) is None else (low, middle)
    best = cheapest(high)
    assert best is not None
    while (more := cheapest(high + 1)) and more.cost(cost) < best.cost(cost):
        best, high = more, high + 1
    return best


def _candidates(
    examples: ExampleLengths, max_positions: int, packs: bool, world_size: int = 1
) -> list[list[Indexes]]:
    """Candidate lists of sorted rows: one example per row, or packed to several row lengths.

    For several ranks the longest rows come first, and the number of packed rows is a multiple of
    the number of ranks.
    """
    ways = [[np.array([index]) for index in range(len(examples))]]
    most = max_positions - examples.shared
    times = 2 if examples.shared else 1
    lengths = [times * length for length in ROW_LENGTHS if packs and 2 * times * length <= most]
    if world_size > 1:
        packed = [pack_evenly(examples.sources, examples.targets, length, most, world_size)
                  for length in lengths]  # fmt: skip
        ways += [rows for rows in packed if rows]
    elif lengths:
        ways = [_pack(examples.sources, examples.targets, length, most) for length in lengths]
    orders = [order for rows in ways for order in _orders(rows, examples)]
    return [order[::-1] for order in orders] if world_size > 1 else orders


def _pack(sources: Lengths, targets: Lengths, row_length: int, max_positions: int) -> list[Indexes]:
    """Pack examples into rows by best fit, the longest first.

    A row holds `row_length` source tokens and target tokens in proportion, at most `max_positions`
    in total; a longer example gets a row of its own.
    """
    in_proportion = max(1, row_length * targets.sum() // sources.sum())
    most = np.array([row_length, min(in_proportion, max_positions - row_length)])
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


def _orders(rows: list[Indexes], lengths: ExampleLengths) -> list[list[Indexes]]:
    """The rows sorted by length: by source, by target, and by coarse target then source."""
    source, target = lengths.of_rows(rows)
    orders = {
        tuple(np.lexsort(keys).tolist())
        for keys in ((target, source), (source, target), (source, target // 16))
    }
    return [[rows[i] for i in order] for order in sorted(orders)]


def batches_by_positions(
    source_lengths: Lengths,
    target_lengths: Lengths,
    max_positions: int,
    max_rows: int | None = None,
    world_size: int = 1,
) -> list[Indexes]:
    """Every index once, the longest first, in batches of at most `max_positions` padded positions.

    For several ranks the batches are of even size, and their number is a multiple of the ranks.

    Args:
        source_lengths, target_lengths: lengths of all rows, in tokens.
        max_rows: maximum rows of a batch; replaces `max_positions`.
    """
    order = np.argsort(-(source_lengths + target_lengths), kind="stable")
    if len(order) == 0:
        return []
    sources, targets = source_lengths[order].tolist(), target_lengths[order].tolist()
    if max_rows and world_size == 1:
        return np.split(order, range(max_rows, len(order), max_rows))
    if max_rows:
        rounds = -(-len(order) // (max_rows * world_size))
        return np.array_split(order, min(rounds * world_size, len(order)))
    pieces = fill_pieces(sources, targets, max_positions)
    if world_size > 1:
        rounds = -(-len(pieces) // world_size)
        pieces = even_pieces(sources, targets, max_positions, rounds * world_size)
    return [order[start:stop] for start, stop, _ in pieces]
