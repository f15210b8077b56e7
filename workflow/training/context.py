"""What a run has in hand, on every process, from the moment its folder is its own."""

from dataclasses import dataclass

from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.runs.train_state import Progress
from workflow.training.prepare import Job
from workflow.training.run_dir import RunFolder


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
