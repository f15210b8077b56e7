"""Charts of clf: scores by class and threshold, calibration, and classes in a confusion matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.metrics.bootstrap import Floats
from workflow.metrics.ranking import ECE_BINS, Bools, ece_bins
from workflow.metrics.scores import to_unit
from workflow.reporting.outputs import Classes, Scores
from workflow.reporting.record import MOST_CLASSES
from workflow.reporting.report.blocks import Block, Chart, Charts, Point, Series, Table, Text
from workflow.runs.predictions import PastEvaluation

HISTOGRAM_BINS = 20
MOST_ROWS = 20
"""Classes of a confusion matrix: the most frequent ones."""
CURVE_POINTS = 300


@dataclass(frozen=True)
class ScoreArrays:
    """Finite scores and their targets, both scaled to 0..1, (records,) each.

    Attributes:
        targets: NaN for records without a target.
        ends: the target range, which charts show.
    """

    scores: Floats
    targets: Floats
    ends: Point

    @property
    def yes(self) -> Bools:
        return self.targets >= 0.5

    @property
    def judged(self) -> "ScoreArrays":
        """The records with a target."""
        has_target = ~np.isnan(self.targets)
        return ScoreArrays(self.scores[has_target], self.targets[has_target], self.ends)

    def in_range(self, value: Any) -> Any:
        """Scale values from 0..1 to the target range."""
        low, high = self.ends
        return low + value * (high - low)


def scores_of(evaluation: PastEvaluation, outputs: Scores) -> ScoreArrays:
    records = (outputs.read(place, item) for place, item in enumerate(evaluation.predictions()))
    pairs = [
        (record.outputs[0], math.nan if record.expected is None else record.expected)
        for record in records
        if record.outputs[0] is not None
    ]
    units = to_unit(np.array(pairs, np.float64).reshape(-1, 2), *outputs.target_range)
    return ScoreArrays(units[:, 0], units[:, 1], outputs.target_range)


def baseline(found: ScoreArrays) -> list[str]:
    """The accuracy of the majority-class baseline."""
    found = found.judged
    count, yes = len(found.yes), int(found.yes.sum())
    if not count:
        return []
    word, share = ("yes", yes / count) if 2 * yes > count else ("no", 1 - yes / count)
    return [
        f"{yes:,} of {count:,} records with a target are yes (target at least "
        f"{found.in_range(0.5):g}). Majority-class baseline: accuracy {share:.4g} (always {word})."
    ]


def score_charts(found: ScoreArrays) -> list[Chart]:
    """Histogram by class, ROC, precision-recall and reliability, as far as they are defined."""
    everything, found = found, found.judged
    if not found.scores.size:
        series = [_counts("records", everything.scores, everything)]
        chart = Chart("scores", "score", series, x_range=found.ends)
        return [chart] if everything.scores.size else []
    charts = [_histogram(found)]
    if found.yes.any() and not found.yes.all():
        charts.append(_roc(found))
    if found.yes.any():
        charts.append(_precision_recall(found))
    return [*charts, _reliability(found)]


def _histogram(found: ScoreArrays) -> Chart:
    classes = (("no", ~found.yes), ("yes", found.yes))
    series = [_counts(name, found.scores[chosen], found) for name, chosen in classes]
    note = f"Number of records by score. Yes: target at least {found.in_range(0.5):g}."
    return Chart("scores by class", "score", series, x_range=found.ends, note=note)


def _counts(name: str, scores: Floats, found: ScoreArrays) -> Series:
    counts, edges = np.histogram(scores, HISTOGRAM_BINS, (0, 1))
    return Series(name, _pairs(found.in_range(edges[:-1]), counts), "bars")


def _roc(found: ScoreArrays) -> Chart:
    from sklearn.metrics import roc_curve  # type: ignore[import-untyped]  # slow

    wrong, right, _ = roc_curve(found.yes, found.scores)
    series = [Series("true positive rate", _thin(wrong, right)), _guide((0, 0), (1, 1))]
    return Chart("ROC curve", "false positive rate", series, (0, 1), (0, 1))


def _precision_recall(found: ScoreArrays) -> Chart:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(found.yes, found.scores)
    share = float(found.yes.mean())
    curve = _thin(recall[::-1], precision[::-1])
    series = [Series("precision", curve), _guide((0, share), (1, share))]
    return Chart("precision-recall curve", "recall", series, (0, 1), (0, 1))


def _reliability(
    found: ScoreArrays, target: str = "mean target", score: str = "mean score"
) -> Chart:
    """Mean target by mean score in ece's bins (Guo et al. 2017, arXiv:1706.04599)."""
    bins = ece_bins(found.scores)
    points, shares, (low, high) = [], [], found.ends
    for place in np.unique(bins):
        here = bins == place
        at = float(found.in_range(found.scores[here].mean()))
        points.append((at, float(found.in_range(found.targets[here].mean()))))
        shares.append((at, float(found.in_range(here.mean()))))
    series = [
        Series(target, points, "dots"),
        Series("fraction of records", shares, "faint"),
        _guide((low, low), (high, high)),
    ]
    note = (
        f"{ECE_BINS} bins, without empty ones. Dashed: perfect calibration. Faint: fraction of "
        "records in a bin, relative to the height of the chart."
    )
    return Chart("reliability diagram", score, series, found.ends, found.ends, note=note)


def class_blocks(evaluation: PastEvaluation, outputs: Classes) -> list[Block]:
    """Of the records with a label and a prediction; empty without any."""
    pairs = []
    for place, item in enumerate(evaluation.predictions()):
        record = outputs.read(place, item)
        if record.outputs[0] is not None and record.expected is not None:
            pairs.append((record.outputs[0].probabilities, record.expected.probabilities))
    if not pairs:
        return []
    probabilities, targets = np.array(pairs, np.float64).swapaxes(0, 1)
    labels, chosen = targets.argmax(axis=1), probabilities.argmax(axis=1)
    counts = np.zeros((len(outputs.names), len(outputs.names)), np.int64)
    np.add.at(counts, (labels, chosen), 1)
    right = targets[np.arange(len(targets)), chosen]
    found = ScoreArrays(probabilities.max(axis=1), right, (0.0, 1.0))
    chart = _reliability(found, "accuracy", "probability of the predicted class")
    return [*_confusion(outputs.names, counts), Charts([chart])]


def _confusion(names: Sequence[str], counts: npt.NDArray[Any]) -> list[Block]:
    """The frequencies of the labels with the majority baseline, and the confusion matrix.

    Args:
        counts: of records by label and predicted class, (classes, classes).
    """
    of_labels, records = counts.sum(axis=1), counts.sum()
    ranked = np.argsort(-of_labels, kind="stable")
    some = ", ".join(f"{names[i]} {of_labels[i] / records:.1%}" for i in ranked[:MOST_CLASSES])
    some += f" and {len(names) - MOST_CLASSES} more" * (len(names) > MOST_CLASSES)
    majority = f"{names[ranked[0]]}: accuracy {of_labels[ranked[0]] / records:.4g}"
    told = f"Labels of {records:,} records: {some}. Majority class {majority}."
    shown, rows = np.sort(ranked[:MOST_ROWS]), []
    for i in shown:
        cells = [f"{n:,}\n{n / of_labels[i]:.1%}" if n else "0" for n in counts[i, shown]]
        rows.append([names[i], *cells, f"{of_labels[i]:,}"])
    note = "Confusion matrix: records by label (row) and predicted class (column)."
    note += f" The {MOST_ROWS} most frequent of {len(names):,} labels." * (len(shown) < len(names))
    return [Text([told]), Table(["label", *(names[i] for i in shown), "records"], rows, note)]


def _guide(start: Point, end: Point) -> Series:
    return Series("", [start, end], "guide")


def _thin(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[Point]:
    """At most `CURVE_POINTS` points of a curve, evenly spaced, with both ends."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).round().astype(int))
    return _pairs(x[chosen], y[chosen])


def _pairs(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[Point]:
    return list(zip(x.tolist(), y.tolist(), strict=True))
