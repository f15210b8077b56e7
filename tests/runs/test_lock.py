"""One live job writes a run's folder, wherever it runs and however the last one ended."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT

from workflow.core.errors import RunFailed
from workflow.core.files import write_json
from workflow.runs.lock import LOCK_FILE, Owner, RunLock, find_holder, is_fresh, this_process

HOLDER = """
import sys, time
from pathlib import Path
from workflow.runs.lock import RunLock
RunLock(Path(sys.argv[1])).take()
print("taken", flush=True)
time.sleep(100)
"""
NODE8 = Owner("node8", "pid:[4026531836]", 12, 1e9, "4711", "8" * 32)
FAST = 0.02


BROKEN = {
    "empty": b"",
    "truncated": b'{"host": "node8", "pid": 1',
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "another version's": b'{"host": "node8", "pid": 12}',
}


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A live process that holds `tmp_path`."""
    names = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=names, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "taken\n"
            yield process
        finally:
            process.kill()


@contextmanager
def taken(folder: Path, **options: Any) -> Iterator[RunLock]:
    """A lock that is held within."""
    with RunLock(folder, **options) as lock:
        lock.take()
        yield lock


def write_lock(folder: Path, owner: Owner = NODE8, **changes: Any) -> Path:
    path = folder / LOCK_FILE
    write_json(path, asdict(owner) | changes)
    return path


@contextmanager
def touching(path: Path) -> Iterator[None]:
    """Touch a file again and again, as a live holder on another machine does."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(FAST):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def at_once() -> Iterator[None]:
    """Far sooner than the minute that a holder elsewhere is watched for."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 10


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(FAST)


def ahead(path: Path) -> None:
    """Date a file an hour ahead, so that it is not old however slow the test is."""
    os.utime(path, (time.time() + 3600,) * 2)


def heartbeats() -> int:
    return [thread.name for thread in threading.enumerate()].count("run lock")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_lock_no_holder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with at_once():
        assert find_holder(tmp_path) is None
        assert find_holder(tmp_path / "nowhere") is None
        assert find_holder(tmp_path / "file") is None


def test_a_live_process_is_found_until_it_is_killed(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with at_once():
        assert is_fresh(tmp_path)
        found = find_holder(tmp_path)
        assert found is not None
        assert str(found) == f"pid {holder.pid} on {os.uname().nodename}"
        started = psutil.boot_time() + found.started / os.sysconf("SC_CLK_TCK")
        assert started == pytest.approx(psutil.Process(holder.pid).create_time(), abs=2)
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE
        assert find_holder(tmp_path) is None
        holder.wait()
        assert find_holder(tmp_path) is None
        assert not is_fresh(tmp_path)
    assert names_in(tmp_path) == [LOCK_FILE]
    write_lock(tmp_path)
    assert is_fresh(tmp_path)  # of another machine only time can tell


def test_a_process_with_a_dead_holders_pid_is_not_it(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    found = find_holder(tmp_path)
    assert found is not None
    for seconds in (-10, -1, 1, 10):
        write_lock(tmp_path, replace(found, started=found.started + seconds))
        with at_once():
            assert find_holder(tmp_path) is None


def test_a_live_process_is_no_job_of_ours_for_its_job_id(
    tmp_path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands of one job script, started twice by mistake."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    found = find_holder(tmp_path)
    assert found is not None
    write_lock(tmp_path, replace(found, job_id="4711"))
    assert str(find_holder(tmp_path)) == f"{found}, job 4711"


def test_this_process_is_no_other_holder(tmp_path: Path) -> None:
    with at_once(), taken(tmp_path):
        assert find_holder(tmp_path) is None


def test_a_claim_is_distinct_from_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    one, other = this_process(), this_process()
    assert one.token != other.token
    assert replace(one, token=other.token) == other
    assert (one.pid, one.job_id) == (os.getpid(), "4711")
    assert str(one) == f"pid {os.getpid()} on {os.uname().nodename}, job 4711"


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_a_job_that_was_requeued_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, str]
) -> None:
    path = write_lock(tmp_path, replace(this_process(), job_id="4711"), **elsewhere)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    ahead(path)
    assert find_holder(tmp_path, wait=0.1, poll=FAST) is None  # another step of the same start
    with touching(path):
        assert find_holder(tmp_path, poll=FAST) is not None
    ahead(path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with at_once():
        assert find_holder(tmp_path) is None


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_a_holder_elsewhere_is_known_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    owner = replace(this_process(), job_id="4711", **elsewhere)
    path = write_lock(tmp_path, owner)
    with at_once(), touching(path):
        assert find_holder(tmp_path, poll=FAST) == owner
    assert names_in(tmp_path) == [LOCK_FILE]


def test_a_silent_holder_elsewhere_is_watched_then_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    caplog.set_level("INFO")
    ahead(write_lock(tmp_path))
    start = time.monotonic()
    assert find_holder(tmp_path, wait=0.5, poll=0.05) is None
    assert time.monotonic() - start >= 0.5
    assert set(caplog.messages) == {
        f"{tmp_path} is locked by pid 12 on node8, job 4711 (last heartbeat 0 s ago);"
        " watching its heartbeat for up to 0.5 s"
    }


def test_a_lock_that_was_silent_for_long_is_not_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    caplog.set_level("INFO")
    path = write_lock(tmp_path)
    os.utime(path, (time.time() - 70,) * 2)
    with at_once():
        assert find_holder(tmp_path) is None
    assert not caplog.records
    assert names_in(tmp_path) == [LOCK_FILE]


def test_an_old_lock_is_watched_where_no_clock_can_be_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    caplog.set_level("INFO")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    os.utime(write_lock(tmp_path), (0, 0))
    assert find_holder(tmp_path, wait=0.1, poll=FAST) is None
    assert "last heartbeat some time ago" in caplog.text


def test_a_holder_that_ends_while_it_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lock(tmp_path)
    monkeypatch.setattr("workflow.runs.lock.log.info", lambda *_: path.unlink())
    with at_once():
        assert find_holder(tmp_path, poll=FAST) is None


def test_a_job_that_takes_over_a_watched_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock's time may stay the same if a file system counts in seconds."""
    path = write_lock(tmp_path)
    ahead(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    other = replace(NODE8, host="node9", token="9" * 32)

    def take_over(*_: object) -> None:
        write_lock(tmp_path, other)
        os.utime(path, ns=times)

    monkeypatch.setattr("workflow.runs.lock.log.info", take_over)
    with at_once():
        assert find_holder(tmp_path, poll=FAST) == other


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_lock_is_known_by_its_heartbeat_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / LOCK_FILE
    path.write_bytes(content)
    with at_once(), touching(path):
        assert str(find_holder(tmp_path, poll=FAST)) == "an unknown process"
    ahead(path)
    assert find_holder(tmp_path, wait=0.1, poll=FAST) is None
    assert names_in(tmp_path) == [LOCK_FILE]


def test_a_lock_that_cannot_be_read_just_now_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E.g. one on a network file system that is replaced between opening and reading."""

    def stale(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    path = write_lock(tmp_path)
    monkeypatch.setattr("workflow.runs.lock.open", stale, raising=False)
    with at_once(), touching(path):
        assert str(find_holder(tmp_path, poll=FAST)) == "an unknown process"


def test_the_heartbeat_touches_the_lock_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    with taken(tmp_path, heartbeat=FAST) as lock:
        for _ in range(2):
            os.utime(path, (0, 0))
            until(lambda: time.time() - path.stat().st_mtime < 60)
        assert lock.taken_by is None
        assert lock.loss is None
    assert names_in(tmp_path) == []
    assert heartbeats() == 0


def test_release_does_not_wait_for_the_next_heartbeat(tmp_path: Path) -> None:
    with at_once(), taken(tmp_path, heartbeat=100):
        assert names_in(tmp_path) == [LOCK_FILE]
    assert names_in(tmp_path) == []


def test_a_take_over_is_noticed_and_left_alone(tmp_path: Path) -> None:
    with taken(tmp_path, heartbeat=FAST) as lock:
        with taken(tmp_path, owner=NODE8) as other:
            until(lambda: lock.taken_by)
            assert lock.taken_by == NODE8
            assert isinstance(lock.loss, RunFailed)
            assert str(lock.loss) == (
                f"{tmp_path} was taken over by pid 12 on node8, job 4711;"
                " this process no longer writes to it"
            )
            lock.release()
            assert names_in(tmp_path) == [LOCK_FILE]
            assert other.loss is None
        assert names_in(tmp_path) == []
        other.release()


def test_another_claim_of_this_process_is_a_take_over_too(tmp_path: Path) -> None:
    with taken(tmp_path, heartbeat=FAST) as lock, taken(tmp_path):
        until(lambda: lock.taken_by)
        until(lambda: heartbeats() == 1)


def test_a_broken_lock_is_kept_fresh_by_its_holder(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    with taken(tmp_path, heartbeat=FAST) as lock:
        path.write_text('{"host":')
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)
        assert lock.loss is None
    assert path.read_text() == '{"host":'


@pytest.mark.parametrize("whole_run", [False, True])
def test_a_removed_lock_is_not_written_again(tmp_path: Path, whole_run: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with taken(folder, heartbeat=FAST) as lock:
        if whole_run:
            shutil.rmtree(folder)
        else:
            (folder / LOCK_FILE).unlink()
        time.sleep(10 * FAST)
        assert lock.loss is None
        assert heartbeats() == 1
        assert not (folder / LOCK_FILE).exists()


def test_a_mount_that_fails_does_not_end_the_heartbeat(tmp_path: Path) -> None:
    folder, aside = tmp_path / "run", tmp_path / "aside"
    folder.mkdir()
    with taken(folder, heartbeat=FAST) as lock:
        folder.rename(aside)
        folder.symlink_to(folder)  # whatever is asked of it now is an OSError
        time.sleep(10 * FAST)
        folder.unlink()
        aside.rename(folder)
        os.utime(folder / LOCK_FILE, (0, 0))
        until(lambda: (folder / LOCK_FILE).stat().st_mtime > 0)
        folder.rename(aside)
        folder.symlink_to(folder)
        lock.release()
    assert names_in(aside) == [LOCK_FILE]


def test_a_lock_that_cannot_be_taken_holds_nothing(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        lock.take()
    lock.release()
    assert heartbeats() == 0


def test_a_run_that_fails_releases_its_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), taken(tmp_path):
        assert names_in(tmp_path) == [LOCK_FILE]
        raise ZeroDivisionError
    assert names_in(tmp_path) == []
