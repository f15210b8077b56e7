"""Learning curves of a run: logged values and metrics by step."""

from collections.abc import Iterable, Sequence
from typing import Any

from workflow.config.task_specs import TaskSpec
from workflow.metrics.names import interval_of, is_number
from workflow.reporting.report.blocks import Chart, Charts, Point, Series
from workflow.reporting.report.summary import OF_A_CLASS, OF_SAMPLES, metric_names
from workflow.runs.predictions import PastEvaluation, spread

MOST_POINTS = 400
"""Points of a curve; longer curves are thinned."""
SMOOTHED_FROM = 20
"""Logged steps from which on the train loss is smoothed."""

_TOGETHER = (
    ("loss", ("loss",)),
    ("exact match", ("exact_match", "normalized_exact_match")),
    ("ROUGE", ("rougeL", "rougeL_unicode", "rouge1", "rouge2", "rougeLsum")),
    ("BLEU and chrF", ("bleu", "chrf")),
    ("accuracy", ("accuracy", "majority_accuracy", "balanced_accuracy", "f1", "macro_f1")),
    ("ranking", ("auc", "average_precision")),
    ("log_loss", ("log_loss", "frequencies_log_loss")),
    ("calibration", ("brier", "frequencies_brier", "ece")),
    ("pairs", ("swap_consistency", "first_place_share")),
    ("error", ("rmse", "mae")),
    ("correlation", ("spearman", "pearson")),
    ("predictions", ("empty", "at_limit", "distinct_samples")),
    ("evaluation time, s", ("eval_seconds", "generate_seconds", "score_seconds")),
)
"""The title of a chart, and the metrics that share it."""
_LOGGED = (
    ("learning rate", "learning_rate", True),
    ("gradient norm", "grad_norm", False),
    ("throughput, examples/s", "examples_per_second", True),
    ("memory per process, GB", "memory_gb", True),
)
"""The title of a chart, its key in train_log.jsonl, and whether its axis starts at zero."""


def curves(
    task: TaskSpec, logged: Sequence[dict[str, Any]], evals: Sequence[PastEvaluation]
) -> list[Charts]:
    """Charts of loss, main metrics and training; those of the other metrics are folded.

    Args:
        logged: the lines of train_log.jsonl.
    """
    evals = spread(evals, MOST_POINTS)
    first = [_loss_chart(points_of(logged, "loss"), evals)] if logged else []
    others = []
    # A single evaluation is no curve; the table has its metrics.
    for title, series in _metrics_together(task, evals).items() if len(evals) > 1 else ():
        chart = Chart(title, "step", series, log=title in ("loss", "perplexity"))
        if not any(one.name in task.shown_metrics for one in series):
            others.append(chart)
        elif title != "loss" or not logged:
            first.append(chart)
    for title, name, from_zero in _LOGGED:
        points = points_of(logged, name)
        if points:
            shown = (0.0, 1.05 * max(map(_height, points))) if from_zero else None
            series = [Series(name, thinned(points))]
            first.append(Chart(title, "step", series, y_range=shown, log=not from_zero))
    return charts_blocks(first, others)


def charts_blocks(first: Sequence[Chart], others: Sequence[Chart]) -> list[Charts]:
    """Visible charts, and others, folded."""
    blocks = [Charts(first), Charts(others, folded="other metrics")]
    return [block for block in blocks if block.charts]


def _loss_chart(losses: Sequence[Point], evals: Sequence[PastEvaluation]) -> Chart:
    curves = [Series("train", thinned(losses))]
    if len(losses) >= SMOOTHED_FROM:
        curves = [Series("train", thinned(smoothed(losses)))]
        curves.append(Series("train", thinned(losses), "faint"))
    curves.append(Series("eval", points_of([one.metrics for one in evals], "loss"), "dots"))
    return Chart("loss", "step", curves, log=True)


def _metrics_together(task: TaskSpec, evals: Sequence[PastEvaluation]) -> dict[str, list[Series]]:
    """The series of all metrics, grouped by chart title."""
    lines = [one.metrics for one in evals]
    titles = {name: title for title, members in _TOGETHER for name in members}
    found: dict[str, list[Series]] = {}
    for name in metric_names(task, evals):
        series = metric_series(lines, name, name)
        of_samples = OF_SAMPLES.sub("", name)
        of_class = OF_A_CLASS.match(name)
        title = of_class[1] if of_class else titles.get(of_samples, of_samples)
        title += " over samples" if name != of_samples else ""
        found.setdefault(title, []).append(series)
    return found


def points_of(lines: Iterable[dict[str, Any]], name: str) -> list[Point]:
    """The finite values of a key by step."""
    return [(line["step"], float(line[name])) for line in lines if is_number(line.get(name))]


def metric_series(lines: Sequence[dict[str, Any]], name: str, label: str) -> Series:
    """A metric by step; with intervals if every point has one."""
    intervals = [interval_of(line, name) for line in lines if is_number(line.get(name))]
    around = [one for one in intervals if one is not None]
    return Series(
        label, points_of(lines, name), "dots", around if len(around) == len(intervals) else ()
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the minimum, maximum and last of each group of neighbors."""
    size = -(-3 * len(points) // most)
    if len(points) <= most:
        return list(points)
    found = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        ends = {min(group, key=_height), max(group, key=_height), group[-1]}
        found += sorted(ends)
    return found


def _height(point: Point) -> float:
    return point[1]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An exponential moving average with a half-life of 1/40 of the points.

    Bias-corrected as Adam's moments (Kingma and Ba 2015).
    """
    kept = 0.5 ** (1 / max(1.0, len(points) / 40))
    mean, weight, found = 0.0, 0.0, []
    for x, y in points:
        mean, weight = kept * mean + (1 - kept) * y, kept * weight + (1 - kept)
        found.append((x, mean / weight))
    return found
