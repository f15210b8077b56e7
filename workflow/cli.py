"""The command line of both entry scripts: a job run, here or in several processes."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from workflow.command import parse_command_line
from workflow.config import JobSpec, Place
from workflow.console import start_log
from workflow.errors import BadInput, Problem, WorkflowError
from workflow.launch.join import Membership, find_world, join
from workflow.launch.local import LAUNCHER_VARIABLE, die_with_parent, launch_local
from workflow.mount import default_run_name, find_mount, find_run_folder


def main(task: str, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the job of a command line; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    ours = LAUNCHER_VARIABLE in os.environ
    die_with_parent()
    spec, place, problems = parse_command_line(task, description, arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that status.json can tell it
    membership = None
    try:
        membership = find_world(os.environ)
        start_log(silent=membership is not None and membership.rank > 0)
        if membership is not None:
            _run_in_world(spec, place, problems, membership)
            return 0
        processes = _processes_to_start(place)
        if place.dry_run:
            _dry_run(spec, place, problems, processes)
            return 0
        if processes > 1:
            return _launch(spec, place, problems, arguments, processes)
        from workflow.train import run_job  # slow: torch and transformers

        run_job(spec, find_mount(place.mount), problems)
    except WorkflowError as error:
        # All processes of a world end with the same error: one tells it.
        if membership is None or membership.rank == 0:
            print(error, file=sys.stderr)
            if isinstance(error, BadInput) and membership is not None and not ours:
                _tell_in_status(spec, place, error)
        return error.exit_status
    except OSError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if membership is None or not _lost_another(error):
            raise
        who = f"process {membership.rank + 1} of {membership.size}"
        print(f"{who}: lost another process ({_first_line(error)})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if membership is None or membership.rank == 0:
            print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run_in_world(
    spec: JobSpec, place: Place, problems: list[Problem], membership: Membership
) -> None:
    """Take part in a job of several processes, which a launcher started."""
    if place.num_processes not in (None, membership.size):
        found = f"{place.num_processes} in a launcher's world of {membership.size} processes"
        mend = "leave it out under a launcher"
        problems = [*problems, Problem("--num_processes", found, "the same number", mend)]
    join(membership, os.environ)
    from workflow.train import run_job
    from workflow.world import World

    world = World.joined()
    run_job(spec, find_mount(place.mount), problems, world)
    world.end()


def _processes_to_start(place: Place) -> int:
    """As many as asked for, else one for each GPU that is visible."""
    if place.num_processes is not None:
        return place.num_processes
    import torch

    return max(1, torch.cuda.device_count())


def _launch(
    spec: JobSpec, place: Place, problems: list[Problem], arguments: list[str], processes: int
) -> int:
    """Check and tokenize everything here, then run the job in processes of its own."""
    from workflow.prepare import prepare
    from workflow.train import tell_audit
    from workflow.world import World

    started = World(size=processes, local_size=processes)
    job = prepare(spec, find_mount(place.mount), problems, started)
    if job.spec.audit:
        tell_audit(job)
        return 0
    return launch_local(sys.argv[0], arguments, processes)


def _dry_run(spec: JobSpec, place: Place, problems: list[Problem], processes: int) -> None:
    from workflow.planning import dry_run

    for line in dry_run(spec, place, find_mount(place.mount), processes, problems):
        print(line)


def _tell_in_status(spec: JobSpec, place: Place, error: BadInput) -> None:
    """Write why a job was refused where the launcher's exit status cannot say it."""
    from workflow.run_folder import write_refusal

    mount = find_mount(place.mount)
    if mount.root.is_dir():
        folder, found = find_run_folder(mount, spec.training_run_name or default_run_name(spec))
        with suppress(OSError):
            if not found:
                write_refusal(folder, error)


def _lost_another(error: RuntimeError) -> bool:
    """Whether a process only ends since another one did, which speaks for itself."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "closed by peer" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
