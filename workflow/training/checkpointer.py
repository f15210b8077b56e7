"""When a run saves a checkpoint, and what the checkpoint holds."""

import copy
import time
from functools import partial

from workflow.config.job import JobSpec, written
from workflow.core.console import log
from workflow.distributed.world import World
from workflow.models.families import family_of
from workflow.models.loading import held_tensors
from workflow.models.safetensors_writer import Tensors
from workflow.models.state_dict import Weights, file_tensors, frozen_tensors
from workflow.models.task_file import task_content
from workflow.runs.checkpoint import (
    CheckpointContents,
    checkpoint_folder,
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
    """Saves checkpoints as the job schedules them; all processes must call its methods together.

    Until a save has been timed, `progress.longest_save` is an estimate, which is not saved.
    """

    def __init__(self, context: RunContext, engine: Engine, weights: Weights):
        """Save what an engine trains.

        Args:
            weights: of the whole model that the run starts from, in full precision.
        """
        self._weights = weights
        self._job, self._run, self._world = context.job, context.folder, context.world
        self._progress = progress = context.progress
        self._engine = engine
        self._saved_at = time.monotonic()
        self._last_saved_step = progress.step  # where the run starts or resumes
        size = sum(tensor.bytes for tensor in engine.tensors().values())
        expected = 3 * size / SLOW_DISK  # with the optimizer state, not yet allocated
        self._longest_save = progress.longest_save
        progress.longest_save = self._longest_save or expected

    def is_due(self) -> bool:
        """Whether to save the step just completed."""
        spec = self._job.spec
        if scheduled(self._progress.step, spec):
            return True
        if spec.save_seconds is None:
            return False
        is_over = time.monotonic() - self._saved_at >= spec.save_seconds
        return self._world.on_rank_zero(lambda: is_over)

    def save(self) -> None:
        """Save the last step, unless it is saved already; then rotate old checkpoints."""
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
            contents = self._contents(state)
            size = write_checkpoint(self._run.path, progress.step, contents, self._world)
        self._last_saved_step = progress.step
        progress.best_step, progress.best_value = saved.best_step, saved.best_value
        progress.ephemeral = self._world.on_rank_zero(lambda: self._tidy(saved))
        seconds = time.perf_counter() - began
        self._longest_save = progress.longest_save = max(seconds, self._longest_save)
        self._saved_at = time.monotonic()
        self._world.on_rank_zero(lambda: self._run.write_status("running", progress))
        log.info("saved checkpoint-%d (%.0f MB in %.2f s)", progress.step, size / 1e6, seconds)

    def _contents(self, state: CheckpointState) -> CheckpointContents:
        job, engine = self._job, self._engine
        task = task_content(job.spec, family_of(engine.model.config).name)
        return CheckpointContents(
            stem=job.tuning.stem,
            tensors={**engine.tensors(), **self._frozen_tensors()},
            optimizer_state=engine.optimizer_state(),
            write_settings=partial(
                job.tuning.write_settings, engine.model, job.tokenizer, base=str(job.model_source)
            ),
            state=state.as_json(),
            task=task | ({} if job.base is None else {"base": job.base}),
        )

    def _frozen_tensors(self) -> Tensors:
        """What --freeze left as it was, from files: the model has it rounded to bfloat16."""
        if not (self._job.spec.bf16 and self._job.spec.freeze):
            return {}
        model, path = self._engine.model, self._run.path
        steps = self._world.on_rank_zero(lambda: find_checkpoints(path))
        named = file_tensors(checkpoint_folder(path, steps[-1])) if steps else self._weights()
        return held_tensors(frozen_tensors(model, self._job.tuning.saved(model), named))

    def _as_saved(self) -> Progress:
        """The progress to store in this step's checkpoint.

        Only scheduled checkpoints compete for the best: stops and `save_seconds` must not decide.
        """
        saved = copy.deepcopy(self._progress)
        saved.longest_save = self._longest_save
        if scheduled(saved.step, self._job.spec):
            saved.note_checkpoint(self._job.spec.metric_for_best_model)
        else:
            saved.ephemeral.append(saved.step)
        return saved

    def _tidy(self, saved: Progress) -> list[int]:
        """Rotate checkpoints; returns the steps of the ephemeral ones that remain."""
        path, limit = self._run.path, self._job.spec.save_total_limit
        rotate_checkpoints(path, limit, saved.best_step, saved.ephemeral)
        return sorted({*saved.ephemeral} & {*find_checkpoints(path)})

    def note_evaluation_of_saved(self) -> None:
        """Consider the checkpoint resumed from as the best: it may not have been evaluated yet."""
        steps = self._world.on_rank_zero(lambda: find_checkpoints(self._run.path))
        step = self._last_saved_step
        if step in steps and step not in self._progress.ephemeral:
            self._progress.note_checkpoint(self._job.spec.metric_for_best_model)


def scheduled(step: int, spec: JobSpec) -> bool:
    """Whether a step is saved by schedule: every `save_steps`, and the last."""
    return step > 0 and (step == spec.max_steps or step % spec.save_steps == 0)


def computed_now(job: Job, world: World) -> ComputedWith:
    """How the current processes compute the job."""
    strategy = job.strategy
    return ComputedWith(
        processes=world.size,
        stage=0 if strategy is None else strategy.stage,
        offload="none" if strategy is None else strategy.offload,
        positions=job.spec.micro_batch_tokens,
    )
