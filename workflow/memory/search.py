"""What fits: the lightest setting of a job on a machine, and the largest micro-batch it allows."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workflow.core.errors import BadInput, Problem
from workflow.distributed.strategy import ShardingStrategy
from workflow.memory.estimate import Need, Work, predict, predict_evaluation
from workflow.memory.model_dims import Sizes

SPARED = 0.08
"""Share of a device's memory that is left: blocks freed are not always of the size asked for."""
GPU_BYTES = 1_000_000_000
"""Of each GPU for CUDA's context, its libraries and NCCL. Not measured: no GPU was at hand."""
GPU_HOST_BYTES = 3_000_000_000
"""Of the host for each process with a GPU, before it holds a model. Not measured either."""
CPU_BYTES = 450_000_000
"""Of the host for each process on CPUs, before it holds a model (benchmarks/memory/memory.py)."""
KEPT = 1.12
"""What plain torch takes on a CPU over what it uses at once: memory that it frees is kept for what
it allocates next (`workflow.models.kernels.cpu.tune_memory`); measured by
benchmarks/memory/memory.py."""

SYSTEM, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Where Linux tells of memory."""

FEWEST, MOST, MOST_ON_CPU = 256, 16_384, 2048
"""Positions of an automatic micro-batch."""


@dataclass(frozen=True)
class Machine:
    """Where a job runs, in bytes.

    Attributes:
        processes: of all nodes, one for each GPU.
        on_each: processes of each node.
        device_memory: of each GPU; of a CPU's process its part of the node's.
        host_memory: of each node; None where it is not known.
    """

    processes: int
    on_each: int
    device_memory: float
    host_memory: float | None
    on_gpu: bool = True

    @property
    def for_device(self) -> float:
        """What a process may take of its device."""
        taken = GPU_BYTES if self.on_gpu else CPU_BYTES
        return (1 - SPARED) * self.device_memory - taken

    @property
    def for_host(self) -> float:
        """What each process with a GPU may take of its host."""
        if self.host_memory is None:
            return float("inf")
        return (1 - SPARED) * self.host_memory / self.on_each - GPU_HOST_BYTES


@dataclass(frozen=True)
class PlanRequest:
    """What the user settled: stage, offload, positions of a micro-batch, DeepSpeed's own keys."""

    stage: int | None = None
    offload: str | None = None
    positions: int | None = None
    users: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A setting, what it needs, and what it allows.

    Attributes:
        least: the need of one process with the smallest micro-batch: an example by itself.
        positions: of the largest micro-batch that fits; None where the smallest does not.
        need: with that micro-batch; `least` where none fits.
    """

    strategy: ShardingStrategy | None
    least: Need
    positions: int | None
    need: Need


def this_machine(processes: int, on_each: int) -> Machine:
    """This machine, for `on_each` of a job's processes; the other nodes are taken to be alike."""
    host = available_memory()
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine(processes, on_each, float(memory), host)
    return Machine(processes, on_each, host / on_each, host, on_gpu=False)


def available_memory() -> float:
    """Bytes of this host that a new process can have, as far as the system and its group tell."""
    found = [_available_of_system(), *_left_of_group()]
    return float(min(found))


def _available_of_system() -> float:
    try:
        lines = SYSTEM.read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return float(sizes["MemAvailable"])
    except (OSError, KeyError, ValueError):  # not Linux
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 2


def _left_of_group() -> Iterator[float]:
    """What a control group's limit leaves, in version 2 or 1, where there is one.

    What it holds of files does not count: the system drops it for who needs memory.
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


def plans(
    sizes: Sizes, machine: Machine, work: Work, request: PlanRequest, trains: bool
) -> list[Plan]:
    """Every setting that the user leaves open, the lightest first."""
    settings = _settings(machine, request, trains)
    return [_plan(sizes, machine, work, strategy, request, trains) for strategy in settings]


def choose(
    sizes: Sizes, machine: Machine, work: Work, request: PlanRequest, trains: bool = True
) -> Plan:
    """The lightest setting that fits, with the largest micro-batch that it allows.

    Args:
        work: its positions and processes are not read.

    Raises:
        BadInput: where nothing fits; it says what is needed, what is there, what would fit.
    """
    found = plans(sizes, machine, work, request, trains)
    for plan in found:
        if plan.positions is not None:
            return plan
    raise BadInput([_nothing_fits(sizes, machine, work, request, trains, found)])


def _settings(
    machine: Machine, request: PlanRequest, trains: bool
) -> list[ShardingStrategy | None]:
    """In the order in which they are tried.

    A single process has nothing to divide, and a CPU's memory is the host's: there, only what is
    asked for by name is tried.
    """
    stage = request.users.get("zero_optimization", {}).get("stage", request.stage)
    if not trains:
        whole = stage != 3
        divided = stage == 3 or (stage is None and machine.processes > 1)
        return [None] * whole + [ShardingStrategy(3, users=request.users)] * divided
    alone = machine.processes == 1 and not request.users
    found: list[ShardingStrategy | None] = []
    if alone and stage is None and request.offload in (None, "none"):
        found.append(None)
    for offload in ("none", "optimizer", "all"):
        if offload != (request.offload or offload):
            continue
        if request.offload is None and offload != "none" and not machine.on_gpu:
            continue
        if offload == "none" and alone and stage is None:
            continue
        stages = (3,) if offload == "all" else (1, 2, 3)
        found += [
            ShardingStrategy(each, offload, users=request.users)
            for each in stages
            if each == (stage or each)
        ]
    return found


def _plan(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    strategy: ShardingStrategy | None,
    request: PlanRequest,
    trains: bool,
) -> Plan:
    """A setting with the largest micro-batch; ZeRO-3 gathers to evaluate where that fits too."""
    partly = dataclasses.replace(strategy, gathers=False) if strategy else None

    def need(positions: int, strategy: ShardingStrategy | None = partly) -> Need:
        placed = dataclasses.replace(
            work, positions=positions, processes=machine.processes, on_gpu=machine.on_gpu
        )
        return (predict if trains else predict_evaluation)(sizes, placed, strategy)

    least = need(request.positions or FEWEST)
    if not fits(least, machine, strategy):
        return Plan(partly, least, None, least)
    positions = request.positions or FEWEST
    if request.positions is None:
        most = MOST if machine.on_gpu else MOST_ON_CPU
        while positions < most:  # by steps of a sixteenth, which are as fine as this is exact
            more = min(most, positions + max(64, positions // 16))
            if not fits(need(more), machine, strategy):
                break
            positions = more
    if strategy is None or strategy.stage < 3:
        return Plan(strategy, least, positions, need(positions, strategy))
    gathering = need(positions, strategy)
    if fits(gathering, machine, strategy):
        return Plan(strategy, least, positions, gathering)
    return Plan(partly, least, positions, need(positions))


def fits(need: Need, machine: Machine, strategy: ShardingStrategy | None) -> bool:
    """Whether a process can have what it needs, of device and host."""
    if machine.on_gpu:
        return need.device <= machine.for_device and need.host <= machine.for_host
    return on_cpu(need, strategy) <= machine.for_device


def on_cpu(need: Need, strategy: ShardingStrategy | None) -> float:
    """Bytes of a process whose device is the host."""
    return need.both * (KEPT if strategy is None else 1.0)


def _nothing_fits(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    request: PlanRequest,
    trains: bool,
    found: list[Plan],
) -> Problem:
    """What is needed at least, what is there, and what would help."""

    def times(plan: Plan) -> float:
        """Of what is there, what is needed: of the device or the host, whichever lacks more."""
        if not machine.on_gpu:
            return on_cpu(plan.least, plan.strategy) / max(1.0, machine.for_device)
        of_device = plan.least.device / max(1.0, machine.for_device)
        return max(of_device, plan.least.host / max(1.0, machine.for_host))

    best = min(found, key=times)
    what = "device" if machine.on_gpu else "process"
    least = best.least.device if machine.on_gpu else on_cpu(best.least, best.strategy)
    there = f"{amount(machine.for_device)} for the model of each {what}"
    need = f"{amount(least)} a {what}"
    if machine.on_gpu and best.least.host > machine.for_host:
        there += f", {amount(machine.for_host)} of the host for each"
        need += f", {amount(best.least.host)} of the host each"
    mends = _mends(sizes, machine, work, request, trains)
    mend = "; ".join(mends) or "use a smaller model, or more memory"
    return Problem("memory", there, f"at least {need} ({name_of(best.strategy)})", mend)


def _mends(
    sizes: Sizes, machine: Machine, work: Work, request: PlanRequest, trains: bool
) -> list[str]:
    """What would fit, each by itself."""

    def would(
        machine: Machine = machine, work: Work = work, request: PlanRequest = request
    ) -> bool:
        return any(plan.positions for plan in plans(sizes, machine, work, request, trains))

    mends = []
    if request.positions is not None and would(
        request=dataclasses.replace(request, positions=None)
    ):
        mends.append("leave out --micro_batch_tokens")
    unasked = dataclasses.replace(request, stage=None, offload=None)
    if unasked != request and would(request=unasked):
        mends.append("leave out --zero_stage and --offload")
    recomputing = dataclasses.replace(work, gradient_checkpointing=True)
    if trains and recomputing != work and would(work=recomputing):
        mends.append("add --gradient_checkpointing")
    for times in (2, 4, 8, 16, 32):
        nodes = times * machine.processes
        if would(machine=dataclasses.replace(machine, processes=nodes)):
            mends.append(f"use {nodes} processes on {times} times as many machines")
            break
    return mends


def amount(size: float) -> str:
    """Bytes as users read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size, 0) / 1e6:.0f} MB"


def name_of(strategy: ShardingStrategy | None) -> str:
    """A setting in a table: ZeRO 3, offload optimizer."""
    if strategy is None:
        return "plain torch"
    offload = "" if strategy.offload == "none" else f", offload {strategy.offload}"
    return f"ZeRO {strategy.stage}{offload}"
