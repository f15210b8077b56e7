"""Span corruption, as T5 was trained: a text with hidden spans, and what they hide.

Raffel et al. 2020, section 3.3.4; the draws follow `random_spans_noise_mask` in the authors'
t5/data/preprocessors.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.data.documents import Pieces
from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.token_cache import Ragged

DENSITY = 0.15
"""Share of the tokens that are hidden."""
MEAN_SPAN = 3.0
"""Mean length of the hidden spans, in tokens."""


def hidden_tokens(tokens: Lengths) -> tuple[Lengths, Lengths]:
    """How many tokens of texts are hidden, and in how many spans."""
    hidden = np.clip(np.round(tokens * DENSITY), 1, np.maximum(tokens - 1, 1)).astype(np.int64)
    return hidden, np.maximum(np.round(hidden / MEAN_SPAN), 1).astype(np.int64)


def corrupted_lengths(tokens: Lengths) -> tuple[Lengths, Lengths]:
    """The lengths of sources and targets of texts, each with its end mark."""
    hidden, spans = hidden_tokens(tokens)
    return tokens - hidden + spans + 1, hidden + spans + 1


def longest_text(source: int, target: int, sentinels: int) -> int:
    """The most tokens of a text whose source and target have at most these lengths."""
    tokens = np.arange(1, 2 * source)
    sources, targets = corrupted_lengths(tokens)
    fits = (sources <= source) & (targets <= target) & (hidden_tokens(tokens)[1] <= sentinels)
    return int(np.argmin(fits)) if not fits.all() else len(tokens)


def hidden_mask(tokens: int, draw: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which tokens of a text are hidden; it begins with a shown span and ends with a hidden one."""
    of_hidden, of_spans = hidden_tokens(np.array([tokens]))
    hidden, spans = int(of_hidden[0]), int(of_spans[0])
    lengths = np.zeros(2 * spans, np.int64)
    lengths[0::2] = _segments(tokens - hidden, spans, draw)
    lengths[1::2] = _segments(hidden, spans, draw)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _segments(items: int, count: int, draw: np.random.Generator) -> Lengths:
    """The lengths of `count` segments of items, none empty, all divisions equally likely."""
    if items < count:  # a text of a single token, which is hidden
        return np.array([items])
    ends = np.sort(draw.choice(items - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], ends, [items]]))


@dataclass(frozen=True)
class Spans(Sequence[npt.NDArray[np.int32]]):
    """Pieces of documents with hidden spans, or what these hide, drawn on access.

    The spans of a piece depend on seed, step and the piece's index alone.

    Attributes:
        rows: the ids of documents, each with its end mark.
        sentinels: ids of the marks of spans, the first span's first.
        taught: whether this is what the spans hide; else the text with marks in their place.
        step: of training; 0 in evaluation.
        virtual: negative ids before a text.
    """

    rows: Ragged
    pieces: Pieces
    sentinels: Sequence[int]
    taught: bool
    seed: int
    step: int = 0
    virtual: int = 0

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows.row(self.pieces.documents[index])
        begin, size = self.pieces.begins[index], int(self.pieces.sizes[index])
        hidden = hidden_mask(size, np.random.default_rng([self.seed, self.step, int(index)]))
        kept = hidden if self.taught else ~hidden
        starts = np.diff(hidden, prepend=False) & hidden  # of hidden spans, where marks stand
        ids = np.stack([np.zeros(size, np.int32), row[begin : begin + size]], axis=1)
        ids[starts, 0] = self.sentinels[: int(starts.sum())]
        virtual = np.arange(-self.virtual, 0, dtype=np.int32)
        return np.concatenate([virtual, ids[np.stack([starts, kept], axis=1)], row[-1:]])

    @property
    def lengths(self) -> Lengths:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indexes: Indexes) -> Lengths:
        return corrupted_lengths(self.pieces.sizes[indexes])[self.taught] + self.virtual

    def at_step(self, step: int) -> "Spans":
        """The spans of a step of training."""
        return replace(self, step=step)


def sentinels_of(tokenizer: Any) -> tuple[int, ...]:
    """The ids of a tokenizer's marks of spans: <extra_id_0>, <extra_id_1>, … of T5 and its like."""
    vocabulary, found = tokenizer.get_vocab(), []
    for number in range(len(vocabulary)):
        name = f"<extra_id_{number}>"
        index = vocabulary.get(name, vocabulary.get(f"▁{name}"))  # mT5 has them as pieces
        if index is None:
            break
        found.append(index)
    return tuple(found)
