"""When a run saves itself, and what it saves."""

import copy
import time

from workflow.config.job import JobSpec, written
from workflow.core.console import log
from workflow.distributed.world import World
from workflow.runs.checkpoint import (
    CheckpointContents,
    find_checkpoints,
    rotate_checkpoints,
    write_checkpoint,
)
from workflow.runs.resume_state import CheckpointState, ComputedWith
from workflow.runs.status import SLOW_DISK
from workflow.runs.train_state import Progress
from workflow.training.context import RunContext
from workflow.training.engines.single import Engine
from workflow.training.oom import oom_context
from workflow.training.prepare import Job


class Checkpointer:
    """Saves a run as often as its job asks for; all processes call alike.

    Until a save was measured, `progress.longest_save` is an estimate, which no checkpoint keeps.
    """

    def __init__(self, context: RunContext, engine: Engine):
        """Be ready to save a run that has just begun, or resumes from its progress."""
        self._job, self._run, self._world = context.job, context.folder, context.world
        self._progress = progress = context.progress
        self._engine = engine
        self._saved_at = time.monotonic()
        self._last_saved_step = progress.step  # what the run began with, or goes on from
        weights = sum(tensor.bytes for tensor in engine.tensors().values())
        expected = 3 * weights / SLOW_DISK  # two moments besides, which do not exist yet
        self._longest_save = progress.longest_save
        progress.longest_save = self._longest_save or expected

    def is_due(self) -> bool:
        """Whether the step just done is to be saved."""
        spec = self._job.spec
        if scheduled(self._progress.step, spec):
            return True
        if spec.save_seconds is None:
            return False
        is_over = time.monotonic() - self._saved_at >= spec.save_seconds
        return self._world.on_rank_zero(lambda: is_over)

    def save(self) -> None:
        """Write a checkpoint of the last step, unless there is one; then remove old ones."""
        progress, spec = self._progress, self._job.spec
        if progress.step == self._last_saved_step:
            return
        began = time.perf_counter()
        saved = self._as_saved()
        state = CheckpointState(
            saved, written(spec), self._job.data_keys, computed_now(self._job, self._world)
        )
        self._world.on_rank_zero(self._run.sync_logs)
        with oom_context(self._job, self._world, f"saving step {progress.step}"):
            contents = CheckpointContents(self._engine, self._job.tokenizer, state.as_json())
            size = write_checkpoint(self._run.path, progress.step, contents, self._world)
        self._last_saved_step = progress.step
        progress.best_step, progress.best_value = saved.best_step, saved.best_value
        progress.ephemeral = self._world.on_rank_zero(lambda: self._tidy(saved))
        seconds = time.perf_counter() - began
        self._longest_save = progress.longest_save = max(seconds, self._longest_save)
        self._saved_at = time.monotonic()
        self._world.on_rank_zero(lambda: self._run.write_status("running", progress))
        log.info(
            "step %d: checkpoint-%d saved; training stood still for %.2f s to write %.0f MB",
            progress.step, progress.step, seconds, size / 1e6,
        )  # fmt: skip

    def _as_saved(self) -> Progress:
        """The progress of a run that has a checkpoint of this step.

        Whether a run was stopped, or is saved by the clock too, does not decide what is best.
        """
        saved = copy.deepcopy(self._progress)
        saved.longest_save = self._longest_save
        if scheduled(saved.step, self._job.spec):
            saved.note_checkpoint(self._job.spec.metric_for_best_model)
        else:
            saved.ephemeral.append(saved.step)
        return saved

    def _tidy(self, saved: Progress) -> list[int]:
        """Remove old checkpoints; returns those of the passing ones that are left."""
        path, limit = self._run.path, self._job.spec.save_total_limit
        rotate_checkpoints(path, limit, saved.best_step, saved.ephemeral)
        return sorted({*saved.ephemeral} & {*find_checkpoints(path)})

    def note_evaluation_of_saved(self) -> None:
        """What the run goes on from may have been saved before it was evaluated; now it is."""
        steps = self._world.on_rank_zero(lambda: find_checkpoints(self._run.path))
        step = self._last_saved_step
        if step in steps and step not in self._progress.ephemeral:
            self._progress.note_checkpoint(self._job.spec.metric_for_best_model)


def scheduled(step: int, spec: JobSpec) -> bool:
    """Whether a step is saved whatever happens."""
    return step > 0 and (step == spec.max_steps or step % spec.save_steps == 0)


def computed_now(job: Job, world: World) -> ComputedWith:
    """How this world computes the job."""
    strategy = job.strategy
    return ComputedWith(
        processes=world.size,
        stage=0 if strategy is None else strategy.stage,
        offload="none" if strategy is None else strategy.offload,
        positions=job.spec.micro_batch_tokens,
    )
