"""The result of a comparison of evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow.metrics.names import LOWER_IS_BETTER
from workflow.reporting.compare.config_diff import curves, differing_fields
from workflow.reporting.compare.metrics import Metric, main_metric, measure
from workflow.reporting.compare.pairing import LOSS, TIE, WIN, Pairs, pair
from workflow.reporting.compare.selectors import Named
from workflow.reporting.compare.verdict import sentence
from workflow.reporting.outputs import Outputs
from workflow.reporting.report.blocks import Chart
from workflow.reporting.report.summary import OF_A_CLASS


@dataclass(frozen=True)
class Comparison:
    """Evaluations compared with the first of them, the base.

    Attributes:
        main: the metric of the verdicts.
        fields: config fields that differ, with their values in each evaluation's job.
    """

    named: Sequence[Named]
    pairs: Pairs
    metrics: Sequence[Metric]
    main: Metric
    fields: dict[str, tuple[Any, ...]]
    curves: dict[str, Chart]

    @property
    def labels(self) -> list[str]:
        return [one.label for one in self.named]

    @property
    def outputs(self) -> Outputs:
        """How the predictions of all evaluations are read and scored."""
        return self.named[0].outputs

    def verdicts(self) -> list[str]:
        """A sentence for each evaluation but the first."""
        found = [pair.predictions for pair in self.pairs.pairs]
        return [
            sentence(self.main, i, self.labels, all(f[0] == f[i] for f in found), self.some)
            for i in range(1, len(self.named))
        ]

    @property
    def some(self) -> str:
        """The compared records; empty if they are all records of every evaluation."""
        if not any(self.pairs.left_out):
            return ""
        count = len(self.pairs.pairs)
        if not self.pairs.alike:
            return f"the {how_many(count, 'common record')}"
        return f"the {how_many(count)} with {self.outputs.needed}"

    def counted(self, index: int) -> dict[str, int]:
        """The numbers of wins, losses and ties against the base."""
        results = [one.result(index) for one in self.pairs.pairs]
        return {result: results.count(result) for result in (WIN, LOSS, TIE)}

    def as_json(self) -> dict[str, Any]:
        labels = self.labels
        return {
            "task": self.outputs.task.name,
            "runs": [
                {"name": one.label, "run": one.run, "step": one.step, "records_left_out": count}
                for one, count in zip(self.named, self.pairs.left_out, strict=True)
            ],
            "records": len(self.pairs.pairs),
            "verdicts": self.verdicts(),
            "main_metric": self.main.name,
            "metrics": {metric.name: self._metric_json(metric) for metric in self.metrics},
            "records_against_the_first": {
                label: dict(zip(("won", "lost", "even"), self.counted(i).values(), strict=True))
                for i, label in enumerate(labels)
                if i
            },
            "job_fields": {
                name: dict(zip(labels, values, strict=True)) for name, values in self.fields.items()
            },
            "curves": {
                name: {one.name: one.points for one in chart.series}
                for name, chart in self.curves.items()
            },
        }

    def _metric_json(self, metric: Metric) -> dict[str, Any]:
        others = zip(self.labels[1:], metric.differences, metric.intervals, strict=True)
        return {
            "lower_is_better": metric.name in LOWER_IS_BETTER,
            "values": dict(zip(self.labels, metric.values, strict=True)),
            "differences": {
                label: {"difference": difference, "ci95": interval}
                for label, difference, interval in others
            },
        }


def how_many(count: int, what: str = "record") -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def compare_named(named: Sequence[Named]) -> Comparison:
    """Compare evaluations with the first of them.

    Raises:
        BadInput: their predictions cannot be compared.
    """
    pairs = pair(named)
    metrics = measure(named, pairs)
    names = dict.fromkeys(["loss", *(metric.name for metric in metrics)])
    names = {name: None for name in names if not OF_A_CLASS.match(name)}
    return Comparison(
        named, pairs, metrics, main_metric(metrics, named), differing_fields(named),
        curves(named, names),
    )  # fmt: skip
