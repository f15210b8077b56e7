"""Share an evaluation's batches among processes, and collect the results."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from workflow.data.bin_packing import balance_batches
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.inference.result_spool import ResultSpool
from workflow.models.batch import Batch

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

AT_ONCE = 1_000
"""Number of records whose results are collected at once."""

Take = Callable[[range, Iterator[Any]], None]
"""Takes the results of consecutive records, in order."""


@dataclass
class EvalShard:
    """This process's share of an evaluation.

    Attributes:
        lockstep: whether all processes must call the model equally often, as it is partitioned.
        stop: requests to abort the evaluation.
        folder: on whose disk results are kept until they are collected.
        failure: why this process cannot keep its results.
    """

    world: World
    lockstep: bool = False
    stop: Stop = field(default_factory=Stop)
    folder: Path | None = None
    failure: OSError | None = None

    def of(self, batches: Sequence[Chunk], costs: Sequence[int]) -> Iterator[tuple[Chunk, bool]]:
        """This process's batches, and whether each counts; the others only keep lockstep.

        Args:
            costs: the cost of each batch, in any unit.

        Raises:
            Stopped: on all processes, if any was asked to stop.
            OSError: on all processes, if any could not keep its results.
        """
        dealt = balance_batches(costs, self.world.size)
        mine = [(index, True) for index in dealt[self.world.rank]]
        if self.lockstep and batches:
            cheapest = min(range(len(costs)), key=costs.__getitem__)
            mine += [(cheapest, False)] * (max(map(len, dealt)) - len(mine))
        for index, counts in mine:
            if self.lockstep:
                self.stop.check(self.failure)
            elif self.failure or self.stop.requested():
                break
            yield batches[index], counts
        self.stop.check(self.failure)

    def computed(
        self,
        batches: Sequence[Chunk],
        costs: Sequence[int],
        collate: Callable[[Chunk], Batch],
        launch: Callable[[Batch], Result],
    ) -> Iterator[tuple[Chunk, bool, Result]]:
        """As `of`, with what `launch` returns for each batch, once the next one is collated.

        Reading a result waits for the GPU, which otherwise would be idle while the host collates.
        """
        collated = ((*of_one, collate(of_one[0])) for of_one in self.of(batches, costs))
        upcoming = next(collated, None)
        while upcoming is not None:
            chosen, counts, batch = upcoming
            result = launch(batch)
            upcoming = next(collated, None)
            yield chosen, counts, result

    def collect(self, results: Iterable[tuple[int, Any]], count: int, take: Take) -> float:
        """Pass all processes' results for items 0 … `count` - 1 to `take` on rank 0, in order.

        Its errors are raised on all processes.

        Args:
            results: item indexes and JSON-serializable values, computed from the batches of `of`.

        Returns:
            When all processes had computed their results, by `time.perf_counter`.

        Raises:
            Stopped: on all processes, if any was asked to stop.
        """
        with self.world.together(lambda: ResultSpool(count, self.folder)) as spool:
            for index, value in results:
                try:
                    spool.put(index, value)
                except OSError as error:
                    self.failure = error  # `of` raises it on all processes
            self.world.together(partial(self._flush, spool))
            computed = time.perf_counter()
            for start in range(0, count, AT_ONCE):
                indexes = range(start, min(start + AT_ONCE, count))
                if start:  # `of` has just checked
                    self.stop.check()
                here = self.world.together(partial(spool.between, indexes))
                parts = self.world.gather_on_rank_zero(here)
                self.world.on_rank_zero(partial(_give, take, indexes, parts))
        return computed

    def _flush(self, spool: ResultSpool) -> None:
        if self.failure:  # of the last batch's results, after `of`
            raise self.failure
        spool.flush()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over processes of several numbers."""
        parts: list[Any] = self.world.gather(list(values))
        return [sum(of_all) for of_all in zip(*parts, strict=True)]


def _give(take: Take, indexes: range, parts: Sequence[dict[int, bytes]] | None) -> None:
    """Pass the results of all processes for these indexes on, each exactly once and in order."""
    assert parts is not None
    together = {index: line for part in parts for index, line in part.items()}
    if sorted(together) != list(indexes) or sum(map(len, parts)) != len(indexes):
        counted = f"{len(indexes)} expected, {sum(map(len, parts))} found"
        raise AssertionError(f"results {indexes.start} to {indexes.stop - 1}: {counted}")
    take(indexes, (json.loads(together.pop(index)) for index in indexes))
