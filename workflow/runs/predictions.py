"""A run's evaluations: the metrics and predictions of each.

Read by commands that must start fast: nothing here imports torch.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.config.task_specs import task_of
from workflow.data.reading import read_list
from workflow.runs.status import METRICS, read_spec


@dataclass(frozen=True)
class PastEvaluation:
    """One evaluation of a run.

    Attributes:
        metrics: its line of metrics.jsonl.
        items: the file of predictions, which may have been removed since.
    """

    step: int
    metrics: dict[str, Any]
    items: Path

    def predictions(self) -> Iterator[dict[str, Any]]:
        """One item per record, in the order of the data file; none if the file is gone."""
        return read_list(self.items) if self.items.exists() else iter(())


def evaluations(run: Path) -> list[PastEvaluation]:
    """The evaluations of a run, by step."""
    spec = read_spec(run)
    found = {}
    for line in read_lines(run / METRICS):
        step = line["step"]
        found[step] = PastEvaluation(step, line, run / prediction_files(spec, step)[0])
    return [found[step] for step in sorted(found)]


def spread(evals: Sequence[PastEvaluation], most: int) -> list[PastEvaluation]:
    """At most `most` evaluations, evenly spaced, including the first and the last."""
    if len(evals) <= most:
        return list(evals)
    return [evals[round(i * (len(evals) - 1) / (most - 1))] for i in range(most)]


def prediction_files(spec: dict[str, Any], step: int) -> tuple[str, ...]:
    """The names of an evaluation's prediction files, of equal content, for a job as in JSON."""
    if task_of(spec).output != "texts":
        return f"checkpoint-{step}-preds.json", "preds.json"
    temperature, samples = spec.get("temperature", 0.0), spec.get("n_samples", 1)
    return (f"temperature={temperature:.2f}_n={samples}_step={step}.json",)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a step in a run's log; skips a line that is still being written."""
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and isinstance(found.get("step"), int):
                    yield found
