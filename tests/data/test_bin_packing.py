"""Batches assigned to ranks."""

import numpy as np
import pytest

from workflow.data.bin_packing import balance_batches, even_pieces, pack_evenly


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 40, 300])
def test_every_batch_is_assigned_once_and_ranks_are_balanced(count: int, world_size: int) -> None:
    costs = np.random.default_rng(count).integers(1, 1000, count).tolist()
    dealt = balance_batches(costs, world_size)
    assert len(dealt) == world_size
    assert sorted(np.concatenate(dealt).tolist()) == list(range(count))
    for indexes in dealt:
        assert indexes.tolist() == sorted(indexes)
        load = sum(costs[index] for index in indexes)
        assert load <= sum(costs) / world_size + max(costs, default=0)
    assert count < world_size or all(len(indexes) for indexes in dealt)


def test_the_costliest_batches_come_first_and_ties_go_by_index_and_rank() -> None:
    assert [i.tolist() for i in balance_batches([1, 1, 1, 1, 1], 2)] == [[0, 2, 4], [1, 3]]
    assert [i.tolist() for i in balance_batches([1, 2, 3, 4], 2)] == [[0, 3], [1, 2]]
    assert [i.tolist() for i in balance_batches([5], 2)] == [[0], []]


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("seed", range(5))
def test_even_pieces_are_as_even_as_neighbours_can_be(seed: int, count: int) -> None:
    lengths = sorted(np.random.default_rng(seed).integers(1, 60, 12).tolist(), reverse=True)
    pieces = even_pieces(lengths, [0] * 12, 10_000, count)
    assert [start for start, _, _ in pieces] == [0, *[stop for _, stop, _ in pieces[:-1]]]
    assert len(pieces) == count and pieces[-1][1] == 12
    assert [positions for *_, positions in pieces] == [
        max(lengths[start:stop]) * (stop - start) for start, stop, _ in pieces
    ]
    best = _least_largest(lengths, count)
    assert best <= max(positions for *_, positions in pieces) <= best + best // 100
    if best > lengths[0]:
        assert even_pieces(lengths, [0] * 12, best - 1, count) == []


def _least_largest(lengths: list[int], count: int) -> int:
    """The largest piece of the best split of descending lengths, by brute force."""
    if count == 1:
        return lengths[0] * len(lengths)
    return min(
        max(lengths[0] * stop, _least_largest(lengths[stop:], count - 1))
        for stop in range(1, len(lengths) - count + 2)
    )


@pytest.mark.parametrize("world_size", [2, 4])
def test_packed_rows_have_similar_lengths_and_fill_all_ranks(world_size: int) -> None:
    sources, targets = np.random.default_rng(0).integers(5, 30, (2, 90))
    rows = pack_evenly(sources, targets, 64, 2048, world_size)
    assert sorted(np.concatenate(rows).tolist()) == list(range(90))
    assert len(rows) % world_size == 0
    filled = [(sources + targets)[row].sum() for row in rows]
    assert sources.sum() / len(rows) <= 64
    assert max(filled) <= 1.15 * np.mean(filled)


def test_examples_too_few_or_too_long_are_not_packed() -> None:
    lengths = np.array([60, 50, 40, 30, 20, 10])
    assert len(pack_evenly(lengths, lengths, 128, 1000, 2)) == 2
    assert pack_evenly(lengths, lengths, 128, 200, 2) == []
    assert pack_evenly(lengths, lengths, 128, 1000, 6) == []
