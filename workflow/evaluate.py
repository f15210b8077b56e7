"""An evaluation: every record answered once, and what it found written down."""

import time
from functools import cache
from typing import Any

from workflow.config import JobSpec
from workflow.console import log
from workflow.models import Model
from workflow.run_folder import RunFolder
from workflow.tasks.task import Evaluation, Task
from workflow.tokens import TokenizedSplit
from workflow.user_metric import apply_user_metric, load_user_metric

_loaded_once = cache(load_user_metric)


def evaluate(
    model: Model,
    task: Task,
    tokenizer: Any,
    split: TokenizedSplit,
    spec: JobSpec,
    step: int,
    run: RunFolder,
) -> dict[str, Any]:
    """Evaluate `model` as it is at `step`, write items and metrics, and return the metrics."""
    was_training = model.training
    model.eval()
    evaluation = task.evaluate(model, tokenizer, split, spec, step)
    model.train(was_training)
    if len(evaluation.items) != len(split):
        raise AssertionError(f"{len(split)} records in, {len(evaluation.items)} results out")
    metrics = evaluation.metrics
    if spec.metric is not None:
        metrics |= _users_own(spec.metric, evaluation)
    for name in task.items_files(spec, step):
        run.write_json(name, evaluation.items)
    run.append_metrics({"step": step, **metrics, "time": time.time()})
    shown = [f"{name} {metrics[name]:.4g}" for name in task.shown if metrics.get(name) is not None]
    told = "  ".join(shown) or "no answers to compare with, so no metrics"
    log.info("step %d: %s", step, told)
    return metrics


def _users_own(metric: str, evaluation: Evaluation) -> dict[str, float | None]:
    """What the user's own metric finds; it takes the place of none of ours."""
    name = metric.rsplit(":", 1)[1]
    function = _loaded_once(metric)
    found = apply_user_metric(function, name, evaluation.records, evaluation.predictions)
    return {f"user_{n}" if n in evaluation.metrics else n: value for n, value in found.items()}
