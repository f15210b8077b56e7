"""A record of a prediction file, and the kinds of outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)
"""The exceptions that reading a malformed record raises."""

MOST_CLASSES = 5
"""Classes listed for an output: the most likely ones."""


class Choice(NamedTuple):
    """A predicted or expected class, with the probabilities of all classes by `names`."""

    label: str
    probabilities: tuple[float, ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        shares = sorted(zip(self.probabilities, self.names, strict=True), key=lambda one: -one[0])
        listed = [f"{name} {share:.2f}" for share, name in shares[:MOST_CLASSES] if share]
        return ", ".join(listed) if len(listed) > 1 else self.label


Output = str | float | Choice | tuple[str, ...]
"""A text, a score in the target range, a class, or several references."""


def as_text(output: Output) -> str:
    """An output as it is shown; references one below the other."""
    if isinstance(output, tuple) and not isinstance(output, Choice):
        return "\n\n".join(output)
    return f"{output:.4g}" if isinstance(output, float) else str(output)


@dataclass(frozen=True)
class Record:
    """A record of a prediction file; missing values are None.

    Attributes:
        place: 0-based index in the data file.
        expected: completion, target or label.
        reference: the texts, target or label that outputs are compared with.
        outputs: one text for each sample, or a single score or class.
        logits: of no and yes, for the first generated token.
        orders: the classes of a pair with a and with b shown first.
        metrics: values of --metric, those that are means over records.
    """

    place: int
    prompt: str
    expected: Any
    reference: Any
    outputs: tuple[Any, ...]
    logits: Sequence[float] | None
    orders: tuple[str, ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)


def text_of(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def pair_text(item: Mapping[str, Any]) -> str:
    """The text of an item's record; of a pair, the prompt and both answers."""
    record, chosen_as = item["orig_d"], item.get("chosen_as")
    if "input" in record:
        return text_of(record["input"])
    a, b = ("response_a", "response_b") if chosen_as is None else ("chosen", "rejected")
    a, b = (b, a) if chosen_as == "b" else (a, b)
    return "{}\n\n[a] {}\n\n[b] {}".format(*(text_of(record[key]) for key in ("prompt", a, b)))


def number_of(value: Any) -> float | None:
    """A finite number, or None; raises ValueError for others."""
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError("not finite")
    return number
