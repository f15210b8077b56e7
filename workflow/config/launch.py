"""Flags of how a job is launched, which are not part of the job."""

from dataclasses import dataclass
from functools import partial

from workflow.config.field_types import boolean, choice, integer, memory, or_auto, text
from workflow.config.flags import flag
from workflow.config.inputs import RUN
from workflow.config.request import PROCESSES

_processes = partial(flag, PROCESSES)
_run = partial(flag, RUN)


@dataclass(frozen=True)
class LaunchOptions:
    """Where a job runs and in how many processes, or for which machine it is planned."""

    num_processes: int | None = _processes(
        integer(1), "processes on this machine [one per GPU, else 1]"
    )
    device: str | None = _processes(
        or_auto(choice("cpu", "cuda")), "cpu, or cuda for GPUs [auto: cuda if there are GPUs]"
    )
    local_rank: int | None = _processes(integer(-1), "accepted from launchers, and ignored")
    dry_run: bool = _processes(
        boolean(),
        "only show the memory plan: what the job takes, and what fits",
        False,
        common=True,
    )
    plan_gpus: int | None = _processes(
        integer(1), "GPUs per node to plan for, with --dry_run [this machine's]"
    )
    plan_gpu_memory: float | None = _processes(memory(), "memory per GPU, e.g. 80GB")
    plan_host_memory: float | None = _processes(
        memory(), "host memory per node, e.g. 512GB [unlimited]"
    )
    plan_nodes: int | None = _processes(integer(1), "nodes to plan for [1]")
    mount: str | None = _run(
        text("DIR"), "folder with data/ and models/ [$WORKFLOW_MOUNT, /model_mount or ./mount]"
    )
    config: str | None = _run(text("FILE"), "JSON file of flags; the command line overrides it")
