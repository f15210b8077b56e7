"""`python3 -m workflow sweep`: its jobs, its messages, and real runs in child processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import ROOT

from workflow.cli.main import main
from workflow.cluster.job_record import folder_of, read_record
from workflow.cluster.registry import state_of
from workflow.core.files import read_object
from workflow.runs.mount import Mount
from workflow.runs.status import read_spec, read_status

JOB = {
    "task": "seq2seq", "model_init_name": "small", "data": "sums", "max_steps": 2,
    "train_batch_size": 4, "max_new_tokens": 2, "bf16": "false", "eval_on_start": False,
}  # fmt: skip
SHELL = [sys.executable, "-m", "workflow", "sweep"]


@pytest.fixture
def config(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the job file `tune.json`, and returns its path."""
    monkeypatch.setenv("WORKFLOW_MOUNT", str(mount.root))
    path = mount.root / "tune.json"

    def write(**changes: Any) -> str:
        job = {key: value for key, value in (JOB | changes).items() if value is not None}
        path.write_text(json.dumps(job))
        return str(path)

    return write


def planned(mount: Mount, *words: str) -> dict[str, dict[str, Any]]:
    """The job files of a sweep whose jobs are refused by their scheduler before anything runs."""
    assert main(["sweep", *words, "--", "submit", "local", "--high_priority"]) == 2
    files = sorted(mount.jobs.glob("*/*.json"))
    return {str(file.relative_to(mount.jobs).with_suffix("")): read_object(file) for file in files}


def refused(capsys: pytest.CaptureFixture[str], mount: Mount, *words: str) -> list[str]:
    """The problems of a sweep, which leaves nothing behind."""
    before = sorted(mount.root.rglob("*"))
    assert main(["sweep", *words]) == 2
    assert sorted(mount.root.rglob("*")) == before
    return capsys.readouterr().err.splitlines()


def test_a_job_for_each_combination_and_seed(mount: Mount, config: Callable[..., str]) -> None:
    cluster = {"gpus_per_node": 0}
    path = config(freeze=["encoder"], seed=5, cluster=cluster)
    grid = ("--grid", "learning_rate=1e-3,3e-3", "--grid", "freeze=none,bottom:1", "--seeds", "2")
    jobs = planned(mount, "--config", path, *grid)
    base = {key: value for key, value in JOB.items() if key != "data"}
    base |= {"data_name": "sums", "cluster": cluster}
    assert jobs == {
        f"tune/learning_rate={rate},freeze={name},seed={seed}": base
        | ({} if freeze is None else {"freeze": freeze})
        | {"learning_rate": rate, "seed": seed}
        | {"training_run_name": f"tune/learning_rate={rate},freeze={name},seed={seed}"}
        for rate in ("1e-3", "3e-3")
        for freeze, name in ((None, "none"), ("bottom:1", "bottom-1"))
        for seed in (5, 6)
    }


def test_names_and_json_values(mount: Mount, config: Callable[..., str]) -> None:
    path = config(task="clf", training_run_name="named", max_new_tokens=None)
    words = '[["no", "yes"], ["bad/x", "good"]]'
    jobs = planned(mount, "--config", path, "--grid", f"label_words={words}", "--grid", "seed=3")
    assert {run: job["label_words"] for run, job in jobs.items()} == {
        "named/label_words=-no-,-yes-,seed=3": ["no", "yes"],
        "named/label_words=-bad-x-,-good-,seed=3": ["bad/x", "good"],
    }
    long = "x" * 300
    jobs = planned(
        mount, "--config", path, "--name", "other", "--grid", f"template={{input}}{long}"
    )
    (run,) = (run for run in jobs if run.startswith("other/"))
    assert run == f"other/template={f'-input-{long}'[:40]},seed=0"
    assert jobs[run]["template"] == "{input}" + long


def test_all_problems_are_reported_at_once(
    mount: Mount, config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(max_steps="many", lr_scheduler_type="constant")
    words = [
        "learning_rat=1e-3", "max_grad_norm=-1", "freeze=none,,encoder", "seed=1", "seed=2",
        "training_run_name=a,b", "warmup_steps=0,10", "top_k=[5", "optim=adafactor,adafactor",
    ]  # fmt: skip
    grid = [word for one in words for word in ("--grid", one)]
    found = refused(
        capsys, mount, "--config", path, *grid, "--seeds", "2", "--name", "a/b",
        "--", "submit", "lsf",
    )  # fmt: skip
    once = "(expected each flag once). Hint: remove one of them."
    different = "(expected FLAG=VALUE,VALUE or FLAG=[JSON, JSON]). Hint: write different values."
    assert found == [
        f"--grid freeze: an empty value {different}",
        f"--grid seed: given with --seeds {once}",
        f"--grid seed: given twice {once}",
        "--grid training_run_name: does not change results (expected a flag that changes "
        "results). Hint: set it in the job file, or remove it.",
        f"--grid optim: two values with the folder name adafactor {different}",
        "--: 'submit lsf' (expected submit slurm|kubernetes|local [flags]). Hint: correct the "
        "words after the --.",
        "--name: 'a/b' (expected a name without /). Hint: add --name NAME.",
        "learning_rat: unknown flag (expected a documented flag). Hint: did you mean "
        "learning_rate?",
        "max_steps: 'many' (expected an integer of at least 1). Hint: correct the value.",
        "max_grad_norm: '-1' (expected a number of at least 0). Hint: correct the value.",
        "top_k: '[5' (expected an integer of at least 1). Hint: correct the value.",
        "--warmup_steps: 10.0 with the constant schedule, which ignores it (expected no value). "
        "Hint: remove it, or use e.g. --lr_scheduler_type constant_with_warmup.",
        "(12 problems in all)",
    ]


def test_a_job_file_without_a_task(
    mount: Mount, config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for task, shown in ((None, "missing"), ("bert", "'bert'")):
        path = config(task=task)
        assert refused(capsys, mount, "--config", path) == [
            f"--config {path}: task: {shown} (expected clf or seq2seq). Hint: add "
            '"task": "clf" or "task": "seq2seq".'
        ]
    assert refused(capsys, mount, "--config", "nowhere.json")[0].startswith(
        "--config nowhere.json:"
    )


def test_real_runs(
    mount: Mount, config: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A failing run does not end the sweep; the same command runs what is left."""
    command = ["sweep", "--config", config(), "--grid", "learning_rate=1e-2,1e-4", "--seeds", "1"]
    runs = [f"tune/learning_rate={rate},seed=0" for rate in ("1e-2", "1e-4")]
    blocked = mount.models / runs[0]
    blocked.mkdir(parents=True)
    (blocked / "notes").touch()
    assert main(command) == 1
    output = capfd.readouterr()
    assert f"run 1 of 2: {runs[0]}\n" in output.err
    assert f"{blocked}: exists, but is not a run folder" in output.err
    assert output.err.endswith(
        f"1 of 2 runs failed: {runs[0]}. Hint: fix the cause, then rerun the command, which "
        "repeats them\n"
    )
    assert output.out.splitlines()[0].split()[:2] == ["seeds", "loss"]
    (blocked / "notes").unlink()
    assert main(command) == 0
    output = capfd.readouterr()
    assert "1 of 2 runs are done already\n" in output.err
    assert f"run 1 of 1: {runs[0]}\n" in output.err and runs[1] not in output.err
    head, *rows = output.out.splitlines()
    assert head.split()[:3] == ["learning_rate", "seeds", "loss"]
    assert sorted(row.split()[0] for row in rows[:2]) == ["0.0001", "0.01"]
    assert rows[2:5] == [
        "mean ± standard deviation over seeds; * best mean",
        "fewer than 3 seeds say little about the spread",
        "",
    ]
    assert [row.split()[1] for row in rows[5:7]] == ["metric", "loss"]
    assert rows[6].split()[0] == rows[1].split()[0]
    assert [read_status(mount.models / run)["state"] for run in runs] == ["done", "done"]
    assert [read_spec(mount.models / run)["learning_rate"] for run in runs] == [1e-2, 1e-4]
    for changed in (mount.jobs / f"{runs[0]}.json", mount.data / "sums.json"):
        os.utime(changed)  # as if written anew: the scripts decide
        assert main([*command, "--", "submit", "local", "--high_priority"]) == 2
        assert ("1 of 2 runs are done" in capfd.readouterr().err) == (changed.name != "sums.json")


@pytest.mark.parametrize(
    "by", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_sweep_continues(
    mount: Mount, config: Callable[..., str], by: signal.Signals
) -> None:
    """A terminal sends SIGINT to all processes; SIGTERM reaches the sweep alone."""
    words = [*SHELL, "--config", config(max_steps=100_000), "--seeds", "2"]
    process = subprocess.Popen(
        words, cwd=ROOT, start_new_session=True, text=True, stderr=subprocess.PIPE
    )
    log = mount.models / "tune" / "seed=0" / "train_log.jsonl"
    end = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    if by == signal.SIGINT:
        os.killpg(process.pid, by)
    else:
        process.send_signal(by)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert errors.endswith("sweep stopped; the same command continues it\n")
    assert "run 2 of 2" not in errors
    assert read_status(log.parent)["state"] == "saved"


def test_submitted_jobs(
    mount: Mount, config: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """An active job is not submitted again."""
    command = ["sweep", "--config", config(max_steps=100_000), "--seeds", "1"]
    assert main([*command, "--", "submit", "local", "--envs", "OMP_NUM_THREADS=1"]) == 0
    record = read_record(folder_of(mount, "tune/seed=0"))
    assert record is not None
    assert f"submitted as {record.title}" in capfd.readouterr().err
    assert main([*command, "--", "submit", "local"]) == 0
    assert f"tune/seed=0 is running already, as {record.title}\n" in capfd.readouterr().err
    assert main(["cancel", "tune/seed=0"]) == 0
    end = time.monotonic() + 60
    while state_of(record).may_live and time.monotonic() < end:
        time.sleep(0.1)
