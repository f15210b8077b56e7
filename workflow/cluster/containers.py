"""Container runtimes for Slurm job steps, and their command lines."""

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

RUN_ON_GPUS = r"""# Docker's daemon is outside of the step, and has the GPUs of all jobs.
run_docker() {
  local devices=$CUDA_VISIBLE_DEVICES
  case $devices in
    [0-9]*) # as nvidia-smi counts them inside the step; docker counts all GPUs of the node
      devices=$(nvidia-smi --id="$devices" --query-gpu=uuid --format=csv,noheader | paste -sd ,) ;;
  esac
  case $devices in
    GPU-* | MIG-*) ;;
    *)
      echo "$SLURMD_NODENAME: docker cannot be limited to the job's GPUs:" \
        "CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES' (expected GPUs that nvidia-smi finds)." \
        "Hint: the node's gres.conf needs File= or AutoDetect=nvml." >&2
      exit 2
      ;;
  esac
  set -- --gpus="\"device=$devices\"" "$@"
  [ ! -e /dev/infiniband ] || set -- --device=/dev/infiniband "$@"
  exec docker run --ulimit memlock=-1 "$@"
}
export -f run_docker
"""
"""Shell lines that `run_inside` needs for Docker with GPUs."""


@dataclass(frozen=True)
class Runtime:
    """An image and the runtime that runs it on the nodes: Pyxis, Apptainer or Docker."""

    name: str
    image: str


def find_runtime(container: str, has_pyxis: bool, commands: frozenset[str]) -> Runtime | Problem:
    """Choose a runtime by the image's prefix, else its file suffix, else what is installed.

    Args:
        has_pyxis: whether srun supports containers.
        commands: the installed ones of apptainer, singularity and docker.
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
        name = APPTAINER if "apptainer" in commands else "singularity"  # its former name
        return Runtime(name, container if is_uri else f"docker://{container}")
    if "docker" in commands:
        return Runtime(DOCKER, container.removeprefix("docker://"))
    return Problem(
        f"--container {shorten(container)}",
        "no Pyxis, Apptainer or Docker on this machine",
        "a container runtime",
        "if the nodes have one, select it: pyxis:IMAGE, apptainer:IMAGE or docker:IMAGE",
    )


def installed_runtimes() -> tuple[bool, frozenset[str]]:
    """Return whether srun supports containers, and the installed container commands."""
    commands = frozenset(c for c in ("apptainer", "singularity", "docker") if shutil.which(c))
    if shutil.which("srun") is None:
        return False, commands
    shown = subprocess.run(["srun", "--help"], capture_output=True, text=True, check=False)
    return "--container-image" in shown.stdout, commands


def run_inside(runtime: Runtime, submission: Submission) -> tuple[list[str], list[str]]:
    """Return the options of srun and the command prefix, in parts that are quoted for a shell.

    Project, mount and working directory have the same paths inside and outside.
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
    return [], [*_docker(submission, binds), image]


def problems_of_paths(paths: Iterable[Path], submission: Submission) -> list[Problem]:
    """Report paths (links resolved) that the job reads but its container does not mount."""
    seen = [Path(source).resolve() for source, target in _binds(submission) if source == target]
    found = []
    for path in paths:
        real = path.resolve()
        if not any(real.is_relative_to(folder) for folder in seen):
            folder = real if real.is_dir() else real.parent
            outside, expected = f"{real} is not mounted", "a path visible in the container"
            found.append(Problem(str(path), outside, expected, f"add --mounts {folder}"))
    return found


def _binds(submission: Submission) -> list[tuple[str, str]]:
    """Return the folders mounted in the container, each with its path inside."""
    cluster = submission.cluster
    own = [submission.project, submission.mount.root, submission.folder]
    shared = [] if cluster.shared_host_dir is None else [Path(cluster.shared_host_dir).absolute()]
    real = [path.resolve() for path in own]  # targets of links
    same = dict.fromkeys(str(path) for path in [*own, *shared, *real])
    return [*((path, path) for path in same), *map(parts_of_mount, cluster.mounts)]


def _docker(submission: Submission, binds: list[str]) -> list[str]:
    """Return the docker command, which unlike the others inherits nothing from the Slurm step."""
    cluster, where = submission.cluster, shlex.quote(str(submission.folder))
    passed = ["WORKFLOW_MOUNT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "SLURM_JOB_ID",
              "SLURM_NODEID", "SLURM_RESTART_COUNT", *(cluster.envs or {})]  # fmt: skip
    run = """bash -c 'run_docker "$@"' docker""" if cluster.gpus_per_node else "docker run"
    return [
        f"{run} --rm --init --network=host --ipc=host",
        '--user="$(id -u):$(id -g)" --env=HOME=/tmp',
        *(f"--env={name}" for name in dict.fromkeys(passed)),
        *(f"--volume={shlex.quote(bind)}" for bind in binds),
        f"--workdir={where} --stop-timeout={submission.margin}",
    ]
