"""Evaluation: a prediction for every eval record, written with the metrics."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from workflow.config.job import PlannedSpec
from workflow.config.task_specs import task_of
from workflow.core.console import log_parts, on_terminal
from workflow.core.tables import Part
from workflow.inference.eval_shard import EvalShard
from workflow.metrics.names import is_number
from workflow.reporting.eval_table import metrics_table
from workflow.reporting.trackers.base import SAMPLES
from workflow.runs.predictions import prediction_files
from workflow.tasks.base import EvalContext, Prediction, Task
from workflow.training.asked_metrics import asked_metrics, judged
from workflow.training.context import RunContext
from workflow.training.run_dir import PredictionFiles


def evaluate(context: RunContext, model: PreTrainedModel, lockstep: bool = False) -> dict[str, Any]:
    """Evaluate `model` (in evaluation mode) at the run's step; returns metrics on all processes.

    Rank 0 writes predictions and metrics.

    Args:
        lockstep: whether all processes must call the model equally often.

    Raises:
        Stopped: on all processes; nothing is written then.
    """
    job, world, folder = context.job, context.world, context.folder
    shard = EvalShard(world, lockstep, context.stop, folder.path)
    examples = job.examples["eval"]
    untrained = context.progress.step == 0 and not job.spec.no_train
    evaluated = EvalContext(model, job.tokenizer, examples, shard, untrained)
    with folder.items(prediction_files(vars(job.spec), context.progress.step)) as files:
        predictions = _Predictions(files, keeps=bool(job.spec.metric))
        metrics = compute_metrics(job.task, evaluated, job.spec, predictions.add)
        by_models = judged(job, evaluated, predictions.kept)

        def record() -> dict[str, Any]:
            assert metrics is not None
            own = asked_metrics(job, predictions.kept, by_models, metrics)
            return _record(context, metrics, own, predictions)

        return world.on_rank_zero(record)


def compute_metrics(
    task: Task, context: EvalContext, spec: PlannedSpec, on_prediction: Callable[[Prediction], None]
) -> dict[str, Any] | None:
    """The metrics of a model, timings included, on rank 0; None on the others.

    Args:
        on_prediction: called on rank 0 once for each record, in the order of the data file.
    """
    began = time.perf_counter()
    evaluation = task.evaluation(context, spec)
    ready = time.perf_counter()

    def judge(indexes: range, results: Iterator[Any]) -> None:
        for prediction in evaluation.judge(indexes, results):
            on_prediction(prediction)

    computed = context.shard.collect(evaluation.results, evaluation.count, judge)
    if not context.shard.world.is_rank_zero:
        return None
    metrics = evaluation.metrics()
    metrics["eval_seconds"] = time.perf_counter() - began
    metrics[evaluation.timing] = computed - ready
    return metrics


@dataclass(frozen=True)
class _Predictions:
    """Writes predictions as they come, and keeps the first for trackers.

    Attributes:
        keeps: whether to keep all instead, until metrics are computed of them together.
    """

    files: PredictionFiles
    keeps: bool
    kept: list[Prediction] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        if not self.keeps:
            self.files.add(prediction.item)
        if self.keeps or len(self.kept) < SAMPLES:
            self.kept.append(prediction)

    def finish(self) -> None:
        """Write what was kept, and publish the files."""
        for prediction in self.kept if self.keeps else ():
            self.files.add(prediction.item)
        self.files.finish()


def _record(
    context: RunContext,
    metrics: dict[str, Any],
    asked: dict[str, Any],
    predictions: _Predictions,
) -> dict[str, Any]:
    """Write and log an evaluation, and return its metrics.

    Args:
        asked: the metrics that --metric adds.
    """
    job, folder = context.job, context.folder
    metrics |= asked
    predictions.finish()
    first = predictions.kept[:SAMPLES] if folder.trackers else []
    samples = [job.task.sample(one.record, one.value) for one in first]
    line = {"step": context.progress.step, **metrics, "time": time.time()}
    folder.append_metrics(line, samples)
    log_parts(_shown(context, metrics, [name for name in asked if is_number(asked[name])]))
    folder.keep_report()
    return metrics


def _shown(context: RunContext, metrics: dict[str, Any], own: list[str]) -> list[Part]:
    """The log of an evaluation: a table on a terminal, one line elsewhere."""
    spec, step = context.job.spec, context.progress.step
    task = task_of(vars(spec))
    names = task.shown_metrics
    if on_terminal():
        earlier, now = context.folder.metrics_before(step), {"step": step, **metrics}
        table = metrics_table(earlier, now, names, spec.max_steps, own)
        if table:
            return table
    shown = [
        f"{name} {metrics[name]:.4g}" for name in (*names, *own) if metrics.get(name) is not None
    ]
    values = "  ".join(shown) or f"no {task.answer_key}s; metrics skipped"
    return [f"step {step}: {values}"]
