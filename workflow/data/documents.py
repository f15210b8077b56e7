"""Documents as examples: cut to pieces, and these joined to blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.config.task_specs import OPENING
from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.token_cache import Ragged


@dataclass(frozen=True)
class Pieces:
    """Where documents are cut.

    A document of n tokens is a stored row of n + 1 ids: the additional one is at its start or its
    end, and belongs to no piece.

    Attributes:
        documents: the document of each piece, (pieces,).
        begins: the first token of each piece, counted from its document's (pieces,).
        sizes: tokens of each piece (pieces,).
        blocks: block i has the pieces blocks[i] to blocks[i + 1], (blocks + 1,).
    """

    documents: Indexes
    begins: Lengths
    sizes: Lengths
    blocks: Indexes

    @classmethod
    def of(cls, tokens: Lengths, longest: int, joined: bool) -> "Pieces":
        """Cut documents to pieces of at most `longest` tokens.

        Args:
            tokens: of each document.
            joined: whether the documents, one behind the other, fill blocks of `longest` tokens;
                else each piece is a block.
        """
        before = np.cumsum(tokens) - tokens
        shift = before % longest if joined else np.zeros_like(tokens)
        counts = np.where(tokens > 0, -(-(shift + tokens) // longest), 0)
        documents = np.repeat(np.arange(len(tokens)), counts)
        number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = number * longest - shift[documents]
        begins = np.maximum(start, 0)
        sizes = np.minimum(start + longest, tokens[documents]) - begins
        block = (before[documents] + begins) // longest if joined else np.arange(len(documents))
        firsts = np.flatnonzero(np.diff(block, prepend=-1))
        return cls(documents, begins, sizes, np.append(firsts, len(documents)))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class NextTokens(Sequence[npt.NDArray[np.int32]]):
    """What is read before pieces of documents, or what these teach: each token after the last one.

    A row of `rows` is the mark before a document, its tokens and its end mark. What is read before
    a piece is the token before its first one.

    Attributes:
        taught: whether this is what the pieces teach; else what is read before.
        virtual: negative ids before what is read.
    """

    rows: Ragged
    pieces: Pieces
    taught: bool
    virtual: int = 0

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: Any) -> Any:
        before = self.rows.offsets[self.pieces.documents[index]] + self.pieces.begins[index]
        if self.taught:
            return self.rows.values[before + 1 : before + 1 + self.pieces.sizes[index]]
        virtual = np.arange(-self.virtual, 0, dtype=np.int32)
        return np.concatenate([virtual, self.rows.values[before : before + 1]])

    @property
    def lengths(self) -> Lengths:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indexes: Indexes) -> Lengths:
        sizes: Lengths = self.pieces.sizes[indexes]
        return sizes if self.taught else np.full_like(sizes, 1 + self.virtual)


@dataclass(frozen=True)
class Openings(Sequence[npt.NDArray[np.int32]]):
    """The first tokens of documents: OPENING, or half of a shorter one.

    Attributes:
        before, after: ids around the tokens; `before` takes the place of a row's first `skipped`.
    """

    rows: Ragged
    skipped: int
    before: Sequence[int]
    after: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.rows.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        shown, _ = self.divided(index, 0)
        return np.concatenate([np.array(self.before, np.int32), shown, self.after]).astype(np.int32)

    def divided(self, index: int, longest: int) -> tuple[Any, Any]:
        """The tokens of a document that are shown, and at most `longest` of those behind them."""
        row = self.rows.row(index)[self.skipped :]
        shown = min(OPENING, len(row) // 2)
        return row[:shown], row[shown : shown + longest]

    @property
    def lengths(self) -> Lengths:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indexes: Indexes) -> Lengths:
        tokens = self.rows.lengths(np.iinfo(np.int64).max, indexes) - self.skipped
        shown: Lengths = np.minimum(OPENING, tokens // 2)
        return shown + len(self.before) + len(self.after)
