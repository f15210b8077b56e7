"""Runs several jobs, one after the other, in one world: `several_jobs.py MOUNT JOBS.json`.

Each job is the flags of one by name, with the task's name under "task". Started by launch_local,
torchrun or plain python3; starting a world takes longer than a small job.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workflow import make_job, run_job
from workflow.console import start_log
from workflow.launch.join import find_world, join
from workflow.launch.local import die_with_parent
from workflow.mount import Mount
from workflow.world import World


def main() -> None:
    die_with_parent()
    membership = find_world(os.environ)
    world = World.alone()
    start_log(silent=membership is not None and membership.rank > 0)
    if membership is not None:
        join(membership, os.environ)
        world = World.joined()
    for flags in json.loads(Path(sys.argv[2]).read_text()):
        run_job(make_job(**flags), Mount(Path(sys.argv[1])), world=world)
    world.end()


if __name__ == "__main__":
    main()
