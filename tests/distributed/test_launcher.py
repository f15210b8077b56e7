"""Real launches of small scripts: exit statuses, how fast all end, and what remains."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from forks import Fork

from workflow.distributed import launcher as launcher_module
from workflow.distributed.launcher import Ending, find_cause, launch_local, tell_signal

START = """
import ctypes, json, os, signal, sys, time
from pathlib import Path
from workflow.distributed.launcher import die_with_parent
die_with_parent()
rank = int(os.environ["RANK"])
Path(f"pid{rank}").write_text(str(os.getpid()))
block = lambda: ctypes.CDLL(None).pause()  # in C, where Python's signal handlers never run
"""
SIGNALS_HANDLED_IN_C = """
signal.signal(signal.SIGTERM, lambda *_: None)
while block(): pass
"""
Launch = Callable[..., Fork]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Launches Python code in several processes, in tmp_path; ends all that it started."""
    launchers: list[Fork] = []

    def start(body: str, *arguments: str, processes: int = 2, **environment: str) -> Fork:
        script = tmp_path / f"script{len(launchers)}.py"
        script.write_text(START + body)
        unset = ("OMP_NUM_THREADS", "PYTHONUNBUFFERED")  # unbuffered lines would be torn
        names = {name: text for name, text in os.environ.items() if name not in unset}
        temporary = tmp_path / "temporary"
        temporary.mkdir(exist_ok=True)
        names |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)} | environment
        launchers.append(
            Fork(_launch, str(script), arguments, processes, folder=tmp_path, environment=names)
        )
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.kill()
    for file in tmp_path.glob("pid?"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    for launcher in launchers:
        launcher.communicate()


def _launch(script: str, arguments: tuple[str, ...], processes: int) -> None:
    launcher_module.GRACE_SECONDS = 0.3
    sys.exit(launch_local(script, arguments, processes).status)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "this took too long"
        time.sleep(0.02)


def wait_for_files(folder: Path, *names: str) -> None:
    wait_for(lambda: all((folder / name).is_file() for name in names))
    wait_for(lambda: all((folder / name).read_text() for name in names))


def read_pid(folder: Path, rank: int) -> int:
    wait_for_files(folder, f"pid{rank}")
    return int((folder / f"pid{rank}").read_text())


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_well(launch: Launch, tmp_path: Path) -> None:
    body = """
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS".split()
names += ["WORKFLOW_LAUNCHER"]
seen = {name: os.environ.get(name) for name in names}
print(json.dumps(seen | {"arguments": sys.argv[1:]}), flush=True)
"""
    arguments = ["--name", "a b", "${local_rank} $$ $5"]
    out, err = launch(body, *arguments).communicate(timeout=60)
    lines = sorted((json.loads(line) for line in out.splitlines()), key=lambda line: line["RANK"])
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert err == ""
    assert lines == [
        {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": threads,
            "WORKFLOW_LAUNCHER": None,
            "arguments": arguments,
        }
        for rank in range(2)
    ]
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["pid0", "pid1", "script0.py", "temporary"]


def test_a_status_is_passed_on_and_workers_speak_for_themselves(launch: Launch) -> None:
    body = """
if rank == 1:
    print(os.environ["OMP_NUM_THREADS"], flush=True)
    print("no such data", file=sys.stderr)
    sys.exit(2)
time.sleep(60)
"""
    launcher = launch(body, OMP_NUM_THREADS="7")  # a user's own number is kept
    assert launcher.communicate(timeout=60) == ("7\n", "no such data\n")
    assert launcher.returncode == 2


def test_a_worker_reports_its_exception_and_no_child_is_left(
    launch: Launch, tmp_path: Path
) -> None:
    body = """
import subprocess
Path(f"pid{rank + 2}").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
if rank == 0:
    while not (Path("pid3").is_file() and Path("pid3").read_text()):
        time.sleep(0.02)
    raise ValueError("a defect")
block()
"""
    launcher = launch(body)
    out, err = launcher.communicate(timeout=60)
    assert (out, launcher.returncode) == ("", 1)
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: a defect\n")
    assert err.count("\n") < 6
    pids = [read_pid(tmp_path, number) for number in range(4)]
    wait_for(lambda: not any(map(is_alive, pids)), seconds=10)


def test_the_others_are_down_soon_after_a_kill(launch: Launch, tmp_path: Path) -> None:
    """Rank 0 waits in a collective for rank 2; rank 1 ignores signals in C."""
    body = """
if rank == 1:
    SIGNALS
import torch
torch.distributed.init_process_group("gloo", world_size=2, rank=rank // 2)
Path(f"joined{rank}").write_text("yes")
if rank == 2:
    block()
torch.distributed.barrier()
"""
    launcher = launch(
        body.replace("SIGNALS", SIGNALS_HANDLED_IN_C.replace("\n", "\n    ")), processes=3
    )
    pids = [read_pid(tmp_path, rank) for rank in range(3)]
    wait_for_files(tmp_path, "joined0", "joined2")
    start = time.monotonic()
    os.kill(pids[2], signal.SIGKILL)
    _, err = launcher.communicate(timeout=60)
    seconds = time.monotonic() - start
    assert launcher.returncode == 137
    assert tell_signal(Ending(2, pids[2], 0, signal.SIGKILL), 3) in err
    assert "elastic" not in err
    assert not any(map(is_alive, pids))
    assert seconds < 10


def test_a_signal_is_passed_on_and_leaves_time_to_save(launch: Launch, tmp_path: Path) -> None:
    """Longer than the grace after a worker's death, even if another has ended meanwhile."""
    body = """
def save(*_):
    Path(f"asked{rank}").write_text("yes")
    time.sleep(rank == 0)
    Path(f"saved{rank}").write_text("yes")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path(f"ready{rank}").write_text("yes")
while True: time.sleep(1)
"""
    launcher = launch(body)
    wait_for_files(tmp_path, "ready0", "ready1")
    launcher.terminate()
    wait_for_files(tmp_path, "asked0", "saved1")
    assert not (tmp_path / "saved0").exists()
    assert launcher.communicate(timeout=60) == ("", "")
    assert launcher.returncode == 143
    wait_for_files(tmp_path, "saved0")


def test_an_interrupt_ends_with_130(launch: Launch, tmp_path: Path) -> None:
    body = """
try:
    Path(f"ready{rank}").write_text("yes")
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
    launcher = launch(body)
    wait_for_files(tmp_path, "ready0", "ready1")
    launcher.send_signal(signal.SIGINT)
    assert launcher.communicate(timeout=60) == ("", "")
    assert launcher.returncode == 130


def test_a_third_signal_ends_workers_that_ignore_two(launch: Launch, tmp_path: Path) -> None:
    launcher = launch(SIGNALS_HANDLED_IN_C)
    pids = [read_pid(tmp_path, rank) for rank in range(2)]
    for _ in range(3):
        assert launcher.poll() is None
        launcher.terminate()
        time.sleep(0.3)
    assert launcher.communicate(timeout=10) == ("", "")
    assert launcher.returncode == 143
    assert not any(map(is_alive, pids))


def test_no_worker_outlives_its_launcher(launch: Launch, tmp_path: Path) -> None:
    launcher = launch(SIGNALS_HANDLED_IN_C)
    pids = [read_pid(tmp_path, rank) for rank in range(2)]
    launcher.kill()
    wait_for(lambda: not any(map(is_alive, pids)), seconds=10)


def test_a_worker_whose_launcher_died_before_it_asked_ends(tmp_path: Path) -> None:
    body = START + 'Path("went on").write_text("yes")'
    names = {"PYTHONPATH": str(ROOT), "WORKFLOW_LAUNCHER": "1", "RANK": "0"}
    command = [sys.executable, "-c", body]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | names, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "went on").exists()


def test_two_launches_at_once_meet_in_worlds_of_their_own(launch: Launch, tmp_path: Path) -> None:
    body = """
import torch
torch.distributed.init_process_group("gloo")
total = torch.tensor([float(sys.argv[1])])
torch.distributed.all_reduce(total)
Path(f"{sys.argv[1]}-{rank}").write_text(f"{os.environ['MASTER_PORT']} {total.item()}")
torch.distributed.destroy_process_group()
"""
    launchers = [launch(body, value) for value in ("1", "10")]
    outputs = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0]
    assert outputs == [("", ""), ("", "")]
    told = [[(tmp_path / f"{value}-{rank}").read_text().split() for rank in range(2)]
            for value in ("1", "10")]  # fmt: skip
    assert [[total for _, total in of_one] for of_one in told] == [["2.0"] * 2, ["20.0"] * 2]
    ports = [{port for port, _ in of_one} for of_one in told]
    assert [len(of_one) for of_one in ports] == [1, 1]
    assert ports[0] != ports[1]


def test_the_cause_is_distinguished_from_its_consequences() -> None:
    lost_its_peer, bad_input = Ending(0, 10, 1, 0), Ending(1, 11, 2, 0)
    killed = Ending(2, 12, 0, signal.SIGSEGV)
    assert find_cause([lost_its_peer, killed, bad_input]) == killed
    assert find_cause([lost_its_peer, bad_input]) == bad_input
    assert find_cause([Ending(1, 11, 1, 0), lost_its_peer]) == lost_its_peer


def test_an_end_by_a_signal_is_reported() -> None:
    assert tell_signal(Ending(0, 5, 0, 15), 1) == "rank 0 (pid 5) was killed by SIGTERM"
    assert tell_signal(Ending(0, 5, 0, 9), 2) == (
        "rank 0 (pid 5) was killed by SIGKILL (probably the kernel's out-of-memory killer: reduce "
        "--micro_batch_tokens, see --dry_run); the other processes were stopped"
    )
    told = "rank 1 (pid 5) was killed by signal 40; the other processes were stopped"
    assert tell_signal(Ending(1, 5, 0, 40), 4) == told
