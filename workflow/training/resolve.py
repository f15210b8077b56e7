"""What a job is to do with its run's folder: begin, resume, or nothing; it may be refused."""

import dataclasses
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.config.job import JOB_FLAGS, JobSpec, written
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import locked, put_aside, remove_partials, whole_folder, write_json
from workflow.distributed.stop import STOP_FILE
from workflow.runs.checkpoint import (
    find_checkpoints,
    remove_leftovers,
    rotate_checkpoints,
)
from workflow.runs.lock import LOCK_FILE, RunLock, find_holder
from workflow.runs.resume_state import ResumePoint
from workflow.runs.status import (
    SPEC_FILE,
    STARTS,
    STATUS_FILE,
    is_requeued,
    is_run_folder,
    read_spec,
    read_status,
)
from workflow.runs.train_state import Progress
from workflow.training.prepare import Job
from workflow.training.run_dir import RunFacts


@dataclass(frozen=True)
class RunDisposition:
    """What a job is to do with its run's folder: begin a run, resume one, or nothing.

    Attributes:
        done: whether there is nothing to do.
        resume_point: what the run resumes from; None where it begins.
        progress: at which it begins or resumes.
        restarts: how often the run was begun or resumed before.
        steps: of the run's checkpoints.
    """

    done: bool = False
    resume_point: ResumePoint | None = None
    progress: Progress = field(default_factory=Progress)
    restarts: int = 0
    steps: tuple[int, ...] = ()

    @property
    def checkpoint(self) -> Path | None:
        """The folder that the run resumes from."""
        return self.resume_point.folder if self.resume_point else None

    def foreign_checkpoint(self, job: Job) -> Path | None:
        """The checkpoint, where it is another run's, which may want to remove it."""
        return self.checkpoint if _is_foreign(self.resume_point, job) else None


def resolve_run(job: Job) -> RunDisposition:
    """What the job is to do with its folder; raises BadInput where that is not free for it."""
    folder = job.run_path
    if not folder.exists():
        return _new_run(job)
    if not is_run_folder(folder):
        if folder.is_dir() and not any(path.name != STATUS_FILE for path in folder.iterdir()):
            return _new_run(job)
        found = "something that is no run folder"
        raise _not_free(folder, found, "a free name", "choose another --training_run_name")
    check_not_held(folder)
    status = read_status(folder)
    if job.spec.overwrite_output_dir and not is_requeued(status):
        return _new_run(job)
    return _earlier_run(job, status)


def check_not_held(folder: Path) -> None:
    """Raise BadInput where a live job holds a run's folder; may watch for a minute to find out."""
    holder = find_holder(folder)
    if holder is not None:
        found = f"a job that is running ({holder})"
        hint = "wait for it, end it, or choose another --training_run_name"
        raise _not_free(folder, found, "a run that is not running", hint)


def _earlier_run(job: Job, status: dict[str, Any]) -> RunDisposition:
    """What is left to do of a run; raises BadInput where it is of another job."""
    folder = job.run_path
    earlier = read_spec(folder)
    if not earlier or not status:
        found = f"{STATUS_FILE if earlier else SPEC_FILE} that cannot be read"
        hint = "get it back from a copy, or choose another --training_run_name"
        raise _not_free(folder, found, "what the run wrote there", hint)
    differences = differing(job, earlier)
    if status.get("data") != job.data_keys:
        differences.append("the data or the tokenizer has changed since")
    if differences:
        found = f"a run of another job ({'; '.join(differences)})"
        hint = "choose another --training_run_name, or add --overwrite_output_dir to begin again"
        raise _not_free(folder, found, "the same job", hint)
    restarts = int(status.get("restarts") or 0) + 1
    if status.get("state") == "done" and status.get("max_steps") == job.spec.max_steps:
        return RunDisposition(done=True)
    point, steps = job.resume_point, find_checkpoints(folder)
    if not steps and status.get("state") == "done" and not job.spec.no_train:
        found = f"a run that ended at step {status.get('step')}, without its checkpoints"
        hint = "choose another --training_run_name, or add --overwrite_output_dir to begin again"
        raise _not_free(folder, found, "a checkpoint to go on from", hint)
    if point is None and steps:
        found = f"a run that ended at step {status.get('step')} with checkpoints"
        hint = "leave out --resume_from_checkpoint none, or add --overwrite_output_dir"
        raise _not_free(folder, found, "a free name to begin in", hint)
    if point is not None and not point.has_optimizer_state:
        checkpoint = point.folder.name
        found = f"{checkpoint} as the newest checkpoint, without the optimizer's state"
        hint = (
            f"begin another run from its weights (--model_init_name {folder.name}/"
            f"{checkpoint}), or add --overwrite_output_dir to begin again"
        )
        raise _not_free(folder, found, "a checkpoint that can be gone on from", hint)
    if point is not None and _is_foreign(point, job):
        return dataclasses.replace(_from_another_run(job, point), restarts=restarts)
    progress = Progress() if point is None else point.state.progress
    return RunDisposition(False, point, progress, restarts, tuple(steps))


def _new_run(job: Job) -> RunDisposition:
    """A run begins, or resumes from a checkpoint of another run."""
    point = job.resume_point
    if point is not None and _is_foreign(point, job):
        return _from_another_run(job, point)
    return RunDisposition()


def _is_foreign(point: ResumePoint | None, job: Job) -> bool:
    return point is not None and point.folder.parent != job.run_path


def _from_another_run(job: Job, point: ResumePoint) -> RunDisposition:
    """A run that resumes from another's checkpoint; raises BadInput where that is another job's."""
    state = point.state
    differences = differing(job, state.spec)
    if state.data != job.data_keys:
        differences.append("other data, or another tokenizer")
    where = f"--resume_from_checkpoint {job.spec.resume_from_checkpoint}"
    if differences:
        found = f"a checkpoint of another job ({'; '.join(differences)})"
        hint = "give the flags of that job, or begin from its weights with --model_init_name"
        raise BadInput([Problem(where, found, "the same job", hint)])
    if state.progress.step >= job.spec.max_steps:
        found = f"a run that is done, at step {state.progress.step} of {job.spec.max_steps}"
        hint = "ask for more with --max_steps, or evaluate it with --model_init_name and --no_train"
        raise BadInput([Problem(where, found, "one with steps left to do", hint)])
    progress = dataclasses.replace(  # evaluations and checkpoints there are not here
        state.progress, evaluated_step=None, best_step=None, best_value=None, ephemeral=[]
    )
    return RunDisposition(resume_point=point, progress=progress)


def _not_free(folder: Path, found: str, expected: str, hint: str) -> BadInput:
    return BadInput([Problem(str(folder), found, expected, hint)])


def differing(job: Job, earlier: dict[str, Any]) -> list[str]:
    """What makes a job another than an earlier one; more steps do not, nor what they entail."""
    steps = earlier.get("max_steps")
    of_that_length: JobSpec = job.spec
    if isinstance(steps, int) and not job.spec.no_train and steps < job.spec.max_steps:
        request = dataclasses.replace(job.request, max_steps=steps, num_train_epochs=None)
        of_that_length = job.resolve_defaults(request)
    wanted = json.loads(json.dumps(written(of_that_length)))
    return [
        f"{name}: {shorten(earlier.get(name))} there, {shorten(value)} here"
        for name, value in wanted.items()
        if earlier.get(name) != value and not _may_differ(name)
    ]


def _may_differ(name: str) -> bool:
    return name in JOB_FLAGS and JOB_FLAGS[name].may_differ_on_resume


def claim(job: Job, disposition: RunDisposition, lock: RunLock) -> bool:
    """Take the run's folder, and make it where the run begins, in place of what is left there.

    Jobs of this mount lock a file while they claim, so that one of two wins: what was resolved
    before must still hold then.

    Returns:
        Whether the folder is ours; it is not where the job was done meanwhile.

    Raises:
        BadInput: where the folder is another's.
    """
    path = job.run_path
    with locked(job.claim_lock):
        now = resolve_run(job)
        if now.done:
            return False
        if now.steps != disposition.steps:
            found = "checkpoints that another process wrote just now"
            raise _not_free(path, found, "the run as it was a moment ago", "start again")
        aside = None
        if disposition.resume_point is None or disposition.foreign_checkpoint(job):
            aside = _make_folder(job, disposition)
        lock.take()
    if aside is not None:  # which may take long
        shutil.rmtree(aside, ignore_errors=True)
    remove_partials(path.parent)
    remove_leftovers(path)
    if disposition.resume_point is not None:  # a killed job may not have come to it
        progress = disposition.progress
        rotate_checkpoints(path, job.spec.save_total_limit, progress.best_step, progress.ephemeral)
    return True


def _make_folder(job: Job, disposition: RunDisposition) -> Path | None:
    """Make the folder; returns where what an earlier try left there has been put aside."""
    path = job.run_path
    if is_run_folder(path):
        log.info("beginning again: what an earlier try left in %s is removed", path)
    starts = b""
    if disposition.restarts:  # of this very job
        with suppress(FileNotFoundError):
            starts = (path / STARTS).read_bytes()
    aside = put_aside(path) if path.exists() else None
    status = facts_of(job, disposition).status("running", Progress())
    with whole_folder(path) as partial:
        write_json(partial / SPEC_FILE, written(job.spec))
        write_json(partial / STATUS_FILE, status)
        if starts:
            (partial / STARTS).write_bytes(starts)
    return aside


def facts_of(job: Job, disposition: RunDisposition) -> RunFacts:
    """What status.json is to say of the run besides its progress."""
    restarts, bound = disposition.restarts, job.max_padded_tokens
    return RunFacts(job.spec.max_steps, job.data_keys, restarts, bound)


def forget_earlier_start(job: Job, disposition: RunDisposition) -> None:
    """Remove what asked an earlier start to stop, and the lock of one that was killed at its end.

    (Any other lock is replaced in claiming.) From now on a stop file asks this start.
    """
    (job.run_path / STOP_FILE).unlink(missing_ok=True)
    if disposition.done:
        (job.run_path / LOCK_FILE).unlink(missing_ok=True)
