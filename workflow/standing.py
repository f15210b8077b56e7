"""How a job finds its run's folder: free, done, to be gone on with, or another's."""

import dataclasses
import fcntl
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.checkpoint import can_go_on, find_checkpoints, remove_leftovers
from workflow.config import JobSpec
from workflow.errors import BadInput, Problem, shorten
from workflow.files import discard_folder, remove_partials, whole_folder, write_json
from workflow.lock import RunLock, find_holder
from workflow.prepare import Job
from workflow.progress import Progress
from workflow.resume import State, read_state
from workflow.run_folder import (
    SPEC_FILE,
    STATUS_FILE,
    RunFolder,
    is_requeued,
    is_run_folder,
    read_status,
    written_spec,
)
from workflow.stop import STOP_FILE

MAY_DIFFER = frozenset(
    {
        "micro_batch_tokens", "eval_batch_size", "gradient_checkpointing", "zero_stage", "offload",
        "deepspeed", "logging_steps", "save_steps", "save_seconds", "save_total_limit",
    }
)  # fmt: skip
"""These change how a job is computed and how often it is saved, not what comes out."""


@dataclass(frozen=True)
class Standing:
    """What is to be done with a run.

    Attributes:
        done: whether there is nothing to do.
        checkpoint: what the run goes on from, and its `state`; None where it begins.
        restarts: how often the run was begun or gone on with before.
        steps: of the run's checkpoints.
    """

    done: bool = False
    checkpoint: Path | None = None
    state: State | None = None
    restarts: int = 0
    steps: tuple[int, ...] = ()

    def anothers(self, job: Job) -> Path | None:
        """The checkpoint, where it is another run's, which may want to remove it."""
        own = self.checkpoint is None or self.checkpoint.parent == job.run_path
        return None if own else self.checkpoint


def find_standing(job: Job) -> Standing:
    """How the job finds its folder; raises BadInput where that is not free for it."""
    folder = job.run_path
    if not folder.exists():
        return _first_time(job)
    if not is_run_folder(folder):
        if folder.is_dir() and not any(path.name != STATUS_FILE for path in folder.iterdir()):
            return _first_time(job)
        found = "something that is no run folder"
        raise _not_free(folder, found, "a free name", "choose another --training_run_name")
    holder = find_holder(folder)
    if holder is not None:
        found = f"a job that is running ({holder})"
        mend = "wait for it, end it, or choose another --training_run_name"
        raise _not_free(folder, found, "a run that is not running", mend)
    status = read_status(folder)
    if job.spec.overwrite_output_dir and not is_requeued(status):
        return _first_time(job)
    return _of_same_job(job, status)


def _of_same_job(job: Job, status: dict[str, Any]) -> Standing:
    """What is left to do of a run; raises BadInput where it is of another job."""
    folder = job.run_path
    earlier = _read_spec(folder)
    differences = differing(job, earlier)
    if status.get("data") != job.data_keys:
        differences.append("the data or the tokenizer has changed since")
    if differences:
        found = f"a run of another job ({'; '.join(differences)})"
        mend = "choose another --training_run_name, or add --overwrite_output_dir to begin again"
        raise _not_free(folder, found, "the same job", mend)
    restarts = int(status.get("restarts") or 0) + 1
    if status.get("state") == "done" and earlier.get("max_steps") == job.spec.max_steps:
        return Standing(done=True)
    checkpoint, steps = job.checkpoint, find_checkpoints(folder)
    if checkpoint is None and steps:
        found = f"a run that ended at step {status.get('step')} with checkpoints"
        mend = "leave out --resume_from_checkpoint none, or add --overwrite_output_dir"
        raise _not_free(folder, found, "a free name to begin in", mend)
    if checkpoint is not None and not can_go_on(checkpoint):
        found = f"{checkpoint.name} as the newest checkpoint, without the optimizer's state"
        mend = (
            f"begin another run from its weights (--model_init_name {folder.name}/"
            f"{checkpoint.name}), or add --overwrite_output_dir to begin again"
        )
        raise _not_free(folder, found, "a checkpoint that can be gone on from", mend)
    state = None if checkpoint is None else read_state(checkpoint)
    return Standing(checkpoint=checkpoint, state=state, restarts=restarts, steps=tuple(steps))


def _first_time(job: Job) -> Standing:
    """A run begins, unless it is to go on from a checkpoint of another run."""
    checkpoint = job.checkpoint
    if checkpoint is None or checkpoint.parent == job.run_path:
        return Standing()
    state = read_state(checkpoint)
    differences = differing(job, state.spec | {"training_run_name": job.spec.training_run_name})
    if state.data != job.data_keys:
        differences.append("other data, or another tokenizer")
    if differences:
        where = f"--resume_from_checkpoint {job.spec.resume_from_checkpoint}"
        found = f"a checkpoint of another job ({'; '.join(differences)})"
        mend = "give the flags of that job, or begin from its weights with --model_init_name"
        raise BadInput([Problem(where, found, "the same job", mend)])
    return Standing(checkpoint=checkpoint, state=state)


def _not_free(folder: Path, found: str, expected: str, mend: str) -> BadInput:
    return BadInput([Problem(str(folder), found, expected, mend)])


def _read_spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return spec if isinstance(spec, dict) else {}


def differing(job: Job, earlier: dict[str, Any]) -> list[str]:
    """What makes a job another than an earlier one; more steps do not, nor what they entail."""
    steps = earlier.get("max_steps")
    same: JobSpec = job.spec
    if isinstance(steps, int) and not job.spec.no_train and steps < job.spec.max_steps:
        asked = dataclasses.replace(job.asked, max_steps=steps, num_train_epochs=None)
        same = job.complete(asked)
    wanted = json.loads(json.dumps(written_spec(same)))
    return [
        f"{name}: {shorten(earlier.get(name))} there, {shorten(value)} here"
        for name, value in wanted.items()
        if earlier.get(name) != value and name not in MAY_DIFFER
    ]


def claim(job: Job, standing: Standing, lock: RunLock) -> bool:
    """Take the run's folder, and make it where the run begins.

    Jobs of this mount lock a file while they claim, so that one of two wins.

    Returns:
        Whether the folder is ours; it is not where the job was done meanwhile.

    Raises:
        BadInput: where the folder is another's.
    """
    path = job.run_path
    job.claim_lock.parent.mkdir(parents=True, exist_ok=True)
    with open(job.claim_lock, "w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        now = find_standing(job)
        if now.done:
            return False
        if now.steps != standing.steps:
            found = "checkpoints that another process wrote just now"
            raise _not_free(path, found, "the run as it was a moment ago", "start again")
        if standing.checkpoint is None or standing.anothers(job):
            _make(job, standing)
        lock.take()
    remove_partials(path.parent)
    remove_leftovers(path)
    (path / STOP_FILE).unlink(missing_ok=True)
    write_json(path / SPEC_FILE, written_spec(job.spec))
    return True


def _make(job: Job, standing: Standing) -> None:
    """Make the folder, in place of what an earlier try left there."""
    path = job.run_path
    if path.exists():
        discard_folder(path)
    run = RunFolder(path, job.spec.max_steps, job.data_keys, standing.restarts)
    with whole_folder(path) as partial:
        write_json(partial / SPEC_FILE, written_spec(job.spec))
        write_json(partial / STATUS_FILE, run.status("running", Progress()))
