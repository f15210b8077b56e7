"""The files of a data set, and the records that a job reads from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workflow.core.checksums import digest
from workflow.core.errors import BadInput, Problem
from workflow.data.split_names import LINES, TEXT_SUFFIX


@dataclass(frozen=True)
class HeldOut:
    """A random share of the train records held out for evaluation; depends on the seed only."""

    fraction: float
    seed: int

    def choose(self, count: int) -> npt.NDArray[np.bool_]:
        """A mask of the held-out records: at least one of `count` (two or more), and not all."""
        held = min(max(1, round(self.fraction * count)), count - 1)
        order = np.random.default_rng([self.seed, *b"eval"]).permutation(count)
        chosen = np.zeros(count, np.bool_)
        chosen[order[:held]] = True
        return chosen


@dataclass(frozen=True)
class DataSource:
    """The files of a data set, and the splits that a job uses.

    Attributes:
        files: {"": one JSON file of all splits}, {LINES: one file of JSON Lines, or of text, of a
            single split}, or one such file per split.
        answers_needed: False if records may lack their answer.
        held_out: how eval is held out from train; None if it has records of its own.
        most: records to read of each split, the first ones.
        separator: of documents in text files; None for blank lines.
    """

    files: Mapping[str, Path]
    splits: Sequence[str]
    answers_needed: bool = True
    held_out: HeldOut | None = None
    most: float = math.inf
    separator: str | None = None

    @property
    def splits_read(self) -> Sequence[str]:
        """The splits that are read from the files."""
        return ["train"] if self.held_out else self.splits

    @property
    def keys_read(self) -> Sequence[str]:
        """The keys of the files to read; some may be missing in `files`."""
        return self.splits_read if {"train", "eval"} & self.files.keys() else list(self.files)

    @property
    def conflicts(self) -> list[Problem]:
        """The problem of eval held out from train although there is an eval file."""
        return self.second_eval(self.files["eval"].name) if "eval" in self.files else []

    def second_eval(self, name: str) -> list[Problem]:
        """The problem of eval records in the files, under `name`, besides held-out ones."""
        if self.held_out is None:
            return []
        found = f"{self.held_out.fraction:g}, but the data has eval records in {name}"
        hint = "remove the flag or these records"
        return [Problem("--eval_fraction", found, "data without eval records", hint)]

    def path(self, split: str) -> Path | None:
        return self.files.get(split) or self.files.get("") or self.files.get(LINES)

    def digest(self, path: Path | None) -> str:
        """A digest of a file's content; "none" if unreadable, which `check_records` reports."""
        try:
            if path and self.most < math.inf:  # a few records: read no more of the file
                return f"{path.stat().st_size} {path.stat().st_mtime_ns}"
            return digest(path) if path else "none"
        except OSError:
            return "none"

    def place(self, name: str, index: int) -> str:
        """The place of a record for messages; `name` is that of its split in the files."""
        if "" in self.files:
            return f"{self.whole(name)}[{index}]"
        path = self.path(name)
        unit = "document" if path and path.suffix == TEXT_SUFFIX else "line"
        line = f"{path}: {unit} {index + 1}"
        return line if LINES in self.files else f"{line}: {name}[{index}]"

    def whole(self, name: str) -> str:
        """The place of a complete split for messages."""
        return str(self.path(name)) if LINES in self.files else f"{self.path(name)}: {name}"

    def choose(self, split: str, count: int) -> npt.NDArray[np.bool_]:
        """A mask of the `count` records in a split's file that belong to the split.

        Raises:
            BadInput: fewer than two records to hold one out from.
        """
        if self.held_out is None:
            return np.ones(count, np.bool_)
        if count < 2:
            path, expected = str(self.path("train")), "at least two to hold one out"
            hint = "add records or remove --eval_fraction"
            raise BadInput([Problem(path, "a single record", expected, hint)])
        chosen = self.held_out.choose(count)
        return chosen if split == "eval" else ~chosen
