"""An evaluation shared among processes: whose batches are whose, and the results of all."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from workflow.data.bin_packing import balance_batches
from workflow.data.step_planner import Indexes
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.inference.result_spool import ResultSpool

AT_ONCE = 1_000
"""Records whose results all processes put together at once."""

Take = Callable[[range, Iterator[Any]], None]
"""Takes the results of some neighbouring records, in their order."""


@dataclass
class EvalShard:
    """This process's share of an evaluation.

    Attributes:
        lockstep: whether the model is one that all processes must call equally often, since each
            holds a part of it.
        stop: whether the evaluation is to end before it is complete.
        folder: on whose disk results lie, until they are put together.
        failure: why this process cannot keep its results.
    """

    world: World
    lockstep: bool = False
    stop: Stop = field(default_factory=Stop)
    folder: Path | None = None
    failure: OSError | None = None

    def of(
        self, batches: Sequence[Indexes], costs: Sequence[int]
    ) -> Iterator[tuple[Indexes, bool]]:
        """This process's batches, and whether each counts: some are there to keep step.

        Args:
            costs: what each batch costs, in any unit.

        Raises:
            Stopped: on all processes, when one of them was asked to stop.
            OSError: on all processes, when one of them could not keep its results.
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

    def collect(self, results: Iterable[tuple[int, Any]], count: int, take: Take) -> float:
        """Give `take`, on the main process, the results of all for items 0 … `count` - 1, in order.

        What fails there is raised on all processes.

        Args:
            results: an item's index and what JSON can hold of it, made of the batches of `of`.

        Returns:
            When all processes had their results, by `time.perf_counter`.

        Raises:
            Stopped: on all processes, when one of them was asked to stop.
        """
        with self.world.together(lambda: ResultSpool(count, self.folder)) as spool:
            for index, value in results:
                try:
                    spool.put(index, value)
                except OSError as error:
                    self.failure = error  # the other processes hear of it from `of`
            self.world.together(spool.flush)
            computed = time.perf_counter()
            for start in range(0, count, AT_ONCE):
                indexes = range(start, min(start + AT_ONCE, count))
                if start:  # `of` has just looked
                    self.stop.check()
                here = self.world.together(partial(spool.between, indexes))
                parts = self.world.gather_on_rank_zero(here)
                self.world.on_rank_zero(partial(_give, take, indexes, parts))
        return computed

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over processes of several numbers."""
        parts: list[Any] = self.world.gather(list(values))
        return [sum(of_all) for of_all in zip(*parts, strict=True)]


def _give(take: Take, indexes: range, parts: Sequence[dict[int, bytes]] | None) -> None:
    """Give the results of all processes for these indexes, each exactly once and in order."""
    assert parts is not None
    together = {index: line for part in parts for index, line in part.items()}
    if sorted(together) != list(indexes) or sum(map(len, parts)) != len(indexes):
        counted = f"{len(indexes)} in, {sum(map(len, parts))} results out"
        raise AssertionError(f"records {indexes.start} to {indexes.stop - 1}: {counted}")
    take(indexes, (json.loads(together.pop(index)) for index in indexes))
