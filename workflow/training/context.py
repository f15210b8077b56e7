"""How a run was invoked, and what its parts share once it has claimed its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from workflow.core.errors import Problem
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.runs.train_state import Progress
from workflow.training.prepare import Job
from workflow.training.run_dir import RunFolder


@dataclass(frozen=True)
class Invocation:
    """How a run was invoked.

    Attributes:
        problems: problems found so far, to be reported together with the others.
        world: the processes of the job; all must run it.
        stop: requests to stop; a file named `stop` in the run's folder is one too.
        command: the command line; empty if a program started the run.
    """

    problems: Sequence[Problem] = ()
    world: World = field(default_factory=World)
    stop: Stop = field(default_factory=Stop)
    command: Sequence[str] = ()


@dataclass(frozen=True)
class RunContext:
    """The job, its processes, requests to stop, and the run's folder.

    Attributes:
        progress: how far the run is; updated in place.
    """

    job: Job
    world: World
    stop: Stop
    folder: RunFolder
    progress: Progress
