"""Where the records of a data set stand, and which of them a job reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workflow.core.errors import BadInput, Problem
from workflow.data.split_names import LINES


@dataclass(frozen=True)
class HeldOut:
    """A share of the train records, kept for evaluation and drawn by the seed alone."""

    fraction: float
    seed: int

    def choose(self, count: int) -> npt.NDArray[np.bool_]:
        """Which of so many records, two or more, are held out: at least one, and not all."""
        held = min(max(1, round(self.fraction * count)), count - 1)
        order = np.random.default_rng([self.seed, *b"eval"]).permutation(count)
        chosen = np.zeros(count, np.bool_)
        chosen[order[:held]] = True
        return chosen


@dataclass(frozen=True)
class DataSource:
    """The files of a data set, and what a job wants of them.

    Attributes:
        files: {"": one JSON file of all splits}, {LINES: one JSON Lines file of a single one}, or
            one JSON Lines file a split.
        splits: those that the job uses.
        answers_needed: False where a record may lack its answer.
        held_out: how eval is drawn from train, where that is asked for.
    """

    files: Mapping[str, Path]
    splits: Sequence[str]
    answers_needed: bool = True
    held_out: HeldOut | None = None

    @property
    def splits_read(self) -> Sequence[str]:
        """The splits that are read from the files."""
        return ["train"] if self.held_out else self.splits

    @property
    def keys_read(self) -> Sequence[str]:
        """The keys of the files that are read, of which some may be missing."""
        return self.splits_read if {"train", "eval"} & self.files.keys() else list(self.files)

    @property
    def conflicts(self) -> list[Problem]:
        """Eval drawn from train, though there is a file of it."""
        return self.second_eval(self.files["eval"].name) if "eval" in self.files else []

    def second_eval(self, name: str) -> list[Problem]:
        """What is wrong with eval records in the files, which go by `name` there."""
        if self.held_out is None:
            return []
        found = f"{self.held_out.fraction:g}, and the records of {name}"
        hint = "leave it out, or take those out of the data"
        return [Problem("--eval_fraction", found, "data without eval records", hint)]

    def path(self, split: str) -> Path | None:
        """The file in which a split stands."""
        return self.files.get(split) or self.files.get("") or self.files.get(LINES)

    def place(self, name: str, index: int) -> str:
        """The words for where a record stands.

        Args:
            name: of the split, as the files have it.
        """
        if "" in self.files:
            return f"{self.whole(name)}[{index}]"
        line = f"{self.path(name)}: line {index + 1}"
        return line if LINES in self.files else f"{line}: {name}[{index}]"

    def whole(self, name: str) -> str:
        """The words for where all records of a split stand."""
        return str(self.path(name)) if LINES in self.files else f"{self.path(name)}: {name}"

    def choose(self, split: str, count: int) -> npt.NDArray[np.bool_]:
        """Which of the `count` records that stand with those of a split belong to it.

        Raises:
            BadInput: where one is to be held out, and there are fewer than two.
        """
        if self.held_out is None:
            return np.ones(count, np.bool_)
        if count < 2:
            path, expected = str(self.path("train")), "two to hold one out"
            hint = "add records, or leave --eval_fraction out"
            raise BadInput([Problem(path, "a single record", expected, hint)])
        chosen = self.held_out.choose(count)
        return chosen if split == "eval" else ~chosen
