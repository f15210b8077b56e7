"""An evaluation shared among processes: whose batches are whose, and what all found together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from workflow.batching import Indexes
from workflow.dealing import deal
from workflow.stop import Stop
from workflow.world import World

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process's share of an evaluation.

    Attributes:
        in_step: whether the model is one that all processes must call equally often, since each
            holds a part of it.
        stop: whether the evaluation is to end before it is complete.
    """

    world: World
    in_step: bool = False
    stop: Stop = field(default_factory=Stop)

    def of(
        self, batches: Sequence[Indexes], costs: Sequence[int]
    ) -> Iterator[tuple[Indexes, bool]]:
        """This process's batches, and whether each counts: some are there to keep step.

        Args:
            costs: what each batch costs, in any unit.

        Raises:
            Stopped: on all processes, when one of them was asked to stop.
        """
        dealt = deal(costs, self.world.size)
        mine = [(index, True) for index in dealt[self.world.rank]]
        if self.in_step and batches:
            cheapest = min(range(len(costs)), key=costs.__getitem__)
            mine += [(cheapest, False)] * (max(map(len, dealt)) - len(mine))
        for index, counts in mine:
            if self.in_step:
                self.stop.check()
            elif self.stop.requested():
                break
            yield batches[index], counts
        self.stop.check()

    def collect(self, found: dict[int, T], count: int) -> list[T] | None:
        """What all processes found for items 0 … `count` - 1, on the main one; None elsewhere."""
        parts = self.world.gather_on_main(found)
        if parts is None:
            return None
        together = {index: value for part in parts for index, value in part.items()}
        if sorted(together) != list(range(count)) or sum(map(len, parts)) != count:
            raise AssertionError(f"{count} records in, {sum(map(len, parts))} results out")
        return [together[index] for index in range(count)]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over processes of several numbers."""
        parts: list[Any] = self.world.gather(list(values))
        return [sum(of_all) for of_all in zip(*parts, strict=True)]
