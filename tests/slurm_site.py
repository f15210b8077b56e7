"""Jobs of a tiny real model on a temporary Slurm, submitted with this project's commands."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT, T5_TINY, addition_records, write_data
from safetensors.torch import load_file
from slurm_cluster import SlurmCluster

from workflow.cluster.job_record import LOG, folder_of, read_record
from workflow.runs.mount import Mount
from workflow.runs.status import TRAIN_LOG, read_status

TRAIN = {
    "model_init_name": "t5-tiny", "data_name": "sums", "train_batch_size": 8, "bf16": "false",
    "learning_rate": 1e-3, "dropout_rate": 0.1, "logging_steps": 10, "eval_steps": 100_000,
    "max_new_tokens": 5,
}  # fmt: skip
PAUSE = """
import time

def pause(records, predictions):
    time.sleep(2)
    return 0.0
"""
WORLD = 240
"""Seconds for all processes to start and train a little on two shared cores."""


def make_site_mount(root: Path) -> Mount:
    """A mount with the embedded model and the data `sums`."""
    made = Mount(root)
    made.data.mkdir(parents=True)
    made.models.mkdir()
    (made.models / T5_TINY.name).symlink_to(T5_TINY)
    write_data(made, "sums", addition_records(24), addition_records(7, start=5))
    (root / "pause.py").write_text(PAUSE)
    return made


@dataclass(frozen=True)
class Site:
    """A cluster, and the mount that its nodes see."""

    cluster: SlurmCluster
    mount: Mount

    def run(self, name: str) -> Path:
        return self.mount.models / name

    def lasting(self, steps: int) -> dict[str, Any]:
        """Flags of a run that takes at least 2 seconds per 20 steps: time to stop it early."""
        metric = f"{self.mount.root / 'pause.py'}:pause"
        return {"max_steps": steps, "eval_steps": 20, "save_steps": 100_000, "metric": metric}

    def log(self, name: str) -> str:
        path = folder_of(self.mount, name) / LOG
        return path.read_text() if path.exists() else ""

    def call(self, *words: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        """`python3 -m workflow …` of this mount."""
        environment = self.cluster.environment | {"WORKFLOW_MOUNT": str(self.mount.root)}
        done = subprocess.run(
            [sys.executable, "-m", "workflow", *words], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def submit(self, name: str, *of_cluster: str, **flags: Any) -> str:
        """Submit a job, by default one that trains; returns its number."""
        values = (flags if "no_train" in flags else TRAIN | flags) | {"training_run_name": name}
        of_job = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        words = ("--envs", "OMP_NUM_THREADS=1", *of_cluster, "--", "seq2seq.py", *of_job)
        done = self.call("submit", "slurm", *words)
        record = read_record(folder_of(self.mount, name))
        assert record is not None
        line = f"submitted as slurm job {record.identity}; `python3 -m workflow status {name}`"
        assert done.stderr.endswith(f"{line} shows its state\n"), done.stderr
        return record.identity

    def wait_for_steps(self, name: str) -> None:
        """Wait until a run trains."""
        message = f"{name} does not train"
        self.cluster.wait_for((self.run(name) / TRAIN_LOG).exists, WORLD, message)

    def wait_for_end(self, name: str, number: str, state: str = "COMPLETED") -> None:
        try:
            self.cluster.wait_for_state(number, state, WORLD)
        except AssertionError as error:
            error.add_note(self.log(name))
            raise

    def assert_done(self, name: str, restarts: int) -> None:
        status = read_status(self.run(name))
        found = {key: status[key] for key in ("state", "restarts")}
        assert found == {"state": "done", "restarts": restarts}, self.log(name)


def newest(run: Path) -> Path:
    return max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))


def samples(run: Path) -> list[dict[str, Any]]:
    """The last predictions."""
    last = max(run.glob("temperature=*"), key=lambda file: int(file.stem.partition("step=")[2]))
    found: list[dict[str, Any]] = json.loads(last.read_text())
    return found


def assert_same_weights(run: Path, plain: Path) -> None:
    """The last checkpoints are equal bit for bit, and so are the last predictions."""
    assert newest(run).name == newest(plain).name
    files = (next(newest(one).glob("*model.safetensors")) for one in (run, plain))
    found, wanted = map(load_file, files)
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not found[name].equal(tensor)] == []
    assert samples(run) == samples(plain)
