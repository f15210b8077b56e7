"""The same records in the answers of several evaluations, and who answered each better."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workflow.core.errors import BadInput, Problem
from workflow.reporting.compare.selectors import Named
from workflow.reporting.outputs import MALFORMED, Output, Record

WON, LOST, EVEN = "won", "lost", "even"

Records = dict[bytes, Record]
"""Of an evaluation, by a digest that tells each from all others, in any data file."""


def as_text(output: Output) -> str:
    return output if isinstance(output, str) else f"{output:.4g}"


@dataclass(frozen=True)
class Pair:
    """A record, and what each evaluation answered to it first.

    Attributes:
        key: tells it from all others, whatever else stands beside it in the data.
        place: its index in the first evaluation's data, from 0 on.
        expected: a completion or a target.
        answers: one for each evaluation.
        references: what each of them is compared with.
        scores: how good each is, 0..1: the expected words in their order (`word_f1`), or 1 less
            the distance of a score from its target.
        right: whether each is the very text; all false for scores.
        margin: how far `scores` have to be apart.
    """

    key: bytes
    place: int
    prompt: str
    expected: Output
    answers: tuple[Output, ...]
    references: tuple[Output, ...]
    scores: tuple[float, ...]
    right: tuple[bool, ...]
    margin: float

    @property
    def shown(self) -> Output:
        """What is shown beside the answers."""
        return self.references[0] if len(set(self.references)) == 1 else self.expected

    def gain(self, index: int) -> float:
        return self.scores[index] - self.scores[0]

    def result(self, index: int) -> str:
        """Won, lost or even against the first; of texts with the same words the right one wins."""
        gain = self.gain(index)
        if abs(gain) <= self.margin:
            gain = self.right[index] - self.right[0]
        return WON if gain > 0 else LOST if gain < 0 else EVEN


@dataclass(frozen=True)
class Pairs:
    """The records that can be compared, by place.

    Attributes:
        left_out: how many records each evaluation has besides.
        alike: whether all evaluations are of the very same records, judged or not.
    """

    pairs: Sequence[Pair]
    left_out: tuple[int, ...]
    alike: bool


def pair(named: Sequence[Named]) -> Pairs:
    """The records that all evaluations have, with an expected answer and one that was given.

    Raises:
        BadInput: answers that are gone or damaged, or no records in common.
    """
    problems: list[Problem] = []
    of_all: list[Records] = []
    for one in named:
        try:
            of_all.append(_records(one))
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
    """The records of an evaluation by what they are, and their number among equal ones."""
    path, outputs = named.evaluation.items, named.outputs
    if not path.exists():
        found, expected = f"no {path.name}", "what was answered then"
        hint = "name another step, or evaluate its checkpoint again (--no_train)"
        raise BadInput([Problem(f"{named.run}@{named.step}", found, expected, hint)])
    records: Records = {}
    seen: Counter[bytes] = Counter()
    try:
        for place, item in enumerate(named.evaluation.answers()):
            record = outputs.read(place, item)
            digest = _digest([record.prompt, record.expected])
            # Other samples are compared by nothing, and may be many.
            first = replace(record, outputs=record.outputs[:1], logits=None)
            records[_digest([digest.hex(), seen[digest]])] = first
            seen[digest] += 1
    except MALFORMED:
        found, hint = "an item of another form", "get it back from a copy, or evaluate again"
        raise BadInput([Problem(str(path), found, "what a run writes", hint)]) from None
    return records


def _digest(value: object) -> bytes:
    text = json.dumps(value)  # in ASCII, so that half a surrogate pair will do
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _pair(named: Sequence[Named], key: bytes, records: Sequence[Record]) -> Pair | None:
    """A record of all evaluations; None where one of them has nothing to judge of it."""
    outputs, first = named[0].outputs, records[0]
    answers = tuple(record.outputs[0] for record in records)
    references = tuple(record.reference for record in records)
    if None in answers or None in references:
        return None
    both = list(zip(answers, references, strict=True))
    scores = tuple(outputs.quality(*of_one) for of_one in both)
    right = tuple(outputs.is_right(*of_one) for of_one in both)
    return Pair(
        key, first.place, first.prompt, first.expected, answers, references, scores, right,
        outputs.margin,
    )  # fmt: skip


def _nothing_paired(
    named: Sequence[Named], of_all: Sequence[Records], common: Sequence[bytes]
) -> Problem:
    """Why no record can be compared."""
    where, task = " and ".join(one.label for one in named), named[0].outputs.task
    source, answers = f"{task.source_key}s", f"{task.answer_key}s"
    if any(of_all[0][key].expected is not None for key in common):
        found, expected = "no record to which all gave a score", "scores that are numbers"
        return Problem(where, found, expected, "name other steps: these have diverged")
    if common:
        found = f"no record that all have with {answers}"
        hint = f"evaluate them on data with {answers}"
        return Problem(where, found, f"{answers} to judge by", hint)
    prompts = [{record.prompt for record in records.values()} for records in of_all]
    shared = set.intersection(*prompts)
    if not shared:
        each = zip(named, of_all, strict=True)
        counted = ", ".join(f"{len(records)} of {one.label}" for one, records in each)
        hint = "evaluate them on the same data (--no_train with a checkpoint)"
        return Problem(where, f"no record that all have ({counted})", "the same records", hint)
    lacking = " and ".join(
        one.label
        for one, records in zip(named, of_all, strict=True)
        if all(record.expected is None for record in records.values() if record.prompt in shared)
    )
    found = f"the same {source}, but other {answers}"
    hint = f"evaluate {where} on the same data (--no_train with a checkpoint)"
    if lacking:
        found = f"the same {source}, but no {answers} in {lacking}"
        hint = f"evaluate {lacking} on data with {answers} (--no_train with a checkpoint)"
    return Problem(where, found, f"the same {answers} in all", hint)
