"""This project, as the trials of a comparison use it: the model `m` and the data of a mount."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import WARM_UP
from workflow.runs.predictions import read_lines

SEED = 0
ONLY_STEPS = {
    "eval_on_start": False, "eval_steps": 10**6, "save_steps": 10**6, "logging_steps": 1,
    "seed": SEED,
}  # fmt: skip
"""Flags of a job whose steps are timed."""


def run_ours(task: str, arguments: argparse.Namespace, **flags: Any) -> Path:
    """Run a job of a trial, in fp32 where the trial's name begins so; returns the run's folder."""
    from workflow import find_mount, make_job, run_job

    usual = {
        "model_init_name": "m", "data_name": "data", "overwrite_output_dir": True,
        "bf16": False if arguments.trial.startswith("fp32") else None,
    }  # fmt: skip
    folder: Path = run_job(make_job(task, **usual | flags), find_mount(str(arguments.folder)))
    return folder


def seconds_of_steps(run: Path, batch: int) -> float:
    """Of the steps after the warm-up, by the run's log."""
    lines = list(read_lines(run / "train_log.jsonl"))
    return float(sum(batch / line["examples_per_second"] for line in lines[WARM_UP:]))


def in_our_order(records: Sequence[Any], steps: int, batch: int) -> list[Any]:
    """The examples of each step of ours, so that a peer trains on the same."""
    from workflow.data.example_order import step_examples

    orders = (step_examples(step, batch, len(records), SEED) for step in range(1, steps + 1))
    return [records[index] for order in orders for index in order]
