"""What a run's folder says of the run: its files' names, and its status.

Read by commands that are to answer at once: nothing here imports torch.
"""

import json
import os
from pathlib import Path
from typing import Any

SPEC_FILE = "training_args.json"
STATUS_FILE = "status.json"
TRAIN_LOG, METRICS = "train_log.jsonl", "metrics.jsonl"
STARTS = "starts.jsonl"
AUDIT = "audit.json"
REPORT = "report.html"
SLOW_DISK = 100e6
"""Bytes a second that a save is taken to write, until a run has shown how long it takes."""


def is_run_folder(folder: Path) -> bool:
    return (folder / SPEC_FILE).is_file() and (folder / STATUS_FILE).is_file()


def status_files(models: Path) -> dict[str, Path]:
    """status.json of every run of mount/models, by the run's name."""
    found = [*models.glob(f"*/{STATUS_FILE}"), *models.glob(f"*/*/{STATUS_FILE}")]
    names = {str(path.parent.relative_to(models)): path for path in found}
    return {name: path for name, path in names.items() if not name.startswith(".")}


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says; empty where there is none that can be read."""
    return read_object(folder / STATUS_FILE)


def read_spec(folder: Path) -> dict[str, Any]:
    """The job that training_args.json holds; empty where there is none that can be read."""
    return read_object(folder / SPEC_FILE)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_requeued(status: dict[str, Any]) -> bool:
    """Whether this is a requeue, by Slurm, of the very job that wrote the status.

    Flags on overwriting and resuming are for a job's first start, and ignored then.
    """
    job_id = os.environ.get("SLURM_JOB_ID")
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return again and job_id is not None and status.get("job_id") == job_id
