"""The command line of both entry scripts: a job run, and its problems told."""

import os
import signal
import sys
from collections.abc import Sequence

from workflow.command import parse_command_line
from workflow.console import start_log
from workflow.errors import BadInput, Problem, WorkflowError
from workflow.mount import find_mount


def main(task: str, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the job of a command line; returns the exit status."""
    spec, place, problems = parse_command_line(task, description, argv)
    start_log()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that status.json can tell it
    try:
        _refuse_several_processes()
        from workflow.train import run_job  # slow: torch and transformers

        run_job(spec, find_mount(place.mount), problems)
    except WorkflowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _refuse_several_processes() -> None:
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size not in ("", "1"):
        found = f"a launcher's world of {world_size} processes"
        mend = "start the script with plain python3"
        raise BadInput([Problem("WORLD_SIZE", found, "one process in this version", mend)])
