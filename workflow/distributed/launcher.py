"""One job as several processes on this (Linux) machine, under torch's elastic launcher.

The launcher's agent holds the port at which the processes meet, so that two jobs never collide.
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # slow: a worker calls die_with_parent before it imports torch
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

LAUNCHER_VARIABLE = "WORKFLOW_LAUNCHER"
GRACE_SECONDS = 3.0  # to end in after another worker's death: those blocked in C++ never will
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1
HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What torch's agent passes on to the workers."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended: with `status`, or by a signal where `signal` is not 0."""

    rank: int
    pid: int
    status: int
    signal: int


@dataclass(frozen=True)
class Launched:
    """How a world ended: its exit status, and the signal to the launcher that ended it, if any."""

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

    Where a worker fails, the others are stopped at once and its status is that of the world. A
    signal is passed on, and leaves the workers time to save; so is a second, and a third ends them.
    Workers inherit environment, stdout and stderr, and speak for themselves; each calls
    `die_with_parent` when it starts.

    Args:
        patience: the seconds that workers have after a signal, asked when it comes.
    """
    from torch.distributed.elastic.multiprocessing import SignalException  # slow

    _prepare_environment(processes)
    failures: list[Ending] = []
    agent = _make_agent(_make_spec(script, arguments, processes), failures, patience)
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        agent.run()
    except SignalException as stop:
        return Launched(128 + stop.sigval, stop.sigval, _pids(agent))
    finally:
        _signal_groups(_pids(agent), signal.SIGKILL)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not failures:
        return Launched(0, pids=_pids(agent))
    first = find_cause(failures)
    if first.signal:
        print(tell_signal(first, processes), file=sys.stderr, flush=True)
    status = 128 + first.signal if first.signal else first.status
    return Launched(status, pids=_pids(agent))


def _pids(agent: "LocalElasticAgent") -> tuple[int, ...]:
    return tuple(worker.id for worker in agent.get_worker_group().workers if worker.id)


def die_with_parent() -> None:
    """Let the kernel end this worker with its launcher, even where SIGKILL ends that one.

    Does nothing in a process that `launch_local` did not start. The variable is taken away: a
    worker's own children have another parent.
    """
    launcher = os.environ.pop(LAUNCHER_VARIABLE, None)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it died before this call
        os.kill(os.getpid(), signal.SIGKILL)


def end_process(status: int) -> NoReturn:
    """End this process without taking the interpreter down first."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def find_cause(failures: Sequence[Ending]) -> Ending:
    """The failure that brought the others about, of those found in one look at the workers.

    A peer's death shows in the others as a status of 1, never as a signal or bad input.
    """
    return max(failures, key=lambda ending: (ending.signal > 0, ending.status, -ending.rank))


def tell_signal(ending: Ending, processes: int) -> str:
    """The line for a worker that could not say itself how it ended."""
    who = f"process {ending.rank + 1} of {processes} (pid {ending.pid})"
    told = f"{who} was ended by {name_signal(ending.signal)}"
    return told + "; the others were stopped" * (processes > 1) + hint_at(ending.signal)


def name_signal(number: int) -> str:
    known = {known.value: known.name for known in signal.Signals}
    return known.get(number, f"signal {number}")


def hint_at(number: int) -> str:
    """What a signal most likely means, where that is not plain."""
    if number != signal.SIGKILL:
        return ""
    return "; the system does that where memory runs out: lower --micro_batch_tokens, see --dry_run"


def _prepare_environment(processes: int) -> None:
    """What the workers inherit, and a torch that says nothing of its own."""
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    # What is ignored stays so, as SIGHUP under nohup: torch would handle it.
    kept = [number.name for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(kept)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(threads)
    torch_log = logging.getLogger("torch.distributed.elastic")
    torch_log.addHandler(logging.NullHandler())
    torch_log.propagate = False


def _make_spec(script: str, arguments: Sequence[str], processes: int) -> "WorkerSpec":
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    meeting = RendezvousParameters(
        backend="c10d",
        endpoint="127.0.0.1:0",  # a port that is free, and held from now on
        run_id=str(os.getpid()),
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",
        is_host=True,
    )
    return WorkerSpec(
        role="worker",
        local_world_size=processes,
        rdzv_handler=get_rendezvous_handler(meeting),
        entrypoint=sys.executable,
        args=tuple(text.replace("$", "$$") for text in (script, *arguments)),  # string templates
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        local_addr="127.0.0.1",
    )


def _make_agent(
    spec: "WorkerSpec", failures: list[Ending], patience: Callable[[], float]
) -> "LocalElasticAgent":
    """Torch's agent, but that workers have GRACE_SECONDS after another's death; there it is 30.

    After a signal to the launcher they have what `patience` says then; there it is fixed before.
    """
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import SignalException

    class Agent(LocalElasticAgent):
        def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
            try:
                super()._shutdown(death_sig, math.ceil(patience()))
            except SignalException as again:
                if again.sigval == death_sig == signal.SIGINT:  # torch would pass on SIGTERM
                    _signal_groups(_pids(self), signal.SIGINT)
                raise

        def _monitor_workers(self, worker_group: "WorkerGroup") -> "RunResult":
            pids = {worker.global_rank: worker.id for worker in worker_group.workers}
            endings = [ending for rank in pids if (ending := _find_ending(rank, pids[rank]))]
            failures.extend(ending for ending in endings if ending.status or ending.signal)
            if failures:
                _stop(list(pids.values()))
            elif len(endings) < len(pids):
                return RunResult(state=WorkerState.HEALTHY)
            result: RunResult = super()._monitor_workers(worker_group)  # finds them all ended
            return result

    return Agent(spec, _make_logs_specs())


def _make_logs_specs() -> "LogsSpecs":
    """No files or folders, and no threads that read what none writes."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    class Inherited(DefaultLogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> "LogsDest":
            streams = super().reify(envs)
            streams.tee_stdouts.clear()
            streams.tee_stderrs.clear()
            return streams

    return Inherited(log_dir=os.devnull)


def _find_ending(rank: int, pid: int) -> Ending | None:
    """How a worker ended, left for torch to collect; None while it runs."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    left = ended.si_code == os.CLD_EXITED
    return Ending(rank, pid, ended.si_status if left else 0, 0 if left else ended.si_status)


def _stop(pids: Sequence[int]) -> None:
    """End workers and what they started: asked at first, soon not asked any more."""
    try:
        _signal_groups(pids, signal.SIGTERM)
        last = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < last and not all(_find_ending(0, pid) for pid in pids):
            time.sleep(POLL_SECONDS)
    finally:  # even if a signal to the launcher comes now, which leaves healthy workers more time
        _signal_groups(pids, signal.SIGKILL)


def _signal_groups(pids: Sequence[int], number: signal.Signals) -> None:
    """Signal the process groups of workers not collected yet; torch makes each worker its own."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.killpg(pid, number)
