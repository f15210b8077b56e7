"""When a run saves itself, and what it saves."""

import copy
import math
import time

from workflow.checkpoint import tidy, write_checkpoint
from workflow.config import JobSpec
from workflow.console import log
from workflow.engine import Engine
from workflow.prepare import Job
from workflow.progress import Progress
from workflow.resume import Computed, State
from workflow.run_folder import RunFolder, written_spec
from workflow.world import World

SAVED_AT_LEAST = 100e6
"""Bytes a second that a first save is taken to write, until one was measured."""


class Saver:
    """Saves a run as often as its job asks for; all processes call alike."""

    def __init__(self, job: Job, engine: Engine, run: RunFolder, progress: Progress, world: World):
        """Save a run that has just begun, or goes on from its progress."""
        self._job = job
        self._engine = engine
        self._run = run
        self._progress = progress
        self._world = world
        self._saved_at = time.monotonic()
        self._kept_step = progress.step  # what the run began with, or goes on from
        expected = 3 * sum(tensor.bytes for tensor in engine.tensors().values()) / SAVED_AT_LEAST
        self._measured = progress.longest_save
        progress.longest_save = self._measured or expected

    def is_due(self) -> bool:
        """Whether the step just done is to be saved."""
        spec = self._job.spec
        if save_due(self._progress.step, spec):
            return True
        if spec.save_seconds is None:
            return False
        waited = time.monotonic() - self._saved_at
        return self._world.by_main(lambda: waited >= (spec.save_seconds or math.inf))

    def save(self) -> None:
        """Write a checkpoint of the last step, unless there is one; then remove old ones."""
        progress, spec = self._progress, self._job.spec
        if progress.step == self._kept_step:
            return
        began = time.perf_counter()
        saved = copy.deepcopy(progress)
        _note_checkpoint(saved, spec)
        state = State(
            saved, written_spec(spec), self._job.data_keys, computed_now(self._job, self._world)
        )
        self._world.by_main(self._run.sync_logs)
        size = write_checkpoint(
            self._run.path, progress.step, self._engine, self._job.tokenizer, state.as_json(),
            self._world,
        )  # fmt: skip
        _note_checkpoint(progress, spec)
        self._kept_step = progress.step
        self._world.by_main(self._tidy)
        seconds = time.perf_counter() - began
        self._measured = progress.longest_save = max(seconds, self._measured)
        self._saved_at = time.monotonic()
        self._world.by_main(lambda: self._run.write_status("running", progress))
        log.info(
            "step %d: checkpoint-%d saved; training stood still for %.1f s to write %.2f GB",
            progress.step, progress.step, seconds, size / 1e9,
        )  # fmt: skip

    def _tidy(self) -> None:
        progress = self._progress
        tidy(self._run.path, self._job.spec.save_total_limit, progress.best_step, progress.passing)

    def note_late_evaluation(self) -> None:
        """Take note of an evaluation of what the run goes on from, saved before it."""
        if self._kept_step > 0 and self._kept_step not in self._progress.passing:
            self._progress.note_checkpoint(self._job.spec.metric_for_best_model)


def _note_checkpoint(progress: Progress, spec: JobSpec) -> None:
    """Whether a run was stopped, or is saved by the clock too, does not decide what is best."""
    if save_due(progress.step, spec):
        progress.note_checkpoint(spec.metric_for_best_model)
    else:
        progress.passing.append(progress.step)


def save_due(step: int, spec: JobSpec) -> bool:
    """Whether a step is saved whatever happens."""
    return step > 0 and (step == spec.max_steps or step % spec.save_steps == 0)


def computed_now(job: Job, world: World) -> Computed:
    """How this world computes the job."""
    setting = job.setting
    return Computed(
        processes=world.size,
        stage=0 if setting is None else setting.stage,
        offload="none" if setting is None else setting.offload,
        positions=job.spec.micro_batch_tokens,
    )
