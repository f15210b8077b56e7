"""An evaluation shared by processes: each batch counts once, and what all found comes together."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from workflow.share import Share
from workflow.world import World

T = TypeVar("T")


class FakeWorld(World):
    """A process that is told what all of them, itself too, would say."""

    def __init__(self, rank: int, said: Sequence[Any]):
        super().__init__(rank, len(said))
        self._said = list(said)

    def gather(self, value: T) -> list[T]:
        assert value == self._said[self.rank]
        return self._said

    def gather_on_main(self, value: T) -> list[T] | None:
        return self.gather(value) if self.is_main else None


def make_batches(seed: int, count: int) -> tuple[list[Any], list[int]]:
    generator = np.random.default_rng(seed)
    batches = np.split(generator.permutation(5 * count), count)
    return batches, generator.integers(1, 1000, count).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("in_step", [False, True])
def test_every_batch_counts_once_and_in_step_all_are_called_equally_often(
    size: int, count: int, in_step: bool
) -> None:
    for seed in range(5):
        batches, costs = make_batches(seed, count)
        shares = [list(Share(World(rank, size), in_step).of(batches, costs))
                  for rank in range(size)]  # fmt: skip
        counted = [batch for share in shares for batch, counts in share if counts]
        assert sorted(np.concatenate(counted).tolist()) == list(range(5 * count))
        cheapest = batches[int(np.argmin(costs))]
        fillers = [batch for share in shares for batch, counts in share if not counts]
        assert all(batch is cheapest for batch in fillers)
        calls = [len(share) for share in shares]
        if in_step:
            most = max(sum(counts for _, counts in share) for share in shares)
            assert calls == [most] * size
        else:
            assert fillers == []


@pytest.mark.parametrize("size", [2, 3, 8])
def test_shares_cost_about_the_same(size: int) -> None:
    for seed in range(5):
        batches, costs = make_batches(seed, 40)
        cost_of = {id(batch): cost for batch, cost in zip(batches, costs, strict=True)}
        busy = [
            sum(cost_of[id(batch)] for batch, _ in Share(World(rank, size)).of(batches, costs))
            for rank in range(size)
        ]
        assert max(busy) - min(busy) <= max(costs)


def test_a_share_is_in_the_order_of_the_batches() -> None:
    batches, costs = make_batches(0, 40)
    for rank in range(3):
        share = [batch.tolist() for batch, _ in Share(World(rank, 3)).of(batches, costs)]
        assert share == [batch.tolist() for batch in batches if batch.tolist() in share]


def test_what_all_found_is_put_together_on_the_main_one() -> None:
    found = [{3: "d", 0: "a"}, {}, {1: "b", 2: "c"}]
    collected = [Share(FakeWorld(rank, found)).collect(found[rank], 4) for rank in range(3)]
    assert collected == [["a", "b", "c", "d"], None, None]


@pytest.mark.parametrize(
    "found",
    [
        [{0: "a"}, {2: "c"}],  # 1 is missing
        [{0: "a", 1: "b"}, {1: "b", 2: "c"}],  # 1 came twice
        [{0: "a", 1: "b"}, {1: "b"}],  # 1 came twice, 2 is missing
        [{0: "a", 1: "b"}, {2: "c", 3: "d"}],  # 3 is none
        [{}, {}],
    ],
)
def test_records_that_are_missing_or_came_twice_are_refused(found: list[dict[int, str]]) -> None:
    results = sum(map(len, found))
    with pytest.raises(AssertionError, match=f"3 records in, {results} results out"):
        Share(FakeWorld(0, found)).collect(found[0], 3)


def test_alone_what_was_found_must_be_whole_too() -> None:
    alone = Share(World.alone())
    assert alone.collect({1: "b", 0: "a"}, 2) == ["a", "b"]
    with pytest.raises(AssertionError, match="3 records in, 2 results out"):
        alone.collect({1: "b", 0: "a"}, 3)


def test_numbers_are_summed_each_by_itself() -> None:
    said = [[1.5, 2.0], [0.0, 0.0], [0.25, -2.0]]
    for rank in range(3):
        assert Share(FakeWorld(rank, said)).total(said[rank]) == [1.75, 0.0]
    assert Share(World.alone()).total((3.0, 4)) == [3.0, 4]
