"""Metrics of several evaluations on the same records, and their paired differences."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow.config.metric_kinds import AskedMetric, asked_in, names_given
from workflow.core.console import progress_bar
from workflow.metrics.asked import measure_answers
from workflow.metrics.bootstrap import Floats, interval
from workflow.metrics.classes import class_points, resampled_class_metrics
from workflow.metrics.correlations import resampled_correlations
from workflow.metrics.measured import Answer, Measured, of_records, points, resampled
from workflow.metrics.names import is_number
from workflow.metrics.scores import in_range, resampled_score_metrics, score_points, to_unit
from workflow.metrics.scripts import bleu_tokenizer, inspected
from workflow.metrics.text import TextMetrics
from workflow.reporting.compare.pairing import Pair, Pairs
from workflow.reporting.compare.selectors import Named
from workflow.reporting.outputs import target_range
from workflow.reporting.report.summary import OF_SAMPLES, metric_names
from workflow.runs.status import read_status

Interval = tuple[float, float]
OfEvaluation = tuple[dict[str, float | None], dict[str, Floats]]
"""The metrics of an evaluation, and bootstrap samples of each, (resamples,)."""

RECORDS_NEEDED = 10
"""With fewer records, resamples are too similar for reliable percentiles."""
MANY = 0.01
"""Share of resamples; a metric is undefined in more if a class has fewer than five records."""
_SECONDS = frozenset({"eval_seconds", "generate_seconds", "score_seconds"})


@dataclass(frozen=True)
class Metric:
    """A metric in all evaluations.

    Attributes:
        values: one for each evaluation.
        differences: to the base, one for each other evaluation.
        intervals: 95% confidence intervals of the differences; None if not recomputed.
        undefined: for each difference, whether over 1% of the resamples leave it undefined.
        records: number of records.
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

    def can_rank(self, index: int) -> bool:
        """Whether there are enough records to rank an evaluation against the base."""
        return self.records >= RECORDS_NEEDED and not self.undefined[index - 1]


def measure(named: Sequence[Named], pairs: Pairs) -> list[Metric]:
    """All comparable metrics: those recomputed from predictions, then the logged ones."""
    seed = min(int(one.spec.get("seed", 0)) for one in named)
    measured = recomputed(named, pairs, seed)
    names = dict.fromkeys(name for points, _ in measured for name in points)
    metrics = [_metric(name, measured, len(pairs.pairs)) for name in names]
    return metrics + (_logged(named, names.keys(), len(pairs.pairs)) if pairs.alike else [])


def recomputed(named: Sequence[Named], pairs: Pairs, seed: int) -> list[OfEvaluation]:
    """The metrics that predictions determine, of each evaluation, on the paired records.

    Equal records and seeds have equal resamples, whatever the evaluations.
    """
    return _MEASURED_BY[named[0].outputs.task.output](named, pairs.pairs, seed)


def main_metric(metrics: Sequence[Metric], named: Sequence[Named]) -> Metric:
    """The base's metric_for_best_model if it can be recomputed, else the task's usual metric."""
    by_name = {metric.name: metric for metric in metrics if metric.has_intervals}
    right = by_name["exact_match"].values if "exact_match" in by_name else ()
    usual = named[0].outputs.usual_metrics(max((value or 0.0 for value in right), default=0.0))
    wanted = [str(named[0].spec.get("metric_for_best_model")), *usual]
    return next(by_name[name] for name in wanted if name in by_name)


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """Records in an order independent of the data files and the command line."""
    return sorted(pairs, key=lambda pair: pair.key)


def _of_texts(named: Sequence[Named], pairs: Sequence[Pair], seed: int) -> list[OfEvaluation]:
    references: list[Any] = [pairs[i].references[0] for i in inspected(len(pairs))]
    tokenize = bleu_tokenizer([first for first, *_ in references])
    metrics, ordered = [TextMetrics(seed, tokenize) for _ in named], _ordered(pairs)
    with progress_bar(len(pairs), "score") as bar:
        for pair in ordered:
            scored: list[Any] = list(zip(pair.predictions, pair.references, strict=True))
            for (prediction, expected), own in zip(scored, metrics, strict=True):
                first = metrics[scored.index((prediction, expected))]
                if first is own:
                    own.add([prediction], expected)
                else:  # the same texts are scored already: ROUGE is slow
                    own.add_like(first)
            bar.update()
    of_all = [asked_in(one.spec) for one in named]
    common = [text for text in of_all[0] if all(text in others for others in of_all)]
    measured = []
    for place, own in enumerate(metrics):
        asked = _asked(common, ordered, place) if common else {}
        resamples = own.resampled() | resampled(asked, seed)
        measured.append((own.points() | points(asked), resamples))
    return measured


def _asked(asked: Sequence[str], pairs: Sequence[Pair], place: int) -> dict[str, Measured]:
    """The metrics that all evaluations asked for, of the one at a place.

    Means over records are in the prediction files; the others are computed again.
    """
    kept = [name for name in names_given(asked) if all(name in one.metrics[place] for one in pairs)]
    measured = {
        name: of_records(name, [one.metrics[place][name] for one in pairs]) for name in kept
    }
    kinds = [AskedMetric(text).kind for text in asked]
    left = [text for text, kind in zip(asked, kinds, strict=True) if kind and kind.of_sums]
    texts: list[Any] = [(pair.predictions[place], pair.references[place]) for pair in pairs]
    answers = [
        Answer(pair.prompt, (text,), references)
        for pair, (text, references) in zip(pairs, texts, strict=True)
    ]
    return measure_answers(left, answers) | measured


def _of_scores(named: Sequence[Named], pairs: Sequence[Pair], seed: int) -> list[OfEvaluation]:
    ends, ordered = target_range(named[0].spec), _ordered(pairs)
    targets, *scores = to_unit(
        np.array([(p.expected, *p.predictions) for p in ordered], np.float64).T.copy(), *ends
    )
    measured = []
    for of_evaluation in scores:
        resampled = resampled_score_metrics(of_evaluation, targets, seed)
        resampled |= resampled_correlations(of_evaluation, targets, seed)
        points = in_range(score_points(of_evaluation, targets), *ends)
        measured.append((points, in_range(resampled, *ends)))
    return measured


def _of_classes(named: Sequence[Named], pairs: Sequence[Pair], seed: int) -> list[OfEvaluation]:
    names: list[str] = named[0].spec["classes"]
    choices: list[Sequence[Any]] = [(p.expected, *p.predictions) for p in _ordered(pairs)]
    rows = np.array([[one.probabilities for one in row] for row in choices], np.float64)
    targets, *found = rows.swapaxes(0, 1)
    return [
        (class_points(p, targets, names), resampled_class_metrics(p, targets, names, seed))
        for p in found
    ]


_MEASURED_BY = {"texts": _of_texts, "scores": _of_scores, "classes": _of_classes}


def _metric(name: str, measured: Sequence[OfEvaluation], records: int) -> Metric:
    values = tuple(points.get(name) for points, _ in measured)
    differences = [
        resampled[name] - measured[0][1][name] if name in resampled else np.empty(0)
        for _, resampled in measured[1:]
    ]
    intervals = tuple(map(_interval, differences))
    undefined = tuple(bool(np.isnan(d).sum() > MANY * len(d)) for d in differences)
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


def _logged(named: Sequence[Named], known: Collection[str], records: int) -> list[Metric]:
    """The logged metrics that cannot be recomputed from predictions."""
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
