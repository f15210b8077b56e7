"""An evaluation: every record answered once, and what it found written down."""

import time
from functools import cache
from typing import Any

from workflow.console import log
from workflow.prepare import Job
from workflow.run_folder import RunFolder
from workflow.share import Share
from workflow.stop import Stop
from workflow.tasks.task import Evaluation
from workflow.user_metric import apply_user_metric, load_user_metric
from workflow.weights import Model
from workflow.world import World

_loaded_once = cache(load_user_metric)


def evaluate(
    job: Job,
    model: Model,
    step: int,
    run: RunFolder,
    world: World,
    stop: Stop,
    in_step: bool = False,
) -> dict[str, Any]:
    """Evaluate `model`, in evaluation mode, as it is at `step`; all processes get the metrics.

    Items and metrics are written by the main one.

    Args:
        in_step: whether all processes must call the model equally often.

    Raises:
        Stopped: on all processes, before anything is written.
    """
    share = Share(world, in_step, stop)
    found = job.task.evaluate(model, job.tokenizer, job.splits["eval"], job.spec, share)
    return world.by_main(lambda: _told(job, found, step, run))


def _told(job: Job, found: Evaluation | None, step: int, run: RunFolder) -> dict[str, Any]:
    """Write and log what an evaluation found, and return its metrics."""
    assert found is not None
    task, spec, metrics = job.task, job.spec, found.metrics
    if spec.metric is not None:
        metrics |= _users_own(spec.metric, found)
    for name in task.items_files(spec, step):
        run.write_json(name, found.items)
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
