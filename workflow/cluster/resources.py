"""What a job asks of a cluster, in words that do not depend on which cluster it is."""

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
_for_one = partial(flag, "for one kind of cluster")
_SECRET = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|PASS|PWD|CREDENTIALS?|KEYS?|API_?KEY)($|_)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNED = re.compile(r"(?:^|[;&|\s])([A-Za-z_][A-Za-z0-9_]*)=")


@dataclass(frozen=True)
class Cluster:
    """The "cluster" part of a job file, and the flags of `python3 -m workflow submit`.

    Times are in seconds, memory in bytes.
    """

    name: str | None = _cluster(text(), "the job's name in the queue [the run's]")
    num_nodes: int = _cluster(integer(1), "machines", 1)
    gpus_per_node: int = _cluster(integer(0), "GPUs of each; 0: on CPUs", 0)
    gpu_type: str | None = _cluster(text(), "kind of GPU, as the cluster names it [-]")
    gpu_memory: float | None = _cluster(
        memory(with_unit=True), "memory of each GPU, as 80GB: what fits is checked by it [-]"
    )
    cpus_per_task: int | None = _cluster(
        integer(1), "cores of each machine [the cluster's default]"
    )
    memory: float | None = _cluster(
        memory(with_unit=True), "memory of each machine, as 512GB [the cluster's default]"
    )
    time: int | None = _cluster(
        duration(),
        "the longest that the job runs at a time, as 12h; it saves before that and is queued again "
        "[the cluster's default]",
    )
    container: str | None = _cluster(
        text(), "image to run in; pyxis:, apptainer: or docker: before it says by what [none]"
    )
    mounts: tuple[str, ...] = _cluster(
        words("folders SOURCE or SOURCE:TARGET", "SOURCE[:TARGET]"),
        "folders that the container sees besides the project and the mount [-]",
        (),
    )
    envs: dict[str, str | None] | None = _cluster(
        pairs("environment variables NAME or NAME=VALUE", "NAME[=VALUE]", may_lack_value=True),
        "environment variables; NAME alone passes what it holds here, and is how secrets go [-]",
    )
    setup: tuple[str, ...] = _cluster(
        texts(), "shell lines before the job, as 'module load cuda' [-]", ()
    )
    max_restarts: int = _cluster(
        integer(0), "how often the job is queued again before it gives up", 20
    )
    dependency: str | None = _cluster(
        text(), "a run, or a job's number, that has to end well before; or as sbatch has it [-]"
    )
    high_priority: bool = _cluster(
        boolean(), "refused: write the queue or priority in the cluster's own words", False
    )
    login: bool = _cluster(boolean(), "refused: a queued job has no login", False)
    shared_host_dir: str | None = _cluster(text(), "a folder that --command sees as data/ [-]")
    command: str | None = _cluster(
        text(), "the job as one shell command, in place of what follows -- [-]"
    )
    slurm: dict[str, Any] | None = _for_one(
        pairs("#SBATCH options NAME=VALUE or NAME", "NAME[=VALUE]", may_lack_value=True),
        "any other #SBATCH options, as partition=gpu account=me [-]",
    )
    kubernetes: dict[str, Any] | None = _for_one(
        pairs("settings NAME=VALUE", "NAME=VALUE"),
        "pvc=CLAIM or host_path=FOLDER for the mount; see the README for the others [-]",
    )


ALIASES = {
    "gpu": "gpus_per_node",
    "gpus-type": "gpu_type",
    "high-priority": "high_priority",
    "shared-host-dir": "shared_host_dir",
}
"""Words of the command line that these jobs were submitted with before."""


@dataclass(frozen=True)
class Submission:
    """One job as it is handed to a cluster.

    Attributes:
        task: which of the two scripts.
        arguments: the script's flags, but for how many processes it has.
        run_name: its folder in mount/models.
        processes: on each machine.
        folder: where it was asked for, from which relative paths count.
        project: the folder of the scripts.
        margin: seconds that the job may need from being asked to stop to having saved.
        cluster: what it asks of the cluster.
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
        """Where its text, its record and its log lie."""
        return folder_of(self.mount, self.run_name)

    @property
    def script(self) -> Path:
        return self.project / f"{self.task}.py"

    @property
    def threads(self) -> int | None:
        """Cores of each process; None where nobody asked for cores."""
        cores = self.cluster.cpus_per_task
        return None if cores is None else max(1, cores // self.processes)

    @property
    def python(self) -> Path:
        """The interpreter of the project's .venv; where it has none, the one that runs this."""
        own = self.project / ".venv" / "bin" / "python"
        return own if own.exists() else Path(sys.executable)

    def setup_lines(self) -> list[str]:
        """Shell lines: what the job's processes find in their environment, then the user's own."""
        values = {"WORKFLOW_MOUNT": str(self.mount.root), "HF_HUB_OFFLINE": "1"}
        values |= {k: str(v) for k, v in (self.cluster.envs or {}).items() if v is not None}
        if self.threads is not None:
            values.setdefault("OMP_NUM_THREADS", str(self.threads))
        exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
        return [*exports, *self.cluster.setup]


def problems_of(cluster: Cluster, kind: str, hints: dict[str, str]) -> list[Problem]:
    """What is wrong with these words by themselves, and which mean nothing on such a cluster.

    Args:
        hints: what to do instead of words that mean nothing there.
    """
    problems = [*_problems_of_envs(cluster.envs or {}, kind), *_problems_of_mounts(cluster)]
    meaningless = {
        "high_priority": "leave it out",
        "login": "leave it out; `python3 -m workflow logs -f RUN` follows the job",
    } | hints
    defaults = {field.name: field.default for field in dataclasses.fields(Cluster)}
    problems += [
        _meaningless(name, kind, hint)
        for name, hint in meaningless.items()
        if getattr(cluster, name) != defaults[name]
    ]
    if cluster.gpu_type is not None and not cluster.gpus_per_node:
        found = f"{shorten(cluster.gpu_type)} without GPUs"
        hint = "add --gpus_per_node N"
        problems.append(Problem("--gpu_type", found, "with --gpus_per_node", hint))
    found, expected = "a value for what looks like a secret", "the name alone"
    names = [name for line in cluster.setup for name in _ASSIGNED.findall(line)]
    problems += [
        Problem(f"--setup: {name}=", found, expected, f"write --envs {name} instead")
        for name in names
        if _SECRET.search(name)
    ]
    return problems


def _meaningless(name: str, kind: str, hint: str) -> Problem:
    word = next((alias for alias in ALIASES if ALIASES[alias] == name and "-" in alias), name)
    place = {"slurm": "Slurm", "kubernetes": "Kubernetes", "local": "this machine"}[kind]
    return Problem(f"--{word}", f"a word without meaning on {place}", "none there", hint)


def _problems_of_envs(envs: dict[str, str | None], kind: str) -> list[Problem]:
    problems = []
    from_here = kind != "kubernetes"  # which takes what goes by name from a Secret of the cluster
    for name, value in envs.items():
        where = f"--envs {shorten(name)}"
        if not _NAME.fullmatch(name):
            expected = "letters, digits and _, no digit first"
            problems.append(Problem(where, "no name of a variable", expected, "correct the name"))
        elif value is None and from_here and name not in os.environ:
            hint = f"export {name}, or write {name}=VALUE if it is no secret"
            problems.append(Problem(where, "not set here", "a variable to pass on", hint))
        elif value is not None and not isinstance(value, str | int | float):
            problems.append(Problem(where, shorten(value), "a text", "write it in quotes"))
        elif value is not None and _SECRET.search(name):
            found = "a value for what looks like a secret"
            place = (
                "export it in this shell" if from_here else "put it into a Secret of the cluster"
            )
            hint = f"{place}, and write --envs {name}"
            problems.append(Problem(where, found, "the name alone", hint))
    return problems


def _problems_of_mounts(cluster: Cluster) -> list[Problem]:
    problems = []
    for mount in cluster.mounts:
        if not all(path.startswith("/") for path in parts_of_mount(mount)):
            where, found = f"--mounts {shorten(mount)}", "a path that is not whole"
            expected = "SOURCE or SOURCE:TARGET, both beginning with /"
            problems.append(Problem(where, found, expected, "correct it"))
    if cluster.mounts and cluster.container is None:
        hint = "add --container IMAGE, or leave it out: without one all folders are seen"
        problems.append(Problem("--mounts", "no --container", "a container to see them", hint))
    return problems


def parts_of_mount(mount: str) -> tuple[str, str]:
    source, _, target = mount.partition(":")
    return source, target or source
