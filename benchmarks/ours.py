"""This project, as the trials of a comparison use it: the model `m` and the data of a mount."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import OwnMemory
from benchmarks.side_by_side import WARM_UP
from workflow.distributed.stop import Held, Stop
from workflow.runs.predictions import read_lines

if TYPE_CHECKING:  # a slow import
    from workflow.distributed.world import World

SEED = 0
ONLY_STEPS: dict[str, Any] = {
    "eval_on_start": False, "eval_steps": 10**6, "save_steps": 10**6, "logging_steps": 1,
    "seed": SEED,
}  # fmt: skip
"""Flags of a job whose steps are timed."""


def run_ours(
    task: str, arguments: argparse.Namespace, stop: Stop | None = None, **flags: Any
) -> Path:
    """Run a job of a trial, in fp32 where the trial's name begins so; returns the run's folder."""
    from workflow import find_mount, make_job, run_job
    from workflow.training.context import Invocation

    usual = {
        "model_init_name": "m", "data_name": "data", "overwrite_output_dir": True,
        "bf16": False if arguments.trial.startswith("fp32") else None,
    }  # fmt: skip
    mount = find_mount(str(arguments.folder))
    job = make_job(task, **usual | flags)
    folder: Path = run_job(job, mount, Invocation(stop=stop or Stop()))
    return folder


def seconds_of_steps(run: Path, batch: int) -> float:
    """Of the steps after the warm-up, by the run's log."""
    lines = list(read_lines(run / "train_log.jsonl"))
    return float(sum(batch / line["examples_per_second"] for line in lines[WARM_UP:]))


class MemoryOfSteps(Stop):
    """Measures the memory of a run of so many steps, without evaluations between them.

    Attributes:
        more_gb: the peak until the end of the last step, above what was held with the model loaded.
    """

    def __init__(self, steps: int):
        super().__init__()
        self._checks = 1 + steps
        self.more_gb = math.nan

    def defer(self, run: Path, world: "World", lock: Held) -> None:
        """Begin: the run calls this as soon as its model is loaded."""
        super().defer(run, world, lock)
        self._memory = OwnMemory()

    def check(self, failure: OSError | None = None) -> None:
        """Count: the run calls this before the first step and after each."""
        super().check(failure)
        self._checks -= 1
        if self._checks == 0:
            self.more_gb = self._memory.more_gb()


def in_our_order(records: Sequence[Any], steps: int, batch: int, seed: int = SEED) -> list[Any]:
    """The examples of each step of ours, so that a peer trains on the same."""
    from workflow.data.example_order import step_examples

    orders = (step_examples(step, batch, len(records), seed) for step in range(1, steps + 1))
    return [records[index] for order in orders for index in order]
