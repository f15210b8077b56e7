"""Pairs in rows: every part keeps its share, and no row is longer than it may be."""

import itertools

import numpy as np
import pytest

from workflow.data.pair_rows import (
    PART_END,
    Orders,
    PairFrame,
    PairRows,
    cut_lengths,
    part_lengths,
)
from workflow.data.token_cache import Ragged

FRAME = PairFrame(([101], [102], [102, 102], [102, 103]), second=1000)
PAIRS = [
    ([1, 2, 3], [4], [5, 6]),
    ([], [7, 8, 9, 10, 11], []),
    ([12] * 9, [13] * 2, [14] * 30),
]


def stored() -> Ragged:
    rows = [[*p, PART_END, *a, PART_END, *b] for p, a, b in PAIRS]
    ids = np.array([i for row in rows for i in row], np.int32)
    return Ragged(ids, np.cumsum([0, *map(len, rows)]))


def rows(longest: int, orders: Orders, shares: tuple[float, ...] = (0.4, 0.3, 0.3)) -> PairRows:
    return PairRows(stored(), FRAME, longest, shares, orders)


def test_a_pair_that_fits_is_whole_in_both_orders() -> None:
    found = rows(100, Orders.both(3))
    second = [102, 102]
    assert found[0].tolist() == [101, 1, 2, 3, 102, *(
        1000 + i for i in (4, *second, 5, 6, 102, 103)
    )]  # fmt: skip
    assert found[1].tolist() == [101, 1, 2, 3, 102, *(
        1000 + i for i in (5, 6, *second, 4, 102, 103)
    )]  # fmt: skip
    assert part_lengths(stored()).tolist() == [list(map(len, pair)) for pair in PAIRS]


@pytest.mark.parametrize("longest", range(9, 60))
def test_lengths_are_those_of_the_rows(longest: int) -> None:
    for shares in ((0.4, 0.3, 0.3), (0.2, 0.7, 0.1), (0.98, 0.01, 0.01)):
        for orders in (Orders.both(3), Orders.drawn(3, seed=5)):
            found = rows(longest, orders, shares)
            made = [len(found[i]) for i in range(len(found))]
            assert made == found.lengths.tolist()
            assert made == found.lengths_of(np.arange(len(found))).tolist()
            whole = [sum(map(len, PAIRS[i])) + len(FRAME) for i in orders.records]
            assert made == [min(longest, most) for most in whole]


def test_parts_keep_their_shares_and_take_what_others_leave() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(0, 60, (500, 3))
    for room, shares in itertools.product((0, 1, 7, 50, 100), ((0.4, 0.3, 0.3), (0.1, 0.8, 0.1))):
        kept = cut_lengths(sizes, room, shares)
        assert (kept >= 0).all()
        assert (kept <= sizes).all()
        assert (kept.sum(axis=1) == np.minimum(room, sizes.sum(axis=1))).all()
        share = np.floor(room * np.array(shares) + 1e-9)
        assert (kept >= np.minimum(sizes, share)).all()
    assert cut_lengths(np.array([[100, 100, 100]]), 10, (0.4, 0.3, 0.3)).tolist() == [[4, 3, 3]]
    assert cut_lengths(np.array([[1, 100, 100]]), 11, (0.4, 0.3, 0.3)).tolist() == [[1, 5, 5]]


def test_a_part_is_cut_in_its_middle() -> None:
    ids = np.arange(40, dtype=np.int32)
    row = [*ids[:20], PART_END, *ids[20:30], PART_END, *ids[30:]]
    ragged = Ragged(np.array(row, np.int32), np.array([0, len(row)]))
    plain = PairFrame(([], [], [], []))
    found = PairRows(ragged, plain, 10, (0.5, 0.2, 0.3), Orders(np.array([0]), np.array([False])))
    assert found[0].tolist() == [0, 1, 2, 18, 19, 20, 29, 30, 31, 39]


def test_the_drawn_order_depends_on_seed_and_record_alone() -> None:
    one, longer = Orders.drawn(50, seed=3), Orders.drawn(1000, seed=3)
    assert (one.swapped == longer.swapped[:50]).all()
    assert not (longer.swapped == Orders.drawn(1000, seed=4).swapped).all()
    assert 400 < longer.swapped.sum() < 600
