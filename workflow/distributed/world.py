"""The processes of a job: ranks and communication."""

import datetime
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    HashStore,
    PrefixStore,
    rendezvous,
)

from workflow.core.errors import RunFailed, WorkflowError
from workflow.distributed.device import free_memory
from workflow.distributed.network import LONGEST_MEETING, meet, why_unreachable

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

LONGEST_WAIT = datetime.timedelta(days=1)
"""For a rank that evaluates, writes or tokenizes; the launcher notices one that died."""
LONGEST_LEAVE = datetime.timedelta(seconds=10)
"""For all ranks to leave after the first."""


class World:
    """All processes of a job; only rank 0 prints and writes.

    method                  runs on             its result
    rank_zero_first         all, rank 0 first   each rank's own       before `begin`
    decided_by_rank_zero    rank 0              rank 0's, for all     within rank_zero_first
    on_rank_zero            rank 0              rank 0's, for all     after `begin`
    together                all                 each rank's own       after `begin`

    Errors of one rank are raised on all. After `begin` all ranks must make the same calls.

    Attributes:
        rank, size: of this process, and of the job.
        local_size: the number of processes on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1, store: Any = None):
        self.rank = rank
        self.size = size
        self.local_size = local_size
        self._store = store
        self._prepared = 0

    @classmethod
    def joined(cls) -> "World":
        """The world that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT name.

        Collectives need `begin`; before that, rank 0 may take its time.

        Raises:
            RunFailed: if rank 0, or another machine, cannot be reached.
        """
        first = os.environ["RANK"] == "0"  # waits for the others
        longest = LONGEST_WAIT if first else datetime.timedelta(seconds=LONGEST_MEETING)
        meeting = os.environ["MASTER_ADDR"]
        try:
            store, rank, size = next(rendezvous("env://", timeout=longest))
        except DistError:
            if first:
                raise
            raise RunFailed(why_unreachable(meeting, int(os.environ["MASTER_PORT"]))) from None
        store.set_timeout(LONGEST_WAIT)
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if size > local_size and (failure := meet(meeting, rank, size, store, os.environ)):
            raise shared(RunFailed(failure))
        store.set(f"free memory {rank}", str(free_memory()))
        return cls(rank, size, local_size, store)

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def has_file(self, number: int) -> bool:
        """Whether this process reads file `number` of several."""
        return number % self.size == self.rank

    def rank_zero_first(self, prepare: Callable[[], T]) -> T:
        """Call `prepare` on rank 0 first, so that the others find its results in the cache.

        Errors of rank 0 are raised on all.
        """
        if self._store is None:
            return prepare()
        self._prepared += 1
        if not self.is_rank_zero:
            self._raise_of(0)
        prepared, failure = _attempt(prepare)
        self._store.set(self._key(self.rank), pickle.dumps(failure and _sendable(failure)))
        if failure is not None:
            raise shared(failure)
        for rank in range(self.size):
            self._raise_of(rank)
        return cast(T, prepared)

    def _raise_of(self, rank: int) -> None:
        """Wait for a rank's outcome, and raise its error, if any."""
        failure = pickle.loads(self._store.get(self._key(rank)))
        if failure is not None:
            raise shared(failure)

    def _key(self, what: object) -> str:
        """A key in the store, for the job that `rank_zero_first` started."""
        return f"job {self._prepared}: {what}"

    def decided_by_rank_zero(self, decide: Callable[[], T]) -> T:
        """The result of `decide` on rank 0, on every rank; once within `rank_zero_first`."""
        if self._store is None:
            return decide()
        if self.is_rank_zero:
            decided = decide()
            self._store.set(self._key("decided"), pickle.dumps(decided))
            return decided
        received: T = pickle.loads(self._store.get(self._key("decided")))
        return received

    def free_memory(self) -> float:
        """Free bytes of the GPU with the least, of all ranks; waits until all have joined.

        Infinite for a world that is yet to be launched: measuring would take memory of a GPU.
        """
        if self._store is None:
            return free_memory() if self.size == 1 else float("inf")
        return min(float(self._store.get(f"free memory {rank}")) for rank in range(self.size))

    def begin(self, device: torch.device, alone_too: bool = False) -> None:
        """Initialize NCCL between GPUs, gloo between CPUs; required by all methods below.

        Args:
            alone_too: also for a single process, as DeepSpeed requires.
        """
        if dist.is_initialized() or (self.size == 1 and not alone_too):
            return
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
        if device.type == "cuda":
            torch.cuda.set_device(device)
            os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed's device
        store = HashStore() if self._store is None else self._store
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("workflow", store),
            rank=self.rank,
            world_size=self.size,
            timeout=LONGEST_WAIT,
            # NCCL cannot bind a single process to its device (DeepSpeed#8248).
            device_id=device if device.type == "cuda" and self.size > 1 else None,
        )

    def end(self) -> None:
        """Leave cleanly: rank 0, which may hold the store, after the others."""
        if dist.is_initialized():
            dist.destroy_process_group()
        if self._store is not None:
            with suppress(RuntimeError):  # the store is gone with rank 0, or a rank with its job
                self._store.set(f"left {self.rank}", "")
                if self.is_rank_zero:
                    keys = [f"left {rank}" for rank in range(self.size)]
                    self._store.wait(keys, LONGEST_LEAVE)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_on_rank_zero(self, value: T) -> list[T] | None:
        """The value of every rank, by rank, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_rank_zero else None
        dist.gather_object(value, values, dst=0)
        return values

    def sum(self, value: float) -> float:
        """The sum of every rank's value, in the order of ranks."""
        return sum(self.gather(value))

    def on_rank_zero(self, function: Callable[[], T]) -> T:
        """The result, or error, of a function on rank 0, on every rank."""
        if self.size == 1:
            return function()
        found, failure = _attempt(function) if self.is_rank_zero else (None, None)
        outcome: list[Any] = [found, failure and _sendable(failure)]
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise failure or shared(outcome[1])
        return cast(T, outcome[0])

    def send_request(self, reason: str) -> None:
        """Send a request to stop to all ranks; does not block.

        It concerns the job that `rank_zero_first` started.
        """
        if self._store is not None:
            self._store.set(self._key("stop"), reason)

    def received_request(self) -> str | None:
        """The request that any rank has sent, or None."""
        if self._store is None or not self._store.check([self._key("stop")]):
            return None
        return str(self._store.get(self._key("stop")).decode())

    def together(self, function: Callable[[], T]) -> T:
        """The result of a function on each rank; an error of one rank is raised on all.

        (Only WorkflowError and OSError: any other ends its process, and the launcher the others.)
        Use it between what may fail on one rank and what needs all of them.
        """
        found, failure = _attempt(function, (WorkflowError, OSError))
        failure = self.agree(failure)
        if failure is not None:
            raise failure
        return cast(T, found)

    def agree(self, error: Exception | None) -> Exception | None:
        """The first error that any rank has, by rank, on every rank."""
        found = next((found for found in self.gather(error) if found is not None), None)
        return None if found is None else shared(found)


def shared(error: E) -> E:
    """Mark an error as raised on all processes; only rank 0 prints it."""
    error.shared = True  # type: ignore[attr-defined]
    return error


def _attempt(
    function: Callable[[], T], caught: type[Exception] | tuple[type[Exception], ...] = Exception
) -> tuple[T | None, Exception | None]:
    """The result of a function, or its error."""
    try:
        return function(), None
    except caught as error:
        return None, error


def _sendable(error: Exception) -> Exception:
    """The error to send to other processes: itself, if it can be pickled."""
    if isinstance(error, WorkflowError | OSError):
        return error
    return RunFailed(f"rank 0 failed ({type(error).__name__}: {error})")
