"""The devices that the batch script gives Docker, with shell scripts as the other commands."""

import os
import subprocess
from pathlib import Path

import pytest

from workflow.cluster.containers import Runtime
from workflow.cluster.resources import Cluster, Submission
from workflow.cluster.slurm.script import script
from workflow.runs.mount import Mount

NODE = {"CUDA_VISIBLE_DEVICES": "0,2", "SLURM_NODEID": "1", "SLURMD_NODENAME": "node2"}
"""Of a step on the second node."""
COMMANDS = {
    "scontrol": 'echo "NodeName=node1 NodeAddr=10.0.0.7 NodeHostName=a7"',
    "squeue": "echo RUNNING",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "nvidia-smi": """
ids=${1#--id=}
[ "$ids" != 9 ] || { echo "No devices were found"; exit 6; }
[ "$*" = "--id=$ids --query-gpu=uuid --format=csv,noheader" ] || exit 1
for id in ${ids//,/ }; do echo "GPU-$id$id"; done
""",
    "docker": """printf '%s\\n' "$@" "$(ulimit -S -l)" "$(ulimit -H -l)" >"$TOLD" """,
}
"""What they print is as of the real ones."""


def run(folder: Path, gpus: int, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the batch script of a job of two nodes; `docker` writes its arguments and limits."""
    (folder / "commands").mkdir()
    (folder / "models/.jobs/run").mkdir(parents=True)
    for name, text in COMMANDS.items():
        (folder / "commands" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "commands" / name).chmod(0o755)
    cluster = Cluster(num_nodes=2, gpus_per_node=gpus)
    job = Submission("clf", (), "run", 2, folder, folder, Mount(folder), 60, cluster)
    environment = {"PATH": f"{folder}/commands:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                   "TOLD": str(folder / "told")}  # fmt: skip
    text = "ulimit -S -l 64\n" + script(job, Runtime("docker", "image"))
    return subprocess.run(
        ["bash", "-c", text], env=environment | variables, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "given"),
    [
        ("0,2", "GPU-00,GPU-22"),
        ("3", "GPU-33"),
        ("GPU-4d21,GPU-ff01", "GPU-4d21,GPU-ff01"),
        ("MIG-ab12", "MIG-ab12"),
    ],
)
def test_docker_gets_the_gpus_of_the_step_alone(tmp_path: Path, listed: str, given: str) -> None:
    ended = run(tmp_path, 2, **NODE | {"CUDA_VISIBLE_DEVICES": listed})
    assert (ended.returncode, ended.stderr) == (0, "")
    told = (tmp_path / "told").read_text().splitlines()
    assert [word for word in told if word.startswith("--gpus")] == [f'--gpus="device={given}"']
    assert "--env=CUDA_VISIBLE_DEVICES" not in told  # CUDA counts from 0 again inside
    assert ("--device=/dev/infiniband" in told) is Path("/dev/infiniband").exists()
    assert told[:3] == ["run", "--ulimit", "memlock=-1"]
    image = told.index("image")
    assert told[image + 3 : image + 5] == ["10.0.0.7", "15007"]
    assert told[-2] == told[-1]  # srun passes on how much memory a process may lock


@pytest.mark.parametrize("listed", ["", "NoDevFiles", "9"])
def test_docker_is_not_started_without_a_list(tmp_path: Path, listed: str) -> None:
    ended = run(tmp_path, 2, **NODE | {"CUDA_VISIBLE_DEVICES": listed})
    assert (ended.returncode, (tmp_path / "told").exists()) == (2, False)
    assert ended.stderr == (
        f"node2: docker cannot be limited to the job's GPUs: CUDA_VISIBLE_DEVICES is '{listed}' "
        "(expected GPUs that nvidia-smi finds). Hint: the node's gres.conf needs File= or "
        "AutoDetect=nvml.\n"
    )


def test_docker_gets_no_gpus_for_a_job_on_cpus(tmp_path: Path) -> None:
    ended = run(tmp_path, 0, **NODE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--gpus" not in (tmp_path / "told").read_text()
