"""The lengths of examples, and of rows that hold several of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExampleLengths:
    """The lengths of examples, in tokens (examples,).

    Attributes:
        shared: tokens that all sources begin with. A row holds them once, and `sources` are without
            them.
    """

    sources: Lengths
    targets: Lengths
    shared: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def of(self, examples: Indexes) -> "ExampleLengths":
        return ExampleLengths(self.sources[examples], self.targets[examples], self.shared)

    @property
    def tokens(self) -> int:
        """Of all examples, those that are shared counted for each."""
        return int(self.sources.sum() + self.targets.sum()) + self.shared * len(self)

    def computed(self, rows: int) -> int:
        """Positions of all examples in this number of rows, without padding."""
        return self.tokens - self.shared * (len(self) - rows)

    def of_rows(self, rows: Sequence[Indexes]) -> tuple[Lengths, Lengths]:
        """The lengths of rows of examples: of their sources and of their targets."""
        return (
            np.array([self.sources[row].sum() for row in rows]) + self.shared,
            np.array([self.targets[row].sum() for row in rows]),
        )

    def joined(self, shared: int = 0) -> "ExampleLengths":
        """The lengths of texts that hold an example's source and target, and of no others.

        A target's last id is not read.
        """
        texts = self.sources + self.targets - 1 - shared
        return ExampleLengths(texts, np.zeros_like(self.targets), shared)
