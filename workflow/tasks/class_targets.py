"""The labels of records as probabilities of classes."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import read_object
from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.pair_rows import Orders
from workflow.data.shapes.classes import SWAPPED, Label
from workflow.data.token_cache import Ragged, TokenizedSplit

_KNOWN = 4096
"""Labels that are kept decoded: most files have few different ones."""


def encoded(label: Label | None) -> list[int]:
    """A label as a row of code points of JSON; empty if there is none."""
    return [] if label is None else [*map(ord, json.dumps(label, ensure_ascii=False))]


def decoded(row: bytes) -> dict[str, float]:
    """The label in the bytes of a row, which is not empty."""
    label: dict[str, float] = json.loads(row.decode("utf-32-le"))
    return label


def _labels(split: TokenizedSplit) -> dict[bytes, int]:
    """The rows of all labels of a split, and how often each occurs."""
    rows, counts = split.targets, dict[bytes, int]()
    content = rows.values[0 : int(rows.offsets[-1])].tobytes()
    bounds = (4 * rows.offsets).tolist()
    for start, end in itertools.pairwise(bounds):
        row = content[start:end]
        counts[row] = counts.get(row, 0) + 1
    counts.pop(b"", None)
    return counts


def find_classes(
    splits: Mapping[str, TokenizedSplit], request: JobRequest, of_pairs: bool
) -> tuple[str, ...]:
    """The classes in the order of logits: those of the job, or else the sorted names of train.

    Classes that only eval has come last. Pairs have a and b, and tie if a label is or the job says.

    Raises:
        BadInput: a label names a class that the job does not, or there are fewer than two.
    """
    names = {
        split: {name for row in _labels(splits[split]) for name in decoded(row)}
        for split in ("train", "eval")
        if split in splits
    }
    if request.classes is not None:
        known = " ".join(request.classes)
        problems = [
            Problem(
                f"{split}: label", f"the class {shorten(name)}", f"one of --classes {known}",
                "correct it, or add it to --classes",
            )
            for split, found in names.items()
            for name in sorted(found - {*request.classes})
        ]  # fmt: skip
        if of_pairs and not {"a", "b"} <= {*request.classes}:
            expected, hint = "a and b, and tie where answers can be equal", "add the missing class"
            problems.append(Problem("--classes", known, expected, hint))
        if problems:
            raise BadInput(problems)
        return request.classes
    train = sorted({*names.get("train", ()), *(("a", "b") if of_pairs else ())})
    classes = (*train, *sorted(names["eval"] - {*train}))
    if len(classes) < 2:
        found = f"only the class {classes[0]}" if classes else "no labels"
        where = f"{' and '.join(names)}: label"
        hint = "add records of other classes, or name all classes by --classes"
        raise BadInput([Problem(where, found, "at least two classes", hint)])
    return classes


def class_weights(asked: str, split: TokenizedSplit, classes: Sequence[str]) -> tuple[float, ...]:
    """The weights of classes in the loss.

    "balanced" is n / (classes × n of the class), as in scikit-learn, so that the mean weight of the
    records is 1. Otherwise the name of a JSON file that maps classes to weights.
    """
    if asked == "balanced":
        found = np.zeros(len(classes))
        for row, count in _labels(split).items():
            for name, share in decoded(row).items():
                found[classes.index(name)] += share * count
        balanced = found.sum() / (len(classes) * np.maximum(found, 1e-9))
        return tuple(np.where(found > 0, balanced, 1.0).tolist())
    given = read_object(Path(asked))
    if not given:
        expected, hint = "balanced, or a JSON file that maps classes to weights", "check the path"
        raise BadInput([Problem("--class_weight", f"{asked}, unreadable", expected, hint)])
    wrong = [name for name in classes if not _is_weight(given.get(name))]
    unknown = sorted(given.keys() - {*classes})
    if wrong or unknown:
        problem = f"with unknown classes: {', '.join(unknown)}"
        problem = f"without a weight for {', '.join(wrong)}" if wrong else problem
        expected = f"balanced, or a JSON file with a number above 0 for {', '.join(classes)}"
        raise BadInput(
            [Problem("--class_weight", f"{asked} {problem}", expected, "correct the file")]
        )
    return tuple(float(given[name]) for name in classes)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class ClassTargets(Sequence[npt.NDArray[np.float32]]):
    """The probabilities of the classes for each example, (classes,), read on access."""

    rows: Ragged
    classes: tuple[str, ...]
    orders: Orders
    _known: dict[tuple[bytes, bool], npt.NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.orders.records)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows.row(int(self.orders.records[index])).tobytes()
        swapped = bool(self.orders.swapped[index])
        if (row, swapped) not in self._known:
            if len(self._known) == _KNOWN:
                self._known.clear()
            label = decoded(row)
            names = [SWAPPED.get(name, name) if swapped else name for name in self.classes]
            values = [label.get(name, 0.0) for name in names]
            self._known[row, swapped] = np.array(values, np.float32)
        return self._known[row, swapped]

    @property
    def lengths(self) -> Lengths:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indexes: Indexes) -> Lengths:
        """1 for an example with a label, else 0."""
        return self.rows.lengths(1, self.orders.records[indexes])
