"""Pair the records of several evaluations, and score their predictions against each other."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workflow.core.errors import BadInput, Problem
from workflow.reporting.compare.selectors import Named
from workflow.reporting.record import MALFORMED, Output, Record

WIN, LOSS, TIE = "win", "loss", "tie"
PLURALS = {WIN: "wins", LOSS: "losses", TIE: "ties"}

Records = dict[bytes, Record]
"""The records of an evaluation by a digest that identifies each in any data file."""


@dataclass(frozen=True)
class Pair:
    """A record with the first prediction of each evaluation.

    Attributes:
        key: identifies the record, independent of the rest of the data.
        place: 0-based index in the first evaluation's data.
        expected: completion, target or label.
        predictions: one for each evaluation.
        references: the texts, target or label that each prediction is compared with.
        scores: quality of each prediction, 0..1: `word_f1`, 1 - |score - target|, or
            the probability of the label.
        right: whether each prediction is an exact match or the right class; all false for scores.
        margin: differences of `scores` up to this are ties.
        metrics: values of --metric of each evaluation.
    """

    key: bytes
    place: int
    prompt: str
    expected: Output
    predictions: tuple[Output, ...]
    references: tuple[Output, ...]
    scores: tuple[float, ...]
    right: tuple[bool, ...]
    margin: float
    metrics: tuple[Mapping[str, float | None], ...]

    @property
    def shown(self) -> Output:
        """The reference to show with the predictions."""
        return self.references[0] if len(set(self.references)) == 1 else self.expected

    def gain(self, index: int) -> float:
        return self.scores[index] - self.scores[0]

    def result(self, index: int) -> str:
        """Win, loss or tie against the base; an exact match or the right class breaks ties."""
        gain = self.gain(index)
        if abs(gain) <= self.margin:
            gain = self.right[index] - self.right[0]
        return WIN if gain > 0 else LOSS if gain < 0 else TIE


@dataclass(frozen=True)
class Pairs:
    """The records that can be compared, by place.

    Attributes:
        left_out: number of other records in each evaluation.
        alike: whether all evaluations have the same records, with or without references.
    """

    pairs: Sequence[Pair]
    left_out: tuple[int, ...]
    alike: bool


def pair(named: Sequence[Named]) -> Pairs:
    """Pair the records that all evaluations have with a reference and a prediction.

    Raises:
        BadInput: missing or damaged predictions, or no common records.
    """
    problems: list[Problem] = []
    of_all: list[Records] = []
    for evaluation in named:
        try:
            of_all.append(_records(evaluation))
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)
    common = [key for key in of_all[0] if all(key in records for records in of_all)]
    made = [_pair(named, key, [records[key] for records in of_all]) for key in common]
    pairs = [one for one in made if one is not None]
    if not pairs:
        raise BadInput([_nothing_paired(named, of_all, common)])
    left_out = tuple(len(records) - len(pairs) for records in of_all)
    return Pairs(pairs, left_out, all(one.keys() == of_all[0].keys() for one in of_all))


def _records(named: Named) -> Records:
    """The records of an evaluation by digest of content and of the count of equal ones before."""
    path, outputs = named.evaluation.items, named.outputs
    if not path.exists():
        found, expected = f"{path.name} is missing", "the predictions of this step"
        hint = "name another step, or evaluate its checkpoint again (--no_train)"
        raise BadInput([Problem(f"{named.run}@{named.step}", found, expected, hint)])
    records: Records = {}
    seen: Counter[bytes] = Counter()
    try:
        for place, item in enumerate(named.evaluation.predictions()):
            record = outputs.read(place, item)
            digest = _digest([record.prompt, record.expected])
            # Further samples are not compared, and may be many.
            first = replace(record, outputs=record.outputs[:1], logits=None)
            records[_digest([digest.hex(), seen[digest]])] = first
            seen[digest] += 1
    except MALFORMED:
        found, hint = "a malformed record", "restore the file from a copy, or evaluate again"
        raise BadInput([Problem(str(path), found, "predictions of a run", hint)]) from None
    return records


def _digest(value: object) -> bytes:
    text = json.dumps(value)  # in ASCII, which can hold lone surrogates
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _pair(named: Sequence[Named], key: bytes, records: Sequence[Record]) -> Pair | None:
    """Pair a record; None if an evaluation lacks its prediction or reference."""
    outputs, first = named[0].outputs, records[0]
    predictions = tuple(record.outputs[0] for record in records)
    references = tuple(record.reference for record in records)
    if None in predictions or None in references:
        return None
    scored = list(zip(predictions, references, strict=True))
    scores = tuple(outputs.quality(*both) for both in scored)
    right = tuple(outputs.is_right(*both) for both in scored)
    return Pair(
        key, first.place, first.prompt, first.expected, predictions, references, scores, right,
        outputs.margin, tuple(record.metrics for record in records),
    )  # fmt: skip


def _nothing_paired(
    named: Sequence[Named], of_all: Sequence[Records], common: Sequence[bytes]
) -> Problem:
    """The reason why no record can be compared."""
    where, task = " and ".join(one.label for one in named), named[0].outputs.task
    source, answers = f"{task.source_key}s", f"{task.answer_key}s"
    if any(of_all[0][key].expected is not None for key in common):
        found = "no record with a finite score in every evaluation"
        return Problem(where, found, "finite scores", "name other steps, before the divergence")
    if common:
        found = f"no common record with a {task.answer_key}"
        hint = f"evaluate them on data with {answers}"
        return Problem(where, found, f"{answers} as references", hint)
    prompts = [{record.prompt for record in records.values()} for records in of_all]
    shared = set.intersection(*prompts)
    if not shared:
        each = zip(named, of_all, strict=True)
        counted = ", ".join(f"{len(records)} of {one.label}" for one, records in each)
        hint = "evaluate them on the same data (--no_train with a checkpoint)"
        return Problem(where, f"no common records among {counted}", "the same eval records", hint)
    lacking = " and ".join(
        one.label
        for one, records in zip(named, of_all, strict=True)
        if all(record.expected is None for record in records.values() if record.prompt in shared)
    )
    found = f"the same {source}, but different {answers}"
    hint = f"evaluate {where} on the same data (--no_train with a checkpoint)"
    if lacking:
        found = f"the same {source}, but no {answers} in {lacking}"
        hint = f"evaluate {lacking} on data with {answers} (--no_train with a checkpoint)"
    return Problem(where, found, f"the same {answers} in all", hint)
