"""An evaluation: every record answered once, and what it found written down."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from workflow.core.console import log, on_terminal
from workflow.data.schema import Record
from workflow.inference.eval_shard import EvalShard
from workflow.metrics.user import apply_user_metric, load_user_metric
from workflow.models.state_dict import Model
from workflow.reporting.eval_table import metrics_table
from workflow.reporting.report.summary import NO_METRICS
from workflow.reporting.trackers.base import SAMPLES
from workflow.training.context import RunContext
from workflow.training.run_dir import PredictionFiles

_loaded_once = cache(load_user_metric)


def evaluate(context: RunContext, model: Model, lockstep: bool = False) -> dict[str, Any]:
    """Evaluate `model`, in evaluation mode, at the run's step; all processes get the metrics.

    Items and metrics are written by the main one.

    Args:
        lockstep: whether all processes must call the model equally often.

    Raises:
        Stopped: on all processes, and nothing is written.
    """
    job, world, folder = context.job, context.world, context.folder
    task, spec, split = job.task, job.spec, job.splits["eval"]
    shard = EvalShard(world, lockstep, context.stop, folder.path)
    with folder.items(task.prediction_files(spec, context.progress.step)) as items:
        heard = _Heard(items, keeps=spec.metric is not None)
        metrics = task.evaluate(model, job.tokenizer, split, spec, shard, heard.hear)
        return world.on_rank_zero(lambda: _told(context, metrics, heard))


@dataclass(frozen=True)
class _Heard:
    """What a task tells of each record: written at once.

    The first few are kept for trackers, all only for a user's own metric.
    """

    items: PredictionFiles
    keeps: bool
    records: list[Record] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)

    def hear(self, record: Record, prediction: Any, item: dict[str, Any]) -> None:
        self.items.add(item)
        if self.keeps or len(self.records) < SAMPLES:
            self.records.append(record)
            self.predictions.append(prediction)

    @property
    def first(self) -> Iterable[tuple[Record, Any]]:
        """The records that trackers are shown, each with its prediction."""
        return zip(self.records[:SAMPLES], self.predictions, strict=False)


def _told(context: RunContext, metrics: dict[str, Any] | None, heard: _Heard) -> dict[str, Any]:
    """Write and log what an evaluation found, and return its metrics."""
    assert metrics is not None
    job, folder = context.job, context.folder
    own = {} if job.spec.metric is None else _users_own(job.spec.metric, heard, metrics)
    metrics |= own
    heard.items.finish()
    samples = [job.task.sample(*one) for one in heard.first] if folder.trackers else []
    line = {"step": context.progress.step, **metrics, "time": time.time()}
    folder.append_metrics(line, samples)
    for shown in _lines(context, metrics, list(own)):
        log.info("%s", shown)
    folder.keep_report()
    return metrics


def _lines(context: RunContext, metrics: dict[str, Any], own: list[str]) -> list[str]:
    """What the log says of an evaluation: a table on a terminal, a line elsewhere."""
    job, step = context.job, context.progress.step
    if on_terminal():
        earlier, now = context.folder.metrics_before(step), {"step": step, **metrics}
        table = metrics_table(earlier, now, job.task.shown, job.spec.max_steps, own)
        if table:
            return table
    names = (*job.task.shown, *own)
    shown = [f"{name} {metrics[name]:.4g}" for name in names if metrics.get(name) is not None]
    told = "  ".join(shown) or "no answers to compare with, so no metrics"
    return [f"step {step}: {told}"]


def _users_own(metric: str, heard: _Heard, metrics: dict[str, Any]) -> dict[str, float | None]:
    """What the user's own metric finds; it takes the place of none of ours."""
    name = metric.rsplit(":", 1)[1]
    function = _loaded_once(metric)
    found = apply_user_metric(function, name, heard.records, heard.predictions)
    taken = metrics.keys() | NO_METRICS
    return {f"user_{n}" if n in taken else n: value for n, value in found.items()}
