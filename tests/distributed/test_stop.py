"""Stopping real commands: what is saved, how soon, and the exit statuses."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT
from forks import Fork, finish, places, run_script
from test_launcher import wait_for
from test_processes import ONE_THREAD, flag_words, job

from workflow.runs.mount import Mount
from workflow.runs.status import read_status

FINISHING = "finishing this step, then saving"
LONG = {"max_steps": 100_000, "eval_steps": 100_000, "save_steps": 100_000, "logging_steps": 5}
Start = Callable[..., Any]


@pytest.fixture
def start(mount: Mount) -> Iterator[Start]:
    """Starts a job of the mount, as a command or, sooner, as a fork; ends what is left of it."""
    started: list[subprocess.Popen[str] | Fork] = []

    def begin(
        name: str, *words: str, launcher: tuple[str, ...] = (), fork: bool = False,
        place: dict[str, str] | None = None, **flags: Any,
    ) -> "subprocess.Popen[str] | Fork":  # fmt: skip
        of_job = flag_words(job("seq2seq", name, **(LONG | flags)))
        script = [str(ROOT / "seq2seq.py"), "--mount", str(mount.root), *of_job, *words]
        if fork:
            started.append(Fork(run_script, *script, environment=place))
        else:
            started.append(
                subprocess.Popen(
                    [sys.executable, *launcher, *script], env=ONE_THREAD, text=True,
                    stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def wait_for_step(run: Path) -> None:
    wait_for((run / "train_log.jsonl").exists, seconds=90)


def assert_saved(run: Path, told: str, by: str) -> None:
    step = read_status(run)["step"]
    assert read_status(run) | {"state": "saved"} == read_status(run)
    assert (
        f"stopped by {by} at step {step}; the same command resumes from checkpoint-{step}" in told
    )
    assert "Traceback" not in told
    assert (run / f"checkpoint-{step}" / "resume" / "state.json").is_file()
    assert not (run / "lock.json").exists()


def test_a_terminated_job_saves_and_resumes(mount: Mount, start: Start) -> None:
    run = mount.models / "one"
    process = start("one", save_seconds=0.5)
    wait_for_step(run)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert_saved(run, told, "SIGTERM")
    stopped_at = read_status(run)["step"]
    process = start("one", fork=True, save_seconds=0.5)
    wait_for(lambda: read_status(run).get("step", 0) > stopped_at, seconds=90)
    assert read_status(run) | {"state": "running", "restarts": 1} == read_status(run)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"resuming from {run}/checkpoint-{stopped_at} at step {stopped_at}/" in told
    assert_saved(run, told, "SIGINT")


def test_a_launched_job_saves_with_all_its_processes(mount: Mount, start: Start) -> None:
    run = mount.models / "two"
    process = start("two", "--num_processes", "2", zero_stage=3)
    wait_for_step(run)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert_saved(run, told, "SIGUSR1")
    assert not any(worker.is_running() for worker in workers)


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """The first is recorded, as the run checks at every step; further signals change nothing."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, signal, sys
from pathlib import Path
from workflow.runs.lock import RunLock
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
stop = Stop()
stop.listen()
stop.defer(Path("."), World(), RunLock(Path(".")))
for name in sys.argv[1].split():
    print(stop.requested(), flush=True)
    os.kill(os.getpid(), getattr(signal, name))
print(stop.requested())
""")
    cases = (
        ("SIGTERM SIGTERM SIGUSR1", "None SIGTERM SIGTERM SIGTERM", ""),
        ("SIGINT SIGTERM SIGHUP", "None SIGINT SIGINT SIGINT", f"{FINISHING}; Ctrl-C again aborts"),
        ("SIGTERM SIGINT", "None SIGTERM SIGTERM", ""),
        ("SIGINT SIGINT", "None SIGINT", "KeyboardInterrupt"),
    )
    ended = finish(Fork(run_script, script, names, folder=tmp_path) for names, _, _ in cases)
    for done, (_, told, ending) in zip(ended, cases, strict=True):
        assert done.stdout.split() == told.split()
        assert done.stderr.strip().endswith(ending or FINISHING)


def test_a_stop_in_an_evaluation_ends_it(mount: Mount, start: Start) -> None:
    """During a text that would take hours; nothing half-written is left."""
    run = mount.models / "one"
    process = start("one", fork=True, max_new_tokens=100_000)
    wait_for(lambda: read_status(run).get("state") == "running", seconds=90)
    time.sleep(1)
    began = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 75
    assert "stopped by SIGTERM at step 0; the same command starts over" in told
    assert sorted(path.name for path in run.iterdir()) == [
        "audit.json", "report.html", "starts.jsonl", "status.json", "training_args.json",
    ]  # fmt: skip


def test_a_signal_before_the_run_leaves_nothing(mount: Mount, start: Start) -> None:
    for words in ((), ("--num_processes", "2")):
        process = start("early", *words)
        shown = psutil.Process(process.pid)
        wait_for(lambda shown=shown: bool(shown.cpu_times().user > 1), seconds=90)
        process.terminate()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 75
        assert "Traceback" not in told
        assert not (mount.models / "early").exists()


def test_a_stop_file_stops_a_world_of_others(mount: Mount, start: Start) -> None:
    run = mount.models / "others"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start("others", launcher=launcher)
    wait_for_step(run)
    (run / "stop").touch()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0  # a launcher would make any other status 1
    assert_saved(run, told, f"the file {run / 'stop'}")


def test_one_rank_that_is_asked_stops_all(mount: Mount, start: Start) -> None:
    """In an evaluation that the others would continue for hours."""
    run = mount.models / "evaluating"
    ranks = [
        start("evaluating", fork=True, place=place, max_new_tokens=100_000) for place in places(2)
    ]
    wait_for(lambda: read_status(run).get("state") == "running", seconds=90)
    time.sleep(1)
    ranks[1].send_signal(signal.SIGUSR1)
    told = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "stopped by SIGUSR1 at step 0; the same command starts over" in told[0]
    assert told[1] == ""
    assert read_status(run)["state"] == "saved"
