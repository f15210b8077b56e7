"""A disk that is full, read-only or gone during a run: what is reported, and what remains."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, make_mount
from forks import Fork, run_script
from test_processes import flag_words, job, write_scored
from tiny_models import add_one_stack

from workflow.core.checksums import find_damage
from workflow.runs.mount import Mount

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, as root"
)
FLAGS = {"max_steps": 100_000, "eval_steps": 100_000, "save_seconds": 0.2, "logging_steps": 5}


def attach(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def remount_read_only(folder: Path) -> None:
    """Between two writes of the run: the kernel refuses while a file is open for writing."""
    command = ["mount", "-o", "remount,ro", str(folder)]
    last = time.monotonic() + 60
    while (done := subprocess.run(command, check=False, capture_output=True, text=True)).returncode:
        assert "busy" in done.stderr, done.stderr
        assert time.monotonic() < last
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mount]:
    """A mount whose models are on a disk of 60 MB."""
    made = make_mount(tmp_path / "mount")
    models = made.models.rename(tmp_path / "models")
    made.models.mkdir()
    attach(made.models, "size=60m")
    shutil.copytree(models, made.models, dirs_exist_ok=True)
    yield made
    subprocess.run(["umount", "-l", str(made.models)], check=True)


def start(mount: Mount, **flags: object) -> Fork:
    task = "clf" if flags.get("model_init_name") == "bert" else "seq2seq"
    words = flag_words(job(task, "full", **(FLAGS | flags)))
    return Fork(run_script, ROOT / f"{task}.py", "--mount", str(mount.root), *words)


def wait_for_checkpoint(run: Path, process: Fork) -> None:
    last = time.monotonic() + 60
    while not list(run.glob("checkpoint-*/")):
        assert time.monotonic() < last
        assert process.poll() is None
        time.sleep(0.02)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


@pytest.mark.parametrize(
    ("model", "free"),
    [("small", 0), ("small", 21_000_000), ("gpt", 21_000_000), ("bert", 21_000_000)],
)
def test_a_full_disk_is_reported_and_nothing_is_lost(
    small_disk: Mount, model: str, free: int
) -> None:
    """Too little space for a save, and none for a line of a log."""
    add_one_stack(small_disk)
    write_scored(small_disk)
    run = small_disk.models / "full"
    with start(small_disk, model_init_name=model) as process:
        wait_for_checkpoint(run, process)
        room = os.statvfs(small_disk.models)
        with (
            open(small_disk.models / "ballast", "wb", buffering=0) as ballast,
            suppress(OSError),
        ):
            ballast.write(bytes(max(0, room.f_bavail * room.f_frsize - free)))
            while free == 0:  # the job writes, too
                ballast.write(bytes(4096))
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert " MB needed, " in last or (free == 0 and "No space left on device" in last), told
    assert "the same command, which resumes from" in last
    newest = max(run.glob("checkpoint-*/"), key=step_of)
    assert find_damage(newest) == find_damage(newest / "resume") == []
    assert not list(run.glob(".*"))
    if free == 0:
        return
    (small_disk.models / "ballast").unlink()
    step = step_of(newest)
    with start(small_disk, model_init_name=model) as process:
        while True:
            status = json.loads((run / "status.json").read_text())
            if status["state"] == "running" and status["step"] > step:
                break
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"resuming from {newest}" in told


@pytest.mark.parametrize("kind", ["read-only", "gone"])
def test_a_folder_that_cannot_be_written_is_reported(small_disk: Mount, kind: str) -> None:
    run = small_disk.models / "full"
    with start(small_disk) as process:
        wait_for_checkpoint(run, process)
        if kind == "gone":
            subprocess.run(["umount", "-l", str(small_disk.models)], check=True)
        else:
            remount_read_only(small_disk.models)
        _, told = process.communicate(timeout=60)
    if kind == "gone":
        attach(small_disk.models, "size=1m")
    assert process.returncode == 1
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    reason = "No such file or directory" if kind == "gone" else "Read-only file system"
    assert reason in last, told
    assert str(run) in last
    assert "then rerun the same command, which" in last
