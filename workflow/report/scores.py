"""How clf's scores stand to their targets: by class, by threshold, and if they can be believed."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.answers import Evaluation
from workflow.bootstrap import Floats
from workflow.ranked import ECE_BINS, Bools
from workflow.report.blocks import Chart, Point, Series

HISTOGRAM_BINS = 20
CURVE_POINTS = 300

Unit = Callable[[Any], Any]


@dataclass(frozen=True)
class Scores:
    """The records with a finite score and a target, both in 0..1, (records,) each."""

    scores: Floats
    targets: Floats

    @property
    def yes(self) -> Bools:
        return self.targets >= 0.5


def unit_of(spec: dict[str, Any]) -> Unit:
    """A function of scores and targets in the job's range to 0..1; None stays None."""
    low, high = spec.get("target_min", 0.0), spec.get("target_max", 1.0)
    return lambda value: None if value is None else min(1.0, max(0.0, (value - low) / (high - low)))


def scores_of(evaluation: Evaluation, unit: Unit) -> Scores:
    """What an evaluation found, where there is a target."""
    found = (
        (unit(item["pred_score"]), unit(item["orig_d"]["target"]))
        for item in evaluation.answers()
        if item["pred_score"] is not None and "target" in item["orig_d"]
    )
    pairs = np.fromiter(chain.from_iterable(found), np.float64).reshape(-1, 2)
    return Scores(pairs[:, 0], pairs[:, 1])


def score_charts(found: Scores) -> list[Chart]:
    """Histogram by class, ROC, precision by recall, and reliability; what is defined of them."""
    if not found.scores.size:
        return []
    charts = [_histogram(found)]
    if found.yes.any() and not found.yes.all():
        charts.append(_roc(found))
    if found.yes.any():
        charts.append(_precision_recall(found))
    return [*charts, _reliability(found)]


def _histogram(found: Scores) -> Chart:
    series = []
    for name, chosen in (("no", ~found.yes), ("yes", found.yes)):
        counts, edges = np.histogram(found.scores[chosen], HISTOGRAM_BINS, (0, 1))
        series.append(Series(name, _pairs(edges[:-1], counts), "bars"))
    told = "Records by score; yes are those with a target of at least 0.5."
    return Chart("scores by class", "score", series, x_range=(0, 1), note=told)


def _roc(found: Scores) -> Chart:
    from sklearn.metrics import roc_curve  # type: ignore[import-untyped]  # takes a moment

    wrong, right, _ = roc_curve(found.yes, found.scores)
    series = [Series("true positives", _thin(wrong, right)), _guide((0, 0), (1, 1))]
    return Chart("ROC", "false positives", series, (0, 1), (0, 1))


def _precision_recall(found: Scores) -> Chart:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(found.yes, found.scores)
    share = float(found.yes.mean())
    curve = _thin(recall[::-1], precision[::-1])
    series = [Series("precision", curve), _guide((0, share), (1, share))]
    return Chart("precision and recall", "recall", series, (0, 1), (0, 1))


def _reliability(found: Scores) -> Chart:
    """Mean target by mean score in the bins of ece (Guo et al. 2017, arXiv:1706.04599)."""
    bins = np.digitize(found.scores, np.arange(1, ECE_BINS) / ECE_BINS, right=True)
    points, shares = [], []
    for place in np.unique(bins):
        here = bins == place
        at = float(found.scores[here].mean())
        points.append((at, float(found.targets[here].mean())))
        shares.append((at, float(here.mean())))
    series = [
        Series("mean target", points, "dots"),
        Series("share of records", shares, "faint"),
        _guide((0, 0), (1, 1)),
    ]
    told = f"On the diagonal scores are what they say; {ECE_BINS} bins, empty ones left out."
    return Chart("reliability", "mean score", series, (0, 1), (0, 1), note=told)


def _guide(start: Point, end: Point) -> Series:
    return Series("", [start, end], "guide")


def _thin(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[Point]:
    """A curve's points, every so-manyth where there are many, with both ends."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).round().astype(int))
    return _pairs(x[chosen], y[chosen])


def _pairs(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[Point]:
    return list(zip(x.tolist(), y.tolist(), strict=True))
