"""A run from beginning to end: prepare, evaluate, learn step by step, evaluate and save."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.audit import render
from workflow.batching import MicroBatch, StepPlan, plan_step, seed_from, step_examples
from workflow.checkpoint import rotate_checkpoints, write_checkpoint
from workflow.config import JobSpec
from workflow.console import log, progress_bar
from workflow.engine import Engine
from workflow.errors import Problem, RunFailed
from workflow.evaluate import evaluate
from workflow.head import packs_rows
from workflow.machine import pick_device
from workflow.mount import Mount, evaluated_step
from workflow.prepare import Job, prepare
from workflow.progress import LogWindow, Progress, peak_memory_gb
from workflow.run_folder import RunFolder, claim_run_folder, is_finished
from workflow.start import load_together, make_engine
from workflow.weights import Model, whole_shape
from workflow.world import World, shared


def run_job(
    spec: JobSpec, mount: Mount, problems: Sequence[Problem] = (), world: World | None = None
) -> Path:
    """Run a job to its end and return the folder of its results (of an audit: where they would be).

    Args:
        problems: what is known to be wrong with the job, to be told with all the rest.
        world: the processes of the job, where there are several; all must call this.

    Raises:
        BadInput: before the run's folder is made, with all that the user has to mend.
        RunFailed: where the run cannot go on; status.json then says why.
    """
    world = world or World.alone()
    job = world.after_main(lambda: prepare(spec, mount, problems, world))
    tell_audit(job)
    if job.spec.audit:
        return job.run_path
    world.begin(pick_device(), alone_too=job.setting is not None)
    if world.by_main(lambda: is_finished(job.run_path, job.spec, job.data_keys)):
        log.info("this job is done already; its results are in %s", job.run_path)
        return job.run_path
    model = load_together(job, world)
    _announce(job, model, world)
    if not world.by_main(
        lambda: claim_run_folder(job.run_path, job.spec, job.data_keys, job.claim_lock)
    ):
        log.info("another process has just done this job; its results are in %s", job.run_path)
        return job.run_path
    run = RunFolder(job.run_path, job.spec.max_steps, job.data_keys, writes=world.is_main)
    if job.audit:
        run.write_json("audit.json", job.audit)
    progress = Progress()
    with _recording_outcome(run, progress):
        if job.spec.no_train:
            evaluate_only(job, model, run, progress, world)
        else:
            train(job, make_engine(job, model, world), run, progress, world)
    log.info("results are in %s", run.path)
    return run.path


def tell_audit(job: Job) -> None:
    for line in render(job.audit) if job.audit else []:
        log.info(line)


def evaluate_only(job: Job, model: Model, run: RunFolder, progress: Progress, world: World) -> None:
    """Evaluate the model as it was loaded; its step is that of its checkpoint's name, else 0."""
    progress.step = evaluated_step(job.model_source)
    if job.setting is None:  # no engine, whose optimizer would take memory
        evaluate(job, model, progress.step, run, world)
    else:
        _evaluate_engine(job, make_engine(job, model, world), progress.step, run, world)


def train(job: Job, engine: Engine, run: RunFolder, progress: Progress, world: World) -> None:
    """The training loop; every process of the world runs it."""
    spec, split = job.spec, job.splits["train"]
    source_lengths = split.sources.lengths(spec.max_source_length)
    target_lengths = split.targets.lengths(spec.max_target_length)
    packs = packs_rows(engine.model)
    window = LogWindow()

    if spec.eval_on_start:
        _evaluate_engine(job, engine, 0, run, world)
    with progress_bar(spec.max_steps, "train", unit="step", leave=True) as bar:
        for step in range(1, spec.max_steps + 1):
            window.begin_step()
            examples = step_examples(step, spec.batch_size, len(split), spec.seed)
            plan = plan_step(
                examples, source_lengths, target_lengths, spec.micro_batch_tokens, packs, world.size
            )
            outcome = train_step(job, engine, plan, step, world)
            window.end_step(outcome.loss, outcome.normalizer, plan)
            progress.step = step
            bar.update()

            if step % spec.logging_steps == 0 or step == spec.max_steps:
                figures = window.figures(step, outcome.learning_rate, outcome.gradient_norm)
                figures["memory_gb"] = round(max(world.gather(peak_memory_gb())), 3)
                run.append_train_log(figures)
                run.write_status("running", progress)
                _show(figures, bar)
                window = LogWindow()
            metrics: dict[str, Any] = {}
            if evaluation_due(step, spec):
                metrics = _evaluate_engine(job, engine, step, run, world)
            if save_due(step, spec):
                best_by = metrics.get(spec.metric_for_best_model)
                _save(job, engine, step, best_by, run, progress, world)


@dataclass(frozen=True)
class StepOutcome:
    """One optimizer step: summed loss, what it is divided by, and the rate it was applied at."""

    loss: float
    normalizer: int
    gradient_norm: float
    learning_rate: float


def train_step(job: Job, engine: Engine, plan: StepPlan, step: int, world: World) -> StepOutcome:
    """One optimizer step: its gradient does not depend on the cut into micro-batches.

    Nor on the number of processes: each adds the gradients of its own micro-batches, as many as
    the others; where it has none, that of the step's filler with weight zero.

    Raises:
        RunFailed: before the model is changed, where loss or gradient is not finite.
    """
    spec, split = job.spec, job.splits["train"]
    normalizer = job.task.normalizer(split, plan.examples, spec)
    # What is drawn in a step depends on seed, step and rank, not on what was drawn before.
    torch.manual_seed(seed_from(spec.seed, step, world.rank))
    # () where this rank has no work: it takes part in every reduction all the same.
    micro_batches = plan.of_rank(world.rank)
    losses = []
    for number, rows in enumerate(micro_batches, start=1):
        batch = job.task.collate(split, rows or plan.filler, spec, engine.model.config)
        weight = 1 / normalizer if rows else 0.0
        loss = engine.add_gradient(batch, weight, last=number == len(micro_batches))
        losses.append(loss if rows else torch.zeros_like(loss))
    by_micro_batch = torch.stack(losses).tolist()  # one wait for the device a step
    summed_loss = world.sum(sum(by_micro_batch))
    if not np.isfinite(summed_loss):
        bad = [rows for rows, loss in zip(micro_batches, by_micro_batch, strict=True)
               if not np.isfinite(loss)]  # fmt: skip
        of_all = [rows for found in world.gather(bad) for rows in found]
        raise _non_finite_error(step, "the loss is not finite", of_all)
    learning_rate = engine.learning_rate
    gradient_norm = engine.update()
    if not np.isfinite(gradient_norm):
        what = "the gradient's norm is not finite"
        raise _non_finite_error(step, what, [rows for ranks in plan.micro_steps for rows in ranks])
    return StepOutcome(summed_loss, normalizer, gradient_norm, learning_rate)


def evaluation_due(step: int, spec: JobSpec) -> bool:
    """Every eval_steps and after the last step; one that falls due less than a hundredth of
    eval_steps before the last step is left to it."""
    left = spec.max_steps - step
    return left == 0 or (step % spec.eval_steps == 0 and left >= spec.eval_steps / 100)


def save_due(step: int, spec: JobSpec) -> bool:
    return step == spec.max_steps or step % spec.save_steps == 0


def _announce(job: Job, model: Model, world: World) -> None:
    """What is about to run, and what the user may not expect of it."""
    spec = job.spec
    counts = ", ".join(f"{name} {len(split):,}" for name, split in job.splits.items())
    size = sum(whole_shape(parameter).numel() for parameter in model.parameters()) / 1e6
    precision = "bfloat16" if spec.bf16 else "float32"
    processes = f", {world.size} processes" if world.size > 1 else ""
    log.info(
        "%s: %.1f million parameters, %s on %s%s; records: %s",
        spec.model, size, precision, pick_device().type, processes, counts,
    )  # fmt: skip
    if job.setting is not None:
        log.info("%s", job.setting)
    log.info("%s", job.task.describe(spec))
    if spec.no_train:
        return
    log.info(
        "%d steps of %d examples, %s at %g, %d steps of warm-up",
        spec.max_steps, spec.batch_size, spec.optim, spec.learning_rate, spec.warmup_steps,
    )  # fmt: skip
    if spec.save_steps % spec.eval_steps and spec.save_steps < spec.max_steps:
        log.warning(
            "checkpoints come every %d steps and evaluations every %d: the best is chosen among "
            "steps with both", spec.save_steps, spec.eval_steps,
        )  # fmt: skip


def _evaluate_engine(
    job: Job, engine: Engine, step: int, run: RunFolder, world: World
) -> dict[str, Any]:
    with engine.evaluating() as (model, in_step):
        return evaluate(job, model, step, run, world, in_step)


def _save(
    job: Job,
    engine: Engine,
    step: int,
    best_by: float | None,
    run: RunFolder,
    progress: Progress,
    world: World,
) -> None:
    """Write a checkpoint, then remove those that are neither among the newest nor the best.

    Args:
        best_by: what the step was evaluated at, of the metric that says what is best.
    """
    write_checkpoint(run.path, step, engine, job.tokenizer, world)
    progress.note_checkpoint(step, job.spec.metric_for_best_model, best_by)
    keep = job.spec.save_total_limit
    world.by_main(lambda: rotate_checkpoints(run.path, keep, progress.best_step))
    run.write_status("running", progress)


def _non_finite_error(step: int, what: str, micro_batches: Sequence[MicroBatch]) -> RunFailed:
    records = np.sort(np.concatenate([row for rows in micro_batches for row in rows]))
    named = ", ".join(f"train[{i}]" for i in records[:20])
    more = f" and {len(records) - 20} more" if len(records) > 20 else ""
    told = (
        f"step {step}: {what}, computing records {named}{more}; the model was not changed by this "
        "step; look at those records, lower --learning_rate, or use --bf16 false"
    )
    return shared(RunFailed(told))


def _show(figures: dict[str, Any], bar: Any) -> None:
    """Loss and speed: beside the bar on a terminal, as a line in a file."""
    speed = f"{figures['examples_per_second']:.1f} examples/s"
    if bar.disable:
        log.info("step %d/%d: loss %.4f, %s", figures["step"], bar.total, figures["loss"], speed)
    else:
        bar.set_postfix_str(f"loss {figures['loss']:.4f}, {speed}")


@contextmanager
def _recording_outcome(run: RunFolder, progress: Progress) -> Iterator[None]:
    """Let status.json say how the run ends."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "interrupted" if stopped else f"{type(error).__name__}: {error}"
        log.info("stopped at step %d; what was written is in %s", progress.step, run.path)
        with suppress(OSError):  # a full disk must not hide the error that tells of it
            run.write_status("failed", progress, reason)
        raise
    run.write_status("done", progress)
