"""A container around a step of a cluster's job: what runs it, and with which words."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workflow.cluster.resources import Submission, parts_of_mount
from workflow.core.errors import Problem, shorten

PYXIS, APPTAINER, DOCKER = "pyxis", "apptainer", "docker"
NAMES = (PYXIS, APPTAINER, DOCKER)


@dataclass(frozen=True)
class Runtime:
    """What runs an image on a cluster's machines: Pyxis in Slurm, Apptainer or Docker."""

    name: str
    image: str


def find_runtime(container: str, has_pyxis: bool, commands: frozenset[str]) -> Runtime | Problem:
    """What is to run an image: what stands before it, what its ending says, or what is there.

    Args:
        has_pyxis: whether Slurm's srun knows containers.
        commands: those of apptainer, singularity and docker that exist.
    """
    name, found, image = container.partition(":")
    if found and name in NAMES and not image.startswith("//"):
        return Runtime(name, image)
    if container.endswith(".sif"):
        return Runtime(APPTAINER, container)
    if container.endswith(".sqsh"):
        return Runtime(PYXIS, container)
    if has_pyxis:
        return Runtime(PYXIS, container.removeprefix("docker://"))
    if commands & {"apptainer", "singularity"}:
        is_uri = re.match(r"\w+://", container)
        name = APPTAINER if "apptainer" in commands else "singularity"  # its name of before
        return Runtime(name, container if is_uri else f"docker://{container}")
    if "docker" in commands:
        return Runtime(DOCKER, container.removeprefix("docker://"))
    return Problem(
        f"--container {shorten(container)}",
        "no Pyxis in srun, no apptainer and no docker on this machine",
        "one of them, to run the image",
        "if the cluster's machines have one, name it: pyxis:IMAGE, apptainer:IMAGE or docker:IMAGE",
    )


def what_is_here() -> tuple[bool, frozenset[str]]:
    """Whether srun knows containers, and which commands that run them there are."""
    commands = frozenset(c for c in ("apptainer", "singularity", "docker") if shutil.which(c))
    if shutil.which("srun") is None:
        return False, commands
    shown = subprocess.run(["srun", "--help"], capture_output=True, text=True, check=False)
    return "--container-image" in shown.stdout, commands


def run_inside(runtime: Runtime, submission: Submission) -> tuple[list[str], list[str]]:
    """Options for srun, and what stands before the command, both quoted for a shell.

    Project, mount and the user's own folder have the same paths inside and outside.
    """
    binds = [f"{source}:{target}" for source, target in _binds(submission)]
    image, where = shlex.quote(runtime.image), shlex.quote(str(submission.folder))
    mounts = shlex.quote(",".join(binds))
    if runtime.name == PYXIS:
        return [
            f"--container-image={image}",
            f"--container-mounts={mounts}",
            f"--container-workdir={where}",
        ], []
    if runtime.name in (APPTAINER, "singularity"):
        gpus = " --nv" if submission.cluster.gpus_per_node else ""
        return [], [f"{runtime.name} exec{gpus} --bind {mounts} --pwd {where} {image}"]
    return [], [f"{_docker(submission, binds)} {image}"]


def problems_of_sight(paths: Iterable[Path], submission: Submission) -> list[Problem]:
    """What the job reads and its container would not see: links lead out of the mount, or paths."""
    seen = [Path(source).resolve() for source, target in _binds(submission) if source == target]
    found = []
    for path in paths:
        real = path.resolve()
        if not any(real.is_relative_to(folder) for folder in seen):
            folder = real if real.is_dir() else real.parent
            expected = "a folder that the container sees"
            found.append(Problem(str(path), f"{real}", expected, f"add --mounts {folder}"))
    return found


def _binds(submission: Submission) -> list[tuple[str, str]]:
    """The folders that a container sees, with their paths in it."""
    cluster = submission.cluster
    own = [submission.project, submission.mount.root, submission.folder]
    shared = [] if cluster.shared_host_dir is None else [Path(cluster.shared_host_dir).absolute()]
    real = [path.resolve() for path in own]  # where links within them lead
    same = dict.fromkeys(str(path) for path in [*own, *shared, *real])
    return [*((path, path) for path in same), *map(parts_of_mount, cluster.mounts)]


def _docker(submission: Submission, binds: list[str]) -> str:
    """Docker knows nothing of Slurm: network, devices, user and variables are named to it."""
    cluster, where = submission.cluster, shlex.quote(str(submission.folder))
    passed = ["WORKFLOW_MOUNT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "SLURM_JOB_ID",
              "SLURM_RESTART_COUNT", *(cluster.envs or {})]  # fmt: skip
    words = [
        "docker run --rm --init --network=host --ipc=host",
        *(["--gpus=all --env=CUDA_VISIBLE_DEVICES"] if cluster.gpus_per_node else []),
        '--user="$(id -u):$(id -g)" --env=HOME=/tmp',
        *(f"--env={name}" for name in dict.fromkeys(passed)),
        *(f"--volume={shlex.quote(bind)}" for bind in binds),
        f"--workdir={where} --stop-timeout={submission.margin}",
    ]
    return " ".join(words)
