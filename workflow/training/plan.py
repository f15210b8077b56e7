"""A job's memory plan: which setting fits the machine; also for --dry_run."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from workflow.config.deepspeed_file import offload_of, read_deepspeed_file
from workflow.config.job import JobSpec
from workflow.config.launch import LaunchOptions
from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, Problem
from workflow.data.step_planner import POSITIONS_AT_ONCE
from workflow.distributed.device import fast_bf16
from workflow.distributed.strategy import ShardingStrategy
from workflow.distributed.world import World
from workflow.memory.activations import Work
from workflow.memory.machine import Machine, this_machine
from workflow.memory.model_dims import Sizes, sizes_of
from workflow.memory.render import render_plans
from workflow.memory.search import PlanRequest, choose, plans
from workflow.models.folders import check_folder
from workflow.models.hub import fetch_settings
from workflow.models.settings import fit_lengths
from workflow.runs.mount import Mount
from workflow.runs.resume_state import ComputedWith
from workflow.tasks.base import Examples
from workflow.training.adapters import adopt_adapter, find_model_and_adapter
from workflow.training.compilation import problems_of_sharding
from workflow.tuning import tuning_of


@dataclass(frozen=True)
class EarlierStart:
    """Constraints that an earlier start of the run left.

    Attributes:
        computed: how the resumed run was computed. The same number of processes keeps that setting
            if it still fits, so that the results are the same bit for bit.
        max_padded_tokens: of a micro-batch, after an out-of-memory error.
    """

    computed: ComputedWith | None = None
    max_padded_tokens: int | None = None


def plan_job(
    sizes: Sizes,
    spec: JobSpec,
    data: Mapping[str, Examples],
    machine: Machine,
    earlier: EarlierStart,
) -> tuple[ShardingStrategy | None, int]:
    """The lightest sharding strategy that fits, and the positions of a micro-batch.

    Raises:
        BadInput: if nothing fits, or the model cannot be sharded so.
    """
    if problems := _problems_of_dividing(spec):  # of an adapter's own settings
        raise BadInput(problems)
    work, request = _work_of(spec, data), _request_of(spec)
    plan, computed = None, earlier.computed
    if computed is not None and computed.processes == machine.processes:
        with suppress(BadInput):
            plan = choose(sizes, machine, work, _as_earlier(request, computed))
    plan = plan or choose(sizes, machine, work, request)
    if problems := problems_of_sharding(spec, plan.strategy):
        raise BadInput(problems)
    assert plan.positions is not None
    return plan.strategy, min(plan.positions, earlier.max_padded_tokens or plan.positions)


def describe_plans(
    sizes: Sizes, spec: JobSpec, data: Mapping[str, Examples], machine: Machine
) -> list[str]:
    """The job's memory need on a machine under each setting, and what fits."""
    work = _work_of(spec, data)
    return render_plans(sizes, machine, work, plans(sizes, machine, work, _request_of(spec)))


def _work_of(spec: JobSpec, data: Mapping[str, Examples]) -> Work:
    """What a job with known records computes."""
    source = max(int(examples.sources.lengths.max()) for examples in data.values())
    source += spec.virtual_positions - spec.virtual_ids
    target = max(int(examples.targets.lengths.max()) for examples in data.values())
    return _work(spec, spec.bf16, source, max(1, target), len(data["eval"]))


def _as_earlier(request: PlanRequest, earlier: ComputedWith) -> PlanRequest:
    """Fill what the user left open with the earlier settings."""
    request = dataclasses.replace(request, positions=request.positions or earlier.positions)
    if request.stage is not None or request.offload is not None or request.users:
        return request  # stage and offload belong together
    return dataclasses.replace(request, stage=earlier.stage or None, offload=earlier.offload)


def dry_run(
    request: JobRequest,
    launch: LaunchOptions,
    mount: Mount,
    world: World,
    problems: Sequence[Problem],
) -> list[str]:
    """The job's memory need under each setting; of the model only config.json is read.

    Assumes examples of the maximum lengths; the data is not read.

    Raises:
        BadInput: with all problems of the flags and the model's name.
    """
    problems = [*problems, *_contradictions(launch)]
    machine = _machine(launch, world)
    problems += problems_of_processes(request, machine.processes)
    source, adapter, found = find_model_and_adapter(mount, request)
    problems += found
    problems += own_settings(request)[1]
    if problems:
        raise BadInput(problems)
    request = adopt_adapter(adapter, request)
    folder = fetch_settings(source)
    check_folder(folder)
    sizes = sizes_of(folder, request.dropout_rate, tuning_of(request, adapter).apply, request.bits)
    request, problems = fit_lengths(request, AutoConfig.from_pretrained(folder))
    problems += _problems_of_dividing(request)
    if problems:
        raise BadInput(problems)
    bf16 = request.bf16 if request.bf16 is not None else launch.plan_gpus is not None or fast_bf16()
    target = request.max_target_length if request.writes_texts else 1
    source_length = request.max_source_length + request.virtual_positions
    work = _work(request, bf16, source_length, target, records=None)
    return render_plans(sizes, machine, work, plans(sizes, machine, work, _request_of(request)))


def own_settings(request: JobRequest) -> tuple[dict[str, Any], list[Problem]]:
    """The settings in the --deepspeed file, and its problems; empty without the flag."""
    if request.deepspeed is None:
        return {}, []
    path = Path(request.deepspeed).expanduser()
    return read_deepspeed_file(path, request.zero_stage, request.offload)


def problems_of_processes(request: JobRequest, processes: int) -> list[Problem]:
    """The problems of running a job on this many processes."""
    return [*_problems_of_optimizer(request, processes), *_problems_of_dividing(request)]


def _problems_of_dividing(request: JobRequest) -> list[Problem]:
    """ZeRO-3 gathers a module's weights when it is called.

    The kernels of quantized layers, and peft's DoRA, read them at other times.
    """
    settings = _request_of(request)
    if not settings.whole or not (settings.own_stage == 3 or settings.offload == "all"):
        return []
    flag = f"--load_in_{request.bits}bit" if request.bits else "--use_dora"
    expected = "ZeRO 1, ZeRO 2 or plain torch, whose weights are whole"
    hint = f"use --zero_stage 2 without --offload all, or remove {flag}"
    return [Problem(flag, "set with ZeRO 3, which divides the weights", expected, hint)]


def _problems_of_optimizer(request: JobRequest, processes: int) -> list[Problem]:
    if request.optim == "adamw_torch" or request.no_train:
        return []
    found = f"{request.optim} on {processes} processes"
    if processes == 1:
        if not (request.zero_stage or request.deepspeed or request.offload not in (None, "none")):
            return []
        found = f"{request.optim} under DeepSpeed"
    expected = "adamw_torch, as ZeRO flattens the matrices that Adafactor factors"
    if request.optim != "adafactor":
        expected = "adamw_torch, whose optimizer state ZeRO can shard"
    hint = "use --optim adamw_torch, or --num_processes 1 without DeepSpeed"
    return [Problem("--optim", found, expected, hint)]


def _request_of(request: JobRequest) -> PlanRequest:
    """The settings that the user fixed by flags or a DeepSpeed file."""
    users, _ = own_settings(request)
    offload = offload_of(users)
    own = offload if offload != "none" else request.offload
    whole = request.bits is not None or request.use_dora
    return PlanRequest(request.zero_stage, own, request.micro_batch_tokens, users, whole)


def _work(request: JobRequest, bf16: bool, source: int, target: int, records: int | None) -> Work:
    new_tokens = (request.max_new_tokens or target) if request.writes_texts else 1
    of_record = source + max(request.n_samples, request.num_beams) * new_tokens
    generated = max(of_record, POSITIONS_AT_ONCE)
    if records is not None:
        generated = min(generated, records * of_record)
    return Work(
        bf16=bf16,
        source_length=source,
        target_length=target,
        positions=0,
        trains=not request.no_train,
        gradient_checkpointing=request.gradient_checkpointing,
        generated=generated,
        moments={"adafactor": 0, "adamw_bnb_8bit": 2 + 8 / 256}.get(request.optim, 8),
    )


def _machine(launch: LaunchOptions, world: World) -> Machine:
    """The machine described by --plan_*, else this one."""
    if launch.plan_gpus is None:
        return this_machine(world)
    return Machine(
        processes=launch.plan_gpus * (launch.plan_nodes or 1),
        on_each=launch.plan_gpus,
        device_memory=launch.plan_gpu_memory or 0.0,
        host_memory=launch.plan_host_memory,
    )


def _contradictions(launch: LaunchOptions) -> list[Problem]:
    given = [name for name in ("plan_gpu_memory", "plan_host_memory", "plan_nodes")
             if getattr(launch, name) is not None]  # fmt: skip
    if launch.plan_gpus is None and given:
        where = f"--{given[0]}"
        expected = "the number of GPUs per node too"
        return [Problem(where, "set without --plan_gpus", expected, "add --plan_gpus N")]
    if launch.plan_gpus is not None and launch.plan_gpu_memory is None:
        found, hint = "set without --plan_gpu_memory", "add --plan_gpu_memory, e.g. 80GB"
        return [Problem("--plan_gpus", found, "the memory of each GPU too", hint)]
    return []
