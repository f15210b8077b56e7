"""The metrics of several evaluations on the same records, and how far they are apart."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from workflow.core.console import progress_bar
from workflow.metrics.bootstrap import Floats, interval
from workflow.metrics.correlations import resampled_correlations
from workflow.metrics.names import is_number
from workflow.metrics.scores import in_range, resampled_score_metrics, score_points, to_unit
from workflow.metrics.scripts import bleu_tokenizer, looked_at
from workflow.metrics.text import TextMetrics
from workflow.reporting.compare.pairing import Pair, Pairs
from workflow.reporting.compare.selectors import Named
from workflow.reporting.outputs import target_range
from workflow.reporting.report.summary import OF_SAMPLES, metric_names
from workflow.runs.status import read_status

Interval = tuple[float, float]
Measured = tuple[dict[str, float | None], dict[str, Floats]]
"""Of an evaluation: its metrics, and those with intervals in every resample, (resamples,) each."""

RECORDS_NEEDED = 10
"""Of fewer records the resamples are too much alike for their percentiles to tell who is better."""
_MANY = 0.01
"""Of resamples: a metric is undefined in more where fewer than five records are of a class."""
_SECONDS = frozenset({"eval_seconds", "generate_seconds", "score_seconds"})


@dataclass(frozen=True)
class Metric:
    """A metric of all evaluations.

    Attributes:
        values: of each evaluation.
        differences: of each but the first, to the first.
        intervals: 95% of each difference; None where the records do not tell.
        undefined: whether each difference is so in many resamples: few records bear on it.
        records: how many it is of.
    """

    name: str
    values: tuple[float | None, ...]
    differences: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]
    undefined: tuple[bool, ...]
    records: int

    @property
    def has_intervals(self) -> bool:
        return any(one is not None for one in self.intervals)

    def can_tell(self, index: int) -> bool:
        """Whether there are records enough to tell who is better, the base or this one."""
        return self.records >= RECORDS_NEEDED and not self.undefined[index - 1]


def measure(named: Sequence[Named], pairs: Pairs) -> list[Metric]:
    """All metrics that can be compared: those of the answers first, then what the runs noted."""
    seed = min(int(one.spec.get("seed", 0)) for one in named)
    measured = _MEASURED_BY[named[0].outputs.task.output](named, pairs.pairs, seed)
    names = dict.fromkeys(name for points, _ in measured for name in points)
    metrics = [_metric(name, measured, len(pairs.pairs)) for name in names]
    return metrics + (_noted(named, names.keys(), len(pairs.pairs)) if pairs.alike else [])


def main_metric(metrics: Sequence[Metric], named: Sequence[Named]) -> Metric:
    """What the base's best checkpoint is best in, else the usual one that answers tell."""
    by_name = {metric.name: metric for metric in metrics if metric.has_intervals}
    right = by_name["exact_match"].values if "exact_match" in by_name else ()
    usual = named[0].outputs.usual_metrics(max((value or 0.0 for value in right), default=0.0))
    wanted = [str(named[0].spec.get("metric_for_best_model")), *usual]
    return next(by_name[name] for name in wanted if name in by_name)


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """In an order that neither the data files nor the command line decide."""
    return sorted(pairs, key=lambda pair: pair.key)


def _of_texts(named: Sequence[Named], pairs: Sequence[Pair], seed: int) -> list[Measured]:
    tokenize = bleu_tokenizer([str(pairs[i].references[0]) for i in looked_at(len(pairs))])
    judged = [TextMetrics(seed, tokenize) for _ in named]
    with progress_bar(len(pairs), "judge") as bar:
        for pair in _ordered(pairs):
            both = list(zip(pair.answers, pair.references, strict=True))
            for one, of_one in zip(both, judged, strict=True):
                same = judged[both.index(one)]
                if same is of_one:
                    of_one.add([str(one[0])], str(one[1]))
                else:  # judged already: ROUGE takes its time
                    of_one.add_like(same)
            bar.update()
    return [(dict(of_one.points()), of_one.resampled()) for of_one in judged]


def _of_scores(named: Sequence[Named], pairs: Sequence[Pair], seed: int) -> list[Measured]:
    ends, ordered = target_range(named[0].spec), _ordered(pairs)
    targets, *scores = to_unit(
        np.array([(pair.expected, *pair.answers) for pair in ordered], np.float64).T.copy(), *ends
    )
    measured = []
    for of_one in scores:
        resampled = resampled_score_metrics(of_one, targets, seed)
        resampled |= resampled_correlations(of_one, targets, seed)
        points = in_range(score_points(of_one, targets), *ends)
        measured.append((points, in_range(resampled, *ends)))
    return measured


_MEASURED_BY = {"texts": _of_texts, "scores": _of_scores}


def _metric(name: str, measured: Sequence[Measured], records: int) -> Metric:
    values = tuple(points.get(name) for points, _ in measured)
    differences = [
        resampled[name] - measured[0][1][name] if name in resampled else np.empty(0)
        for _, resampled in measured[1:]
    ]
    intervals = tuple(map(_interval, differences))
    undefined = tuple(bool(np.isnan(of_one).sum() > _MANY * len(of_one)) for of_one in differences)
    return Metric(name, values, _differences(values), intervals, undefined, records)


def _interval(differences: Floats) -> Interval | None:
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return None
    low, high = interval(defined)
    return low, high


def _differences(values: Sequence[float | None]) -> tuple[float | None, ...]:
    base = values[0]
    return tuple(None if base is None or v is None else v - base for v in values[1:])


def _noted(named: Sequence[Named], known: Collection[str], records: int) -> list[Metric]:
    """The other numbers that the runs noted of these evaluations, which no answers tell."""
    evaluations = [one.evaluation for one in named]
    samples = {one.spec.get("n_samples") for one in named}
    tokenized = {(read_status(one.folder).get("data") or {}).get("eval") for one in named}
    outputs = named[0].outputs
    hidden = outputs.of_tokens if len(tokenized) > 1 else ()
    found = []
    for name in metric_names(outputs.task, evaluations):
        of_samples = name == "distinct_samples" or OF_SAMPLES.search(name)
        if name in known or name in (*_SECONDS, *hidden) or (len(samples) > 1 and of_samples):
            continue
        lines = (one.metrics for one in evaluations)
        values = tuple(float(line[name]) if is_number(line.get(name)) else None for line in lines)
        intervals, undefined = (None,) * (len(values) - 1), (False,) * (len(values) - 1)
        found.append(Metric(name, values, _differences(values), intervals, undefined, records))
    return found
