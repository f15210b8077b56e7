"""The command line of the entry scripts: run a job here or in several processes."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from workflow.config.launch import LaunchOptions
from workflow.config.parse import NO_MODEL, parse_command_line
from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, OutOfMemory, Problem, Stopped, WorkflowError
from workflow.core.imports import importing
from workflow.distributed.launcher import (
    LAUNCHER_VARIABLE,
    Launched,
    die_with_parent,
    end_process,
    killed_by,
    launch_local,
)
from workflow.distributed.rendezvous import Membership, find_world, join
from workflow.distributed.stop import SIGNALS, Stop
from workflow.runs.mount import Mount, find_mount, find_run_folder, run_name_of
from workflow.runs.status import read_status

EARLY = "stopped before the run started; nothing is lost"
CLOSED = ("gloo/transport", "Connection closed by", "Connection reset by", "remote process exited")
"""Words of gloo and NCCL in errors about a connection that the other end closed."""
EARLY_SECONDS = 5.0
"""Time for processes to end after a signal before the run started; some wait in C++."""
SHUTDOWN_SECONDS = 60.0
"""Time once the run has started, in addition to the times it has measured."""


def main(task: str, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the job of a command line, and return the exit status.

    A process of a world that runs its own command line ends here: gloo's threads may outlive the
    interpreter, which would then abort a process that has finished its work.
    """
    status = _main(task, description, sys.argv[1:] if argv is None else list(argv))
    if argv is None:
        for number in SIGNALS:  # the process is ending already
            signal.signal(number, signal.SIG_IGN)
        if os.environ.get("RANK"):
            end_process(status)
    return status


@dataclass(frozen=True)
class _CommandLine:
    """A parsed command line: the job, how to launch it, and the problems found."""

    arguments: list[str]
    spec: JobRequest
    launch: LaunchOptions
    problems: list[Problem]

    @property
    def mount(self) -> Mount:
        return find_mount(self.launch.mount)

    def processes_to_start(self) -> int:
        """--num_processes, or one for each visible GPU."""
        if self.launch.num_processes is not None:
            return self.launch.num_processes
        with importing():
            from workflow.distributed.device import usable_gpus

        return max(1, usable_gpus())


def _main(task: str, description: str, arguments: list[str]) -> int:
    ours = LAUNCHER_VARIABLE in os.environ  # removed by `die_with_parent`
    die_with_parent()
    line = _CommandLine(arguments, *parse_command_line(task, description, arguments))
    from workflow.core.console import start_log  # slow, and not needed for -h

    if line.launch.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported; workers inherit it
    # Lengths vary, which fragments memory. torch ignores this if PYTORCH_CUDA_ALLOC_CONF is set.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    stop = Stop()
    stop.listen()
    membership = None
    try:
        membership = find_world(os.environ)
        start_log(silent=membership is not None and membership.rank > 0)
        if line.launch.dry_run:
            _dry_run(line, membership)
        elif membership is not None:
            _run_in_world(line, membership, stop)
        else:
            return _run(line, stop)
    except Stopped as stopped:
        _print_error(stopped, str(stopped), membership)
        return stopped.exit_status if membership is None else 0  # status.json has the state
    except WorkflowError as error:
        _print_error(error, str(error), membership)
        if isinstance(error, BadInput) and membership is not None and not ours:
            _record_refusal(line, error, membership)
        return error.exit_status
    except OSError as error:
        _print_error(error, f"stopped: {error}", membership)
        return 1
    except RuntimeError as error:
        message = None if membership is None else _of_communication(error)
        if message is None:
            raise
        _print_error(error, message, membership)
        return 1
    except SystemExit as error:  # by a signal
        if membership is None:
            _print_error(error, EARLY, None)
        raise
    except KeyboardInterrupt as error:
        if membership is None or membership.rank == 0:
            _print_error(error, "interrupted", membership)
        return 130
    return 0


def _print_error(error: BaseException, message: str, membership: Membership | None) -> None:
    """Print an error: a shared one once, others with the rank of their process."""
    from workflow.core.console import show_error

    with suppress(OSError):  # standard error is closed
        if membership is None or membership.rank == 0:
            show_error(message)
        elif not getattr(error, "shared", False):
            show_error(f"rank {membership.rank} of {membership.size}: {message}")


def _run(line: _CommandLine, stop: Stop) -> int:
    """Run a job without an outer launcher, here or in several processes; return its status."""
    with importing():
        from workflow.distributed.device import problems_of_gpus

    processes = line.processes_to_start()
    of_gpus = [*problems_of_gpus(line.launch.device), *_problems_of_too_few_gpus(processes)]
    line = replace(line, problems=[*line.problems, *of_gpus])
    if processes > 1:
        return _launch(line, processes)
    with importing():
        from workflow.training.context import Invocation  # slow: torch and transformers
        from workflow.training.loop import run_job

    invocation = Invocation(line.problems, stop=stop, command=_command())
    run_job(line.spec, line.mount, invocation)
    return 0


def _run_in_world(line: _CommandLine, membership: Membership, stop: Stop) -> None:
    """Run one process of a job that a launcher started."""
    requested, problems = line.launch.num_processes, line.problems
    if requested not in (None, membership.size):
        found = f"{requested} with a launcher that started {membership.size} processes"
        hint = "remove it under a launcher"
        problems = [*problems, Problem("--num_processes", found, "the same number", hint)]
    join(membership, os.environ)
    with importing():
        from workflow.distributed.device import problems_of_gpus
        from workflow.distributed.world import World
        from workflow.training.context import Invocation
        from workflow.training.loop import run_job

    if of_gpus := problems_of_gpus(line.launch.device):
        raise BadInput([*problems, *of_gpus])  # of this machine: the others need not have it
    world = World.joined()
    try:
        run_job(line.spec, line.mount, Invocation(problems, world, stop, _command()))
    except OutOfMemory:  # the launcher ends the other processes
        raise
    except WorkflowError:
        world.end()
        raise
    world.end()


def _problems_of_too_few_gpus(processes: int) -> list[Problem]:
    """NCCL needs a GPU for each process."""
    from workflow.distributed.device import usable_gpus

    if not 0 < (gpus := usable_gpus()) < processes:
        return []
    hint = "start one process per GPU, or set --device cpu"
    return [Problem("--num_processes", f"{processes} on {gpus} GPUs", f"at most {gpus}", hint)]


def _launch(line: _CommandLine, processes: int) -> int:
    """Check and tokenize everything here, then run the job in new processes."""
    with importing():
        from workflow.distributed.world import World
        from workflow.training.prepare import prepare
        from workflow.training.summary import log_audit

    world = World(size=processes, local_size=processes)
    job = prepare(line.spec, line.mount, line.problems, world)
    if job.spec.audit:
        log_audit(job)
        return 0

    def patience() -> float:
        """Seconds that a step and a save may take; before the run starts nothing is lost."""
        status = read_status(job.run_path)
        if status.get("state") != "running" or status.get("time", 0.0) < began:
            return EARLY_SECONDS
        return SHUTDOWN_SECONDS + 3 * float(status.get("stop_seconds", 0.0))

    began = time.time()
    return _outcome(job.run_path, launch_local(sys.argv[0], line.arguments, processes, patience))


def _outcome(run: Path, launched: Launched) -> int:
    """The exit status of a job after its processes have ended."""
    from workflow.training.run_dir import note_crash

    status = read_status(run)
    ours = status.get("host") == socket.gethostname() and status.get("pid") in launched.pids
    state = status.get("state") if ours else None
    stopped = launched.signal not in (0, signal.SIGINT) and not ours  # before the run started
    if stopped:
        print(EARLY, file=sys.stderr)
    if stopped or (state == "saved" and (launched.signal or launched.status == 0)):
        return Stopped.exit_status
    if state == "done" and launched.signal:
        return 0
    if ours and launched.status > 2:  # for 1 and 2 the processes have written status.json
        note_crash(run, _reason(launched.status))
    return launched.status


def _reason(status: int) -> str:
    if status > 128:
        return f"a process was {killed_by(status - 128)}"
    return f"a process exited with status {status}"


def _command() -> list[str]:
    """The command as typed, without the paths of Python and the script."""
    return ["python3", Path(sys.argv[0]).name, *sys.argv[1:]]


def _dry_run(line: _CommandLine, membership: Membership | None) -> None:
    """Print the job's memory plan, on rank 0."""
    with importing():
        from workflow.distributed.world import World
        from workflow.training.plan import dry_run

    if membership is not None:
        world = World(membership.rank, membership.size, membership.local_size)
    else:
        processes = line.processes_to_start()
        world = World(size=processes, local_size=processes)
    if world.is_rank_zero:
        for text in dry_run(line.spec, line.launch, line.mount, world, line.problems):
            print(text)


def _record_refusal(line: _CommandLine, error: BadInput, membership: Membership) -> None:
    """Write the reason of a refusal to status.json: a launcher's exit status has none."""
    named = line.spec.training_run_name is not None or line.spec.model != NO_MODEL
    if membership.rank > 0 or not named or not line.mount.root.is_dir():
        return
    from workflow.training.run_dir import write_refusal

    folder, problems = find_run_folder(line.mount, run_name_of(line.spec))
    with suppress(OSError):
        if not problems:
            write_refusal(folder, error)


def _of_communication(error: RuntimeError) -> str | None:
    """The message of a failed communication between processes; None for any other error.

    A closed connection is only the effect of another process's error, which reports itself. Errors
    of NCCL itself are shown completely: the cause is in their last lines.
    """
    from torch.distributed import DistBackendError, DistError

    text = str(error)
    closed = any(words in text for words in CLOSED)
    if isinstance(error, DistBackendError) and not closed:
        return f"communication between GPUs failed: {text}"
    if closed or isinstance(error, DistError):
        return f"lost the connection to another process ({(text.splitlines() or [''])[0]})"
    return None
