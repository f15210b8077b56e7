"""What differs in the jobs of several runs, and how the runs went."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workflow.answers import evaluations, read_lines
from workflow.compare.naming import Named
from workflow.status import TRAIN_LOG, read_status

TRAIN_LOSS = "train_loss"

_NAMES = frozenset({"training_run_name"})
"""Fields that differ in all runs, and change nothing."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curves:
    """A number by step, of each run in which it was noted."""

    name: str
    by_run: dict[str, Points]


def differing_fields(named: Sequence[Named]) -> dict[str, tuple[str, ...]]:
    """The fields of the jobs that differ, as JSON, and the data's digests; "-" for none."""
    jobs = []
    for one in named:
        job = {k: json.dumps(v, ensure_ascii=False) for k, v in one.spec.items()}
        data = read_status(one.folder).get("data")
        digests = data.items() if isinstance(data, dict) else ()
        jobs.append(job | {f"content of {split}": str(digest)[:12] for split, digest in digests})
    fields = dict.fromkeys(field for job in jobs for field in job if field not in _NAMES)
    values = {field: tuple(job.get(field, "-") for job in jobs) for field in fields}
    return {field: of_all for field, of_all in values.items() if len(set(of_all)) > 1}


def curves(named: Sequence[Named], metrics: Iterable[str]) -> list[Curves]:
    """The loss in training, and these metrics as they were noted; of each run once."""
    runs = {one.run: one.folder for one in named}
    lines = {run: [one.metrics for one in evaluations(folder)] for run, folder in runs.items()}
    found = [
        Curves(
            TRAIN_LOSS,
            {run: _points(read_lines(folder / TRAIN_LOG), "loss") for run, folder in runs.items()},
        )
    ]
    for name in metrics:
        found.append(Curves(name, {run: _points(of_run, name) for run, of_run in lines.items()}))
    return [one for one in found if any(one.by_run.values())]


def _points(lines: Iterable[dict[str, object]], name: str) -> Points:
    """The numbers of this name by step."""
    found = {}
    for line in lines:
        step, value = line["step"], line.get(name)
        if isinstance(step, int) and isinstance(value, int | float) and math.isfinite(value):
            found[float(step)] = float(value)
    return tuple(sorted(found.items()))
