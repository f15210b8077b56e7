"""What a run came to, in a few sentences and a table: before training, at its best, at its end."""

import re
import time
from collections.abc import Sequence
from typing import Any

from workflow.config.job import BEST_METRICS
from workflow.metrics.names import LOWER_IS_BETTER, SHOWN, interval_of, is_better, is_number
from workflow.reporting.report.blocks import Table
from workflow.runs.predictions import Evaluation, spread

MOST_COLUMNS = 12
"""Evaluations of a table."""
MOSTLY_WRONG = 0.05
"""Where no more answers than this are exactly right, rougeL says more."""
OF_SAMPLES = re.compile("_(best|mean)_of_n$")
"""What follows the name of a metric that is of several samples."""
_OTHERS = frozenset({
    "mean_length", "at_limit", "empty", "distinct_samples", "best_threshold",
    "best_threshold_accuracy", "eval_seconds", "generate_seconds", "score_seconds",
})  # fmt: skip
NO_METRICS = frozenset({"step", "time"})
"""What else a line of metrics.jsonl holds."""


def readable(value: Any) -> str:
    """A metric with four digits; a dash where it has no value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def with_interval(metrics: dict[str, Any], name: str) -> str:
    """A metric's value and, where it has one, its 95% interval."""
    around = _interval(metrics, name)
    return readable(metrics.get(name)) + (f" (95% {around})" if around else "")


def cell(metrics: dict[str, Any], name: str, more: str = "") -> str:
    """The same in a table, with the interval on a line of its own."""
    return f"{readable(metrics.get(name))}{more}\n{_interval(metrics, name)}".rstrip()


def _interval(metrics: dict[str, Any], name: str) -> str:
    ends = interval_of(metrics, name)
    # Where all records are alike, resamples tell nothing.
    return "" if ends is None or ends[0] == ends[1] else f"{ends[0]:.3g} to {ends[1]:.3g}"


def metric_names(task: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics that have a value at some evaluation, those told first of a task first."""
    names: dict[str, None] = dict.fromkeys(SHOWN.get(task, ()))
    for one in evaluations:
        names |= dict.fromkeys(one.metrics)
    return [
        name
        for name in names
        if name not in NO_METRICS and any(is_number(one.metrics.get(name)) for one in evaluations)
    ]


def best_of(name: str, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation with the best value of a metric, the first of several; None without any."""
    best = None
    for one in evaluations:
        value = one.metrics.get(name)
        if is_better(name, value, None if best is None else best.metrics[name]):
            best = one
    return best


def standing(status: dict[str, Any]) -> str:
    """How far a run is, as its status says it."""
    step, steps = status.get("step"), status.get("max_steps")
    far = f"step {step} of {steps}" if steps else "evaluated, not trained"
    return f"{status.get('state')}, {far}, {moment(status.get('time'))} on {status.get('host')}"


def moment(seconds: Any) -> str:
    """A time in words; a dash for what is none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (TypeError, ValueError, OverflowError):
        return "–"


def sentences(
    spec: dict[str, Any], status: dict[str, Any], evaluations: Sequence[Evaluation]
) -> list[str]:
    """How the run ended where it did not end well, and what came of its chief metrics."""
    told, step = [], status.get("step")
    if status.get("state") == "failed":
        told.append(f"Failed at step {step}: {status.get('error')}")
    if status.get("state") == "saved":
        told.append(f"Stopped at step {step}, and saved: the same command goes on.")
    if not evaluations:
        return [*told, "It has not been evaluated yet."]
    names = [name for name in _chief(spec, evaluations) if best_of(name, evaluations)]
    if not names:
        answer = "target" if spec.get("task") == "clf" else "completion"
        return [*told, f"No eval record has a {answer} to compare with, so there are no metrics."]
    return told + [_came_of(name, evaluations) for name in names]


def _chief(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> list[str]:
    """The metric by which the best checkpoint is chosen, and one that says how good answers are."""
    chosen = spec.get("metric_for_best_model") or "loss"
    of_task = "auc"
    if spec.get("task") != "clf":
        right = max((one.metrics.get("exact_match") or 0.0 for one in evaluations), default=0.0)
        nearly = "rougeL" if best_of("rougeL", evaluations) else "rougeL_unicode"
        of_task = "exact_match" if right > MOSTLY_WRONG else nearly
    return list(dict.fromkeys([of_task, chosen] if spec.get("no_train") else [chosen, of_task]))


def _came_of(name: str, evaluations: Sequence[Evaluation]) -> str:
    """A metric's best value, against the first evaluation and the last."""
    best, first, last = best_of(name, evaluations), evaluations[0], evaluations[-1]
    assert best is not None
    if len(evaluations) == 1:
        return f"At step {last.step} {name} is {with_interval(last.metrics, name)}."
    told = f"The best {name} is {with_interval(best.metrics, name)}, at step {best.step}"
    if first is best:
        return f"{told}: no later evaluation is better."
    told += f", from {with_interval(first.metrics, name)} at step {first.step}"
    if last is best:
        return f"{told}; that is the last evaluation."
    return f"{told}. The last, at step {last.step}, has {with_interval(last.metrics, name)}."


def tables(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> list[Table]:
    """The metrics told first, and all of them to be opened."""
    task = spec.get("task", "")
    return [*summary(spec, evaluations), *all_metrics(task, evaluations)]


def summary(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> list[Table]:
    """The metrics told first: at the first evaluation, at the best of each, at the last."""
    first, last = evaluations[0], evaluations[-1]
    task, chief = spec.get("task", ""), spec.get("metric_for_best_model")
    own = own_metrics(spec, evaluations)
    told = {*SHOWN.get(task, ()), chief, *own}
    if (spec.get("target_min"), spec.get("target_max")) != (0, 1):
        told |= {"rmse", "mae"}
    names = [name for name in metric_names(task, evaluations) if name in told]
    if not names:
        return []
    strong = frozenset(i for i, name in enumerate(names) if name == chief)
    if first is last:
        rows = [[_headed(name), cell(last.metrics, name)] for name in names]
        return [Table(["", f"step {last.step}"], rows, _notes(names, last), strong)]
    rows = []
    for name in names:
        best = None if name in own else best_of(name, evaluations)
        at_best = "–" if best is None else cell(best.metrics, name, f" at {best.step}")
        ends = [cell(one.metrics, name) for one in (first, last)]
        rows.append([_headed(name), ends[0], at_best, ends[1]])
    head = ["", f"step {first.step}", "best, at step", f"last, step {last.step}"]
    return [Table(head, rows, _notes(names, last), strong)]


def own_metrics(spec: dict[str, Any], evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics of the user's own function, of which nobody knows which value is best."""
    if spec.get("metric") is None:
        return []
    known = {name for names in BEST_METRICS.values() for name in names} | _OTHERS
    names = metric_names(spec.get("task", ""), evaluations)
    return [name for name in names if name not in known and not OF_SAMPLES.search(name)]


def _headed(name: str) -> str:
    return f"{name} ↓" if name in LOWER_IS_BETTER else name


def _notes(names: Sequence[str], evaluation: Evaluation) -> str:
    lower = any(name in LOWER_IS_BETTER for name in names)
    intervals = any(_interval(evaluation.metrics, name) for name in names)
    told = ["↓ lower is better."] * lower
    told += ["Below values their 95% bootstrap intervals over the eval records."] * intervals
    return " ".join(told)


def all_metrics(task: str, evaluations: Sequence[Evaluation]) -> list[Table]:
    """Every metric at every evaluation, or at some, the last first."""
    names = metric_names(task, evaluations)
    steps = list(reversed(spread(evaluations, MOST_COLUMNS)))
    rows = [[_headed(name), *(cell(one.metrics, name) for one in steps)] for name in names]
    signatures = {
        f"{name.removesuffix('_signature')}: {value}"
        for name, value in steps[0].metrics.items() if name.endswith("_signature")
    }  # fmt: skip
    head = ["", *(f"step {one.step}" for one in steps)]
    note = "; ".join(sorted(signatures))
    return [Table(head, rows, note, folded="all metrics by step")] if rows else []
