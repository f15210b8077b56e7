"""Metrics as functions of sums over records, with intervals by resampling the records."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow.config.metric_kinds import GEOMETRIC
from workflow.metrics.bootstrap import Floats, as_points, resampled_counts, weighted_sums
from workflow.metrics.references import references_in


@dataclass(frozen=True)
class Answer:
    """What a model answered to a prompt.

    Attributes:
        texts: the samples; metrics are of the first, unless they are of diversity.
        references: () if there are none.
    """

    prompt: str
    texts: tuple[str, ...]
    references: tuple[str, ...] = ()

    @classmethod
    def of_item(cls, item: dict[str, Any], stops: Sequence[str]) -> "Answer":
        """The answer in an item of a prediction file."""
        texts = tuple(one["lm_postprocess"] for one in item["generations"])
        return cls(item["prompt"], texts, references_in(item, stops) or ())


def ratio(sums: Floats) -> Floats:
    """The first of two sums divided by the second; NaN if that is 0."""
    counted = np.where(sums[:, 1] == 0, np.nan, sums[:, 1])
    quotient: Floats = sums[:, 0] / counted
    return quotient


@dataclass(frozen=True)
class Measured:
    """A metric of some records.

    Attributes:
        terms: of each record, (records, width).
        value: the metric for sums of terms (rows, width): (rows,), NaN if undefined.
        of_each: the values of the records, if the metric is a mean of them.
    """

    terms: Floats
    value: Callable[[Floats], Floats] = ratio
    of_each: Sequence[float | None] = ()


def mean_of(values: Iterable[float | None]) -> Measured:
    """The mean of the records' values without those that are None."""
    of_each = [None if one is None else float(one) for one in values]
    terms = [(0.0, 0.0) if one is None else (one, 1.0) for one in of_each]
    return Measured(np.array(terms, np.float64).reshape(-1, 2), of_each=of_each)


def _exponential(sums: Floats) -> Floats:
    of_mean: Floats = np.exp(ratio(sums))
    return of_mean


def of_records(name: str, values: Sequence[float | None]) -> Measured:
    """A metric that is a mean over records, by their values."""
    if name not in GEOMETRIC:
        return mean_of(values)
    of_logarithms = mean_of(None if one is None else math.log(one) for one in values)
    return Measured(of_logarithms.terms, _exponential, values)


def points(measured: Mapping[str, Measured]) -> dict[str, float | None]:
    """The value of each metric; None if undefined."""
    return as_points({name: one.value(one.terms.sum(0)[None]) for name, one in measured.items()})


def resampled(measured: Mapping[str, Measured], seed: int) -> dict[str, Floats]:
    """The values of each metric in every resample, (resamples,), as in `TextMetrics.resampled`."""
    if not measured:
        return {}
    terms = np.concatenate([one.terms for one in measured.values()], axis=1)
    counted = resampled_counts(len(terms), seed)
    sums = np.vstack([weighted_sums(counts, [terms]) for counts in counted])
    ends = np.cumsum([one.terms.shape[1] for one in measured.values()])[:-1]
    parts = zip(measured.items(), np.split(sums, ends, axis=1), strict=True)
    return {name: one.value(part) for (name, one), part in parts}
