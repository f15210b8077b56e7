"""Records with classes: a label of a text, or of which of two answers to a prompt is better."""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow.core.errors import shorten
from workflow.data.schema import NO_ANSWER, Record

SIDES = ("a", "b", "tie")
"""The classes of pairs: which answer is better."""
SWAPPED = {"a": "b", "b": "a"}
"""The classes that change where the answers change places."""
_KEYS = {
    "label": ("input",),
    "pair": ("prompt", "response_a", "response_b"),
    "chosen": ("prompt", "chosen", "rejected"),
}
_TOLERANCE = 1e-3
"""By how much the probabilities of a label may miss a sum of 1, as rounded ones do."""

Label = Mapping[str, float]
"""The probabilities of classes; of a class name, 1 for that class."""


@dataclass(frozen=True)
class Shape:
    """What records with classes look like.

    Attributes:
        name: "label": a text and its class; "pair": two answers, and which is better; "chosen":
            the better and the worse answer.
        classes: those that labels may name; () for any.
    """

    name: str
    classes: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a record's texts."""
        return _KEYS[self.name]

    @property
    def answer_key(self) -> str | None:
        return None if self.name == "chosen" else "label"

    @property
    def is_pair(self) -> bool:
        return self.name != "label"

    def texts(self, record: Record) -> tuple[str, ...]:
        """The texts of a record: the input; or the prompt, answer a and answer b."""
        texts = tuple(record[key] for key in self.keys)
        return (texts[0], texts[2], texts[1]) if self._chosen_is_b(texts) else texts

    def label(self, record: Record) -> Label | None:
        """The label of a valid record; None if it has none."""
        if self.name == "chosen":
            return {"b" if self._chosen_is_b(tuple(record[key] for key in self.keys)) else "a": 1.0}
        label = record.get("label")
        if not isinstance(label, dict):
            return None if label is None else {label: 1.0}
        total = sum(label.values())
        return {name: share / total for name, share in label.items() if share}

    def _chosen_is_b(self, texts: tuple[str, ...]) -> bool:
        """Drawn from the record's texts alone, so that runs of other seeds can be compared."""
        if self.name != "chosen":
            return False
        content = json.dumps(texts).encode()
        return bool(hashlib.blake2b(content, digest_size=1).digest()[0] & 1)

    def check_label(self, value: object) -> tuple[str, str, str] | None:
        """What is wrong with a label: found ("" for the name of its type), expected, hint."""
        names = SIDES if self.is_pair else self.classes
        known = ", ".join(names)
        expected = f"{known}, or a map of these to probabilities" if known else _EXPECTED
        if isinstance(value, str):
            if not value.strip():
                return "an empty class name", expected, "write it, or remove the record"
            if names and value not in names:
                alike = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.6)
                hint = f'write "{alike[0]}"' if alike else "correct it"
                hint += "" if self.is_pair or alike else ", or add it to --classes"
                return f"the class {shorten(value)}", expected, hint
            return None
        if not isinstance(value, dict):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            hint = "write it as a string" if number else "write a class name"
            return "", expected, NO_ANSWER if value is None else hint
        if unknown := [name for name in value if not name.strip() or (names and name not in names)]:
            return f"the class {shorten(unknown[0])}", expected, "correct it"
        if wrong := [name for name, share in value.items() if not _is_probability(share)]:
            found = f"{shorten(value[wrong[0]])} for the class {shorten(wrong[0])}"
            return found, "a probability from 0 to 1 for each class", "correct it"
        if abs(sum(value.values()) - 1) > _TOLERANCE:
            found = f"probabilities with the sum {sum(value.values()):g}"
            return found, "probabilities with the sum 1", "scale them, or add the missing class"
        return None


_EXPECTED = "a class name, or a map of class names to probabilities"


def _is_probability(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 <= value <= 1


def shape_of(record: Mapping[str, Any]) -> str | None:
    """The shape of a record by its keys: "target" or that of a `Shape`; None if they do not say."""
    if {"input", "target"} <= record.keys():
        return "target"
    if record.keys() & {"response_a", "response_b"}:
        return "pair"
    if record.keys() & {"chosen", "rejected"}:
        return "chosen"
    return "label" if {"input", "label"} <= record.keys() else None


def of_other_shape(shape: str, record: Mapping[str, Any]) -> str | None:
    """The keys of a record whose shape is another one, as an example."""
    found = shape_of(record)
    if found in (None, shape):
        return None
    keys = ("input", "target") if found == "target" else (*_KEYS[str(found)], "label")
    return ", ".join(f'"{key}"' for key in keys if key in record)
