"""An evaluation: every record answered once, and what it found written down."""

import time
from typing import Any

from workflow.config import JobSpec
from workflow.console import log
from workflow.models import Model
from workflow.run_folder import RunFolder
from workflow.tasks.task import Task
from workflow.tokens import TokenizedSplit


def evaluate(
    model: Model,
    task: Task,
    tokenizer: Any,
    split: TokenizedSplit,
    spec: JobSpec,
    step: int,
    run: RunFolder,
) -> dict[str, float | None]:
    """Evaluate `model` as it is at `step`, write items and metrics, and return the metrics."""
    was_training = model.training
    model.eval()
    evaluation = task.evaluate(model, tokenizer, split, spec, step)
    model.train(was_training)
    if len(evaluation.items) != len(split):
        raise AssertionError(f"{len(split)} records in, {len(evaluation.items)} results out")
    run.write_items(task.items_file(spec, step), evaluation.items)
    run.append_metrics({"step": step, **evaluation.metrics, "time": time.time()})
    known = {name: value for name, value in evaluation.metrics.items() if value is not None}
    shown = [f"{name} {value:.4g}" for name, value in known.items() if "seconds" not in name]
    told = "  ".join(shown) or "no completions to compare with, so no metrics"
    log.info("step %d: %s", step, told)
    return evaluation.metrics
