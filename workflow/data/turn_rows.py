"""The turns of chats as examples: parts of the rows that are stored for a record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.pair_rows import separators_of
from workflow.data.token_cache import Ragged, cut_row


@dataclass(frozen=True)
class TurnRows(Sequence[npt.NDArray[np.int32]]):
    """Parts of stored rows, truncated to `longest` ids, with `virtual` negative ids before each.

    Attributes:
        rows: the ids of a record's turns, with PART_END between them.
        bounds: where each turn begins and ends among the ids of all rows, (turns, 2).
    """

    rows: Ragged
    bounds: npt.NDArray[np.int64]
    longest: int
    side: str = "right"
    virtual: int = 0

    @classmethod
    def of(cls, rows: Ragged, longest: int, only_last: bool, **cut: Any) -> "TurnRows":
        """All turns of the records, or the last of each."""
        ends = separators_of(rows)
        begins = np.sort(np.concatenate([rows.offsets[:-1], ends + 1]))
        ends = np.sort(np.concatenate([ends, rows.offsets[1:]]))
        bounds = np.stack([begins, ends], axis=1)
        if only_last:
            bounds = bounds[np.isin(ends, rows.offsets[1:])]
        return cls(rows, bounds, longest, **cut)

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, index: Any) -> Any:
        begin, end = self.bounds[index]
        row = cut_row(self.rows.values[begin:end], self.longest, self.side, self.rows.frame)
        return np.concatenate([np.arange(-self.virtual, 0, dtype=np.int32), row])

    @property
    def records(self) -> Indexes:
        """The record of each turn."""
        return np.searchsorted(self.rows.offsets, self.bounds[:, 0], "right") - 1

    @property
    def lengths(self) -> Lengths:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indexes: Indexes) -> Lengths:
        begins, ends = self.bounds[indexes].T
        lengths: Lengths = np.minimum(ends - begins, self.longest) + self.virtual
        return lengths
