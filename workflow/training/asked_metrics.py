"""The metrics that a job asks for by --metric: its own functions, of answers, and by judges."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from workflow.config.metric_kinds import AskedMetric, names_given
from workflow.metrics.asked import measure_answers
from workflow.metrics.bootstrap import with_intervals
from workflow.metrics.measured import Answer, Measured, of_records, points, resampled
from workflow.metrics.user import apply_user_metric, load_user_metric
from workflow.reporting.report.summary import NO_METRICS
from workflow.tasks.base import EvalContext, Prediction
from workflow.training.judges import Pair, Scores
from workflow.training.prepare import Job

_loaded_once = cache(load_user_metric)


def judged(
    job: Job, context: EvalContext, predictions: Sequence[Prediction]
) -> dict[str, Measured]:
    """The metrics by models; all processes must call it.

    Args:
        predictions: of all records, on rank 0; elsewhere none, and then the result means nothing.
    """
    asked = [one for one in map(AskedMetric, job.spec.metric) if one.by_model]
    if not asked:
        return {}
    answers = _answers(job, predictions)
    measured, seen = {}, defaultdict[int, set[Pair]](set)
    for one in asked:
        judge = job.judges[one.text]
        of_answers = [_pairs(one.name, answer) for answer in answers]
        pairs = [pair for answer in of_answers for of_reference in answer for pair in of_reference]
        judge.learn(pairs, context, job.spec.bf16, _own_model(job, context, judge.folder))
        seen[id(judge)].update(pairs)
        rows = [_best(one.name, answer, judge.known) for answer in of_answers]
        for place, name in enumerate(names_given([one.text])):
            values = [None if row is None else row[place] for row in rows]
            measured[name] = of_records(name, values)
    for judge in job.judges.values():
        judge.forget(but=seen[id(judge)])
    return measured


def _own_model(job: Job, context: EvalContext, folder: Path) -> AbstractContextManager[None] | None:
    """Within the block, the evaluated model is that of the folder; None if it cannot be."""
    if job.spec.bits or Path(str(job.model_source)).resolve() != folder.resolve():
        return None
    if job.spec.no_train and not job.spec.has_adapter:
        return nullcontext()
    return job.tuning.base_alone(context.model)


def _pairs(kind: str, answer: Answer) -> list[list[Pair]]:
    """What is scored for an answer: pairs of texts for each reference, or for the prompt."""
    text, references = answer.texts[0], answer.references
    if kind == "bartscore":
        return [[(reference, text), (text, reference)] for reference in references]
    if kind == "bertscore":
        return [[(text, reference)] for reference in references]
    if kind == "bartscore_source":
        return [[(answer.prompt, text), (text, answer.prompt)]]
    return [[("", text)]]


def _best(
    kind: str, pairs: Sequence[Sequence[Pair]], known: Mapping[Pair, Scores]
) -> Scores | None:
    """The metrics of an answer, each with the reference that gives the best; None without any."""
    rows = [_combined(kind, [known[pair] for pair in of_reference]) for of_reference in pairs]
    if not rows or not all(math.isfinite(value) for row in rows for value in row):
        return None
    return tuple(map(max, zip(*rows, strict=True)))


def _combined(kind: str, scores: Sequence[Scores]) -> Scores:
    """The metrics of a kind from the scores of an answer's pairs, as `MetricKind.gives` names them.

    BARTScore (Yuan et al. 2021, arXiv:2106.11520) has the arithmetic mean of both directions.
    """
    values = tuple(value for row in scores for value in row)
    if kind == "bartscore":
        return (sum(values) / 2, *values)
    return (math.exp(min(700.0, -values[0])),) if kind == "perplexity" else values


def asked_metrics(
    job: Job,
    predictions: Sequence[Prediction],
    by_models: Mapping[str, Measured],
    taken: Collection[str],
) -> dict[str, Any]:
    """The metrics that a job asks for, on rank 0; those of records have intervals.

    Adds to each record's item its value in each metric that is a mean over records.

    Args:
        taken: names of other metrics; a user's metric of such a name begins with `user_`.
    """
    spec = job.spec
    if not spec.metric:
        return {}
    answers = _answers(job, predictions) if names_given(spec.metric) else []
    measured = {**measure_answers(spec.metric, answers), **by_models}
    for name, one in measured.items():
        for prediction, value in zip(predictions, one.of_each, strict=bool(one.of_each)):
            prediction.item.setdefault("metrics", {})[name] = value
    found = with_intervals(points(measured), resampled(measured, spec.seed))
    for text in (text for text in spec.metric if AskedMetric(text).kind is None):
        records, values = ([getattr(p, name) for p in predictions] for name in ("record", "value"))
        own = apply_user_metric(_loaded_once(text), text.rpartition(":")[2], records, values)
        known = {*taken, *found, *NO_METRICS}
        found |= {f"user_{name}" if name in known else name: one for name, one in own.items()}
    return found


def _answers(job: Job, predictions: Sequence[Prediction]) -> list[Answer]:
    return [Answer.of_item(one.item, job.spec.stop) for one in predictions]
