"""The metrics of several evaluations on the same records, and how far they are apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow.bootstrap import Floats, interval
from workflow.compare.correlations import resampled_correlations
from workflow.compare.naming import Named
from workflow.compare.pairing import Pair, Pairs
from workflow.console import progress_bar
from workflow.metrics import TextMetrics
from workflow.score_metrics import in_range, resampled_score_metrics, score_points, to_unit

Interval = tuple[float, float]
Points = dict[str, float | None]

_NO_METRICS = frozenset({"step", "time", "eval_seconds", "generate_seconds", "score_seconds"})
_OF_SAMPLES = ("_best_of_n", "_mean_of_n", "distinct_samples")
_MOSTLY_WRONG = 0.05
"""Where no more answers than this are exactly right, rougeL says more."""


@dataclass(frozen=True)
class Metric:
    """A metric of all evaluations.

    Attributes:
        values: of each evaluation.
        differences: of each but the first, to the first.
        intervals: 95% of each difference; None where the records do not tell.
    """

    name: str
    values: tuple[float | None, ...]
    differences: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]

    @property
    def has_intervals(self) -> bool:
        return any(one is not None for one in self.intervals)


def measure(named: Sequence[Named], pairs: Pairs) -> list[Metric]:
    """All metrics that can be compared: those of the answers first, then what the runs noted."""
    # In an order that neither the data files nor the command line decide.
    ordered = sorted(pairs.pairs, key=lambda pair: pair.key)
    seed = min(int(one.spec.get("seed", 0)) for one in named)
    if named[0].spec.get("task") == "clf":
        measured = [_of_scores(ordered, i, one, seed) for i, one in enumerate(named)]
    else:
        measured = _of_texts(ordered, len(named), seed)
    names = dict.fromkeys(name for points, _ in measured for name in points)
    metrics = [_metric(name, measured) for name in names]
    return metrics + (_noted(named, names.keys()) if pairs.alike else [])


def main_metric(metrics: Sequence[Metric], named: Sequence[Named]) -> Metric:
    """What the base's best checkpoint is best in, else the usual one that answers tell."""
    by_name = {metric.name: metric for metric in metrics if metric.has_intervals}
    wanted = [str(named[0].spec.get("metric_for_best_model"))]
    if named[0].spec.get("task") == "clf":
        wanted += ["auc", "spearman", "rmse"]
    else:
        right = max(value or 0.0 for value in by_name["exact_match"].values)
        wanted += ["exact_match"] * (right > _MOSTLY_WRONG) + ["rougeL"]
    return next(by_name[name] for name in wanted if name in by_name)


def _of_texts(
    pairs: Sequence[Pair], evaluations: int, seed: int
) -> list[tuple[Points, dict[str, Floats]]]:
    """Of each evaluation the metrics, and these in every resample."""
    judged = [TextMetrics(seed) for _ in range(evaluations)]
    with progress_bar(len(pairs), "judge") as bar:
        for pair in pairs:
            for answer, of_one in zip(pair.answers, judged, strict=True):
                same = judged[pair.answers.index(answer)]
                if same is of_one:
                    of_one.add([str(answer)], str(pair.expected))
                else:  # judged already: ROUGE takes its time
                    of_one.add_like(same)
            bar.update()
    return [(dict(of_one.points()), of_one.resampled()) for of_one in judged]


def _of_scores(
    pairs: Sequence[Pair], index: int, named: Named, seed: int
) -> tuple[Points, dict[str, Floats]]:
    """The metrics of one evaluation, and these in every resample."""
    scores, targets = (
        to_unit(np.array(of_all, np.float64), *named.target_range)
        for of_all in ([p.answers[index] for p in pairs], [p.expected for p in pairs])
    )
    resampled = resampled_score_metrics(scores, targets, seed)
    resampled |= resampled_correlations(scores, targets, seed)
    return (
        in_range(score_points(scores, targets), *named.target_range),
        in_range(resampled, *named.target_range),
    )


def _metric(name: str, measured: Sequence[tuple[Points, dict[str, Floats]]]) -> Metric:
    values = tuple(points.get(name) for points, _ in measured)
    intervals = tuple(
        _interval(resampled[name] - measured[0][1][name]) if name in resampled else None
        for _, resampled in measured[1:]
    )
    return Metric(name, values, _differences(values), intervals)


def _interval(differences: Floats) -> Interval | None:
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return None
    low, high = interval(defined)
    return low, high


def _differences(values: Sequence[float | None]) -> tuple[float | None, ...]:
    base = values[0]
    return tuple(None if base is None or v is None else v - base for v in values[1:])


def _noted(named: Sequence[Named], known: object) -> list[Metric]:
    """The other numbers that the runs noted of these evaluations, which no answers tell."""
    lines = [one.evaluation.metrics for one in named]
    names = dict.fromkeys(name for line in lines for name in line if name not in known)  # type: ignore[operator]
    samples = {one.spec.get("n_samples") for one in named}
    found = []
    for name in names:
        if name in _NO_METRICS or (len(samples) > 1 and name.endswith(_OF_SAMPLES)):
            continue
        values = tuple(_number(line.get(name)) for line in lines)
        if any(value is not None for value in values):
            nothing = (None,) * (len(values) - 1)
            found.append(Metric(name, values, _differences(values), nothing))
    return found


def _number(value: object) -> float | None:
    """The value, where it is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]
