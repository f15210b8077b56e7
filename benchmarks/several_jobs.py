"""Run several jobs, one after the other, in one world: `several_jobs.py MOUNT JOBS.json`.

A job is a dictionary of its flags, with the task's name under "task", and optionally under
"stop_after" the number of checks after which it is asked to stop. Started by launch_local, torchrun
or plain python3; starting a world takes longer than a small job.
"""

import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workflow import make_job, run_job
from workflow.core.console import start_log
from workflow.core.errors import Stopped
from workflow.distributed.launcher import die_with_parent, end_process
from workflow.distributed.rendezvous import find_world, join
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.runs.mount import Mount
from workflow.training.context import Invocation


def main() -> None:
    """Run the jobs of the command line, alone or in the world that a launcher made."""
    die_with_parent()
    membership = find_world(os.environ)
    world = World.alone()
    start_log(silent=membership is not None and membership.rank > 0)
    if membership is not None:
        join(membership, os.environ)
        world = World.joined()
    for flags in json.loads(Path(sys.argv[2]).read_text()):
        stop = StopAfter(flags.pop("stop_after", math.inf))
        with suppress(Stopped):
            run_job(make_job(**flags), Mount(Path(sys.argv[1])), Invocation(world=world, stop=stop))
    world.end()
    if membership is not None:
        end_process(0)


class StopAfter(Stop):
    """Asks to stop after so many looks, but for the first: one a step, two an evaluation."""

    def __init__(self, looks: float):
        super().__init__()
        self._left = looks + 1

    def check(self, failure: OSError | None = None) -> None:
        self._left -= 1
        super().check(failure)

    def requested(self) -> str | None:
        return "the test" if self._left < 0 else super().requested()


if __name__ == "__main__":
    main()
