"""All that is found when evaluations are set against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow.metrics.names import LOWER_IS_BETTER
from workflow.reporting.compare.config_diff import curves, differing_fields
from workflow.reporting.compare.metrics import Metric, main_metric, measure
from workflow.reporting.compare.pairing import EVEN, LOST, WON, Pairs, pair
from workflow.reporting.compare.selectors import Named
from workflow.reporting.compare.verdict import sentence
from workflow.reporting.outputs import Outputs
from workflow.reporting.report.blocks import Chart


@dataclass(frozen=True)
class Comparison:
    """Evaluations of which the first is the base of the others.

    Attributes:
        main: the metric that the verdicts are of.
        fields: of the jobs, those that differ.
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
        """How the outputs of all are read and judged."""
        return self.named[0].outputs

    def verdicts(self) -> list[str]:
        """A sentence for each evaluation but the first."""
        answers = [one.answers for one in self.pairs.pairs]
        return [
            sentence(
                self.main, index, self.labels, all(a[0] == a[index] for a in answers), self.some
            )
            for index in range(1, len(self.named))
        ]

    @property
    def some(self) -> str:
        """Which records are compared; empty where they are all that each evaluation has."""
        if not any(self.pairs.left_out):
            return ""
        records = how_many(len(self.pairs.pairs))
        if not self.pairs.alike:
            return f"the {records} that {'both' if len(self.named) == 2 else 'all'} have"
        return f"the {records} with {self.outputs.needed}"

    def counted(self, index: int) -> dict[str, int]:
        """How many records were won, lost and even."""
        results = [one.result(index) for one in self.pairs.pairs]
        return {result: results.count(result) for result in (WON, LOST, EVEN)}

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
                label: self.counted(index) for index, label in enumerate(labels) if index
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


def how_many(records: int) -> str:
    return f"{records:,} record{'s' * (records != 1)}"


def compare_named(named: Sequence[Named]) -> Comparison:
    """Compare evaluations with the first of them.

    Raises:
        BadInput: their answers cannot be compared.
    """
    pairs = pair(named)
    metrics = measure(named, pairs)
    names = dict.fromkeys(["loss", *(metric.name for metric in metrics)])
    return Comparison(
        named, pairs, metrics, main_metric(metrics, named), differing_fields(named),
        curves(named, names),
    )  # fmt: skip
