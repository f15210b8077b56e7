"""The batch script, the parsing of Slurm's output, and container runtimes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from workflow.cluster.containers import Runtime, find_runtime, problems_of_paths
from workflow.cluster.local import background
from workflow.cluster.resources import Cluster, Submission
from workflow.cluster.scheduler import JobState
from workflow.cluster.slurm.client import read_account, read_job
from workflow.cluster.slurm.script import array_script, problems_of_words, script
from workflow.core.errors import Problem
from workflow.runs.mount import Mount

GOLDEN = ROOT / "tests" / "golden"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def submission(**changes: object) -> Submission:
    values: dict[str, object] = {
        "task": "seq2seq",
        "arguments": ("--model_init_name", "flan-t5-xxl", "--data_name", "it's mine"),
        "run_name": "0216 explain",
        "processes": 1,
        "folder": Path("/home/u/my files"),
        "project": Path("/home/u/workflow"),
        "mount": Mount(Path("/shared/mount")),
        "margin": 90,
    }
    return Submission(**(values | changes))  # type: ignore[arg-type]


MUCH = Cluster(
    name="explain: 100%",
    num_nodes=2,
    gpus_per_node=4,
    gpu_type="a100",
    cpus_per_task=32,
    memory=512e9,
    time=12 * 3600,
    container="IMAGE",
    mounts=("/data/big", "/a b:/c"),
    envs={"HF_TOKEN": None, "NCCL_DEBUG": "INFO"},
    setup=("module load cuda", "ulimit -n 65536"),
    max_restarts=3,
    dependency="afterok:17",
    slurm={"partition": "gpu", "account": "me", "exclusive": None, "comment": 'a "b"', "x": False},
)
LARGE = submission(processes=4, cluster=MUCH)
CASES = {
    "slurm_small": (submission(), None),
    "slurm_pyxis": (LARGE, Runtime("pyxis", "nvcr.io#x/y:1")),
    "slurm_apptainer": (LARGE, Runtime("apptainer", "/im age.sif")),
    "slurm_docker": (LARGE, Runtime("docker", "x/y:1")),
}


def rendered(name: str) -> str:
    return script(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_golden_scripts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert rendered(name) == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


def complaints(text: str) -> str:
    checked = subprocess.run(
        [SHELLCHECK, "--exclude=SC2329", "-"],  # a trap calls the function
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return checked.stdout


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_sound_shell(name: str) -> None:
    assert complaints(rendered(name)) == ""


def test_the_script_of_an_array() -> None:
    """It becomes the script of the run, and Slurm signals it in time for the slowest save."""
    runs = [submission(run_name=f"s/a={n},seed=0", margin=90 + n) for n in (0, 1)]
    text = array_script(runs, "s", 4)
    assert complaints(text) == ""
    assert text == (
        "#!/bin/bash\n"
        "# Written by `python3 -m workflow sweep` for sbatch.\n"
        "#SBATCH --job-name=s\n"
        "#SBATCH --output=/shared/mount/models/.jobs/s/log\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks-per-node=1\n"
        "#SBATCH --requeue\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --signal=B:USR1@91\n"
        "#SBATCH --array=0-1%4\n"
        "\n"
        "case $SLURM_ARRAY_TASK_ID in\n"
        "0) folder=/shared/mount/models/.jobs/s/a=0,seed=0 ;;\n"
        "1) folder=/shared/mount/models/.jobs/s/a=1,seed=0 ;;\n"
        "esac\n"
        'exec >>"$folder/log" 2>&1\n'
        'exec /bin/bash "$folder/submitted"\n'
    )
    assert "#SBATCH --array=0-1\n" in array_script(runs, "s", None)


def test_the_local_script() -> None:
    cluster = Cluster(setup=("ulimit -n 4096",), envs={"A": "b c"})
    text = background.script(submission(processes=2, cluster=cluster))
    assert complaints(text) == ""
    assert text.splitlines()[2:] == [
        "cd '/home/u/my files' || exit 1",
        "export WORKFLOW_MOUNT=/shared/mount",
        "export HF_HUB_OFFLINE=1",
        "export A='b c'",
        "ulimit -n 4096",
        f"exec {sys.executable} /home/u/workflow/seq2seq.py --model_init_name flan-t5-xxl "
        "--data_name 'it'\"'\"'s mine' --num_processes 2",
    ]


def test_unsound_shell_is_seen() -> None:
    assert "SC2086" in complaints("#!/bin/bash\na=$1\nls $a\n")


def test_the_job_is_signalled_early_enough_and_not_too_early() -> None:
    def option(cluster: Cluster) -> str:
        text = script(submission(margin=300, cluster=cluster), None)
        return next(line for line in text.splitlines() if "--signal" in line)

    assert option(Cluster()) == "#SBATCH --signal=B:USR1@300"
    assert option(Cluster(time=3600)) == "#SBATCH --signal=B:USR1@300"
    assert option(Cluster(time=400)) == "#SBATCH --signal=B:USR1@200"


@pytest.mark.parametrize("own", ["gres", "gpus", "gpus_per_task"])
def test_gpu_options_of_slurm_replace_ours(own: str) -> None:
    cluster = Cluster(gpus_per_node=4, slurm={own: "gpu:a100:4"})
    text = script(submission(cluster=cluster), None)
    assert f"#SBATCH --{own.replace('_', '-')}=gpu:a100:4\n" in text
    assert "--gpus-per-node" not in text


def test_options_that_the_script_sets_itself() -> None:
    asked = Cluster(
        name="a\nb",
        slurm={
            "nodes": 2,
            "--time": "1",
            "requeue": True,
            "array": "1-3",
            "p": "x",
            "Partition": "x",
            "comment": "a\nb",
        },
        kubernetes={"pvc": "x"},
    )
    assert [str(problem) for problem in problems_of_words(asked)] == [
        "--kubernetes: not supported by `submit slurm` (expected no value). Hint: remove it, or "
        "submit to Kubernetes.",
        "--slurm 'nodes': the script sets --nodes itself (expected another option). Hint: use "
        "--num_nodes.",
        "--slurm '--time': the script sets --time itself (expected another option). Hint: use "
        "--time.",
        "--slurm 'requeue': the script sets --requeue itself (expected another option). Hint: "
        "remove it, and limit the script's own requeues with --max_restarts.",
        "--slurm 'array': the script sets --array itself (expected another option). Hint: remove "
        "it; `python3 -m workflow sweep` submits arrays.",
        "--slurm 'p': not a long option (expected a long option of sbatch, e.g. partition). Hint: "
        "correct the name.",
        "--slurm 'Partition': not a long option (expected a long option of sbatch, e.g. "
        "partition). Hint: correct the name.",
        "--slurm 'comment': 'a\\nb' (expected a string, number, true or false). Hint: write it on "
        "one line, in quotes.",
        "--name: 'a\\nb' (expected one line). Hint: choose another name.",
    ]


@pytest.mark.parametrize(
    ("container", "has_pyxis", "commands", "runtime"),
    [
        ("pyxis:a/b:1", False, [], Runtime("pyxis", "a/b:1")),
        ("apptainer:/x.img", True, [], Runtime("apptainer", "/x.img")),
        ("docker:a/b:1", True, ["apptainer"], Runtime("docker", "a/b:1")),
        ("/x.sif", True, ["docker"], Runtime("apptainer", "/x.sif")),
        ("/x.sqsh", False, ["docker"], Runtime("pyxis", "/x.sqsh")),
        ("a/b:1", True, ["docker", "apptainer"], Runtime("pyxis", "a/b:1")),
        ("docker://a/b:1", True, [], Runtime("pyxis", "a/b:1")),
        ("a/b:1", False, ["docker", "apptainer"], Runtime("apptainer", "docker://a/b:1")),
        ("docker://a/b:1", False, ["singularity"], Runtime("singularity", "docker://a/b:1")),
        ("a/b:1", False, ["docker"], Runtime("docker", "a/b:1")),
    ],
)  # fmt: skip
def test_what_runs_an_image(
    container: str, has_pyxis: bool, commands: list[str], runtime: Runtime
) -> None:
    assert find_runtime(container, has_pyxis, frozenset(commands)) == runtime


def test_an_image_without_a_runtime() -> None:
    found = find_runtime("a/b:1", False, frozenset())
    assert isinstance(found, Problem)
    assert str(found) == (
        "--container 'a/b:1': no Pyxis, Apptainer or Docker on this machine (expected "
        "a container runtime). Hint: if the nodes have one, select it: pyxis:IMAGE, "
        "apptainer:IMAGE or docker:IMAGE."
    )


def test_a_link_to_a_folder_that_the_container_does_not_mount(tmp_path: Path) -> None:
    for name in ("mount/models", "elsewhere/flan", "other"):
        (tmp_path / name).mkdir(parents=True)
    link = tmp_path / "mount" / "models" / "flan"
    link.symlink_to(tmp_path / "elsewhere" / "flan")

    def unseen(*paths: Path, **words: Any) -> list[Problem]:
        cluster = Cluster(container="x", **words)
        job = submission(mount=Mount(tmp_path / "mount"), cluster=cluster)
        return problems_of_paths(paths, job)

    found = unseen(link, tmp_path / "mount")
    assert [str(problem) for problem in found] == [
        f"{link}: {tmp_path}/elsewhere/flan is not mounted (expected a path visible in the "
        f"container). Hint: add --mounts {tmp_path}/elsewhere/flan."
    ]
    assert unseen(link, mounts=(f"{tmp_path}/elsewhere",)) == []
    assert unseen(link, shared_host_dir=str(tmp_path)) == []


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ("JobId=7 JobName=x JobState=PENDING Reason=Priority Requeue=1 Restarts=0 "
         "NodeList=(null) BatchHost=", JobState("pending", "Priority")),
        ("JobId=7 JobState=RUNNING Reason=None Restarts=2 NodeList=node[1-2] BatchHost=node1",
         JobState("running", "", ("node[1-2]",), 2)),
        ("JobId=7 JobState=COMPLETED Reason=None Restarts=0 NodeList=node1", JobState("done", "",
         ("node1",))),
        ("JobId=7 JobState=NODE_FAIL Reason=NodeDown Restarts=0 NodeList=node1",
         JobState("failed", "NODE_FAIL, NodeDown", ("node1",))),
        ("JobId=7 JobState=CANCELLED Reason=None Restarts=1 NodeList=node1",
         JobState("cancelled", "CANCELLED", ("node1",), 1)),
        ("JobId=7 JobState=OUT_OF_MEMORY Reason=OutOfMemory Restarts=0 NodeList=node1",
         JobState("failed", "OUT_OF_MEMORY, OutOfMemory", ("node1",))),
    ],
)  # fmt: skip
def test_a_job_as_scontrol_shows_it(shown: str, state: JobState) -> None:
    assert read_job(shown) == state


@pytest.mark.parametrize(
    ("kept", "state"),
    [
        ("COMPLETED|0:0|node[1-2]\n", JobState("done", "", ("node[1-2]",))),
        ("CANCELLED by 1000|0:15|None assigned\n", JobState("cancelled", "CANCELLED by 1000")),
        ("PREEMPTED|0:0|node1\nFAILED|1:0|node2\n", JobState("failed", "FAILED", ("node2",))),
    ],
)
def test_a_job_as_sacct_kept_it(kept: str, state: JobState) -> None:
    assert read_account(kept) == state
