"""A lock in a run's folder: which live job writes to it.

Jobs on clusters are killed, requeued on another node, and started twice by mistake. So a lock
counts only while its holder lives. On the same machine the process itself shows that; elsewhere
the lock file does, which the holder touches every few seconds (heartbeat).
"""

import json
import os
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

from workflow.core.console import log
from workflow.core.errors import RunFailed
from workflow.core.files import write_json

LOCK_FILE = "lock.json"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a run's folder."""

    host: str
    pid_namespace: str  # pids are valid only within it; "" if the system has none
    pid: int
    started: float  # pids are reused
    job_id: str | None  # the scheduler's
    token: str  # of this claim
    restart: int = 0  # how often the scheduler has restarted the job

    def __str__(self) -> str:
        if self == UNKNOWN:
            return "an unknown process"
        job = "" if self.job_id is None else f", job {self.job_id}"
        return f"pid {self.pid} on {self.host}{job}"


UNKNOWN = Owner(host="", pid_namespace="", pid=0, started=0.0, job_id=None, token="")


@dataclass(frozen=True)
class _Reading:
    """One reading of a lock; two that differ are a sign of life."""

    content: bytes
    changed: int  # nanoseconds, by the file system's clock

    @property
    def owner(self) -> Owner:
        """The lock's owner; UNKNOWN if it cannot be read, or another version wrote it."""
        try:
            values = json.loads(self.content)
            return Owner(**{field.name: values[field.name] for field in fields(Owner)})
        except (ValueError, TypeError, KeyError):
            return UNKNOWN


def this_process() -> Owner:
    """This process as the owner of a new claim."""
    pid_namespace = ""
    with suppress(OSError):  # every machine's first namespace has the same name
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        pid_namespace = f"{Path('/proc/self/ns/pid').readlink()} of boot {boot}"
    return Owner(
        host=socket.gethostname(),
        pid_namespace=pid_namespace,
        pid=os.getpid(),
        started=start_of(os.getpid()),
        job_id=os.environ.get("SLURM_JOB_ID") or None,
        token=uuid.uuid4().hex,
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
    )


def start_of(pid: int) -> float:
    """When a process started; since boot if that is known, as clocks may be adjusted."""
    try:
        fields_of_stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return float(fields_of_stat.split()[19])  # proc_pid_stat(5): starttime, in ticks
    except OSError:
        return float(psutil.Process(pid).create_time())


def find_holder(folder: Path, wait: float = STALE_SECONDS, poll: float = 1.0) -> Owner | None:
    """The live job that holds a run's folder, or None; watches the heartbeat of a remote holder.

    Args:
        wait: seconds without a heartbeat after which a remote holder counts as dead.
        poll: seconds between two readings of its lock.
    """
    first = _read_lock(folder / LOCK_FILE)
    if first is None:
        return None
    alive = _is_alive(first.owner)
    if alive is not None:
        return first.owner if alive else None
    age = _age(folder, first)
    if age is not None and age > wait:
        return None
    seen = "some time" if age is None else f"{max(age, 0):.0f} s"
    log.info(
        "%s is locked by %s (last heartbeat %s ago); watching its heartbeat for up to %g s",
        folder, first.owner, seen, wait,
    )  # fmt: skip
    end = time.monotonic() + wait
    while time.monotonic() < end:
        time.sleep(poll)
        reading = _read_lock(folder / LOCK_FILE)
        if reading != first:
            return None if reading is None else reading.owner
    return None


def is_fresh(folder: Path) -> bool:
    """Whether the lock of a run's folder was touched recently, so that its holder may live."""
    reading = _read_lock(folder / LOCK_FILE)
    if reading is None or _is_alive(reading.owner) is False:
        return False
    age = _age(folder, reading)
    return (time.time() - reading.changed / 1e9 if age is None else age) < STALE_SECONDS


def is_live(pid: int, started: float) -> bool:
    """Whether a process of this machine lives; its start time distinguishes reused pids."""
    try:
        is_zombie = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return start_of(pid) == started and not is_zombie
    except psutil.NoSuchProcess:
        return False


def _read_lock(path: Path) -> _Reading | None:
    """The current lock, or None.

    A network file system may answer a plain stat from its cache; opening a file makes it ask.
    """
    try:
        try:
            with open(path, "rb") as file:
                changed = os.fstat(file.fileno()).st_mtime_ns
                return _Reading(file.read(), changed)
        except OSError:  # exists, but cannot be read, e.g. while it is replaced
            return _Reading(b"", path.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_alive(owner: Owner) -> bool | None:
    """Whether another process that holds a lock lives; None if that is not known here."""
    here = this_process()
    if (owner.host, owner.pid_namespace) != (here.host, here.pid_namespace):
        requeued = owner.job_id is not None and owner.job_id == here.job_id
        return False if requeued and owner.restart < here.restart else None
    return owner.pid != here.pid and is_live(owner.pid, owner.started)


def _age(folder: Path, reading: _Reading) -> float | None:
    """Seconds since a lock was touched; None if its folder is not writable.

    Machines' clocks differ, so the time is that of a file touched in the same folder.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=f".{LOCK_FILE}.") as file:
            os.utime(file.fileno())
            return (os.fstat(file.fileno()).st_mtime_ns - reading.changed) / 1e9
    except OSError:
        return None


class RunLock:
    """This process's hold on a run's folder: one claim, taken once and released once.

    Attributes:
        taken_by: the owner that has taken the folder over; None while it is ours.
    """

    def __init__(
        self, folder: Path, owner: Owner | None = None, heartbeat: float = HEARTBEAT_SECONDS
    ):
        self._folder = folder
        self._path = folder / LOCK_FILE
        self._owner = owner or this_process()
        self._heartbeat = heartbeat
        self.taken_by: Owner | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def take(self) -> None:
        """Write the lock, replacing any other, and start the heartbeat."""
        write_json(self._path, asdict(self._owner))
        self._thread.start()

    @property
    def loss(self) -> RunFailed | None:
        """The error to raise if another job has taken the folder over.

        Known from the last heartbeat, so that no training step waits for a disk.
        """
        if self.taken_by is None:
            return None
        return RunFailed(
            f"{self._folder} was taken over by {self.taken_by}; this process no longer writes to it"
        )

    def release(self) -> None:
        """Stop the heartbeat, and remove the lock if it is still ours."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(OSError):
            reading = _read_lock(self._path)
            if reading is not None and reading.owner.token == self._owner.token:
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _beat(self) -> None:
        """Touch the lock until it is released or another's.

        An unreadable lock names no other owner, so it is still ours. A lock removed by hand is not
        written again. A vanished mount is reported elsewhere.
        """
        while self.taken_by is None and not self._released.wait(self._heartbeat):
            with suppress(OSError):
                reading = _read_lock(self._path)
                if reading is None:
                    continue
                if reading.owner.token in (self._owner.token, UNKNOWN.token):
                    os.utime(self._path)
                else:
                    self.taken_by = reading.owner
