"""A run from beginning to end: prepare, evaluate, learn step by step, evaluate and save."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workflow.audit import render
from workflow.batching import plan_step, step_examples
from workflow.checkpoint import reading
from workflow.config import JobSpec
from workflow.console import log, progress_bar
from workflow.engine import Engine
from workflow.environment import describe_start
from workflow.errors import Problem, Stopped
from workflow.evaluate import evaluate
from workflow.head import packs_rows
from workflow.lock import RunLock
from workflow.machine import pick_device
from workflow.mount import Mount, evaluated_step
from workflow.out_of_memory import telling
from workflow.prepare import Job, prepare
from workflow.progress import LogWindow, Progress, peak_memory_gb
from workflow.resume import State, moments_of
from workflow.run_folder import RunFolder, recording_outcome, written_spec
from workflow.saving import Saver, computed_now
from workflow.standing import Standing, claim, find_standing, forget_earlier_start
from workflow.start import load_together, make_engine
from workflow.status import AUDIT, SPEC_FILE
from workflow.stop import Stop
from workflow.trackers import Start, Trackers, tracking
from workflow.train_step import StepOutcome, train_step
from workflow.trial import begin_trying
from workflow.weights import Model, Named, whole_shape
from workflow.world import World


def run_job(
    spec: JobSpec,
    mount: Mount,
    problems: Sequence[Problem] = (),
    world: World | None = None,
    stop: Stop | None = None,
) -> Path:
    """Run a job to its end and return the folder of its results (of an audit: where they would be).

    A run that was begun before goes on from its newest checkpoint.

    Args:
        problems: what is known to be wrong with the job, to be told with all the rest.
        world: the processes of the job, where there are several; all must call this.
        stop: whether the job is asked to stop; a file named `stop` in the run's folder does so too.

    Raises:
        BadInput: before the run's folder is made, with all that the user has to mend.
        RunFailed: where the run cannot go on; status.json then says why.
        Stopped: where it was asked to; the same job goes on.
    """
    world, stop = world or World.alone(), stop or Stop()
    job = world.after_main(lambda: prepare(spec, mount, problems, world))
    tell_audit(job)
    if job.spec.audit:
        return job.run_path
    world.begin(pick_device(), alone_too=job.setting is not None)
    standing = world.by_main(lambda: find_standing(job))
    world.by_main(lambda: forget_earlier_start(job, standing))
    if standing.done:
        log.info("this job is done already; its results are in %s", job.run_path)
        return job.run_path
    with reading(job.model_source, standing.foreign_checkpoint(job)):
        model = load_together(job, world, standing.checkpoint)
        _announce(job, model, world)
        with RunLock(job.run_path) as lock:
            if world.by_main(lambda: claim(job, standing, lock)):
                told = job.spec.report_to if world.is_main else ()
                start = Start(job.run_path, written_spec(job.spec), standing.step)
                with tracking(told, start) as trackers:
                    _run(job, model, standing, lock, world, stop, trackers)
            else:
                log.info("another process has just done this job")
    log.info("results are in %s", job.run_path)
    return job.run_path


def tell_audit(job: Job) -> None:
    for line in render(job.audit) if job.audit else []:
        log.info(line)


def _run(
    job: Job,
    model: Model,
    standing: Standing,
    lock: RunLock,
    world: World,
    stop: Stop,
    trackers: Trackers,
) -> None:
    """Do what is left of a run whose folder is ours."""
    run = RunFolder(
        job.run_path, job.spec.max_steps, job.data_keys, standing.restarts, lock, world.is_main,
        job.most_positions, trackers,
    )  # fmt: skip
    state = standing.state
    so_far = state.progress if state else Progress()
    progress = world.by_main(lambda: _begin(job, run, so_far, world.size))
    stop.defer(run.path, world, lock)
    with recording_outcome(run, progress, job.spec):
        if job.spec.no_train:
            evaluate_only(job, model, run, progress, world, stop)
            return
        with telling(job, world, "making the optimizer"):
            engine = make_engine(job, model, world, standing.checkpoint)
        saver = Saver(job, engine, run, progress, world)
        moments: Iterable[Named] = ()
        if standing.checkpoint is not None and state is not None:
            _tell_going_on(job, standing.checkpoint, state, world)
            moments = moments_of(standing.checkpoint)
        begin_trying(job, engine, progress.step, moments, world)
        train(job, engine, run, progress, saver, world, stop)


def _begin(job: Job, run: RunFolder, progress: Progress, processes: int) -> Progress:
    """Let the run's folder be that of a run that begins, or goes on from its progress.

    Returns:
        The progress, with the evaluation of a step that was saved before it was evaluated.
    """
    metrics = run.go_back_to(progress.step)
    if metrics is not None and progress.evaluated_step != progress.step:
        progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))
    run.write_status("running", progress)
    run.write_json(SPEC_FILE, written_spec(job.spec))
    if job.audit:
        run.write_json(AUDIT, job.audit)
    run.append_start(describe_start(progress.step, processes))
    return progress


def evaluate_only(
    job: Job, model: Model, run: RunFolder, progress: Progress, world: World, stop: Stop
) -> None:
    """Evaluate the model as it was loaded; its step is that of its checkpoint's name, else 0."""
    progress.step = evaluated_step(job.model_source)
    if job.setting is None:  # no engine, whose optimizer would take memory
        with telling(job, world, f"the evaluation at step {progress.step}", evaluates=True):
            evaluate(job, model, progress.step, run, world, stop)
    else:
        _evaluate_engine(job, make_engine(job, model, world), run, progress, world, stop)


def train(
    job: Job,
    engine: Engine,
    run: RunFolder,
    progress: Progress,
    saver: Saver,
    world: World,
    stop: Stop,
) -> None:
    """The training loop, from where the run is; every process of the world runs it.

    A step is done, then evaluated, then saved, each where it is due. Asked to stop, a run is saved
    without the evaluation, or breaks that off; it is made up for before the next step.

    Raises:
        Stopped: on all processes, with the run saved.
    """
    spec, split = job.spec, job.splits["train"]
    source_lengths = split.sources.lengths(spec.max_source_length)
    target_lengths = split.targets.lengths(spec.max_target_length)
    packs = packs_rows(engine.model)
    try:
        stop.check()
        if evaluation_due(progress, spec):
            _evaluate_engine(job, engine, run, progress, world, stop)
        saver.note_evaluation_of_saved()
        with progress_bar(
            spec.max_steps, "train", unit="step", leave=True, initial=progress.step
        ) as bar:
            for step in range(progress.step + 1, spec.max_steps + 1):
                began = time.perf_counter()
                examples = step_examples(step, spec.batch_size, len(split), spec.seed)
                plan = plan_step(
                    examples, source_lengths, target_lengths, spec.micro_batch_tokens, packs,
                    world.size,
                )  # fmt: skip
                outcome = train_step(job, engine, plan, step, world)
                seconds = time.perf_counter() - began
                progress.add_step(step, outcome.loss, outcome.normalizer, plan, seconds)
                bar.update()

                if step % spec.logging_steps == 0 or step == spec.max_steps:
                    _log_step(outcome, run, progress, bar, world)
                stop.check()
                if evaluation_due(progress, spec):
                    _evaluate_engine(job, engine, run, progress, world, stop)
                if saver.is_due():
                    saver.save()
    except Stopped:
        saver.save()
        raise


def evaluation_due(progress: Progress, spec: JobSpec) -> bool:
    """Before the first step, every eval_steps and after the last, where it is not done yet.

    One that falls due less than a hundredth of eval_steps before the last step is left to it.
    """
    step, left = progress.step, spec.max_steps - progress.step
    if step == progress.evaluated_step:
        return False
    if step == 0:
        return spec.eval_on_start
    return left == 0 or (step % spec.eval_steps == 0 and left >= spec.eval_steps / 100)


def _log_step(
    outcome: StepOutcome, run: RunFolder, progress: Progress, bar: Any, world: World
) -> None:
    """Write down and show the figures of the steps since the last that was logged."""
    figures = progress.window.figures(progress.step, outcome.learning_rate, outcome.gradient_norm)
    figures["memory_gb"] = round(max(world.gather(peak_memory_gb())), 3)
    progress.window = LogWindow()
    world.by_main(lambda: _write_step(run, figures, progress))
    speed = f"{figures['examples_per_second']:.1f} examples/s"
    if bar.disable:
        log.info("step %d/%d: loss %.4f, %s", progress.step, bar.total, figures["loss"], speed)
    else:
        bar.set_postfix_str(f"loss {figures['loss']:.4f}, {speed}")


def _write_step(run: RunFolder, figures: dict[str, Any], progress: Progress) -> None:
    run.append_train_log(figures)
    run.write_status("running", progress)


def _evaluate_engine(
    job: Job, engine: Engine, run: RunFolder, progress: Progress, world: World, stop: Stop
) -> None:
    told = telling(job, world, f"the evaluation at step {progress.step}", evaluates=True)
    with told, engine.evaluating() as (model, in_step):
        metrics = evaluate(job, model, progress.step, run, world, stop, in_step)
    progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))


def _tell_going_on(job: Job, checkpoint: Path, state: State, world: World) -> None:
    """What a run goes on from, and what is not as it was."""
    step, spec = state.progress.step, job.spec
    log.info("going on from %s, after step %d of %d", checkpoint, step, spec.max_steps)
    earlier, now = state.computed, computed_now(job, world)
    if earlier != now:
        log.info("by %s, until now by %s: results may differ by rounding", now, earlier)
    if state.spec.get("max_steps") != spec.max_steps:
        log.info(
            "max_steps was %s, is %d: from here the learning rate follows the schedule of %d steps "
            "(%s, %d of warm-up)", state.spec.get("max_steps"), spec.max_steps, spec.max_steps,
            spec.lr_scheduler_type, spec.warmup_steps,
        )  # fmt: skip


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
    if job.most_positions is not None:
        log.info(
            "micro-batches have at most %d positions, for an earlier start ran out of memory "
            "(--micro_batch_tokens sets another bound)",
            spec.micro_batch_tokens,
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
