"""Decide what a job does with its run's folder: start, resume, nothing, or refuse."""

import dataclasses
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.config.inputs import DATA
from workflow.config.job import JOB_FLAGS, JobSpec, written
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import locked, put_aside, remove_partials, whole_folder, write_json
from workflow.distributed.stop import STOP_FILE
from workflow.runs.checkpoint import find_checkpoints, remove_leftovers, rotate_checkpoints
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
    """What a job does with its run's folder: start a run, resume one, or nothing.

    Attributes:
        done: whether there is nothing to do.
        resume_point: what the run resumes from; None for a new run.
        progress: at which it starts or resumes.
        restarts: the number of earlier starts.
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
        """The checkpoint if it is another run's, which may remove it."""
        return self.checkpoint if _is_foreign(self.resume_point, job) else None


def resolve_run(job: Job) -> RunDisposition:
    """What the job does with its folder; raises BadInput if the folder is not available."""
    folder = job.run_path
    if not folder.exists():
        return _new_run(job)
    if not is_run_folder(folder):
        if folder.is_dir() and not any(path.name != STATUS_FILE for path in folder.iterdir()):
            return _new_run(job)
        found = "exists, but is not a run folder"
        raise _not_free(folder, found, "an unused name", "choose another --training_run_name")
    check_not_held(folder)
    if job.spec.smoke and not read_spec(folder).get("smoke"):
        hint = "rename it, or choose another --training_run_name"
        raise _not_free(folder, "a run, not a smoke test", "an earlier smoke test", hint)
    status = read_status(folder)
    if job.spec.overwrite_output_dir and not is_requeued(status):
        return _new_run(job)
    return _earlier_run(job, status)


def check_not_held(folder: Path) -> None:
    """Raise BadInput if a live job holds a run's folder; may watch it for a minute to find out."""
    holder = find_holder(folder)
    if holder is not None:
        found = f"in use by a running job, {holder}"
        hint = "wait for it, stop it, or choose another --training_run_name"
        raise _not_free(folder, found, "a folder that no job uses", hint)


def _earlier_run(job: Job, status: dict[str, Any]) -> RunDisposition:
    """What remains to be done of a run; raises BadInput if it belongs to another job."""
    folder = job.run_path
    earlier = read_spec(folder)
    if not earlier or not status:
        found = f"unreadable {STATUS_FILE if earlier else SPEC_FILE}"
        hint = "restore it from a backup, or choose another --training_run_name"
        raise _not_free(folder, found, "the file that the run wrote", hint)
    differences = differing(job, earlier, status.get("data"))
    if differences:
        found = f"a run of a different job: {'; '.join(differences)}"
        hint = "choose another --training_run_name"
        if not job.spec.no_train or earlier.get("no_train"):  # never advise to delete a training
            hint += ", or add --overwrite_output_dir to start over"
        raise _not_free(folder, found, "the same job", hint)
    restarts = int(status.get("restarts") or 0) + 1
    if status.get("state") == "done" and status.get("max_steps") == job.spec.max_steps:
        return RunDisposition(done=True)
    point, steps = job.resume_point, find_checkpoints(folder)
    if not steps and status.get("state") == "done" and not job.spec.no_train:
        found = f"a run done at step {status.get('step')}, without checkpoints"
        hint = "choose another --training_run_name, or add --overwrite_output_dir to start over"
        raise _not_free(folder, found, "a checkpoint to resume from", hint)
    if point is None and steps:
        found = f"a run at step {status.get('step')}, with checkpoints"
        hint = "remove --resume_from_checkpoint none, or add --overwrite_output_dir"
        raise _not_free(folder, found, "an unused name", hint)
    if point is not None and not point.has_optimizer_state:
        checkpoint = point.folder.name
        found = f"the newest checkpoint, {checkpoint}, has no optimizer state"
        hint = (
            f"start another run from its weights (--model_init_name {folder.name}/"
            f"{checkpoint}), or add --overwrite_output_dir to start over"
        )
        raise _not_free(folder, found, "a checkpoint to resume from", hint)
    if point is not None and _is_foreign(point, job):
        return dataclasses.replace(_from_another_run(job, point), restarts=restarts)
    progress = Progress() if point is None else point.state.progress
    return RunDisposition(False, point, progress, restarts, tuple(steps))


def _new_run(job: Job) -> RunDisposition:
    """Start a run, from another run's checkpoint if requested."""
    point = job.resume_point
    if point is not None and _is_foreign(point, job):
        return _from_another_run(job, point)
    return RunDisposition()


def _is_foreign(point: ResumePoint | None, job: Job) -> bool:
    return point is not None and point.folder.parent != job.run_path


def _from_another_run(job: Job, point: ResumePoint) -> RunDisposition:
    """Resume from another run's checkpoint; raises BadInput if that run's job is different."""
    state = point.state
    differences = differing(job, state.spec, state.data)
    where = f"--resume_from_checkpoint {job.spec.resume_from_checkpoint}"
    if differences:
        found = f"a checkpoint of a different job: {'; '.join(differences)}"
        hint = "use that job's flags, or start from its weights with --model_init_name"
        raise BadInput([Problem(where, found, "the same job", hint)])
    if state.progress.step >= job.spec.max_steps:
        found = f"already at step {state.progress.step}/{job.spec.max_steps}"
        hint = "increase --max_steps, or evaluate it with --model_init_name and --no_train"
        raise BadInput([Problem(where, found, "a checkpoint with steps left", hint)])
    progress = dataclasses.replace(  # evaluations and checkpoints stay in the other run's folder
        state.progress, evaluated_step=None, best_step=None, best_value=None, ephemeral=[]
    )
    return RunDisposition(resume_point=point, progress=progress)


def _not_free(folder: Path, found: str, expected: str, hint: str) -> BadInput:
    return BadInput([Problem(str(folder), found, expected, hint)])


def differing(job: Job, earlier: dict[str, Any], data: object) -> list[str]:
    """The differences from an earlier job, except for more steps and their effects.

    Args:
        data: the earlier job's data keys. Flags of the data change them too.
    """
    steps = earlier.get("max_steps")
    of_that_length: JobSpec = job.spec
    if isinstance(steps, int) and not job.spec.no_train and steps < job.spec.max_steps:
        request = dataclasses.replace(job.request, max_steps=steps, num_train_epochs=None)
        of_that_length = job.resolve_defaults(request)
    wanted = json.loads(json.dumps(written(of_that_length)))
    before = {name: _default(name) for name in JOB_FLAGS} | {"tuning": "full"} | earlier
    if not isinstance(before["metric"], list):  # of a version with one function, or none
        before["metric"] = [one for one in (before["metric"],) if one]
    names = [n for n, value in wanted.items() if before.get(n) != value and not _may_differ(n)]
    lines = [f"{n} was {shorten(earlier.get(n))}, now {shorten(wanted[n])}" for n in names]
    of_data = any(name in JOB_FLAGS and JOB_FLAGS[name].group == DATA for name in names)
    return lines if of_data or data == job.data_keys else [*lines, "data or tokenizer differ"]


def _default(name: str) -> Any:
    """A flag's default as in JSON, for jobs of versions that did not have the flag."""
    default = JOB_FLAGS[name].default
    return list(default) if isinstance(default, tuple) else default


def _may_differ(name: str) -> bool:
    return name in JOB_FLAGS and JOB_FLAGS[name].may_differ_on_resume


def claim(job: Job, disposition: RunDisposition, lock: RunLock) -> bool:
    """Claim the run's folder; for a new run create it, replacing an earlier attempt.

    Jobs of a mount claim under one file lock, so that only one of two wins; the disposition must
    still hold under the lock.

    Returns:
        Whether the folder was claimed; False if the job was done meanwhile.

    Raises:
        BadInput: if the folder is another job's.
    """
    path = job.run_path
    with locked(job.claim_lock):
        now = resolve_run(job)
        if now.done:
            return False
        if now.steps != disposition.steps:
            found = "changed by another process just now"
            raise _not_free(path, found, "unchanged checkpoints", "rerun the command")
        aside = None
        if disposition.resume_point is None or disposition.foreign_checkpoint(job):
            aside = _make_folder(job, disposition)
        lock.take()
    if aside is not None:  # may take long
        shutil.rmtree(aside, ignore_errors=True)
    remove_partials(path.parent)
    remove_leftovers(path)
    if disposition.resume_point is not None:  # a killed job may not have done so
        progress = disposition.progress
        rotate_checkpoints(path, job.spec.save_total_limit, progress.best_step, progress.ephemeral)
    return True


def _make_folder(job: Job, disposition: RunDisposition) -> Path | None:
    """Create the folder; returns where an earlier attempt's files were moved."""
    path = job.run_path
    if is_run_folder(path):
        log.info("starting over: removing an earlier attempt in %s", path)
    starts = b""
    if disposition.restarts:  # of the same job
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
    """The contents of status.json except for progress."""
    restarts, bound = disposition.restarts, job.max_padded_tokens
    return RunFacts(job.spec.max_steps, job.data_keys, restarts, bound, job.parameters)


def forget_earlier_start(job: Job, disposition: RunDisposition) -> None:
    """Remove an earlier start's stop file, and the lock of a done run that was killed at its end.

    (Claiming replaces any other lock.) From now on, a stop file is meant for this start.
    """
    (job.run_path / STOP_FILE).unlink(missing_ok=True)
    if disposition.done:
        (job.run_path / LOCK_FILE).unlink(missing_ok=True)
