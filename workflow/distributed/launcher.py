"""Run one job in several processes on this (Linux) machine.

The launcher holds the rendezvous port, so that two jobs never collide.
"""

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from workflow.distributed.rendezvous import Membership, join

LAUNCHER_VARIABLE = "WORKFLOW_LAUNCHER"
GRACE_SECONDS = 3.0  # to end after another worker's death; those blocked in C++ never do
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

Worker = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Ending:
    """How a worker ended: with `status`, or by `signal` unless that is 0."""

    rank: int
    pid: int
    status: int
    signal: int


@dataclass(frozen=True)
class Launched:
    """How all workers ended: the exit status, and the signal to the launcher, if any."""

    status: int
    signal: int = 0
    pids: tuple[int, ...] = ()


def launch_local(
    script: str,
    arguments: Sequence[str],
    processes: int,
    patience: Callable[[], float] = lambda: 60.0,
) -> Launched:
    """Run `script` in `processes` workers until they have ended.

    If a worker fails, the others are stopped at once, and its status is returned. Signals are
    forwarded, and workers get time to save; a third signal kills them. Workers inherit environment,
    stdout and stderr, and report their own errors; each calls `die_with_parent` when it starts.

    Args:
        patience: returns the seconds that workers have to end; called when a signal comes.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # slow, for workers too

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    workers: list[Worker] = []
    with _noted_signals() as signals:
        try:
            for rank in range(processes):
                place = Membership(rank, processes, rank, processes, "127.0.0.1", store.port)
                workers.append(_start([sys.executable, script, *arguments], place))
            failures = _wait(workers, signals, patience)
        finally:
            _signal_groups(workers, signal.SIGKILL)
            for worker in workers:
                with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver
                    worker.wait(GRACE_SECONDS)
    pids = tuple(worker.pid for worker in workers)
    if signals:
        return Launched(128 + signals[-1], signals[-1], pids)
    if not failures:
        return Launched(0, pids=pids)
    first = find_cause(failures)
    if first.signal:
        print(describe_signal(first, processes), file=sys.stderr, flush=True)
    return Launched(128 + first.signal if first.signal else first.status, pids=pids)


def die_with_parent() -> None:
    """Let the kernel kill this worker when its launcher dies, even by SIGKILL.

    Does nothing in a process that `launch_local` did not start. Removes the variable: a worker's
    children have another parent.
    """
    launcher = os.environ.pop(LAUNCHER_VARIABLE, None)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it died before this call
        os.kill(os.getpid(), signal.SIGKILL)


def end_process(status: int) -> NoReturn:
    """End this process without shutting down the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def find_cause(failures: Sequence[Ending]) -> Ending:
    """The failure that caused the others, of those found in one poll of the workers.

    Workers that lose a peer end with status 1, never with a signal or bad input.
    """
    return max(failures, key=lambda ending: (ending.signal > 0, ending.status, -ending.rank))


def describe_signal(ending: Ending, processes: int) -> str:
    """The line for a worker that was killed, so could not report itself."""
    stopped = "; the other processes were stopped" * (processes > 1)
    return f"rank {ending.rank} (pid {ending.pid}) was {killed_by(ending.signal, stopped)}"


def killed_by(number: int, more: str = "") -> str:
    """The end of a message on a process that a signal killed, with the likely cause and a hint.

    Args:
        more: another fact, placed before the hint.
    """
    known = {known.value: known.name for known in signal.Signals}
    killed = f"killed by {known.get(number, f'signal {number}')}"
    if number != signal.SIGKILL:
        return killed + more
    cause = "probably the kernel's out-of-memory killer"
    return f"{killed} ({cause}){more}. Hint: reduce --micro_batch_tokens, see --dry_run"


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Record signals in place of their effect; ignored signals stay ignored."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # e.g. SIGHUP under nohup
            signal.signal(number, lambda number, _frame: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], place: Membership) -> Worker:
    """Start a worker in its own session, so that a signal reaches its children too."""
    names = dict(os.environ)
    join(place, names)
    names["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # for torch: rank 0 must not open the port
    names.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as under torchrun
    names[LAUNCHER_VARIABLE] = str(os.getpid())
    return subprocess.Popen(command, env=names, start_new_session=True)


def _wait(
    workers: Sequence[Worker], signals: Sequence[int], patience: Callable[[], float]
) -> list[Ending]:
    """Wait until workers have ended or their time is over; return the first failures."""
    failures: list[Ending] = []
    passed_on, last = 0, math.inf
    while True:
        endings = [found for rank, worker in enumerate(workers) if (found := _look(rank, worker))]
        if not failures and not passed_on:
            failures = [ending for ending in endings if ending.status or ending.signal]
            if failures:
                _signal_groups(workers, signal.SIGTERM)
                last = time.monotonic() + GRACE_SECONDS
        if len(endings) == len(workers) or time.monotonic() > last or passed_on > 2:
            return failures
        if not failures:  # else a signal would leave healthy workers more time
            for number in signals[passed_on:]:
                _signal_groups(workers, number)
                last = time.monotonic() + patience()
                passed_on += 1
        time.sleep(POLL_SECONDS)


def _look(rank: int, worker: Worker) -> Ending | None:
    """How a worker ended; None while it runs. Does not reap it, so that its pid is not reused."""
    ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    left = ended.si_code == os.CLD_EXITED
    number = 0 if left else ended.si_status
    return Ending(rank, worker.pid, ended.si_status if left else 0, number)


def _signal_groups(workers: Sequence[Worker], number: int) -> None:
    """Signal workers that are not reaped yet, and their children."""
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, number)
