"""An evaluation shared among processes: whose batches are whose, and what all found together."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from workflow.data.bin_packing import balance_batches
from workflow.data.step_planner import Indexes
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.inference.result_spool import ResultSpool, nameless_file

AT_ONCE = 1_000
"""Records whose results all processes put together at once."""

Take = Callable[[range, Iterator[Any]], None]
"""Takes what was found for some neighbouring records, in their order."""


@dataclass
class EvalShard:
    """This process's share of an evaluation.

    Attributes:
        lockstep: whether the model is one that all processes must call equally often, since each
            holds a part of it.
        stop: whether the evaluation is to end before it is complete.
        folder: on whose disk lies what processes find, until it is put together.
        failure: why this process cannot keep what it finds.
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
            OSError: on all processes, when one of them could not keep what it found.
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

    @contextmanager
    def keeping(self, results: Iterable[tuple[int, Any]], count: int) -> Iterator[ResultSpool]:
        """Keep what this process finds, for `collect`, until the block ends.

        Args:
            results: an item's index and what JSON can hold of it, made of the batches of `of`.
            count: how many items all processes have.
        """
        with ExitStack() as opened:
            found = self.world.together(
                lambda: ResultSpool(count, opened.enter_context(nameless_file(self.folder)))
            )
            for index, value in results:
                try:
                    found.put(index, value)
                except OSError as error:
                    self.failure = error  # the other processes hear of it from `of`
            self.world.together(found.flush)
            yield found

    def collect(self, found: ResultSpool, count: int, take: Take) -> None:
        """Give `take`, on the main process, what all found for items 0 … `count` - 1, in order.

        What fails there is raised on all processes.

        Raises:
            Stopped: on all processes, when one of them was asked to stop.
        """
        for start in range(0, count, AT_ONCE):
            indexes = range(start, min(start + AT_ONCE, count))
            if start:  # `of` has just looked
                self.stop.check()
            here = self.world.together(partial(found.between, indexes))
            parts = self.world.gather_on_rank_zero(here)
            self.world.on_rank_zero(partial(_give, take, indexes, parts))

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over processes of several numbers."""
        parts: list[Any] = self.world.gather(list(values))
        return [sum(of_all) for of_all in zip(*parts, strict=True)]


def _give(take: Take, indexes: range, parts: Sequence[dict[int, bytes]] | None) -> None:
    """Give what all processes found for these indexes, each exactly once and in order."""
    assert parts is not None
    together = {index: line for part in parts for index, line in part.items()}
    if sorted(together) != list(indexes) or sum(map(len, parts)) != len(indexes):
        told = f"{len(indexes)} in, {sum(map(len, parts))} results out"
        raise AssertionError(f"records {indexes.start} to {indexes.stop - 1}: {told}")
    take(indexes, (json.loads(together.pop(index)) for index in indexes))
