"""Which records an evaluation answered better than the first one did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow.metrics.rouge import word_f1
from workflow.metrics.scores import to_unit
from workflow.reporting.compare.pairing import Pair
from workflow.reporting.compare.selectors import Named

WON, LOST, EVEN = "won", "lost", "even"

HARDLY_APART = 0.01
"""Scores between words that are nearer than this are even."""


@dataclass(frozen=True)
class Outcome:
    """A record and how good each evaluation's answer is.

    Attributes:
        scores: 0..1, of each evaluation: the expected words in their order (`word_f1`), or 1 less
            the distance of a score from its target.
        right: whether each is the very text; all false for scores.
        margin: how far scores have to be apart.
    """

    pair: Pair
    scores: tuple[float, ...]
    right: tuple[bool, ...]
    margin: float

    def gain(self, index: int) -> float:
        return self.scores[index] - self.scores[0]

    def result(self, index: int) -> str:
        """Won, lost or even against the first; of texts with the same words the right one wins."""
        gain = self.gain(index)
        if abs(gain) <= self.margin:
            gain = self.right[index] - self.right[0]
        return WON if gain > 0 else LOST if gain < 0 else EVEN


def outcomes(named: Sequence[Named], pairs: Sequence[Pair]) -> list[Outcome]:
    if named[0].spec.get("task") == "clf":
        return _of_scores(named[0], pairs)
    return [_of_texts(pair) for pair in pairs]


def _of_texts(pair: Pair) -> Outcome:
    told = [(str(a), str(r)) for a, r in zip(pair.answers, pair.references, strict=True)]
    right = tuple(text.strip() == reference.strip() for text, reference in told)
    return Outcome(pair, tuple(word_f1(*of_one) for of_one in told), right, 0.0)


def _of_scores(base: Named, pairs: Sequence[Pair]) -> list[Outcome]:
    answers, targets = (
        to_unit(np.array(of_all, np.float64), *base.target_range)
        for of_all in ([pair.answers for pair in pairs], [[pair.expected] for pair in pairs])
    )
    scores = (1 - np.abs(answers - targets)).tolist()
    return [
        Outcome(pair, tuple(of_record), (False,) * len(of_record), HARDLY_APART)
        for pair, of_record in zip(pairs, scores, strict=True)
    ]


def clearest(of_all: Sequence[Outcome], index: int, result: str, count: int) -> list[Outcome]:
    """The records of this result with the greatest differences, the greatest first."""
    chosen = [one for one in of_all if one.result(index) == result]
    return sorted(chosen, key=lambda one: (-abs(one.gain(index)), one.pair.place))[:count]
