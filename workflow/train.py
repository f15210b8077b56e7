"""A run from beginning to end: prepare, evaluate, learn step by step, evaluate and save."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.batching import StepPlan, plan_step, step_examples
from workflow.checkpoint import rotate_checkpoints, write_checkpoint
from workflow.config import GREEDY_BELOW, JobSpec
from workflow.console import log, progress_bar
from workflow.engine import SingleProcessEngine
from workflow.errors import Problem, RunFailed
from workflow.evaluate import evaluate
from workflow.generate import seed_from
from workflow.mount import Mount, evaluated_step
from workflow.prepare import Job, prepare
from workflow.progress import LogWindow, Progress
from workflow.run_folder import RunFolder


def run_job(spec: JobSpec, mount: Mount, flag_problems: Sequence[Problem] = ()) -> Path:
    """Run a job to its end and return the folder of its results.

    Raises:
        BadInput: before anything is made, with all that the user has to mend.
        RunFailed: where the run cannot go on; status.json then says why.
    """
    job = prepare(spec, mount, flag_problems)
    if isinstance(job, Path):
        log.info("this job is done already; its results are in %s", job)
        return job
    _announce(job)
    progress = Progress()
    if job.spec.no_train:
        progress.step = evaluated_step(job.model_source)
        run = RunFolder(job.run_path, job.spec)
        with _told_in_status(run, progress):
            _evaluate(job, job.model, progress.step, run)
    else:
        engine = SingleProcessEngine(job.model, job.spec)
        run = RunFolder(job.run_path, job.spec)
        with _told_in_status(run, progress):
            train(job, engine, run, progress)
    log.info("results are in %s", run.path)
    return run.path


def train(job: Job, engine: SingleProcessEngine, run: RunFolder, progress: Progress) -> None:
    """The training loop."""
    spec, split = job.spec, job.splits["train"]
    source_lengths = split.sources.lengths(spec.max_source_length)
    target_lengths = split.targets.lengths(spec.max_target_length)
    window = LogWindow()
    engine.model.train()

    if spec.eval_on_start:
        _evaluate(job, engine.model, 0, run)
    with progress_bar(spec.max_steps, "train", unit="step") as bar:
        for step in range(progress.step + 1, spec.max_steps + 1):
            window.begin_step()
            examples = step_examples(step, spec.batch_size, len(split), spec.seed)
            plan = plan_step(examples, source_lengths, target_lengths, spec.micro_batch_tokens)
            learning_rate = engine.learning_rate
            loss, weight, gradient_norm = train_step(job, engine, plan, step)
            window.end_step(loss, weight, plan)
            progress.step = step
            bar.update()

            if step % spec.logging_steps == 0 or step == spec.max_steps:
                figures = window.figures(step, learning_rate, gradient_norm)
                run.append_train_log(figures)
                run.write_status("running", step)
                _show(figures, bar)
                window = LogWindow()
            found = {}
            if evaluation_due(step, spec):
                found = _evaluate(job, engine.model, step, run)
            if save_due(step, spec):
                write_checkpoint(run.path, step, engine.master, job.tokenizer)
                progress.note_saved(
                    spec.metric_for_best_model, found.get(spec.metric_for_best_model)
                )
                rotate_checkpoints(run.path, spec.save_total_limit, progress.best_step)


def train_step(
    job: Job, engine: SingleProcessEngine, plan: StepPlan, step: int
) -> tuple[float, int, float]:
    """One optimizer step; the loss is the same whatever the cut into micro-batches.

    Returns:
        The sum of the examples' losses, what it is divided by, and the gradient's norm.

    Raises:
        RunFailed: before the model is changed, where loss or gradient is not finite.
    """
    spec, split = job.spec, job.splits["train"]
    examples = np.concatenate(plan.micro_batches)
    weight = job.task.weight(split, examples, spec)
    # What is drawn in a step depends on seed and step alone, not on what was drawn before.
    torch.manual_seed(seed_from(spec.seed, step))
    losses = []
    for indexes in plan.micro_batches:
        batch = job.task.collate(split, indexes, spec, job.tokenizer.pad_token_id)
        loss = job.task.loss(engine.model, batch, spec.label_smoothing_factor)
        engine.backward(loss / weight)
        losses.append(loss.detach())
    by_micro_batch = torch.stack(losses).tolist()
    gradient_norm = engine.gradient_norm()
    if not np.isfinite([*by_micro_batch, gradient_norm]).all():
        raise _not_finite(step, plan, by_micro_batch, gradient_norm)
    engine.update(gradient_norm)
    return sum(by_micro_batch), weight, gradient_norm


def evaluation_due(step: int, spec: JobSpec) -> bool:
    """Every eval_steps and after the last; one due just before the last step is left to it."""
    left = spec.max_steps - step
    return left == 0 or (step % spec.eval_steps == 0 and left >= spec.eval_steps / 100)


def save_due(step: int, spec: JobSpec) -> bool:
    return step == spec.max_steps or step % spec.save_steps == 0


def _announce(job: Job) -> None:
    """What is about to run, in two or three lines."""
    spec = job.spec
    counts = ", ".join(f"{len(split):,} {name} records" for name, split in job.splits.items())
    size = sum(parameter.numel() for parameter in job.model.parameters()) / 1e6
    precision = "bfloat16" if spec.bf16 else "float32"
    log.info(
        "%s: %.1f million parameters, %s on %s; %s",
        spec.model, size, precision, job.model.device, counts,
    )  # fmt: skip
    if not spec.no_train:
        log.info(
            "%d steps of %d examples, %s at %g",
            spec.max_steps, spec.batch_size, spec.optim, spec.learning_rate,
        )  # fmt: skip
    if spec.greedy:
        log.info("temperature %g is below %g: decoding is greedy", spec.temperature, GREEDY_BELOW)


def _evaluate(job: Job, model: Any, step: int, run: RunFolder) -> dict[str, float | None]:
    return evaluate(model, job.task, job.tokenizer, job.splits["eval"], job.spec, step, run)


def _not_finite(
    step: int, plan: StepPlan, losses: Sequence[float], gradient_norm: float
) -> RunFailed:
    bad = [batch for batch, loss in zip(plan.micro_batches, losses, strict=True)
           if not np.isfinite(loss)]  # fmt: skip
    what = f"the gradient's norm is {gradient_norm}" if not bad else "the loss is not finite"
    records = np.sort(np.concatenate(bad or plan.micro_batches))
    named = ", ".join(f"train[{i}]" for i in records[:20])
    more = f" and {len(records) - 20} more" if len(records) > 20 else ""
    return RunFailed(
        f"step {step}: {what}, computing records {named}{more}; the model was not changed by this "
        "step; look at those records, lower --learning_rate, or use --bf16 false"
    )


def _show(figures: dict[str, Any], bar: Any) -> None:
    """Loss and speed: beside the bar on a terminal, as a line in a file."""
    speed = f"{figures['examples_per_second']:.1f} examples/s"
    if bar.disable:
        log.info("step %d/%d: loss %.4f, %s", figures["step"], bar.total, figures["loss"], speed)
    else:
        bar.set_postfix_str(f"loss {figures['loss']:.4f}, {speed}")


@contextmanager
def _told_in_status(run: RunFolder, progress: Progress) -> Iterator[None]:
    """Let status.json say how the run ends."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide the error that tells of it
            run.write_status("failed", progress.step, f"{type(error).__name__}: {error}")
        raise
    run.write_status("done", progress.step)
