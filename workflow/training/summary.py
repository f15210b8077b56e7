"""What a job logs before it runs: its data, how it is computed, what it resumes from."""

from transformers import PreTrainedModel

from workflow.config.smoke import RECORDS, STEPS, TOKENS
from workflow.core.console import log, log_parts
from workflow.data.audit import render
from workflow.distributed.device import pick_device
from workflow.distributed.world import World
from workflow.models.generation_settings import describe_settings
from workflow.runs.resume_state import ResumePoint
from workflow.training.checkpointer import computed_now
from workflow.training.prepare import Job


def log_audit(job: Job) -> None:
    if job.spec.smoke:
        most = f"{RECORDS} records of each split, {STEPS} steps, {TOKENS} new tokens"
        log.info("smoke test on at most %s; its metrics mean nothing", most)
    log_parts(render(job.audit))


def log_resume(job: Job, point: ResumePoint, step: int, world: World) -> None:
    """Log what a run resumes from, and what has changed since."""
    state, spec = point.state, job.spec
    log.info("resuming from %s at step %d/%d", point.folder, step, spec.max_steps)
    earlier, now = state.computed, computed_now(job, world)
    if earlier != now:
        log.info("now %s (was %s); results may differ by rounding", now, earlier)
    if state.spec.get("max_steps") != spec.max_steps:
        log.info(
            "max_steps is now %d (was %s); the learning rate continues on the new schedule "
            "(%s, %d warmup steps)", spec.max_steps, state.spec.get("max_steps"),
            spec.lr_scheduler_type, spec.warmup_steps,
        )  # fmt: skip


def log_job(job: Job, model: PreTrainedModel, world: World) -> None:
    """Log what is about to run, and what the user may not expect."""
    spec = job.spec
    counts = ", ".join(f"{name} {len(split):,}" for name, split in job.splits.items())
    assert job.parameters is not None
    count, trained = job.parameters
    size = count / 1e6
    precision = "bfloat16" if spec.bf16 else "float32"
    processes = f", {world.size} processes" if world.size > 1 else ""
    log.info(
        "%s: %.1f million parameters, %s on %s%s; records: %s",
        spec.model, size, precision, pick_device().type, processes, counts,
    )  # fmt: skip
    if job.strategy is not None:
        log.info("%s", job.strategy)
    if job.max_padded_tokens is not None:
        log.info(
            "micro-batches are limited to %d positions after an earlier start ran out of memory "
            "(--micro_batch_tokens sets another limit)",
            spec.micro_batch_tokens,
        )  # fmt: skip
    log.info("%s", job.task.describe(spec))
    settings = describe_settings(model.generation_config)
    if spec.writes_texts and settings is not None:
        log.info("%s", settings)
    if spec.source_lang is not None:
        to = "" if spec.target_lang is None else f", target language {spec.target_lang}"
        log.info("source language %s%s", spec.source_lang, to)
    if spec.no_train:
        return
    if trained < count:
        share = 100 * trained / count
        log.info(
            "--tuning %s: %s of %s parameters trained (%.2g%%)", spec.tuning, f"{trained:,}",
            f"{count:,}", share,
        )  # fmt: skip
    log.info(
        "%d steps of %d example%s, %s, learning rate %g, %d warmup steps",
        spec.max_steps, spec.batch_size, "s" * (spec.batch_size > 1), spec.optim,
        spec.learning_rate, spec.warmup_steps,
    )  # fmt: skip
    if spec.save_steps % spec.eval_steps and spec.save_steps < spec.max_steps:
        log.warning(
            "checkpoints are saved every %d steps, evaluations run every %d; the best checkpoint "
            "is chosen among steps with both", spec.save_steps, spec.eval_steps,
        )  # fmt: skip
