"""What fits: the lightest setting of a job on a machine, and the largest micro-batch it allows."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from workflow.core.errors import BadInput, Problem
from workflow.distributed.strategy import ShardingStrategy
from workflow.memory.activations import Work
from workflow.memory.estimate import Need, predict
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

GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells of control groups."""

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
    return float(min([psutil.virtual_memory().available, *_left_of_group()]))


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


def plans(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> list[Plan]:
    """Every setting that the user leaves open, the lightest first.

    Args:
        work: its positions and processes are not read.
    """
    settings = _settings(machine, request, work.trains)
    return [_plan(sizes, machine, work, strategy, request.positions) for strategy in settings]


def choose(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> Plan:
    """The lightest setting that fits, with the largest micro-batch that it allows.

    Args:
        work: its positions and processes are not read.

    Raises:
        BadInput: where nothing fits; it says what is needed, what is there, what would fit.
    """
    found = plans(sizes, machine, work, request)
    for plan in found:
        if plan.positions is not None:
            return plan
    hints = _hints(sizes, machine, work, request)
    raise BadInput([_nothing_fits(machine, found, hints)])


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
    offloads = ["none", "optimizer", "all"] if machine.on_gpu else ["none"]
    found: list[ShardingStrategy | None] = []
    for offload in [request.offload] if request.offload else offloads:
        if offload == "none" and machine.processes == 1 and not request.users and stage is None:
            found.append(None)
            continue
        found += [
            ShardingStrategy(each, offload, users=request.users)
            for each in ((3,) if offload == "all" else (1, 2, 3))
            if each == (stage or each)
        ]
    return found


def _plan(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    strategy: ShardingStrategy | None,
    requested: int | None,
) -> Plan:
    """A setting with the largest micro-batch; ZeRO-3 gathers to evaluate where that fits too.

    Args:
        requested: the positions of a micro-batch, where the user settled them.
    """
    partly = dataclasses.replace(strategy, gathers=False) if strategy else None
    work = dataclasses.replace(work, processes=machine.processes, on_gpu=machine.on_gpu)

    def need(positions: int, strategy: ShardingStrategy | None = partly) -> Need:
        return predict(sizes, dataclasses.replace(work, positions=positions), strategy)

    positions = requested or FEWEST
    least = need(positions)
    if not fits(least, machine, strategy):
        return Plan(partly, least, None, least)
    most = requested or (MOST if machine.on_gpu else MOST_ON_CPU)
    while positions < most:  # by steps of a sixteenth, which are as fine as this is exact
        more = min(most, positions + max(64, positions // 16))
        if not fits(need(more), machine, strategy):
            break
        positions = more
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


def taken(plan: Plan, machine: Machine) -> float:
    """Bytes that a process takes of its device, which may be the host, with least."""
    return plan.least.device if machine.on_gpu else on_cpu(plan.least, plan.strategy)


def _nothing_fits(machine: Machine, found: list[Plan], hints: list[str]) -> Problem:
    """What is needed at least, what is there, and what would help."""

    def times(plan: Plan) -> float:
        """Of what is there, what is needed: of the device or the host, whichever lacks more."""
        of_device = taken(plan, machine) / max(1.0, machine.for_device)
        of_host = plan.least.host / max(1.0, machine.for_host) if machine.on_gpu else 0.0
        return max(of_device, of_host)

    best = min(found, key=times)
    what = "device" if machine.on_gpu else "process"
    there = f"{amount(machine.for_device)} for the model of each {what}"
    need = f"{amount(taken(best, machine))} a {what}"
    if machine.on_gpu and best.least.host > machine.for_host:
        there += f", {amount(machine.for_host)} of the host for each"
        need += f", {amount(best.least.host)} of the host each"
    hint = "; ".join(hints) or "use a smaller model, or more memory"
    return Problem("memory", there, f"at least {need} ({name_of(best.strategy)})", hint)


def _hints(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> list[str]:
    """What would fit, each by itself."""

    def would(machine: Machine, work: Work, request: PlanRequest) -> bool:
        return any(plan.positions for plan in plans(sizes, machine, work, request))

    recomputing = work.trains or work.gradient_checkpointing
    changes = {
        "leave out --micro_batch_tokens": (work, dataclasses.replace(request, positions=None)),
        "leave out --zero_stage and --offload": (
            work, dataclasses.replace(request, stage=None, offload=None),
        ),
        "add --gradient_checkpointing": (
            dataclasses.replace(work, gradient_checkpointing=recomputing), request,
        ),
    }  # fmt: skip
    hints = [
        hint
        for hint, changed in changes.items()
        if changed != (work, request) and would(machine, *changed)
    ]
    for times in (2, 4, 8, 16, 32):
        nodes = times * machine.processes
        if would(dataclasses.replace(machine, processes=nodes), work, request):
            return [*hints, f"use {nodes} processes on {times} times as many machines"]
    return hints


def amount(size: float) -> str:
    """Bytes as users read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size, 0) / 1e6:.0f} MB"


def name_of(strategy: ShardingStrategy | None) -> str:
    """A setting in a table: ZeRO 3, offload optimizer."""
    if strategy is None:
        return "plain torch"
    offload = "" if strategy.offload == "none" else f", offload {strategy.offload}"
    return f"ZeRO {strategy.stage}{offload}"
