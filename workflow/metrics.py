"""Pure functions over lists: how good answers are."""

import math
from collections.abc import Sequence

LOWER_IS_BETTER = frozenset({"loss", "perplexity"})


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float | None:
    """Share of predictions equal to their reference, ends stripped; None for none."""
    if not references:
        return None
    pairs = zip(predictions, references, strict=True)
    return sum(found.strip() == wanted.strip() for found, wanted in pairs) / len(references)


def perplexity(loss: float | None) -> float | None:
    """exp of a mean token loss in nats; None where that is no number that can be written."""
    if loss is None or not loss < 700:
        return None
    return math.exp(loss)


def is_better(metric: str, value: float | None, best: float | None) -> bool:
    """Whether `value` beats `best` in `metric`; None is never better, anything beats None."""
    if value is None or math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if metric in LOWER_IS_BETTER else value > best
