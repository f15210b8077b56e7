"""All that is found when evaluations are set against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow.metrics.names import LOWER_IS_BETTER
from workflow.reporting.compare.config_diff import Curves, curves, differing_fields
from workflow.reporting.compare.metrics import Metric, main_metric, measure
from workflow.reporting.compare.pairing import Pairs, Told, pair
from workflow.reporting.compare.selectors import Named
from workflow.reporting.compare.verdict import sentence
from workflow.reporting.compare.win_rate import EVEN, LOST, WON, Outcome, outcomes


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
    outcomes: Sequence[Outcome]
    fields: dict[str, tuple[Any, ...]]
    curves: Sequence[Curves]

    @property
    def labels(self) -> list[str]:
        return [one.label for one in self.named]

    @property
    def is_scored(self) -> bool:
        """Whether answers are scores."""
        return self.named[0].spec.get("task") == "clf"

    def verdicts(self) -> list[str]:
        """A sentence for each evaluation but the first."""
        answers = [one.pair.answers for one in self.outcomes]
        return [
            sentence(self.main, index, self.labels, _are_alike(answers, index), self.some)
            for index in range(1, len(self.named))
        ]

    @property
    def some(self) -> str:
        """Which records are compared; empty where they are all that each evaluation has."""
        if not any(self.pairs.left_out):
            return ""
        records = how_many(len(self.outcomes))
        if not self.pairs.alike:
            return f"the {records} that {'both' if len(self.named) == 2 else 'all'} have"
        return f"the {records} with {'targets and scores' if self.is_scored else 'completions'}"

    def counted(self, index: int) -> dict[str, int]:
        """How many records were won, lost and even."""
        results = [one.result(index) for one in self.outcomes]
        return {result: results.count(result) for result in (WON, LOST, EVEN)}

    def as_json(self) -> dict[str, Any]:
        labels = self.labels
        return {
            "task": self.named[0].spec.get("task"),
            "runs": [
                {"name": one.label, "run": one.run, "step": one.step, "records_left_out": count}
                for one, count in zip(self.named, self.pairs.left_out, strict=True)
            ],
            "records": len(self.outcomes),
            "verdicts": self.verdicts(),
            "main_metric": self.main.name,
            "metrics": {metric.name: self._metric_json(metric) for metric in self.metrics},
            "records_against_the_first": {
                label: self.counted(index) for index, label in enumerate(labels) if index
            },
            "job_fields": {
                name: dict(zip(labels, values, strict=True)) for name, values in self.fields.items()
            },
            "curves": {one.name: one.by_run for one in self.curves},
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


def _are_alike(answers: Sequence[tuple[Told, ...]], index: int) -> bool:
    return all(told[0] == told[index] for told in answers)


def compare_named(named: Sequence[Named]) -> Comparison:
    """Compare evaluations with the first of them.

    Raises:
        BadInput: their answers cannot be compared.
    """
    pairs = pair(named)
    metrics = measure(named, pairs)
    names = dict.fromkeys(["loss", *(metric.name for metric in metrics)])
    return Comparison(
        named, pairs, metrics, main_metric(metrics, named), outcomes(named, pairs.pairs),
        differing_fields(named), curves(named, names),
    )  # fmt: skip
