"""The world that a launcher created for this process, read from its environment.

torchrun, deepspeed's launcher and Kubernetes' training operator set `RANK`. Slurm has variables of
its own, and sets them outside of steps too, so they are read with care.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from workflow.core.errors import BadInput, Problem, shorten

# Below Linux's ephemeral ports, which begin at 32768, and Kubernetes' node ports, at 30000.
FIRST_PORT = 15_000
PORTS = 15_000
# Slurm's step IDs for batch scripts, interactive shells, and the like.
FIRST_SPECIAL_STEP = 0xFFFF_FFF0
HIGHEST_COUNT = 1_000_000


@dataclass(frozen=True)
class Membership:
    """This process's place in a world of `size` processes, `local_size` of them on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    master_address: str
    master_port: int


def find_world(environment: Mapping[str, str]) -> Membership | None:
    """The world of this process; None without a launcher.

    A launcher's world of one process is returned too, to respect the launcher's choice. A Slurm
    step of one task is not a world: like a shell, it has all devices of the job.

    Raises:
        BadInput: if the variables are invalid or contradictory.
    """
    values = _Values(environment)
    world = None
    if values.text("RANK"):
        world = _launched_world(values)
    elif _in_step_of_tasks(environment):
        world = _slurm_world(values)
    elif values.text("WORLD_SIZE") not in ("", "1"):
        values.report("WORLD_SIZE", "RANK, MASTER_ADDR and MASTER_PORT as well")
    if world and not values.problems:
        _check_places(world, values)
    if values.problems:
        raise BadInput(values.problems)
    return world


def join(membership: Membership, environment: MutableMapping[str, str]) -> None:
    """Set the variables that torch.distributed (`env://`) and deepspeed read.

    Each process gets its share of the cores as threads, unless OMP_NUM_THREADS is set. torchrun
    sets it to 1, with which an optimizer in host memory would take many times as long. srun binds
    each task to its share already, if it binds tasks.
    """
    bound = "RANK" not in environment and environment.get("SLURM_CPU_BIND_TYPE", "")[:1] == "m"
    of_torchrun = "1" if "TORCHELASTIC_RUN_ID" in environment else ""
    if environment.get("OMP_NUM_THREADS", "") in ("", of_torchrun):
        sharing = 1 if bound else membership.local_size  # mask_cpu or map_cpu
        threads = max(1, len(os.sched_getaffinity(0)) // sharing)
        environment["OMP_NUM_THREADS"] = str(threads)
    environment["RANK"] = str(membership.rank)
    environment["WORLD_SIZE"] = str(membership.size)
    environment["LOCAL_RANK"] = str(membership.local_rank)
    environment["LOCAL_WORLD_SIZE"] = str(membership.local_size)
    environment["MASTER_ADDR"] = membership.master_address
    environment["MASTER_PORT"] = str(membership.master_port)


def first_host(hosts: str) -> str:
    """The first name of Slurm's list of hosts, e.g. node01 of node[01-03,07],other5."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()) if first else ""


def tasks_by_node(counts: str) -> list[int] | None:
    """Slurm's tasks per node, e.g. 2(x3),1 as [2, 2, 2, 1]; None for any other format."""
    tasks: list[int] = []
    for part in counts.split(","):
        found = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part, re.ASCII)
        if not found:
            return None
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


@dataclass(frozen=True)
class _Values:
    """Read variables, and collect their problems."""

    environment: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)

    def text(self, name: str) -> str:
        return self.environment.get(name, "").strip()

    def report(self, name: str, expected: str) -> None:
        found = shorten(self.text(name)) if self.text(name) else "not set"
        hint = "start the job with one launcher (torchrun, srun, deepspeed), or unset the variable"
        self.problems.append(Problem(f"environment variable {name}", found, expected, hint))

    def needed(self, name: str, expected: str) -> str:
        if not self.text(name):
            self.report(name, expected)
        return self.text(name)

    def number(self, name: str, least: int, most: int, default: int | None = None) -> int:
        text = self.text(name)
        if not text and default is not None:
            return default
        if re.fullmatch(r"\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        self.report(name, f"an integer from {least} to {most}")
        return least


def _launched_world(values: _Values) -> Membership:
    size = values.number("WORLD_SIZE", 1, HIGHEST_COUNT)
    # deepspeed's launcher sets LOCAL_SIZE; with one process per pod neither is set
    local_name = "LOCAL_WORLD_SIZE" if values.text("LOCAL_WORLD_SIZE") else "LOCAL_SIZE"
    if values.text("LOCAL_RANK") and size > 1 and not values.text(local_name):
        values.report("LOCAL_WORLD_SIZE", "the number of processes on this machine")
    return Membership(
        rank=values.number("RANK", 0, HIGHEST_COUNT),
        size=size,
        local_rank=values.number("LOCAL_RANK", 0, HIGHEST_COUNT, default=0),
        local_size=values.number(local_name, 1, HIGHEST_COUNT, default=1),
        master_address=values.needed("MASTER_ADDR", "the host name of rank 0"),
        master_port=values.number("MASTER_PORT", 1, 65_535),
    )


def _in_step_of_tasks(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of several; shells and scripts have IDs too."""
    step, tasks = environment.get("SLURM_STEP_ID", ""), environment.get("SLURM_STEP_NUM_TASKS", "")
    numeric = all(re.fullmatch(r"\d{1,12}", text, re.ASCII) for text in (step, tasks))
    return numeric and int(step) < FIRST_SPECIAL_STEP and int(tasks) > 1


def _slurm_world(values: _Values) -> Membership:
    size = values.number("SLURM_STEP_NUM_TASKS", 2, HIGHEST_COUNT)
    step = values.number("SLURM_STEP_ID", 0, FIRST_SPECIAL_STEP)
    port = FIRST_PORT + (101 * values.number("SLURM_JOB_ID", 0, 10**9) + step) % PORTS
    # sbatch and salloc called inside a step pass its SLURM_STEP_ variables on to their own job
    kept = "; another is left over from an outer step, or by srun --preserve-env"
    for name, why in (("SLURM_NTASKS", kept), ("WORLD_SIZE", "")):
        if values.number(name, 1, HIGHEST_COUNT, default=size) != size:
            values.report(name, f"{size}, as SLURM_STEP_NUM_TASKS{why}")
    host = first_host(values.text("SLURM_STEP_NODELIST"))
    return Membership(
        rank=values.number("SLURM_PROCID", 0, HIGHEST_COUNT),
        size=size,
        local_rank=values.number("SLURM_LOCALID", 0, HIGHEST_COUNT),
        local_size=_slurm_local_size(values),
        # not SLURM_LAUNCH_NODE_IPADDR: srun may run on a login node, without tasks
        master_address=values.text("MASTER_ADDR") or host or values.needed("MASTER_ADDR", "a host"),
        master_port=values.number("MASTER_PORT", 1, 65_535, default=port),
    )


def _slurm_local_size(values: _Values) -> int:
    tasks = tasks_by_node(values.text("SLURM_STEP_TASKS_PER_NODE"))
    if not tasks:
        values.report("SLURM_STEP_TASKS_PER_NODE", "tasks per node, e.g. 2(x3),1")
        return 1
    return tasks[values.number("SLURM_NODEID", 0, len(tasks) - 1)]


def _check_places(world: Membership, values: _Values) -> None:
    """Reject a rank outside of its world, which would wait for others forever."""
    slurm = not values.text("RANK")
    if world.rank >= world.size:
        name, most = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS") if slurm else ("RANK", "WORLD_SIZE")
        values.report(name, f"less than {world.size}, the value of {most}")
    if world.local_size > world.size:
        name = "SLURM_STEP_TASKS_PER_NODE" if slurm else "LOCAL_WORLD_SIZE"
        values.report(name, f"at most {world.size}, the number of all processes")
    if world.local_rank >= world.local_size or world.local_rank > world.rank:
        highest = min(world.local_size - 1, world.rank)
        values.report("SLURM_LOCALID" if slurm else "LOCAL_RANK", f"at most {highest}")
