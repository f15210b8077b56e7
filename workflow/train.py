"""A run from beginning to end: prepare, evaluate, learn step by step, evaluate and save."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.audit import render
from workflow.batching import StepPlan, plan_step, seed_from, step_examples
from workflow.checkpoint import rotate_checkpoints, write_checkpoint
from workflow.config import JobSpec
from workflow.console import log, progress_bar
from workflow.cpu import tune_memory, use_fast_modules
from workflow.engine import SingleProcessEngine
from workflow.errors import Problem, RunFailed
from workflow.evaluate import evaluate
from workflow.machine import pick_device
from workflow.models import Model, fetch_weights, load_model, packs_rows
from workflow.mount import Mount, evaluated_step
from workflow.prepare import Job, prepare
from workflow.progress import LogWindow, Progress
from workflow.run_folder import RunFolder, claim_run_folder, is_finished
from workflow.vocabulary import grow_model


def run_job(spec: JobSpec, mount: Mount, problems: Sequence[Problem] = ()) -> Path:
    """Run a job to its end and return the folder of its results (of an audit: where they would be).

    Args:
        problems: what is known to be wrong with the job, to be told with all the rest.

    Raises:
        BadInput: before the run's folder is made, with all that the user has to mend.
        RunFailed: where the run cannot go on; status.json then says why.
    """
    job = prepare(spec, mount, problems)
    for line in render(job.audit) if job.audit else []:
        log.info(line)
    if job.spec.audit:
        return job.run_path
    if is_finished(job.run_path, job.spec, job.data_keys):
        log.info("this job is done already; its results are in %s", job.run_path)
        return job.run_path
    model = ready_model(job)
    _announce(job, model)
    run = claim_run_folder(job.run_path, job.spec, job.data_keys, job.claim_lock)
    if run is None:
        log.info("another process has just done this job; its results are in %s", job.run_path)
        return job.run_path
    if job.audit:
        run.write_json("audit.json", job.audit)
    progress = Progress()
    with _recording_outcome(run, progress):
        if job.spec.no_train:
            evaluate_only(job, model, run, progress)
        else:
            train(job, model, run, progress)
    log.info("results are in %s", run.path)
    return run.path


def ready_model(job: Job) -> Model:
    """The job's model in float32 in the host's memory, with a row for each of its tokens."""
    if pick_device().type == "cpu":
        tune_memory()
    model = load_model(fetch_weights(job.model_source), job.spec.dropout_rate)
    if len(job.tokenizer) > job.model_tokens:
        grow_model(model, job.model_tokens, len(job.tokenizer))
    job.task.adapt(model)
    if pick_device().type == "cpu":
        use_fast_modules(model, attention=packs_rows(model))
    return model


def evaluate_only(job: Job, model: Model, run: RunFolder, progress: Progress) -> None:
    """Evaluate the model as it was loaded; its step is that of its checkpoint's name, else 0."""
    progress.step = evaluated_step(job.model_source)
    computing = model.to(torch.bfloat16) if job.spec.bf16 else model
    _evaluate(job, computing.to(pick_device()), progress.step, run)


def train(job: Job, model: Model, run: RunFolder, progress: Progress) -> None:
    """The training loop."""
    spec, split = job.spec, job.splits["train"]
    engine = SingleProcessEngine(model, spec)
    engine.model.train()
    source_lengths = split.sources.lengths(spec.max_source_length)
    target_lengths = split.targets.lengths(spec.max_target_length)
    packs = packs_rows(engine.model)
    window = LogWindow()

    if spec.eval_on_start:
        _evaluate(job, engine.model, 0, run)
    with progress_bar(spec.max_steps, "train", unit="step", leave=True) as bar:
        for step in range(1, spec.max_steps + 1):
            window.begin_step()
            examples = step_examples(step, spec.batch_size, len(split), spec.seed)
            plan = plan_step(
                examples, source_lengths, target_lengths, spec.micro_batch_tokens, packs
            )
            outcome = train_step(job, engine, plan, step)
            window.end_step(outcome.loss, outcome.normalizer, plan)
            progress.step = step
            bar.update()

            if step % spec.logging_steps == 0 or step == spec.max_steps:
                figures = window.figures(step, outcome.learning_rate, outcome.gradient_norm)
                run.append_train_log(figures)
                run.write_status("running", progress)
                _show(figures, bar)
                window = LogWindow()
            metrics: dict[str, Any] = {}
            if evaluation_due(step, spec):
                metrics = _evaluate(job, engine.model, step, run)
            if save_due(step, spec):
                write_checkpoint(run.path, step, engine.master, job.tokenizer)
                best_by = spec.metric_for_best_model
                progress.note_checkpoint(step, best_by, metrics.get(best_by))
                rotate_checkpoints(run.path, spec.save_total_limit, progress.best_step)
                run.write_status("running", progress)


@dataclass(frozen=True)
class StepOutcome:
    """One optimizer step: summed loss, what it is divided by, and the rate it was applied at."""

    loss: float
    normalizer: int
    gradient_norm: float
    learning_rate: float


def train_step(job: Job, engine: SingleProcessEngine, plan: StepPlan, step: int) -> StepOutcome:
    """One optimizer step: its gradient does not depend on the cut into micro-batches.

    Raises:
        RunFailed: before the model is changed, where loss or gradient is not finite.
    """
    spec, split = job.spec, job.splits["train"]
    normalizer = job.task.normalizer(split, plan.examples, spec)
    # What is drawn in a step depends on seed and step alone, not on what was drawn before.
    torch.manual_seed(seed_from(spec.seed, step))
    losses = []
    for rows in plan.micro_batches:
        batch = job.task.collate(split, rows, spec, engine.model.config)
        loss = job.task.loss(engine.model, batch, spec.label_smoothing_factor)
        engine.backward(loss / normalizer)
        losses.append(loss.detach())
    by_micro_batch = torch.stack(losses).tolist()
    gradient_norm = engine.gradient_norm()
    if not np.isfinite([*by_micro_batch, gradient_norm]).all():
        raise _non_finite_error(step, plan, by_micro_batch, gradient_norm)
    learning_rate = engine.learning_rate
    engine.update(gradient_norm)
    return StepOutcome(sum(by_micro_batch), normalizer, gradient_norm, learning_rate)


def evaluation_due(step: int, spec: JobSpec) -> bool:
    """Every eval_steps and after the last step; one that falls due less than a hundredth of
    eval_steps before the last step is left to it."""
    left = spec.max_steps - step
    return left == 0 or (step % spec.eval_steps == 0 and left >= spec.eval_steps / 100)


def save_due(step: int, spec: JobSpec) -> bool:
    return step == spec.max_steps or step % spec.save_steps == 0


def _announce(job: Job, model: Model) -> None:
    """What is about to run, and what the user may not expect of it."""
    spec = job.spec
    counts = ", ".join(f"{name} {len(split):,}" for name, split in job.splits.items())
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    precision = "bfloat16" if spec.bf16 else "float32"
    log.info(
        "%s: %.1f million parameters, %s on %s; records: %s",
        spec.model, size, precision, pick_device(), counts,
    )  # fmt: skip
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


def _evaluate(job: Job, model: Model, step: int, run: RunFolder) -> dict[str, Any]:
    return evaluate(model, job.task, job.tokenizer, job.splits["eval"], job.spec, step, run)


def _non_finite_error(
    step: int, plan: StepPlan, losses: Sequence[float], gradient_norm: float
) -> RunFailed:
    bad = [batch for batch, loss in zip(plan.micro_batches, losses, strict=True)
           if not np.isfinite(loss)]  # fmt: skip
    what = f"the gradient's norm is {gradient_norm}" if not bad else "the loss is not finite"
    rows = [row for micro_batch in bad or plan.micro_batches for row in micro_batch]
    records = np.sort(np.concatenate(rows))
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
