"""Find the lightest setting of a job that fits a machine, and its largest micro-batch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow.core.errors import BadInput, Problem
from workflow.distributed.strategy import ShardingStrategy
from workflow.memory.activations import Work
from workflow.memory.estimate import Need, predict
from workflow.memory.machine import Machine, amount
from workflow.memory.model_dims import Sizes

KEPT = 1.12
"""Memory that plain torch takes on a CPU over what is in use: freed memory is kept for the next
allocations (`workflow.models.kernels.cpu.tune_memory`; measured by benchmarks/memory/memory.py)."""

FEWEST, MOST, MOST_ON_CPU = 256, 65_536, 2048
"""Bounds of an automatic micro-batch, in positions. MOST keeps a fast GPU busy with the smallest
models: flan-t5-small takes 2,600 kernels forward and backward, which the host launches in 26 ms and
an H100 computes in 38 ms for so many positions (estimated: 10 µs a kernel, 400 TFLOP/s)."""


@dataclass(frozen=True)
class PlanRequest:
    """What limits the settings of a job.

    Attributes:
        stage, offload, positions: those of ZeRO and of a micro-batch; None where the user has none.
        users: the user's own DeepSpeed settings.
        whole: whether weights must not be divided, as by ZeRO-3.
    """

    stage: int | None = None
    offload: str | None = None
    positions: int | None = None
    users: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    whole: bool = False

    @property
    def own_stage(self) -> int | None:
        """The stage that the user fixed by either."""
        stage: int | None = self.users.get("zero_optimization", {}).get("stage", self.stage)
        return stage


@dataclass(frozen=True)
class Plan:
    """A setting, its memory need, and its largest micro-batch.

    Attributes:
        least: the need of one process with the smallest micro-batch, a single example.
        positions: of the largest micro-batch that fits; None if the smallest does not.
        need: with that micro-batch; `least` if none fits.
    """

    strategy: ShardingStrategy | None
    least: Need
    positions: int | None
    need: Need


def plans(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> list[Plan]:
    """Every setting that the user leaves open, the lightest first.

    Args:
        work: its positions and processes are ignored.
    """
    settings = _settings(machine, request, work.trains)
    return [_plan(sizes, machine, work, strategy, request.positions) for strategy in settings]


def choose(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> Plan:
    """The lightest setting that fits, with the largest micro-batch that it allows.

    Args:
        work: its positions and processes are ignored.

    Raises:
        BadInput: if nothing fits, with what is available, needed, and would fit.
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
    """The settings in the order in which they are tried.

    A single process has nothing to shard, and a CPU nothing to offload: there, only what is
    requested explicitly is tried.
    """
    stage = request.own_stage
    if not trains:
        whole = stage != 3
        divided = stage == 3 or (stage is None and machine.processes > 1 and not request.whole)
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
            if each == (stage or each) and not (each == 3 and request.whole)
        ]
    return found


def _plan(
    sizes: Sizes,
    machine: Machine,
    work: Work,
    strategy: ShardingStrategy | None,
    requested: int | None,
) -> Plan:
    """A setting with its largest micro-batch; ZeRO-3 gathers for evaluation if that fits too.

    Args:
        requested: the positions of a micro-batch, if the user set them.
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
    while positions < most:  # in steps of 1/16, as fine as this is exact
        more = min(most, positions + max(64, positions // 16))
        if not fits(need(more), machine, strategy):
            break
        positions = more
    gathering = need(positions, strategy)
    if fits(gathering, machine, strategy):
        return Plan(strategy, least, positions, gathering)
    return Plan(partly, least, positions, need(positions))


def fits(need: Need, machine: Machine, strategy: ShardingStrategy | None) -> bool:
    """Whether a process's need fits device and host."""
    if machine.on_gpu:
        return need.device <= machine.for_device and need.host <= machine.for_host
    return on_cpu(need, strategy) <= machine.for_device


def on_cpu(need: Need, strategy: ShardingStrategy | None) -> float:
    """Bytes of a process whose device is the host."""
    return need.both * (KEPT if strategy is None else 1.0)


def taken(plan: Plan, machine: Machine) -> float:
    """The minimum bytes of a process on its device, which may be the host."""
    return plan.least.device if machine.on_gpu else on_cpu(plan.least, plan.strategy)


def _nothing_fits(machine: Machine, found: list[Plan], hints: list[str]) -> Problem:
    """The memory available, the minimum need, and what would fit."""

    def times(plan: Plan) -> float:
        """The need over what is available, of device or host, whichever is worse."""
        of_device = taken(plan, machine) / max(1.0, machine.for_device)
        of_host = plan.least.host / max(1.0, machine.for_host) if machine.on_gpu else 0.0
        return max(of_device, of_host)

    best = min(found, key=times)
    what = "GPU" if machine.on_gpu else "process"
    there = f"{amount(machine.for_device)} per {what} for the model"
    need = f"{amount(taken(best, machine))} per {what}"
    if machine.on_gpu and best.least.host > machine.for_host:
        there += f", {amount(machine.for_host)} of host memory"
        need += f", {amount(best.least.host)} of host memory"
    hint = ", or ".join(hints) or "use a smaller model, or a machine with more memory"
    return Problem("memory", there, f"at least {need} with {name_of(best.strategy)}", hint)


def _hints(sizes: Sizes, machine: Machine, work: Work, request: PlanRequest) -> list[str]:
    """Single changes that would make the job fit."""

    def would(machine: Machine, work: Work, request: PlanRequest) -> bool:
        return any(plan.positions for plan in plans(sizes, machine, work, request))

    can = work.trains and sizes.modules.recomputes
    recomputing = can or work.gradient_checkpointing
    changes = {
        "remove --micro_batch_tokens": (work, dataclasses.replace(request, positions=None)),
        "remove --zero_stage and --offload": (
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
        processes = times * machine.processes
        if would(dataclasses.replace(machine, processes=processes), work, request):
            return [*hints, f"use {processes} processes on {times} times as many nodes"]
    return hints


def name_of(strategy: ShardingStrategy | None) -> str:
    """The name of a setting, e.g. ZeRO 3, offload optimizer."""
    if strategy is None:
        return "plain torch"
    offload = "" if strategy.offload == "none" else f", offload {strategy.offload}"
    return f"ZeRO {strategy.stage}{offload}"
