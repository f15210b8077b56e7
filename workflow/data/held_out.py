"""Train records that are kept for evaluation, of data that has no eval records."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workflow.core.errors import BadInput, Problem


@dataclass(frozen=True)
class HeldOut:
    """A share of the records, drawn by the seed alone."""

    fraction: float
    seed: int

    def choose(self, count: int, path: Path) -> npt.NDArray[np.bool_]:
        """Which of so many records are held out: at least one, and not all.

        Raises:
            BadInput: where there are fewer than two, in the file `path`.
        """
        if count < 2:
            mend = "add records, or leave --eval_fraction out"
            raise BadInput([Problem(str(path), "a single record", "two to hold one out", mend)])
        held = min(max(1, round(self.fraction * count)), count - 1)
        order = np.random.default_rng([self.seed, *b"eval"]).permutation(count)
        chosen = np.zeros(count, np.bool_)
        chosen[order[:held]] = True
        return chosen
