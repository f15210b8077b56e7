"""A run from beginning to end: prepare, evaluate, learn step by step, evaluate and save."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workflow.config.job import JobSpec
from workflow.core.console import log, progress_bar
from workflow.core.errors import Problem, Stopped
from workflow.data.step_planner import plan_step, step_examples
from workflow.distributed.device import pick_device
from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.models.lm_head import packs_rows
from workflow.models.state_dict import Model, Named
from workflow.reporting.trackers.base import Start, tracking
from workflow.runs.checkpoint import reading
from workflow.runs.lock import RunLock
from workflow.runs.mount import Mount, evaluated_step
from workflow.runs.provenance import describe_start
from workflow.runs.resume_state import moments_of
from workflow.runs.status import AUDIT, REPORT, SPEC_FILE
from workflow.runs.train_state import LogWindow, Progress, peak_memory_gb
from workflow.training.checkpointer import Saver
from workflow.training.engines.single import Engine
from workflow.training.evaluate import evaluate
from workflow.training.memory_probe import begin_trying
from workflow.training.oom import telling
from workflow.training.prepare import Job, prepare
from workflow.training.resolve import Standing, claim, find_standing, forget_earlier_start
from workflow.training.run_dir import RunFolder, recording_outcome, written_spec
from workflow.training.setup import load_together, make_engine
from workflow.training.step import StepOutcome, train_step
from workflow.training.summary import announce, tell_audit, tell_going_on


def run_job(
    spec: JobSpec,
    mount: Mount,
    problems: Sequence[Problem] = (),
    world: World | None = None,
    stop: Stop | None = None,
    command: Sequence[str] = (),
) -> Path:
    """Run a job to its end and return the folder of its results (of an audit: where they would be).

    A run that was begun before goes on from its newest checkpoint.

    Args:
        problems: what is known to be wrong with the job, to be told with all the rest.
        world: the processes of the job, where there are several; all must call this.
        command: the words that asked for the job, where it was a command line.
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
        announce(job, model, world)
        with RunLock(job.run_path) as lock:
            if world.by_main(lambda: claim(job, standing, lock)):
                _run(job, model, standing, lock, world, stop, command)
            else:
                log.info("another process has just done this job")
    log.info("results are in %s; look at its %s", job.run_path, REPORT)
    return job.run_path


def _run(
    job: Job,
    model: Model,
    standing: Standing,
    lock: RunLock,
    world: World,
    stop: Stop,
    command: Sequence[str],
) -> None:
    """Do what is left of a run whose folder is ours; folder and trackers are told how it goes."""
    trackers = job.spec.report_to if world.is_main else ()
    with tracking(trackers, Start(job.run_path, written_spec(job.spec), standing.step)) as told:
        run = RunFolder(
            job.run_path, job.spec.max_steps, job.data_keys, standing.restarts, lock,
            world.is_main, job.most_positions, told,
        )  # fmt: skip
        so_far = standing.state.progress if standing.state else Progress()
        start = describe_start(so_far.step, world.size, command)
        progress = world.by_main(lambda: _begin(job, run, so_far, start))
        stop.defer(run.path, world, lock)
        with recording_outcome(run, progress, job.spec):
            if job.spec.no_train:
                evaluate_only(job, model, run, progress, world, stop)
            else:
                _train_on(job, model, standing, run, progress, world, stop)


def _begin(job: Job, run: RunFolder, progress: Progress, start: dict[str, Any]) -> Progress:
    """Let the run's folder be that of a run that begins, or goes on from its progress.

    Returns:
        The progress (that of the main process is then everyone's), with the evaluation of a step
        that was saved before it was evaluated.
    """
    metrics = run.go_back_to(progress.step)
    if metrics is not None and progress.evaluated_step != progress.step:
        progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))
    run.write_status("running", progress)
    run.write_json(SPEC_FILE, written_spec(job.spec))
    if job.audit:
        run.write_json(AUDIT, job.audit)
    run.append_start(start)
    return progress


def _train_on(
    job: Job,
    model: Model,
    standing: Standing,
    run: RunFolder,
    progress: Progress,
    world: World,
    stop: Stop,
) -> None:
    """Train from where the run was left, or from its beginning."""
    with telling(job, world, "making the optimizer"):
        engine = make_engine(job, model, world, standing.checkpoint)
    saver = Saver(job, engine, run, progress, world)
    moments: Iterable[Named] = ()
    if standing.checkpoint is not None and standing.state is not None:
        tell_going_on(job, standing.checkpoint, standing.state, world)
        moments = moments_of(standing.checkpoint)
    begin_trying(job, engine, progress.step, moments, world)  # which sets the moments, too
    train(job, engine, run, progress, saver, world, stop)


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
    with (
        telling(job, world, f"the evaluation at step {progress.step}", evaluates=True),
        engine.evaluating() as (model, in_step),
    ):
        metrics = evaluate(job, model, progress.step, run, world, stop, in_step)
    progress.note_evaluation(metrics.get(job.spec.metric_for_best_model))
