"""The files of a run's folder, and its status.

Read by commands that must start fast: nothing here imports torch.
"""

import os
from pathlib import Path
from typing import Any

from workflow.core.files import read_object

SPEC_FILE = "training_args.json"
STATUS_FILE = "status.json"
TRAIN_LOG, METRICS = "train_log.jsonl", "metrics.jsonl"
STARTS = "starts.jsonl"
AUDIT = "audit.json"
REPORT = "report.html"
SLOW_DISK = 100e6
"""Bytes per second that a save is assumed to write, until one has been timed."""


def is_run_folder(folder: Path) -> bool:
    return (folder / SPEC_FILE).is_file() and (folder / STATUS_FILE).is_file()


def status_files(models: Path) -> dict[str, Path]:
    """status.json of every run of mount/models, by the run's name."""
    found = [*models.glob(f"*/{STATUS_FILE}"), *models.glob(f"*/*/{STATUS_FILE}")]
    names = {str(path.parent.relative_to(models)): path for path in found}
    return {name: path for name, path in names.items() if not name.startswith(".")}


def read_status(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty if it cannot be read."""
    return read_object(folder / STATUS_FILE)


def read_spec(folder: Path) -> dict[str, Any]:
    """The job in training_args.json; empty if it cannot be read."""
    return read_object(folder / SPEC_FILE)


def is_requeued(status: dict[str, Any]) -> bool:
    """Whether Slurm has requeued the job that wrote the status.

    Flags for overwriting and resuming apply to a job's first start, and are ignored then.
    """
    job_id = os.environ.get("SLURM_JOB_ID")
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return again and job_id is not None and status.get("job_id") == job_id
