"""How a run was asked for, and what it has in hand from the moment its folder is its own."""

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
    """How a run was asked for.

    Attributes:
        problems: what is known to be wrong with the job, to be told with all the rest.
        world: the processes of the job; all must run it.
        stop: whether the job is asked to stop; a file named `stop` in the run's folder does so too.
        command: the words that asked for the job, where it was a command line.
    """

    problems: Sequence[Problem] = ()
    world: World = field(default_factory=World.alone)
    stop: Stop = field(default_factory=Stop)
    command: Sequence[str] = ()


@dataclass(frozen=True)
class RunContext:
    """The job, who computes it, who may ask it to stop, and what is written of it.

    Attributes:
        progress: how far the run is; it changes as the run goes on.
    """

    job: Job
    world: World
    stop: Stop
    folder: RunFolder
    progress: Progress
