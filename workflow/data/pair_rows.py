"""Pairs as a model reads them: a prompt and two answers in one row, each cut to its share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.token_cache import Ragged

PART_END = -1
"""Separates prompt, answer a and answer b in the stored ids of a pair."""
_READ_AT_ONCE = 1 << 22
"""Ids whose separators are found together."""


@dataclass(frozen=True)
class Orders:
    """The record that each example shows, and whether it shows answer b first.

    Attributes:
        records, swapped: (examples,).
    """

    records: Indexes
    swapped: npt.NDArray[np.bool_]

    @classmethod
    def both(cls, count: int) -> "Orders":
        """Each record twice: as it is, then swapped."""
        return cls(np.repeat(np.arange(count), 2), np.tile([False, True], count))

    @classmethod
    def drawn(cls, count: int, seed: int) -> "Orders":
        """Each record once, in an order that depends on the seed and its index alone."""
        drawn = np.random.default_rng([seed, *b"order"]).random(count) < 0.5
        return cls(np.arange(count), drawn)


@dataclass(frozen=True)
class PairFrame:
    """What surrounds the parts of a pair in its row.

    Attributes:
        ids: before the prompt, before the first and the second answer, and behind that.
        second: added to the ids from the first answer on, for models with token types.
    """

    ids: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]
    second: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.ids))

    def around(self, prompt: Any, one: Any, other: Any) -> npt.NDArray[np.int32]:
        """The row of a prompt, the first answer and the second."""
        begin, before_one, before_other, end = (np.array(ids, np.int32) for ids in self.ids)
        first = [begin, prompt, before_one]
        row = np.concatenate([*first, one, before_other, other, end])
        row[sum(map(len, first)) :] += self.second
        return row


@dataclass(frozen=True)
class PairRows(Sequence[npt.NDArray[np.int32]]):
    """The rows of pairs, each with at most `longest` ids, composed on access.

    Attributes:
        rows: the ids of the parts, with PART_END between them.
        shares: of the positions, for the prompt, the first answer and the second.
    """

    rows: Ragged
    frame: PairFrame
    longest: int
    shares: tuple[float, ...]
    orders: Orders

    def __len__(self) -> int:
        return len(self.orders.records)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows.row(int(self.orders.records[index]))
        first, second = np.flatnonzero(row == PART_END)
        parts = [row[:first], row[first + 1 : second], row[second + 1 :]]
        if self.orders.swapped[index]:
            parts[1:] = parts[:0:-1]
        sizes = np.array([list(map(len, parts))])
        kept = cut_lengths(sizes, self.longest - len(self.frame), self.shares)[0]
        return self.frame.around(*map(_cut_in_the_middle, parts, kept.tolist()))

    @cached_property
    def lengths(self) -> Lengths:
        sizes = part_lengths(self.rows)[self.orders.records]
        sizes[self.orders.swapped, 1:] = sizes[self.orders.swapped, :0:-1]
        kept = cut_lengths(sizes, self.longest - len(self.frame), self.shares)
        lengths: Lengths = kept.sum(axis=1) + len(self.frame)
        return lengths

    def lengths_of(self, indexes: Indexes) -> Lengths:
        return self.lengths[indexes]


def part_lengths(rows: Ragged) -> npt.NDArray[np.int64]:
    """The lengths of prompt, answer a and answer b of each pair, (pairs, 3)."""
    ends = separators_of(rows).reshape(-1, 2)
    begins, stops = rows.offsets[:-1], rows.offsets[1:]
    return np.stack(
        [ends[:, 0] - begins, ends[:, 1] - ends[:, 0] - 1, stops - ends[:, 1] - 1], axis=1
    )


def separators_of(rows: Ragged) -> npt.NDArray[np.int64]:
    """Where PART_END is among the ids of all rows."""
    found = [
        np.flatnonzero(rows.values[start : start + _READ_AT_ONCE] == PART_END) + start
        for start in range(0, int(rows.offsets[-1]), _READ_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


def cut_lengths(
    sizes: npt.NDArray[np.int64], room: int, shares: Sequence[float]
) -> npt.NDArray[np.int64]:
    """How many ids each part keeps where all of them do not fit in `room`.

    A part keeps at least its share of the room, or all if it is shorter; what it leaves goes to the
    longer parts, in proportion of their shares.

    Args:
        sizes: (pairs, parts).
    """
    of_room = np.asarray(shares) / sum(shares)
    kept = np.minimum(sizes, np.floor(room * of_room).astype(np.int64))
    for _ in shares:
        more = (sizes > kept) * of_room
        total = np.maximum(more.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        free = room - kept.sum(axis=1, keepdims=True)
        kept = np.minimum(sizes, kept + np.floor(free * more / total).astype(np.int64))
    for part in range(len(shares)):  # what rounding left
        free = room - kept.sum(axis=1)
        kept[:, part] = np.minimum(sizes[:, part], kept[:, part] + free)
    return kept


def _cut_in_the_middle(ids: Any, kept: int) -> Any:
    if len(ids) <= kept:
        return ids
    head = -(-kept // 2)
    return np.concatenate([ids[:head], ids[len(ids) - (kept - head) :]])
