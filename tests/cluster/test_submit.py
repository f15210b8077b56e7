"""`python3 -m workflow submit local`: checked, started, followed, cancelled; and what is refused.

test_slurm_jobs.py submits to a real Slurm.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, T5_TINY
from workflow.cluster.job_record import JobRecord, folder_of, read_record, write_record
from workflow.cluster.parse import read_words
from workflow.cluster.registry import state_of
from workflow.cluster.submit import submit
from workflow.core.errors import BadInput
from workflow.runs.lock import start_of
from workflow.runs.mount import Mount
from workflow.training.loop import run_job

SUMS = [{"prompt": f"add one: {n}", "completion": f"{n + 1}"} for n in range(8)]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """A mount with the embedded model and a few sums."""
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
    shutil.copytree(T5_TINY, tmp_path / "models" / "t5-tiny")
    (tmp_path / "data" / "sums.json").write_text(json.dumps({"train": SUMS, "eval": SUMS[:4]}))
    monkeypatch.setenv("WORKFLOW_MOUNT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return Mount(tmp_path)


def job(*flags: str, name: str = "run", model: str = "t5-tiny") -> list[str]:
    return ["--", "seq2seq.py", "--model_init_name", model, "--training_run_name", name,
            "--data", "sums", *flags]  # fmt: skip


def refused(kind: str, words: list[str]) -> list[str]:
    """Submit an invalid job; returns its problems."""
    with pytest.raises(BadInput) as caught:
        submit(read_words(kind, words), lambda line: None)
    return [str(problem) for problem in caught.value.problems]


def submitted(words: list[str], kind: str = "local") -> list[str]:
    """Submit a job; returns the printed lines."""
    lines: list[str] = []
    submit(read_words(kind, words), lines.append)
    return lines


def workflow(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workflow", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def wait_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


def status(mount: Mount, name: str = "run") -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((mount.models / name / "status.json").read_text())
    except OSError:
        return {}
    return found


def test_a_job_from_one_command_to_its_predictions(mount: Mount) -> None:
    done = workflow("submit", "local", *job("--max_steps", "2", "--train_batch_size", "4"))
    assert done.returncode == 0, done.stderr
    record = read_record(folder_of(mount, "run"))
    assert record is not None
    assert done.stderr.splitlines()[-1] == (
        f"submitted as pid {record.identity} on {record.host}; `python3 -m workflow status run` "
        "shows its state"
    )
    wait_for(lambda: status(mount).get("state") == "done")
    wait_for(lambda: not state_of(record).may_live)
    assert (
        len(json.loads((mount.models / "run" / "temperature=0.00_n=1_step=2.json").read_text()))
        == 4
    )
    shown = workflow("status").stdout.splitlines()
    assert shown[0] == "run: done, step 2/2"
    assert workflow("list").stdout.splitlines()[1].split()[:3] == ["run", "done", "2/2"]
    log = workflow("logs", "run").stdout
    assert log == (folder_of(mount, "run") / "log").read_text()
    assert "loss" in log
    ended = workflow("cancel", "run")
    assert (ended.returncode, ended.stdout) == (0, "run has no active job; nothing to cancel\n")


def test_a_cancelled_job_saves(mount: Mount) -> None:
    words = job("--max_steps", "100000", "--train_batch_size", "4", "--eval_steps", "100000",
                "--save_steps", "100000", "--logging_steps", "1")  # fmt: skip
    submitted(words)
    log = mount.models / "run" / "train_log.jsonl"
    wait_for(lambda: log.exists() and log.read_text())
    record = read_record(folder_of(mount, "run"))
    assert record is not None
    assert (
        f"run run: already running as pid {record.identity} on {record.host} (expected a run "
        "without an active job). Hint: wait for it, cancel it with `python3 -m workflow cancel "
        "run`, or choose another run name."
    ) in refused("local", words)
    assert workflow("status", "run").stdout.startswith("run: running, step ")
    cancelled = workflow("cancel", "run")
    assert cancelled.stdout == f"cancelling pid {record.identity} on {record.host}\n"
    wait_for(lambda: status(mount).get("state") == "saved")
    wait_for(lambda: not state_of(record).may_live)
    assert workflow("status", "run").stdout.startswith(f"run: saved, step {status(mount)['step']}/")


def test_a_dry_run_prints_and_leaves_nothing(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = submitted(["--dry_run", "--envs", "A=b", *job("--max_steps", "2")])
    assert "export A=b\n" in capsys.readouterr().out
    assert any(line.startswith("chosen: plain torch, micro-batches of") for line in lines)
    assert sorted(path.name for path in mount.models.iterdir()) == [".cache", "t5-tiny"]


def test_all_problems_of_a_job_are_reported_at_once(mount: Mount) -> None:
    """Problems of every kind, and nothing is queued or left."""
    (mount.data / "sums.json").write_text(json.dumps({"train": SUMS, "eval": [{"prompt": 1}]}))
    flags = ["--container", "x", "--envs", "MY_TOKEN=1", "--num_nodes", "2"]
    found = refused("local", [*flags, *job("--max_step", "2", model="t5-tiy")])
    assert found == [
        "--max_step: unknown flag (expected a documented flag). Hint: did you mean --max_steps?",
        "--envs 'MY_TOKEN': a value for a likely secret (expected the name alone). "
        "Hint: export it in this shell, and write --envs MY_TOKEN.",
        "--num_nodes: not supported by `submit local` (expected no value). Hint: remove it; this "
        "is a single node.",
        "--container: not supported by `submit local` (expected no value). Hint: remove it, or "
        "submit inside the container.",
        f"--model_init_name t5-tiy: does not exist (expected the folder {mount.models}/t5-tiy). "
        "Hint: did you mean t5-tiny?",
        f"{mount.data}/sums.json: eval[0].prompt: the number 1 (expected text). Hint: write it as "
        "a string.",
        f"{mount.data}/sums.json: eval[0]: no key \"completion\", only 'prompt' (expected "
        '"completion": text). Hint: add it.',
    ]
    assert not mount.jobs.exists()


CANNOT_WORK: dict[str, tuple[list[str], list[str], str]] = {
    "data": (
        [], job("--data_name=sms"),
        "--data_name: several values (expected one value). Hint: keep one of them.",
    ),
    "model on the hub": (
        [], ["--", "clf.py", "--model_pretrain_name", "google/flan-t5-xl", "--data", "sums"],
        "model google/flan-t5-xl: a hub model, but jobs run offline (expected a local folder). "
        "Hint: run `python3 -m workflow prefetch google/flan-t5-xl`, then set --model_init_name "
        "flan-t5-xl.",
    ),
    "model that is a run": ([], job(model="earlier"), "--model_init_name earlier: a run, "
    "not a "
        "model (expected one of its checkpoints). Hint: use earlier/checkpoint-2."),
    "run name": ([], job(name="../run"), "--training_run_name '../run': outside of "
        "mount/models, hidden, not printable or longer than 120 bytes (expected a folder name "
        "inside MODELS). Hint: choose another name."),
    "optimizer": ([], job("--optim", "adafactor", "--num_processes", "2"),
        "--optim: adafactor on 2 processes (expected adamw_torch, as ZeRO flattens the "
        "matrices that Adafactor factors). Hint: use --optim adamw_torch, or --num_processes 1 "
        "without DeepSpeed."),
    "time": (["--time", "1h"], job(), "--time: not supported by `submit local` (expected no "
        "value). Hint: remove it; local jobs have no time limit."),
    "dependency": (["--dependency", "x"], job(), "--dependency: not supported by `submit local` "
        "(expected no value). Hint: remove it, and submit this job when the other is done."),
    "variable": (["--envs", "SURELY_NOT_SET"], job(), "--envs 'SURELY_NOT_SET': not set in this "
        "shell (expected an exported variable). Hint: export SURELY_NOT_SET, or write "
        "SURELY_NOT_SET=VALUE if it is not a secret."),
    "login": (["--login"], job(), "--login: not supported by `submit local` (expected no value). "
        "Hint: remove it; `python3 -m workflow logs -f RUN` follows the job."),
    "metric": ([], job("--metric", "none.py:f"),
        "--metric: no file 'none.py' (expected file.py:function). Hint: correct the path."),
    "schedule": ([], job("--lr_scheduler_type", "constant", "--warmup_steps", "5"),
        "--warmup_steps: 5.0 with the constant schedule, which ignores it (expected no value). "
        "Hint: remove it, or use e.g. --lr_scheduler_type constant_with_warmup."),
}  # fmt: skip
"""Cluster flags, the job's own flags, and the problem."""


@pytest.mark.parametrize("name", CANNOT_WORK)
def test_a_job_that_cannot_work_is_refused(mount: Mount, name: str) -> None:
    checkpoint = mount.models / "earlier" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    flags, words, line = CANNOT_WORK[name]
    found = refused("local", [*flags, *words])
    assert line.replace("MODELS", str(mount.models)) in found
    assert not mount.jobs.exists()
    assert not (mount.models / "run").exists()


def test_a_cpu_build_is_refused_for_gpus(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    build = f"2, but PyTorch {torch.__version__} in .venv is a CPU build"
    assert refused("local", ["--gpus_per_node", "2", *job()]) == [
        f"--gpus_per_node: {build} (expected a CUDA build). Hint: run scripts/setup on a node with "
        "GPUs, or e.g. scripts/setup --cuda cu130."
    ]
    assert f"not checked: {build}" in submitted(["--gpus_per_node", "2", "--dry_run", *job()])
    capsys.readouterr()
    flags = ["--gpus_per_node", "2", "--dry_run"]
    assert "CPU build" not in "".join(submitted([*flags, *job("--device", "cpu")]))
    assert "--device=cpu" in capsys.readouterr().out


KUBERNETES = ["--container", "x/y:1", "--apply"]


def on_kubernetes(mount: Mount, *flags: str) -> list[str]:
    return [*KUBERNETES, "--kubernetes", f"host_path={mount.root}", *flags]


def test_memory_that_is_not_enough(mount: Mount) -> None:
    flags = on_kubernetes(mount, "--gpus_per_node", "1", "--gpu_memory", "1GB")
    found = refused("kubernetes", [*flags, *job("--max_steps", "2")])
    assert len(found) == 1
    assert found[0].startswith("memory: ")


def test_a_run_of_another_job(mount: Mount) -> None:
    words = job("--max_steps", "1", "--train_batch_size", "4")
    run_job(read_words("local", words).spec, mount)
    found = refused("local", [*words, "--seed", "1"])
    assert found == [
        f"{mount.models}/run: a run of a different job: seed was 0, now 1 (expected the same "
        "job). Hint: choose another --training_run_name, or add --overwrite_output_dir to start "
        "over."
    ]
    # its precision was the machine's choice, so another machine's choice is no difference
    submitted(["--dry_run", *words])


def test_a_disk_that_is_too_small(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(mount.root)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert refused("local", job("--max_steps", "2")) == [
        f"{mount.models}: 0.0 GB free (expected 0.1 GB for the newest, next, best and older "
        "checkpoints). Hint: free disk space, or reduce --save_total_limit."
    ]


def test_a_job_that_is_queued_already(mount: Mount) -> None:
    record = JobRecord("run", "local", str(os.getpid()), started=start_of(os.getpid()))
    folder_of(mount, "run").mkdir(parents=True)
    write_record(folder_of(mount, "run"), record)
    assert refused("local", job("--max_steps", "2")) == [
        f"run run: already running as {record.title} (expected a run without an active job). Hint: "
        "wait for it, cancel it with `python3 -m workflow cancel run`, or choose another run name."
    ]


def test_an_earlier_command_line(mount: Mount) -> None:
    """--command with a shared folder, which it calls data."""
    command = (
        'bash -c "cd data; python3 seq2seq.py --model_init_name t5-tiny --data_name sums '
        '--training_run_name run --max_steps 1 --train_batch_size 4"'
    )
    submitted(["--name", "x", "--shared-host-dir", str(ROOT), "--command", command])
    wait_for(lambda: status(mount).get("state") == "done")


NO_CONTROLLER = "allocation failure: Unable to contact slurm controller (connect failure)"
CONFIGURED_NOWHERE = "fatal: Could not establish a configuration source"
UNREACHED: dict[str, tuple[str | None, str]] = {
    "a laptop": (None, "sbatch not found"),
    "no controller": (f"error: {NO_CONTROLLER}", f"cannot reach Slurm: {NO_CONTROLLER}"),
    "no configuration": (CONFIGURED_NOWHERE, f"cannot reach Slurm: {CONFIGURED_NOWHERE}"),
}
"""Errors of sbatch, and our facts."""


def put_command(folder: Path, name: str, stderr: str, status: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{name}: {stderr}' >&2\nexit {status}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", UNREACHED)
def test_a_dry_run_without_slurm_prints_the_script(
    mount: Mount,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    said, found = UNREACHED[name]
    if said is not None:
        for command in ("sbatch", "scontrol"):
            put_command(mount.root / "bin", command, said)
    monkeypatch.setenv("PATH", str(mount.root / "bin"))
    folder_of(mount, "run").mkdir(parents=True)
    write_record(folder_of(mount, "run"), JobRecord("run", "slurm", "17"))
    reason = (said or "scontrol not found").removeprefix("error: ")
    queued = f"state of slurm job 17 unknown: {reason}"
    lines = submitted(["--dry_run", *job("--max_steps", "2")], "slurm")
    assert lines[:2] == [f"not checked: {found}", f"not checked: {queued}"]
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")
    assert refused("slurm", job("--max_steps", "2")) == [
        f"submit slurm: {found} (expected a Slurm login node). Hint: submit from a machine where "
        "`sinfo` works, or use `submit local`.",
        f"run run: {queued} (expected a run without an active job). Hint: submit where its "
        "scheduler is reachable, or choose another run name.",
    ]
    put_command(mount.root / "bin", "sbatch", "error: invalid partition specified: gpu")
    assert refused("slurm", job("--max_steps", "2"))[0] == (
        "sbatch: invalid partition specified: gpu (expected a job that Slurm accepts). Hint: "
        "correct the cluster flags (sinfo lists partitions)."
    )


def test_a_manifest_is_printed_without_a_reachable_cluster(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(mount, "run").mkdir(parents=True)
    record = JobRecord("run", "kubernetes", "run")
    write_record(folder_of(mount, "run"), record)
    put_command(mount.root / "bin", "kubectl", "The connection to the server was refused")
    monkeypatch.setenv("PATH", str(mount.root / "bin"))
    words = [*on_kubernetes(mount), *job("--max_steps", "2")]
    reason = "cannot reach a cluster: kubectl: The connection to the server was refused"
    found = f"state of {record.title} unknown: {reason}"
    printed = [word for word in words if word != "--apply"]
    assert submitted(printed, "kubernetes")[0] == f"not checked: {found}"
    assert "kind: Job" in capsys.readouterr().out
    assert refused("kubernetes", words) == [
        f"run run: {found} (expected a run without an active job). Hint: submit where its "
        "scheduler is reachable, or choose another run name."
    ]
