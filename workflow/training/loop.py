"""The training loop of a run: prepare, train, evaluate and save."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from workflow.config.job import JobSpec, written
from workflow.config.request import JobRequest
from workflow.core.console import log, progress_bar
from workflow.core.errors import Stopped
from workflow.distributed.device import pick_device, set_determinism
from workflow.models.state_dict import Weights
from workflow.reporting.trackers.base import Start, tracking
from workflow.runs.checkpoint import hold_for_reading
from workflow.runs.lock import RunLock
from workflow.runs.mount import Mount, step_in_name
from workflow.runs.provenance import describe_start
from workflow.runs.status import AUDIT, REPORT, SPEC_FILE
from workflow.runs.train_state import LogWindow, Progress, memory_figures
from workflow.training.checkpointer import Checkpointer
from workflow.training.compilation import compile_layers, uncompiled
from workflow.training.context import Invocation, RunContext
from workflow.training.engines.single import Engine
from workflow.training.evaluate import evaluate
from workflow.training.memory_probe import probe_memory
from workflow.training.oom import oom_context
from workflow.training.prepare import Job, prepare
from workflow.training.resolve import (
    RunDisposition,
    claim,
    facts_of,
    forget_earlier_start,
    resolve_run,
)
from workflow.training.run_dir import RunFolder, recording_outcome
from workflow.training.setup import load_together, make_engine, weights_in_files
from workflow.training.step import (
    PlannedStep,
    StepOutcome,
    StepPlanner,
    add_gradients,
    finish_step,
)
from workflow.training.summary import log_audit, log_job, log_resume


def run_job(request: JobRequest, mount: Mount, invocation: Invocation | None = None) -> Path:
    """Run a job and return its run folder (for an audit, the folder of a later run).

    An unfinished run resumes from its newest checkpoint.

    Raises:
        BadInput: with all problems found, before the run's folder is created.
        RunFailed: if the run cannot continue; status.json holds the reason.
        Stopped: on request; the same job resumes.
    """
    invocation = invocation or Invocation()
    world = invocation.world
    job = world.rank_zero_first(lambda: prepare(request, mount, invocation.problems, world))
    log_audit(job)
    if job.spec.audit:
        return job.run_path
    set_determinism(job.spec.full_determinism)
    world.begin(pick_device(), alone_too=job.strategy is not None)
    disposition = world.on_rank_zero(lambda: resolve_run(job))
    world.on_rank_zero(lambda: forget_earlier_start(job, disposition))
    if disposition.done:
        log.info("this job is done already; its results are in %s", job.run_path)
        return job.run_path
    with hold_for_reading(job.model_source, job.adapter, disposition.foreign_checkpoint(job)):
        job, model = load_together(job, world, disposition.checkpoint)
        log_job(job, model, world)
        with RunLock(job.run_path) as lock:  # taken by `claim`
            if world.on_rank_zero(lambda: claim(job, disposition, lock)):
                with _recorded(job, disposition, lock, invocation) as context:
                    if job.spec.no_train:
                        evaluate_only(context, model)
                    else:
                        _make_trainer(context, model, disposition).train()
            else:
                log.info("another process has just finished this job")
    what = "smoke test passed: its results" if job.spec.smoke else "results"
    log.info("%s are in %s; see %s", what, job.run_path, REPORT)
    return job.run_path


@contextmanager
def _recorded(
    job: Job, disposition: RunDisposition, lock: RunLock, invocation: Invocation
) -> Iterator[RunContext]:
    """Record a run in its folder and trackers, from its start to its outcome.

    Rolls the folder back to the step that the run resumes from. From here on signals are deferred:
    the run checks for them between steps.
    """
    spec, world, stop = job.spec, invocation.world, invocation.stop
    trackers = spec.report_to if world.is_rank_zero else ()
    start = Start(job.run_path, written(spec), disposition.progress.step)
    with tracking(trackers, start) as tracked:
        facts = facts_of(job, disposition)
        folder = RunFolder(job.run_path, facts, lock, world.is_rank_zero, tracked)
        progress = world.on_rank_zero(lambda: _roll_back(job, folder, disposition.progress))
        stop.defer(folder.path, world, lock)
        with recording_outcome(folder, progress, spec):
            line = describe_start(progress.step, world.size, invocation.command)
            world.on_rank_zero(lambda: folder.append_start(line))
            yield RunContext(job, world, stop, folder, progress)


def _roll_back(job: Job, folder: RunFolder, progress: Progress) -> Progress:
    """Roll the folder back to the run's step, and write its first status.

    Returns:
        The progress, with the step's evaluation if the step was saved before that.
    """
    metrics = folder.roll_back(progress.step)
    if metrics is not None and progress.evaluated_step != progress.step:
        progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))
    folder.write_status("running", progress)
    folder.write_json(SPEC_FILE, written(job.spec))
    folder.write_json(AUDIT, job.audit)
    return progress


def _make_trainer(
    context: RunContext, model: PreTrainedModel, disposition: RunDisposition
) -> "Trainer":
    """A trainer at the step where the run starts or resumes, after the memory probe."""
    job, world, step = context.job, context.world, context.progress.step
    weights = weights_in_files(job, model, disposition.checkpoint)
    with oom_context(job, world, "creating the optimizer"):
        engine = make_engine(job, model, world, weights)
    if job.spec.torch_compile:
        compile_layers(engine.model, job.spec)
    point = disposition.resume_point
    if point is not None:
        log_resume(job, point, step, world)
    probe_memory(job, engine, step, world)  # allocates the optimizer state that is restored here:
    with oom_context(job, world, "restoring the optimizer state"):
        engine.restore(step, () if point is None else point.optimizer_state())
    return Trainer(context, engine, weights)


def evaluate_only(context: RunContext, model: PreTrainedModel) -> None:
    """Evaluate the loaded model; its step is that of its checkpoint's name, else 0."""
    job, world, progress = context.job, context.world, context.progress
    progress.step = step_in_name(job.named_model)
    if job.strategy is None:  # no engine: its optimizer would take memory
        with oom_context(job, world, f"evaluation at step {progress.step}", evaluates=True):
            evaluate(context, model)
    else:
        weights = weights_in_files(job, model, None)
        _evaluate_engine(context, make_engine(job, model, world, weights))


class Trainer:
    """Trains a run to its end; each process has one."""

    def __init__(self, context: RunContext, engine: Engine, weights: Weights):
        """Train by an engine, from some weights in full precision."""
        self._context = context
        self._engine = engine
        self._planner = StepPlanner.of(context.job, engine.model, context.world)
        self._checkpointer = Checkpointer(context, engine, weights)
        self._planned: PlannedStep | None = None

    def train(self) -> None:
        """Train, evaluate and save, each when due.

        On a request to stop, the run skips or aborts a due evaluation and saves; after resuming it
        evaluates first.

        Raises:
            Stopped: on all processes, with the run saved.
        """
        spec, progress, stop = self._context.job.spec, self._context.progress, self._context.stop
        try:
            stop.check()
            if evaluation_due(progress, spec):
                _evaluate_engine(self._context, self._engine)
            self._checkpointer.note_evaluation_of_saved()
            with progress_bar(
                spec.max_steps, "train", unit="step", leave=True, initial=progress.step
            ) as bar:
                for step in range(progress.step + 1, spec.max_steps + 1):
                    outcome = self._do_step(step)
                    bar.update()
                    if step % spec.logging_steps == 0 or step == spec.max_steps:
                        self._log(outcome, bar)
                    stop.check()
                    if evaluation_due(progress, spec):
                        _evaluate_engine(self._context, self._engine)
                    if self._checkpointer.is_due():
                        self._checkpointer.save()
        except Stopped:
            self._checkpointer.save()
            raise

    def _do_step(self, step: int) -> StepOutcome:
        """Train on a planned step; plan the next while a GPU computes this one."""
        job, engine, world = self._context.job, self._engine, self._context.world
        began = time.perf_counter()
        planned = self._planned or self._plan(step)
        losses = add_gradients(job, engine, planned, world)
        self._planned = self._plan(step + 1) if step < job.spec.max_steps else None
        outcome = finish_step(job, engine, planned, losses, world)
        seconds = time.perf_counter() - began
        self._context.progress.add_step(
            step, outcome.loss, outcome.loss_denominator, planned.plan, seconds
        )
        return outcome

    def _plan(self, step: int) -> PlannedStep:
        """A step's examples depend on seed and step alone."""
        job, world = self._context.job, self._context.world
        plan, config = self._planner.plan(step), self._engine.model.config
        return PlannedStep.of(job, plan, step, config, world.rank)

    def _log(self, outcome: StepOutcome, bar: Any) -> None:
        """Record and log the figures of the steps since the last logged step."""
        world, folder, progress = (
            self._context.world, self._context.folder, self._context.progress,
        )  # fmt: skip
        figures = progress.window.figures(
            progress.step, outcome.learning_rate, outcome.gradient_norm
        )
        of_ranks = world.gather(memory_figures())
        figures |= {name: max(of_rank[name] for of_rank in of_ranks) for name in of_ranks[0]}
        progress.window = LogWindow()
        world.on_rank_zero(lambda: _write_step(folder, figures, progress))
        speed = f"{figures['examples_per_second']:.1f} examples/s"
        if bar.disable:
            log.info("step %d/%d: loss %.4f, %s", progress.step, bar.total, figures["loss"], speed)
        else:
            bar.set_postfix_str(f"loss {figures['loss']:.4f}, {speed}")


def _evaluate_engine(context: RunContext, engine: Engine) -> None:
    """Evaluate the current model, and note its value of the metric for the best checkpoint."""
    job, world, progress = context.job, context.world, context.progress
    with (
        oom_context(job, world, f"evaluation at step {progress.step}", evaluates=True),
        engine.evaluating() as (model, lockstep),
        uncompiled(job.spec),
    ):
        metrics = evaluate(context, model, lockstep)
    progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))


def _write_step(folder: RunFolder, figures: dict[str, Any], progress: Progress) -> None:
    folder.append_train_log(figures)
    folder.write_status("running", progress)


def evaluation_due(progress: Progress, spec: JobSpec) -> bool:
    """Whether to evaluate: before the first step, every eval_steps and after the last, once each.

    Skipped less than a hundredth of eval_steps before the last step, which is evaluated anyway.
    """
    step, left = progress.step, spec.max_steps - progress.step
    if step == progress.evaluated_step:
        return False
    if step == 0:
        return spec.eval_on_start
    return left == 0 or (step % spec.eval_steps == 0 and left >= spec.eval_steps / 100)
