"""Tests of groups of runs that differ only in seed against the best group."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from workflow.config.metric_kinds import RANKED
from workflow.core.errors import BadInput
from workflow.core.tables import Part, table
from workflow.metrics.bootstrap import Floats
from workflow.metrics.names import LOWER_IS_BETTER, is_number
from workflow.metrics.significance import LEVEL, Difference, holm, mean_difference, shared_variance
from workflow.reporting.compare.comparison import how_many
from workflow.reporting.compare.metrics import MANY, RECORDS_NEEDED, recomputed
from workflow.reporting.compare.pairing import pair
from workflow.reporting.compare.selectors import Named
from workflow.reporting.compare.terminal import figure
from workflow.runs.status import read_status

Group = Mapping[int, Named]
"""Evaluations of one job, by seed."""
_LEGEND = (
    "difference to the first row above, of equal seeds, for other seeds and records, or as in over",
    f"corrected: p by Holm for all metrics and all pairs of rows; better/worse: below {LEVEL:g}",
)


@dataclass(frozen=True)
class _OfSeed:
    """The differences of two runs of one seed.

    Attributes:
        values: by metric.
        resampled: of the recomputed metrics, in each resample of the records.
        records: the keys of the paired records.
    """

    values: dict[str, float]
    resampled: dict[str, Floats]
    records: frozenset[bytes] = frozenset()


def differences(
    groups: Sequence[Group], metrics: Sequence[str], labels: Sequence[list[str]]
) -> list[Part]:
    """A table of each group's differences to the first group, which is the best.

    Args:
        labels: the cells that name a group, with the headings first.
    """
    head, _, *others = labels
    rows: list[tuple[list[str], str, str, Difference]] = []
    notes: dict[str, None] = {}
    for label, group in zip(others, groups[1:], strict=True):
        pairs, problems = _paired(groups[0], group)
        where = ", ".join(f"{name} {cell}" for name, cell in zip(head, label, strict=True))
        notes |= dict.fromkeys(f"not tested: {where}: {problem}" for problem in problems)
        rows += [(label, name, *_tested(name, pairs)) for name in metrics if pairs]
    found = [one.p for *_, one in rows if one.p is not None]
    corrected = iter(holm(found, math.ceil(len(found) * len(groups) / 2)))
    shown = [_row(*row, next(corrected) if row[-1].p is not None else None) for row in rows]
    if not shown:
        return [*notes]
    head = [*head, "metric", "over", "difference", "95% CI", "p", "corrected", ""]
    return [table([head, *shown], left=len(head) - 5), *_LEGEND, *notes]


def _paired(base: Group, other: Group) -> tuple[list[_OfSeed], list[str]]:
    """The differences of each common seed, and why there are none."""
    pairs, problems = [], []
    for seed in sorted(base.keys() & other.keys()):
        try:
            pairs.append(_of_seed(base[seed], other[seed]))
        except BadInput as error:
            problems += [str(problem) for problem in error.problems]
    if not pairs and not problems:
        problems = ["no seed in common with the first row"]
    return pairs, problems


def _of_seed(base: Named, other: Named) -> _OfSeed:
    """The differences of two runs; those of the log alone if no records can be paired.

    Raises:
        BadInput: the runs have different records.
    """
    lines = base.evaluation.metrics, other.evaluation.metrics
    both = [name for name in lines[0] if all(is_number(line.get(name)) for line in lines)]
    logged = {name: float(lines[1][name]) - float(lines[0][name]) for name in both}
    try:
        pairs = pair([base, other])
    except BadInput:
        keys = [(read_status(one.folder).get("data") or {}).get("eval") for one in (base, other)]
        if keys[0] is None or keys[0] != keys[1]:
            raise
        return _OfSeed(logged, {})
    # One seed for all pairs of runs, so that seeds with the same records have the same resamples.
    (points, drawn), (of_other, drawn_of_other) = recomputed([base, other], pairs, seed=0)
    values = logged if pairs.alike else {}
    resampled = {}
    for name, first in points.items():
        values.pop(name, None)
        second = of_other.get(name)
        if first is not None and second is not None:
            values[name] = second - first
            if name in drawn:
                resampled[name] = drawn_of_other[name] - drawn[name]
    return _OfSeed(values, resampled, frozenset(one.key for one in pairs.pairs))


def _tested(metric: str, pairs: Sequence[_OfSeed]) -> tuple[str, Difference]:
    """What a test covers, and its result."""
    with_records = [one for one in pairs if metric in one.resampled]
    used = with_records or [one for one in pairs if metric in one.values]
    if not used:
        return "", Difference(math.nan)
    values, seeds = np.array([one.values[metric] for one in used]), how_many(len(used), "seed")
    if not with_records:
        return f"{seeds} alone", mean_difference(values)
    records = min(len(one.records) for one in used)
    over = f"{seeds}, {how_many(records)}" if len(used) > 1 else f"{how_many(records)} alone"
    resampled = np.array([one.resampled[metric] for one in used])
    defined = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if records < RECORDS_NEEDED or defined.shape[1] < (1 - MANY) * resampled.shape[1]:
        return f"{over}: too few", Difference(float(values.mean()))
    return over, mean_difference(values, shared_variance(defined, _share(used)), records)


def _share(pairs: Sequence[_OfSeed]) -> float:
    """The mean share of the records that two seeds have in common; 1 for one seed."""
    shares = [
        len(one.records & other.records) / max(len(one.records), len(other.records))
        for one, other in itertools.combinations(pairs, 2)
    ]
    return sum(shares) / len(shares) if shares else 1.0


def _row(
    label: list[str], metric: str, over: str, found: Difference, corrected: float | None
) -> list[str | Text]:
    ends = " to ".join(figure(end, "+") for end in found.interval or ())
    difference = None if math.isnan(found.difference) else found.difference
    verdict = Text()
    if corrected is not None and corrected < LEVEL and metric in RANKED:
        better = (found.difference < 0) == (metric in LOWER_IS_BETTER)
        verdict = Text("better", "green") if better else Text("worse", "red")
    cells = [metric, over, figure(difference, "+"), ends, _p(found.p), _p(corrected)]
    return [*label, *cells, verdict]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"
