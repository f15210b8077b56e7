"""The resources that a job requests, in the same flags for all schedulers."""

import dataclasses
import os
import re
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workflow.cluster.job_record import folder_of
from workflow.config.field_types import (
    boolean,
    duration,
    integer,
    memory,
    pairs,
    text,
    texts,
    words,
)
from workflow.config.flags import flag
from workflow.core.errors import Problem, shorten
from workflow.runs.mount import Mount

_cluster = partial(flag, "cluster")
_for_one = partial(flag, "scheduler-specific settings")
_SECRET = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|PASS|PWD|CREDENTIALS?|KEYS?|API_?KEY)($|_)",
    re.IGNORECASE,
)
_IS_SECRET = "a value for a likely secret"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNED = re.compile(r"(?:^|[;&|\s])([A-Za-z_][A-Za-z0-9_]*)=")


@dataclass(frozen=True)
class Cluster:
    """The "cluster" part of a job file, and the flags of `python3 -m workflow submit`.

    Times are in seconds, memory in bytes.
    """

    name: str | None = _cluster(text(), "job name in the queue [the run's name]")
    num_nodes: int = _cluster(integer(1), "number of nodes", 1)
    gpus_per_node: int = _cluster(integer(0), "GPUs per node; 0 runs on CPUs", 0)
    gpu_type: str | None = _cluster(text(), "GPU type as the cluster names it, e.g. a100")
    gpu_memory: float | None = _cluster(
        memory(with_unit=True), "memory per GPU, e.g. 80GB, to check that the job fits"
    )
    cpus_per_task: int | None = _cluster(integer(1), "CPU cores per node [the cluster's default]")
    memory: float | None = _cluster(
        memory(with_unit=True), "memory per node, e.g. 512GB [the cluster's default]"
    )
    time: int | None = _cluster(
        duration(),
        "time limit, e.g. 12h; the job saves before it and is requeued [the cluster's default]",
    )
    container: str | None = _cluster(
        text(), "image; a prefix pyxis:, apptainer: or docker: selects the runtime"
    )
    mounts: tuple[str, ...] = _cluster(
        words("folders SOURCE or SOURCE:TARGET", "SOURCE[:TARGET]"),
        "folders to mount in the container, in addition to the project and --mount",
        (),
    )
    envs: dict[str, str | None] | None = _cluster(
        pairs("environment variables NAME or NAME=VALUE", "NAME[=VALUE]", may_lack_value=True),
        "environment variables; NAME alone, for secrets, takes its value from this shell "
        "(Kubernetes: from a Secret)",
    )
    setup: tuple[str, ...] = _cluster(
        texts(), "shell commands to run before the job, e.g. 'module load cuda'", ()
    )
    max_restarts: int = _cluster(
        integer(0), "limit of requeues (Slurm) or restarts (Kubernetes)", 20
    )
    dependency: str | None = _cluster(
        text(), "run or job ID that must succeed before this job starts, or any sbatch dependency"
    )
    high_priority: bool = _cluster(
        boolean(), "not supported; set a partition, QOS or priority class instead", False
    )
    login: bool = _cluster(boolean(), "not supported; batch jobs are not interactive", False)
    shared_host_dir: str | None = _cluster(text(), "folder that --command sees as data/")
    command: str | None = _cluster(
        text(), "job as one shell command, instead of the arguments after --"
    )
    slurm: dict[str, Any] | None = _for_one(
        pairs("#SBATCH options NAME=VALUE or NAME", "NAME[=VALUE]", may_lack_value=True),
        "other #SBATCH options, e.g. partition=gpu account=me",
    )
    kubernetes: dict[str, Any] | None = _for_one(
        pairs("settings NAME=VALUE", "NAME=VALUE"),
        "pvc=CLAIM or host_path=FOLDER for the mount, and other settings (see the docs)",
    )


ALIASES = {
    "gpu": "gpus_per_node",
    "gpus-type": "gpu_type",
    "high-priority": "high_priority",
    "shared-host-dir": "shared_host_dir",
}
"""Flag names of the tool that these jobs were submitted with before."""


@dataclass(frozen=True)
class Submission:
    """One job as it is submitted.

    Attributes:
        task: the script to run.
        arguments: the script's flags, without --num_processes.
        run_name: its folder in mount/models.
        processes: per node.
        folder: working directory of the job, and base of relative paths.
        project: the folder of the scripts.
        margin: seconds between the stop signal and the time limit, in which the job saves.
        cluster: the requested resources.
    """

    task: str
    arguments: tuple[str, ...]
    run_name: str
    processes: int
    folder: Path
    project: Path
    mount: Mount
    margin: int
    cluster: Cluster = Cluster()

    @property
    def run(self) -> Path:
        return self.mount.models / self.run_name

    @property
    def job_folder(self) -> Path:
        """The folder of its text, record and log."""
        return folder_of(self.mount, self.run_name)

    @property
    def script(self) -> Path:
        return self.project / f"{self.task}.py"

    @property
    def threads(self) -> int | None:
        """Cores per process; None if no cores were requested."""
        cores = self.cluster.cpus_per_task
        return None if cores is None else max(1, cores // self.processes)

    @property
    def python(self) -> Path:
        """The interpreter of the project's .venv, else the current one."""
        own = self.project / ".venv" / "bin" / "python"
        return own if own.exists() else Path(sys.executable)

    def setup_lines(self) -> list[str]:
        """Return shell lines that export the environment, then the user's --setup."""
        values = {"WORKFLOW_MOUNT": str(self.mount.root), "HF_HUB_OFFLINE": "1"}
        values |= {k: str(v) for k, v in (self.cluster.envs or {}).items() if v is not None}
        if self.threads is not None:
            values.setdefault("OMP_NUM_THREADS", str(self.threads))
        exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
        return [*exports, *self.cluster.setup]


def problems_of(cluster: Cluster, kind: str, hints: dict[str, str]) -> list[Problem]:
    """Report invalid values, and flags that this kind of scheduler does not support.

    Args:
        hints: remedies by the name of each unsupported flag.
    """
    problems = [*_problems_of_envs(cluster.envs or {}, kind), *_problems_of_mounts(cluster)]
    unsupported = {
        "high_priority": "remove it",
        "login": "remove it; `python3 -m workflow logs -f RUN` follows the job",
    } | hints
    defaults = {field.name: field.default for field in dataclasses.fields(Cluster)}
    problems += [
        not_supported(name, kind, hint)
        for name, hint in unsupported.items()
        if getattr(cluster, name) != defaults[name]
    ]
    if cluster.gpu_type is not None and not cluster.gpus_per_node:
        found = f"{shorten(cluster.gpu_type)} without --gpus_per_node"
        problems.append(Problem("--gpu_type", found, "GPUs", "add --gpus_per_node N"))
    names = [name for line in cluster.setup for name in _ASSIGNED.findall(line)]
    problems += [
        Problem(f"--setup: {name}=", _IS_SECRET, "the name alone", f"write --envs {name} instead")
        for name in names
        if _SECRET.search(name)
    ]
    return problems


def not_supported(name: str, kind: str, hint: str) -> Problem:
    word = next((alias for alias in ALIASES if ALIASES[alias] == name and "-" in alias), name)
    return Problem(f"--{word}", f"not supported by `submit {kind}`", "no value", hint)


def _problems_of_envs(envs: dict[str, str | None], kind: str) -> list[Problem]:
    problems = []
    from_here = kind != "kubernetes"  # which takes values of bare names from a Secret
    for name, value in envs.items():
        where = f"--envs {shorten(name)}"
        if not _NAME.fullmatch(name):
            expected = "letters, digits and _, not starting with a digit"
            problems.append(Problem(where, "not a variable name", expected, "correct the name"))
        elif value is None and from_here and name not in os.environ:
            hint = f"export {name}, or write {name}=VALUE if it is not a secret"
            problems.append(Problem(where, "not set in this shell", "an exported variable", hint))
        elif value is not None and not isinstance(value, str | int | float):
            problems.append(Problem(where, shorten(value), "a string", "write it in quotes"))
        elif value is not None and _SECRET.search(name):
            place = "export it in this shell" if from_here else "store it in a Kubernetes Secret"
            hint = f"{place}, and write --envs {name}"
            problems.append(Problem(where, _IS_SECRET, "the name alone", hint))
    return problems


def _problems_of_mounts(cluster: Cluster) -> list[Problem]:
    problems = []
    for mount in cluster.mounts:
        if not all(path.startswith("/") for path in parts_of_mount(mount)):
            where, hint = f"--mounts {shorten(mount)}", "write absolute paths"
            expected = "SOURCE or SOURCE:TARGET, both starting with /"
            problems.append(Problem(where, "a relative path", expected, hint))
    if cluster.mounts and cluster.container is None:
        hint = "add --container IMAGE, or remove it; without a container all folders are visible"
        problems.append(Problem("--mounts", "set without --container", "a container", hint))
    return problems


def parts_of_mount(mount: str) -> tuple[str, str]:
    source, _, target = mount.partition(":")
    return source, target or source
