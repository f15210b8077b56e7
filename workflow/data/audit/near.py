"""Eval prompts that are nearly those of train: the same windows of tokens, or the same words."""

import re

import numpy as np
import numpy.typing as npt

from workflow.data.token_cache import Ragged

Keys = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.int64]
WINDOW = 8
"""Tokens of a window, about five words."""
NEAR, FEWEST = 0.8, 8
"""Share of a prompt's windows in another one that makes them near, and fewest to decide by."""
MOST_ROWS, MOST_TOKENS, SAMPLE = 10_000, 1_000_000, 1000
"""Eval prompts compared at most, their tokens, and train prompts in which windows are counted."""
COMMON = 0.01
"""A window in a larger share of the prompts, or in over ten, is of a template and not compared."""
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)
_SHIFT = np.uint64(64 - 24)
_SIGNS = re.compile("[\u00a0\u3000…“”‘’„«»–—¿¡。、，！？：；（）「」]")
_ASCII_SIGNS = bytes.maketrans(b".,;:!?'\"`()[]{}_", b" " * 16)


def loose_hash(text: str) -> int:
    """A hash of a text, by this process's key, without case, punctuation and spaces."""
    plain = text if text.isascii() else _SIGNS.sub(" ", text)
    words = plain.casefold().encode().translate(_ASCII_SIGNS).split()
    return hash(b" ".join(words) or text)


class NearPrompts:
    """Compares each train prompt with eval prompts, which are evenly chosen if there are many.

    Attributes:
        rows: the eval prompts compared.
        found: the index of a train prompt, by that of the eval prompt near it.
    """

    def __init__(self, train: Ragged, evaluation: Ragged):
        self._train, self.found = train, dict[int, int]()
        self.rows, sample = _evenly(evaluation, MOST_ROWS), _evenly(train, SAMPLE)
        keys, rows = _distinct(*_windows(evaluation, self.rows))
        common = [_common(_distinct(*_windows(train, sample))[0], len(sample))]
        common += [_common(keys, len(self.rows))]
        is_rare = ~np.isin(keys, np.concatenate(common))
        self._keys, self._rows = keys[is_rare], rows[is_rare]
        self._counts = np.bincount(self._rows, minlength=len(self.rows))
        self._may_be = np.zeros(1 << 24, np.bool_)
        self._may_be[self._keys >> _SHIFT] = True

    def add(self, start: int, end: int) -> None:
        """Compare the train prompts from `start` to `end`."""
        tokens, middle = self._train.offsets[end] - self._train.offsets[start], (start + end) // 2
        if tokens > MOST_TOKENS and start < middle:
            self.add(start, middle)
            self.add(middle, end)
            return
        keys, rows = _windows(self._train, np.arange(start, end))
        likely = self._may_be[keys >> _SHIFT]
        keys, rows = _distinct(keys[likely], rows[likely])
        first, last = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        each = last - first
        inside = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        theirs = self._rows[np.repeat(first, each) + inside]
        pairs = np.repeat(rows, each) * len(self.rows) + theirs
        pairs, shared = np.unique(pairs, return_counts=True)
        counts = self._counts[pairs % max(1, len(self.rows))]
        for pair in pairs[(shared >= NEAR * counts) & (counts >= FEWEST)]:
            ours, their = divmod(int(pair), len(self.rows))
            self.found.setdefault(int(self.rows[their]), start + ours)


def _evenly(rows: Ragged, most: int) -> Indexes:
    """At most so many rows, and about MOST_TOKENS tokens."""
    count, tokens = len(rows.offsets) - 1, len(rows.values)
    chosen = min(count, most, max(1, count * MOST_TOKENS // max(1, tokens)))
    return np.unique(np.linspace(0, count - 1, chosen).astype(np.int64))


def _windows(rows: Ragged, chosen: Indexes) -> tuple[Keys, Indexes]:
    """A key of each window of the chosen rows, and the place of its row among them."""
    begins, ends = rows.offsets[chosen], rows.offsets[chosen + 1]
    spans = [*zip(begins, ends, strict=True)]
    if (begins[1:] == ends[:-1]).all():
        spans = [(begins[0], ends[-1])]
    ids = np.concatenate([rows.values[begin:end] for begin, end in spans]).astype(np.uint64)
    number = np.repeat(np.arange(len(chosen)), ends - begins)
    first, *others = map(np.uint64, _MULTIPLIERS)
    keys = (ids + np.uint64(1)) * first
    keys ^= keys >> np.uint64(29)
    for step, multiplier in zip((1, 2, 4), others, strict=True):  # 2, 4, then 8 ids
        keys = keys[:-step] * multiplier + keys[step:]
        keys ^= keys >> np.uint64(31)
    inside = number[: len(keys)] == number[len(number) - len(keys) :]
    return keys[inside], number[: len(keys)][inside]


def _distinct(keys: Keys, rows: Indexes) -> tuple[Keys, Indexes]:
    """The windows of rows without repetitions, in the order of their keys."""
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    is_new = np.ones(len(keys), np.bool_)
    is_new[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    return keys[is_new], rows[is_new]


def _common(keys: Keys, count: int) -> Keys:
    """The windows of more rows than near-duplicates would be, of so many."""
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > min(10, max(3, COMMON * count))]
