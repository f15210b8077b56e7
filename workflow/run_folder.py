"""The folder of a run: whose it is, and what stands in it beside the checkpoints."""

import dataclasses
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
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
from workflow.progress import Progress

SPEC_FILE = "training_args.json"
STATUS_FILE = "status.json"

# These change how a job is computed, not what comes out.
MAY_DIFFER = frozenset(
    {"micro_batch_tokens", "logging_steps", "zero_stage", "offload", "deepspeed"}
)


def written_spec(spec: JobSpec) -> dict[str, Any]:
    """The job as training_args.json holds it: what a job is, not how to treat an earlier one."""
    values = dataclasses.asdict(spec)
    for name in ("overwrite_output_dir", "audit"):
        del values[name]
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


def is_finished(folder: Path, spec: JobSpec, data: dict[str, str]) -> bool:
    """Whether this very job is done; raises BadInput where the folder is not free for it.

    Args:
        data: the key of each split's content, as status.json keeps it.
    """
    if not folder.exists():
        return False
    if not is_run_folder(folder):
        if folder.is_dir() and not any(path.name != STATUS_FILE for path in folder.iterdir()):
            return False
        found = "something that is no run folder"
        raise _not_free(folder, found, "a free name", "choose another --training_run_name")
    status = read_status(folder)
    if status.get("state") == "running":
        _refuse_running(folder, status, spec.overwrite_output_dir)
    if spec.overwrite_output_dir:
        return False
    mend = "choose another --training_run_name, or add --overwrite_output_dir to begin again"
    differences = _differences(folder, spec)
    if status.get("data") != data:
        differences.append("the data or the tokenizer has changed since")
    if differences:
        found = f"a run of another job ({'; '.join(differences)})"
        raise _not_free(folder, found, "the same job", mend)
    if status.get("state") == "done":
        return True
    checkpoints = find_checkpoints(folder)
    if checkpoints:
        newest = f"newest: checkpoint-{checkpoints[-1]}"
        found = f"a run that ended at step {status.get('step')} ({newest})"
        raise _not_free(folder, found, "a finished run, or a free name", mend)
    return False


def write_refusal(folder: Path, error: BadInput) -> None:
    """Let status.json say why a job was not begun, where its folder is free.

    A launcher's own exit status is not that of the job it started.
    """
    if folder.exists() and any(path.name != STATUS_FILE for path in folder.iterdir()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    status = RunFolder(folder, None, {}).status("failed", Progress(), str(error))
    write_json(folder / STATUS_FILE, status | {"exit_status": error.exit_status})


def note_crash(folder: Path, reason: str) -> None:
    """Let status.json say why a run's processes ended, where none of them could or knew it."""
    status = read_status(folder)
    told = str(status.get("error", ""))
    unknown = status.get("state") == "running" or told == "interrupted"
    unknown = unknown or "gloo" in told or told.startswith("Dist")  # lost another process
    if is_run_folder(folder) and unknown:
        write_json(folder / STATUS_FILE, status | {"state": "failed", "error": reason})


def _not_free(folder: Path, found: str, expected: str, mend: str) -> BadInput:
    return BadInput([Problem(str(folder), found, expected, mend)])


def _refuse_running(folder: Path, status: dict[str, Any], overwrite: bool) -> None:
    """Refuse a folder that a live job writes; of another host, only the user can know."""
    found = f"a job that is running (pid {status.get('pid')} on {status.get('host')})"
    mend = "wait for it, end it, or choose another --training_run_name"
    if status.get("host") != socket.gethostname():
        mend += "; where that job is gone, add --overwrite_output_dir"
        refused = not overwrite
    else:
        refused = _is_alive(status)
    if refused:
        raise _not_free(folder, found, "a run that is not running", mend)


def _differences(folder: Path, spec: JobSpec) -> list[str]:
    try:
        earlier = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    wanted = json.loads(json.dumps(written_spec(spec)))
    return [
        f"{name}: {shorten(earlier.get(name))} there, {shorten(value)} here"
        for name, value in wanted.items()
        if earlier.get(name) != value and name not in MAY_DIFFER
    ]


def _is_alive(status: dict[str, Any]) -> bool:
    if status.get("pid") == os.getpid():
        return False
    try:
        os.kill(int(status["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def claim_run_folder(path: Path, spec: JobSpec, data: dict[str, str], lock: Path) -> bool:
    """Make the run's folder, in place of what an earlier try of the same job left there.

    Args:
        lock: a file that jobs of this mount lock while they claim, so that one of two wins.

    Returns:
        Whether the folder is ours; it is not where the job was done meanwhile.

    Raises:
        BadInput: where the folder is another's.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_finished(path, spec, data):
            return False
        if path.exists():
            discard_folder(path)
        run = RunFolder(path, spec.max_steps, data)
        with whole_folder(path) as partial:
            write_json(partial / SPEC_FILE, written_spec(spec))
            write_json(partial / STATUS_FILE, run.status("running", Progress()))
    remove_partials(path.parent)
    return True


class RunFolder:
    """Writes what a run tells about itself."""

    def __init__(
        self, path: Path, max_steps: int | None, data: dict[str, str], writes: bool = True
    ):
        """Stand for the folder at `path`; `writes` is false in all processes but the main one."""
        self.path = path
        self._writes = writes
        self._max_steps = max_steps
        self._data = data

    def write_status(self, state: str, progress: Progress, error: str | None = None) -> None:
        self.write_json(STATUS_FILE, self.status(state, progress, error))

    def status(self, state: str, progress: Progress, error: str | None = None) -> dict[str, Any]:
        """What status.json says: running, done or failed, how far, where, on which data."""
        status = {
            "state": state,
            "step": progress.step,
            "max_steps": self._max_steps,
            "best_step": progress.best_step,
            "best_value": progress.best_value,
            "time": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "data": self._data,
        }
        return status | ({"error": error} if error else {})

    def append_train_log(self, line: dict[str, Any]) -> None:
        if self._writes:
            append_json_line(self.path / "train_log.jsonl", line)

    def append_metrics(self, line: dict[str, Any]) -> None:
        if self._writes:
            append_json_line(self.path / "metrics.jsonl", line)

    def write_json(self, name: str, value: Any) -> None:
        if self._writes:
            write_json(self.path / name, value)
