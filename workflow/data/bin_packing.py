"""Split sorted rows into pieces, and assign pieces, packed rows and batches evenly to ranks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

Piece = tuple[int, int, int]
"""A slice of sorted rows: start, stop and number of padded positions."""


def cut_pieces(sources: Integers, targets: Integers, max_positions: int, cost: int) -> list[Piece]:
    """The cheapest split of sorted rows into pieces, by dynamic programming.

    A piece costs its padded positions plus `cost`; it has at most `max_positions`, or one row.
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
        start = int(begins[stop])
        width = int(sources[start:stop].max() + targets[start:stop].max())
        cuts.append((start, stop, width * (stop - start)))
        stop = start
    return cuts[::-1]


def fill_pieces(
    sources: Sequence[int],
    targets: Sequence[int],
    bound: int,
    count: int | None = None,
    start: int = 0,
) -> list[Piece]:
    """Rows from `start` on in pieces of at most `bound` padded positions, or of one row.

    Args:
        sources, targets: lengths of the sorted rows, in tokens.
        count: maximum number of pieces, which may not reach the last row; each piece leaves at
            least one row for every later piece. None: as many as needed.
    """
    pieces: list[Piece] = []
    rows = len(sources)
    while start < rows and (count is None or len(pieces) < count):
        last = rows if count is None else rows - (count - len(pieces) - 1)
        source, target, stop = sources[start], targets[start], start + 1
        while stop < last:
            wider, longer = max(source, sources[stop]), max(target, targets[stop])
            if (wider + longer) * (stop + 1 - start) > bound:
                break
            source, target, stop = wider, longer, stop + 1
        pieces.append((start, stop, (source + target) * (stop - start)))
        start = stop
    return pieces


def even_pieces(
    sources: Sequence[int], targets: Sequence[int], max_positions: int, count: int, start: int = 0
) -> list[Piece]:
    """The rows from `start` on in `count` pieces; the largest is minimal within 1 %.

    Fewer pieces if there are fewer rows; empty if `max_positions` needs more pieces.
    """
    rows = len(sources)
    low = (sum(sources[start:]) + sum(targets[start:])) // count
    high = min(max_positions, low + low // 4 + 1)
    pieces = fill_pieces(sources, targets, high, count, start)
    while pieces[-1][1] < rows:
        if high == max_positions:
            return []
        low, high = high + 1, min(max_positions, 2 * high)
        pieces = fill_pieces(sources, targets, high, count, start)
    while high - low > high // 128:
        middle = (low + high) // 2
        tried = fill_pieces(sources, targets, middle, count, start)
        if tried[-1][1] == rows:
            high, pieces = middle, tried
        else:
            low = middle + 1
    return pieces


def deal_rows(
    sources: Sequence[int],
    targets: Sequence[int],
    max_positions: int,
    micro_steps: int,
    world_size: int,
) -> list[list[Piece]]:
    """For each micro-step one piece of the rows per rank, of similar positions.

    All ranks wait for a micro-step's largest piece. If that is a single row longer than even
    pieces, the other pieces of its micro-step grow to the same size. Empty if `max_positions` needs
    more micro-steps; the last micro-step may have fewer pieces than ranks.

    Args:
        sources, targets: lengths of the rows, in tokens, the longest first.
    """
    dealt: list[list[Piece]] = []
    start, rows = 0, len(sources)
    while start < rows:
        count = (micro_steps - len(dealt)) * world_size
        pieces = even_pieces(sources, targets, max_positions, count, start)
        largest = max(pieces, key=_positions, default=(0, 0, 0))
        held_up = largest in pieces[:world_size] and largest[1] - largest[0] == 1
        if not held_up:
            pieces.sort(key=_positions, reverse=True)
            starts = range(0, len(pieces), world_size)
            return dealt + [pieces[first : first + world_size] for first in starts]
        bound = min(max_positions, _positions(largest))
        *_, (_, stop, _) = fill_pieces(sources, targets, bound, count, start)[:world_size]
        reached = sources[:stop], targets[:stop]
        dealt.append(even_pieces(*reached, max_positions, world_size, start))
        start = stop
    return dealt


def _positions(piece: Piece) -> int:
    return piece[2]


def pack_evenly(
    sources: Integers, targets: Integers, row_length: int, max_positions: int, world_size: int
) -> list[Integers]:
    """Pack examples into rows of similar lengths, a multiple of the ranks; the longest first.

    Each example goes to the emptiest row. Empty if the examples are too few or too long.

    Args:
        row_length: maximum mean of the source tokens per row.
    """
    count = world_size * -(-int(sources.sum()) // (world_size * row_length))
    if count >= len(sources):
        return []
    shares = np.stack([sources / sources.sum(), targets / max(1, targets.sum())])
    rows: list[list[int]] = [[] for _ in range(count)]
    taken = np.zeros((2, count))
    for index in np.argsort(-shares.sum(axis=0), kind="stable"):
        row = int(np.maximum(*(taken + shares[:, [index]])).argmin())
        rows[row].append(int(index))
        taken[:, row] += shares[:, index]
    packed = [np.array(row) for row in rows]
    lengths = sources + targets
    too_long = any(len(row) > 1 and lengths[row].sum() > max_positions for row in packed)
    return [] if too_long else packed


def balance_batches(costs: Sequence[int], world_size: int) -> tuple[Integers, ...]:
    """For each rank the sorted indexes of its batches.

    Batches go to the least busy rank, the costliest first; ties are resolved by index and rank.

    Args:
        costs: cost of each batch, in any unit.
    """
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    busy = [0] * world_size
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        rank = busy.index(min(busy))
        dealt[rank].append(index)
        busy[rank] += costs[index]
    return tuple(np.array(sorted(indexes), np.int64) for indexes in dealt)
