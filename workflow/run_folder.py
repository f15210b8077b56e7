"""The folder of a run: whose it is, and what stands in it beside the checkpoints."""

import dataclasses
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from workflow.checkpoint import find_checkpoints
from workflow.config import JobSpec
from workflow.errors import BadInput, Problem, shorten
from workflow.files import (
    append_json_line,
    discard_folder,
    remove_partials,
    whole_folder,
    write_json,
)

SPEC_FILE = "training_args.json"
STATUS_FILE = "status.json"


def written_spec(spec: JobSpec) -> dict[str, Any]:
    """The job as training_args.json holds it: what a job is, not how to treat an earlier one."""
    values = dataclasses.asdict(spec)
    del values["overwrite_output_dir"]
    return values


def is_run_folder(folder: Path) -> bool:
    return (folder / SPEC_FILE).is_file() and (folder / STATUS_FILE).is_file()


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says; empty where there is none that can be read."""
    try:
        status = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def is_finished(folder: Path, spec: JobSpec) -> bool:
    """Whether this very job is done; raises BadInput where the folder is not free for it."""
    if not folder.exists():
        return False
    where = str(folder)
    if not is_run_folder(folder):
        if folder.is_dir() and not any(folder.iterdir()):
            return False
        found, mend = "something that is no run folder", "choose another --training_run_name"
        raise BadInput([Problem(where, found, "a free name", mend)])
    status = read_status(folder)
    if status.get("state") == "running" and _is_alive(status):
        found = f"a job that is running (pid {status['pid']} on {status['host']})"
        mend = "wait for it, end it, or choose another --training_run_name"
        raise BadInput([Problem(where, found, "a run that is not running", mend)])
    if spec.overwrite_output_dir:
        return False
    mend = "choose another --training_run_name, or add --overwrite_output_dir to begin again"
    differences = _differences(folder, spec)
    if differences:
        found = f"a run of another job ({'; '.join(differences)})"
        raise BadInput([Problem(where, found, "the same job", mend)])
    if status.get("state") == "done":
        return True
    checkpoints = find_checkpoints(folder)
    if checkpoints:
        found = (
            f"a run that ended at step {status.get('step')} (newest: checkpoint-{checkpoints[-1]})"
        )
        raise BadInput([Problem(where, found, "a finished run, or a free name", mend)])
    return False


def _differences(folder: Path, spec: JobSpec) -> list[str]:
    try:
        earlier = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    wanted = json.loads(json.dumps(written_spec(spec)))
    return [
        f"{name}: {shorten(earlier.get(name))} there, {shorten(value)} here"
        for name, value in wanted.items()
        if earlier.get(name) != value
    ]


def _is_alive(status: dict[str, Any]) -> bool:
    if status.get("host") != socket.gethostname() or status.get("pid") == os.getpid():
        return False
    try:
        os.kill(int(status["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return True


class RunFolder:
    """Writes what a run tells about itself."""

    def __init__(self, path: Path, spec: JobSpec):
        """Make the folder, in place of what an earlier try of the job left there.

        Raises:
            BadInput: where another job has taken the name since it was found free.
        """
        self.path = path
        self._max_steps = spec.max_steps
        is_finished(path, spec)
        if path.exists():
            discard_folder(path)
        with whole_folder(path) as partial:
            write_json(partial / SPEC_FILE, written_spec(spec))
            write_json(partial / STATUS_FILE, self._status("running", 0, None))
        status = read_status(path)
        if (status.get("host"), status.get("pid")) != (socket.gethostname(), os.getpid()):
            found = "a job that began at the same moment"
            raise BadInput([Problem(str(path), found, "a free name", "start one of the two")])
        remove_partials(path.parent)

    def write_status(self, state: str, step: int, error: str | None = None) -> None:
        write_json(self.path / STATUS_FILE, self._status(state, step, error))

    def _status(self, state: str, step: int, error: str | None) -> dict[str, Any]:
        status = {
            "state": state,
            "step": step,
            "max_steps": self._max_steps,
            "time": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        }
        return status | ({"error": error} if error else {})

    def append_train_log(self, line: dict[str, Any]) -> None:
        append_json_line(self.path / "train_log.jsonl", line)

    def append_metrics(self, line: dict[str, Any]) -> None:
        append_json_line(self.path / "metrics.jsonl", line)

    def write_items(self, name: str, items: list[dict[str, Any]]) -> None:
        write_json(self.path / name, items)
