"""Where a job is run from: flags that are not part of the job itself."""

from dataclasses import dataclass
from functools import partial

from workflow.config.field_types import boolean, integer, memory, text
from workflow.config.flags import flag
from workflow.config.request import PROCESSES, RUN

_processes = partial(flag, PROCESSES)
_run = partial(flag, RUN)


@dataclass(frozen=True)
class LaunchOptions:
    """Where, and by how many processes, a job is run; or on what machine it is planned."""

    num_processes: int | None = _processes(
        integer(1), "processes on this machine [one a GPU, else 1]"
    )
    local_rank: int | None = _processes(
        integer(-1), "accepted from launchers, which say it otherwise too [-]"
    )
    dry_run: bool = _processes(
        boolean(), "only say what memory the job takes, and what fits", False
    )
    plan_gpus: int | None = _processes(
        integer(1), "GPUs a node to plan for, with --dry_run [this machine's]"
    )
    plan_gpu_memory: float | None = _processes(memory(), "memory of each of them, as 80GB [-]")
    plan_host_memory: float | None = _processes(
        memory(), "memory of each node, as 512GB [as much as is asked for]"
    )
    plan_nodes: int | None = _processes(integer(1), "nodes to plan for [1]")
    mount: str | None = _run(
        text(), "holds data/ and models/ [$WORKFLOW_MOUNT, /model_mount, or ./mount]"
    )
    config: str | None = _run(
        text(), "a JSON file of these flags; the command line overrides it [-]"
    )
