"""Evaluation: a prediction for every eval record, written with the metrics."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from transformers import PreTrainedModel

from workflow.config.job import PlannedSpec
from workflow.config.task_specs import task_of
from workflow.core.console import log_parts, on_terminal
from workflow.core.tables import Part
from workflow.data.records import Record
from workflow.inference.eval_shard import EvalShard
from workflow.metrics.user import apply_user_metric, load_user_metric
from workflow.reporting.eval_table import metrics_table
from workflow.reporting.report.summary import NO_METRICS
from workflow.reporting.trackers.base import SAMPLES
from workflow.runs.predictions import prediction_files
from workflow.tasks.base import EvalContext, Prediction, Task
from workflow.training.context import RunContext
from workflow.training.run_dir import PredictionFiles

_loaded_once = cache(load_user_metric)


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
    with folder.items(prediction_files(vars(job.spec), context.progress.step)) as items:
        predictions = _Predictions(items, keeps=job.spec.metric is not None)
        metrics = compute_metrics(job.task, evaluated, job.spec, predictions.add)
        return world.on_rank_zero(lambda: _record(context, metrics, predictions))


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
    """Writes predictions as they come; keeps the first for trackers, or all for a user metric."""

    items: PredictionFiles
    keeps: bool
    records: list[Record] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        self.items.add(prediction.item)
        if self.keeps or len(self.records) < SAMPLES:
            self.records.append(prediction.record)
            self.values.append(prediction.value)

    @property
    def first(self) -> Iterable[tuple[Record, Any]]:
        """The records whose samples go to trackers, each with its prediction."""
        return zip(self.records[:SAMPLES], self.values, strict=False)


def _record(
    context: RunContext, metrics: dict[str, Any] | None, predictions: _Predictions
) -> dict[str, Any]:
    """Write and log an evaluation, and return its metrics."""
    assert metrics is not None
    job, folder = context.job, context.folder
    metric = job.spec.metric
    own = {} if metric is None else _user_metrics(metric, predictions, metrics)
    metrics |= own
    predictions.items.finish()
    samples = [job.task.sample(*one) for one in predictions.first] if folder.trackers else []
    line = {"step": context.progress.step, **metrics, "time": time.time()}
    folder.append_metrics(line, samples)
    log_parts(_shown(context, metrics, list(own)))
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


def _user_metrics(
    metric: str, predictions: _Predictions, metrics: dict[str, Any]
) -> dict[str, float | None]:
    """The values of the user metric; names that we use already are prefixed with `user_`."""
    name = metric.rsplit(":", 1)[1]
    function = _loaded_once(metric)
    values = apply_user_metric(function, name, predictions.records, predictions.values)
    taken = metrics.keys() | NO_METRICS
    return {f"user_{n}" if n in taken else n: value for n, value in values.items()}
