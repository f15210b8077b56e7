"""Recognize out-of-memory errors, and report what was requested, what is free and what helps."""

import errno
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import clear_frames

import torch

from workflow.core.errors import OutOfMemory
from workflow.distributed.world import World
from workflow.memory.machine import amount, available_memory
from workflow.memory.search import FEWEST
from workflow.models.batch import Batch
from workflow.training.prepare import Job

_REQUESTED = re.compile(r"allocate ([\d.]+) (bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # of a MIG device (pytorch#112377)
)
"""Parts of the messages of errors that have no class of their own."""


@dataclass(frozen=True)
class Shape:
    """The padded shape of a micro-batch."""

    rows: int
    source: int
    target: int

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        rows, source = batch.input_ids.shape
        return cls(rows, source, batch.decoder_input_ids.shape[1])

    @property
    def positions(self) -> int:
        return self.rows * (self.source + self.target)

    def __str__(self) -> str:
        rows = f"{self.rows} row{'s' * (self.rows > 1)}"
        if not self.target:
            return f"{rows} of {self.source} positions"
        return f"{rows} of {self.source} source and {self.target} target positions"


@contextmanager
def oom_context(
    job: Job, world: World, what: str, shape: Shape | None = None, evaluates: bool = False
) -> Iterator[None]:
    """Raise OutOfMemory in place of the libraries' out-of-memory errors.

    Args:
        what: what the block does, for the message.
        shape: of the training micro-batch computed here, if any: only then is its bound halved.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        clear_frames(error.__traceback__)  # they hold the tensors that filled the memory
        computing = f" on {shape}" if shape else ""
        shortage = _shortage(str(error))
        positions = halved_bound(job) if shape else None
        if shape:
            hints = _of_micro_batch(job, world, positions)
        else:
            remedies = _of_evaluation(job) if evaluates else _of_states(job, world)
            hints = f". Hint: {', or '.join(remedies)}"
        message = f"{what}: out of memory{computing} ({shortage}, {_available()}){hints}"
        recorded = positions if job.request.micro_batch_tokens is None else None
        raise OutOfMemory(message, recorded) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def halved_bound(job: Job) -> int | None:
    """Half the positions of a micro-batch; None if micro-batches cannot be smaller.

    Examples are never split, and an automatic bound is at least FEWEST.
    """
    spec = job.spec
    longest = max(
        int((examples.sources.lengths + examples.targets.lengths).max())
        for examples in job.examples.values()
    )
    least = max(longest, FEWEST if job.request.micro_batch_tokens is None else 1)
    half = max(least, spec.micro_batch_tokens // 2)
    return half if half < spec.micro_batch_tokens else None


def _shortage(error: str) -> str:
    found = _REQUESTED.search(error)
    if found is None:
        return "size of the request unknown"
    return f"{amount(float(found[1]) * _UNITS[found[2]])} requested"


def _available() -> str:
    """The free memory of the device or the host after the failure."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{amount(free)} of the GPU's {amount(total)} free"
    return f"{amount(available_memory())} of host memory free{_limit()}"


def _limit() -> str:
    """The memory limit of this process, which the host's free memory does not show."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f", limit {amount(limit)} per process by ulimit -v"


def _of_micro_batch(job: Job, world: World, positions: int | None) -> str:
    """The end of the message on a micro-batch that does not fit; the cheapest remedy first."""
    spec = job.spec
    can = job.recomputes and not spec.gradient_checkpointing
    hints = ["add --gradient_checkpointing"] if can else []
    hints += _of_states(job, world)
    bound = spec.micro_batch_tokens
    if positions is None:
        longer = "--max_source_length" + " or --max_target_length" * spec.writes_texts
        hints.append(f"reduce {longer} (micro-batches of {bound} positions are the smallest)")
    elif job.request.micro_batch_tokens is not None:
        hints.insert(0, f"set --micro_batch_tokens {positions} (now {bound})")
    else:
        first = f"; the next start limits micro-batches to {positions} positions (was {bound})"
        return f"{first}. Hint: if that is not enough, {', or '.join(hints)}"
    return f". Hint: {', or '.join(hints)}"


def _of_evaluation(job: Job) -> list[str]:
    rows = job.spec.eval_batch_size
    hints = [] if rows == 1 else [f"set --eval_batch_size {rows // 2 if rows else 8}"]
    return [*hints, "use a machine with more memory"]


def _of_states(job: Job, world: World) -> list[str]:
    """Remedies that reduce weights, gradients and optimizer state per process."""
    strategy, hints = job.strategy, []
    if world.size > 1 and strategy is not None and strategy.stage < 3:
        hints.append("set --zero_stage 3")
    if torch.cuda.is_available() and (strategy is None or strategy.offload == "none"):
        hints.append("set --offload optimizer")
    return [*hints, "use more processes, each with its own memory"]
