"""An evaluation shared by processes: each batch counts once, and all results are collected."""

import threading
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from workflow.distributed.world import World
from workflow.inference import eval_shard as share_module
from workflow.inference.eval_shard import EvalShard
from workflow.inference.result_spool import ResultSpool

T = TypeVar("T")


class FakeWorld(World):
    """A process that receives the given values of all, its own included."""

    def __init__(self, rank: int, said: Sequence[Any]):
        super().__init__(rank, len(said))
        self._said = list(said)

    def gather(self, value: T) -> list[T]:
        assert value == self._said[self.rank]
        return self._said

    def gather_on_rank_zero(self, value: T) -> list[T] | None:
        return self.gather(value) if self.is_rank_zero else None


def make_batches(seed: int, count: int) -> tuple[list[Any], list[int]]:
    generator = np.random.default_rng(seed)
    batches = np.split(generator.permutation(5 * count), count)
    return batches, generator.integers(1, 1000, count).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("lockstep", [False, True])
def test_every_batch_counts_once_and_in_step_all_are_called_equally_often(
    size: int, count: int, lockstep: bool
) -> None:
    for seed in range(5):
        batches, costs = make_batches(seed, count)
        shares = [list(EvalShard(World(rank, size), lockstep).of(batches, costs))
                  for rank in range(size)]  # fmt: skip
        counted = [batch for shard in shares for batch, counts in shard if counts]
        assert sorted(np.concatenate(counted).tolist()) == list(range(5 * count))
        cheapest = batches[int(np.argmin(costs))]
        fillers = [batch for shard in shares for batch, counts in shard if not counts]
        assert all(batch is cheapest for batch in fillers)
        calls = [len(shard) for shard in shares]
        if lockstep:
            most = max(sum(counts for _, counts in shard) for shard in shares)
            assert calls == [most] * size
        else:
            assert fillers == []


@pytest.mark.parametrize("size", [2, 3, 8])
def test_shares_cost_about_the_same(size: int) -> None:
    for seed in range(5):
        batches, costs = make_batches(seed, 40)
        cost_of = {id(batch): cost for batch, cost in zip(batches, costs, strict=True)}
        busy = [
            sum(cost_of[id(batch)] for batch, _ in EvalShard(World(rank, size)).of(batches, costs))
            for rank in range(size)
        ]
        assert max(busy) - min(busy) <= max(costs)


def test_a_share_is_in_the_order_of_the_batches() -> None:
    batches, costs = make_batches(0, 40)
    for rank in range(3):
        shard = [batch.tolist() for batch, _ in EvalShard(World(rank, 3)).of(batches, costs)]
        assert shard == [batch.tolist() for batch in batches if batch.tolist() in shard]


class Threads(World):
    """A process of a simulated world, whose processes are threads."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, said: list[Any]):
        super().__init__(rank, size)
        self._barrier, self._said = barrier, said

    def gather(self, value: T) -> list[T]:
        self._said[self.rank] = value
        self._barrier.wait(20)
        everything = list(self._said)
        self._barrier.wait(20)
        return everything

    def gather_on_rank_zero(self, value: T) -> list[T] | None:
        everything = self.gather(value)
        return everything if self.is_rank_zero else None

    def on_rank_zero(self, function: Callable[[], T]) -> T:
        result: Any = None
        failure: Exception | None = None
        if self.is_rank_zero:
            try:
                result = function()
            except Exception as error:
                failure = error
        result, failure = self.gather((result, failure))[0]
        if failure is not None:
            raise failure
        return result


def collect(found: Sequence[Sequence[tuple[int, Any]]], count: int) -> list[Any]:
    """Collect each process's results: what it took, or the error it raised."""
    size = len(found)
    barrier, said = threading.Barrier(size), [None] * size
    done: list[Any] = [None] * size

    def run(rank: int) -> None:
        taken: list[Any] = []
        shard = EvalShard(Threads(rank, size, barrier, said))
        try:
            shard.collect(
                iter(found[rank]), count,
                lambda at, values: taken.extend(zip(at, values, strict=True)),
            )  # fmt: skip
            done[rank] = taken
        except Exception as error:
            done[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 7, 22])
def test_every_result_comes_once_and_in_order_for_any_dealing(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_module, "AT_ONCE", 3)
    values = [{"text": f"{i} \u2028\n\ud800", "scores": [i / 3, None]} for i in range(count)]
    for seed in range(3):
        generator = np.random.default_rng(seed)
        found: list[list[Any]] = [[] for _ in range(size)]
        for index in generator.permutation(count).tolist():
            found[generator.integers(size)].append((index, values[index]))
        assert collect(found, count) == [list(enumerate(values)), *[[]] * (size - 1)]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([[(0, "a")], [(2, "c")]], "results 0 to 1: 2 expected, 1 found"),  # 1 is missing
        ([[(0, "a"), (1, "b")], [(1, "b"), (2, "c")]], "results 0 to 1: 2 expected, 3 found"),
        ([[(0, "a"), (0, "b")], [(2, "c")]], "result 0 is a duplicate"),
        ([[(0, "a"), (1, "b")], []], "results 2 to 2: 1 expected, 0 found"),
        ([[], []], "results 0 to 1: 2 expected, 0 found"),
        ([[(0, "a"), (0, "a")], [(0, "a"), (0, "a")]], "result 0 is a duplicate"),
        ([[(3, "d")], [(3, "d")]], "result 3 is a duplicate or out of range"),
        ([[(-1, "c")], [(-1, "c")]], "result -1 is a duplicate or out of range"),
    ],
)
def test_results_that_are_missing_or_came_twice_are_refused(
    found: list[list[tuple[int, str]]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_module, "AT_ONCE", 2)
    monkeypatch.setattr(threading.Barrier, "wait", _not_long(threading.Barrier.wait))
    errors = collect(found, 3)
    assert any(isinstance(error, AssertionError) and told in str(error) for error in errors)
    assert all(isinstance(error, Exception) for error in errors)


def _not_long(wait: Any) -> Any:
    """A process that ended lets the others wait, as in reality, until a launcher ends them."""
    return lambda barrier, timeout: wait(barrier, 1)


def test_a_batch_is_collated_before_the_result_of_the_one_before_is_read() -> None:
    events: list[str] = []

    def noting(event: str) -> Callable[[Any], Any]:
        def note(batch: Any) -> Any:
            events.append(f"{event} {batch}")
            return batch

        return note

    batches: Any = ["a", "b", "c"]
    computed = EvalShard(World()).computed(batches, [3, 2, 1], noting("collate"), noting("launch"))
    for chosen, counts, result in computed:
        assert counts
        assert chosen == result
        events.append(f"read {result}")
    assert events == [
        "collate a",
        "launch a", "collate b", "read a",
        "launch b", "collate c", "read b",
        "launch c", "read c",
    ]  # fmt: skip


def test_a_result_that_does_not_fit_the_disk_is_reported_even_if_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: ResultSpool, index: int, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResultSpool, "put", full)
    with pytest.raises(OSError, match="No space left"):
        EvalShard(World()).collect([(0, "text")], 1, lambda *_: None)


def test_values_are_kept_on_disk(tmp_path: Path) -> None:
    with ResultSpool(20_000, tmp_path) as found:
        tracemalloc.start()
        for index in range(20_000):
            found.put(index, "x" * 1_000)
        found.flush()
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()
        assert found.between(range(7, 9)) == dict.fromkeys((7, 8), b'"' + b"x" * 1000 + b'"\n')
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_summed_each_by_itself() -> None:
    said = [[1.5, 2.0], [0.0, 0.0], [0.25, -2.0]]
    for rank in range(3):
        assert EvalShard(FakeWorld(rank, said)).total(said[rank]) == [1.75, 0.0]
    assert EvalShard(World()).total((3.0, 4)) == [3.0, 4]
