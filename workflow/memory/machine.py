"""The memory of the machine that a job runs on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from workflow.core.console import log
from workflow.distributed.world import World

SPARED = 0.08
"""Share of a device's memory that is kept free for fragmentation."""
IGNORED = 0.04
"""Share of a GPU's memory that may be in use (a CUDA context, a display) without a smaller plan."""
GPU_BYTES = 1_000_000_000
"""Bytes of each GPU for the CUDA context, libraries and NCCL (estimated, not measured)."""
GPU_HOST_BYTES = 3_000_000_000
"""Host bytes of each GPU process before it holds a model (estimated, not measured)."""
CPU_BYTES = 450_000_000
"""Host bytes of each CPU process before it holds a model (benchmarks/memory/memory.py)."""
GROUP = Path("/sys/fs/cgroup")
"""The control groups of Linux."""


@dataclass(frozen=True)
class Machine:
    """The machine that a job runs on; memory in bytes.

    Attributes:
        processes: on all nodes, one per GPU.
        on_each: processes per node.
        device_memory: per GPU; for a CPU process its part of the node's.
        host_memory: per node; None if unknown.
    """

    processes: int
    on_each: int
    device_memory: float
    host_memory: float | None
    on_gpu: bool = True

    @property
    def for_device(self) -> float:
        """Device memory that a process may use."""
        taken = GPU_BYTES if self.on_gpu else CPU_BYTES
        return (1 - SPARED) * self.device_memory - taken

    @property
    def for_host(self) -> float:
        """Host memory that each GPU process may use."""
        if self.host_memory is None:
            return float("inf")
        return (1 - SPARED) * self.host_memory / self.on_each - GPU_HOST_BYTES


def this_machine(world: World) -> Machine:
    """This machine, for the processes of a job; assumes that all nodes are alike.

    Of a GPU that others use as well, only what is free counts.
    """
    host = available_memory()
    if not torch.cuda.is_available():
        return Machine(world.size, world.local_size, host / world.local_size, host, on_gpu=False)
    total = float(torch.cuda.get_device_properties(0).total_memory)
    memory = min(total, world.free_memory() / (1 - IGNORED))
    if memory < total:
        left = f"{amount(memory)} of {amount(total)}"
        log.warning("other programs use the GPU: the plan is for %s", left)
    return Machine(world.size, world.local_size, memory, host)


def available_memory() -> float:
    """Bytes of host memory that a new process can have, by the system and its control group."""
    return float(min([psutil.virtual_memory().available, *_left_of_group()]))


def _left_of_group() -> Iterator[float]:
    """Bytes below the limit of the control group (version 2 or 1), if there is one.

    Its page cache does not count: the system drops it when memory is needed.
    """
    for limit, used, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            left = float((GROUP / limit).read_text()) - float((GROUP / used).read_text())
            lines = (GROUP / statistics).read_text().splitlines()
        except (OSError, ValueError):  # no such group, or "max"
            continue
        held = dict(line.split() for line in lines)
        yield left + float(held["inactive_file"]) + float(held["active_file"])


def amount(size: float) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size, 0) / 1e6:.0f} MB"
