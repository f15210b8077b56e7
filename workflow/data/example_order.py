"""Which examples form a step, by seed and step alone."""

from functools import lru_cache

import numpy as np

from workflow.data.example_lengths import Indexes


def step_examples(step: int, batch_size: int, count: int, seed: int) -> Indexes:
    """The examples of step 1, 2, …: a slice of the concatenated shuffled orders of all epochs.

    Depends on the arguments only, so a resumed run sees the same examples.
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


def seed_from(*parts: int) -> int:
    """One 64-bit seed from several numbers; close numbers give unrelated seeds."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0])
