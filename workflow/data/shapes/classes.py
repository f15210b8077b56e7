"""Records with classes: a label of a text, or of which of two answers to a prompt is better."""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workflow.config.templates import PLAIN
from workflow.core.errors import shorten
from workflow.data.records import NO_ANSWER, Record, WrongAnswer
from workflow.data.shapes.base import Shape

SIDES = ("a", "b", "tie")
"""The classes of pairs: which answer is better."""
SWAPPED = {"a": "b", "b": "a"}
"""The classes that change where the answers change places."""
_TOLERANCE = 1e-3
"""By how much the probabilities of a label may miss a sum of 1, as rounded ones do."""
_ANY = "a class name, or a map of class names to probabilities"

Label = Mapping[str, float]
"""The probabilities of classes; of a class name, 1 for that class."""


@dataclass(frozen=True)
class ClassShape(Shape):
    """The shape of records with a class.

    Attributes:
        names: of the classes that labels may name; () for any.
        is_pair: whether the class says which of two answers is better.
    """

    names: tuple[str, ...] = ()
    answer_kind = "a class"
    is_pair: ClassVar[bool] = True

    def answer(self, record: Record) -> Label | None:
        label = record.get("label")
        if not isinstance(label, dict):
            return None if label is None else {label: 1.0}
        total = sum(label.values())
        return {name: share / total for name, share in label.items() if share}

    def check_answer(self, value: object) -> WrongAnswer | None:
        known = ", ".join(self.names)
        expected = f"{known}, or a map of these to probabilities" if known else _ANY
        if isinstance(value, str):
            return self._check_name(value, expected)
        if not isinstance(value, dict):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            hint = "write it as a string" if number else "write a class name"
            return "", expected, NO_ANSWER if value is None else hint
        if unknown := [name for name in value if not name.strip() or not self._may_name(name)]:
            return f"the class {shorten(unknown[0])}", expected, "correct it"
        if wrong := [name for name, share in value.items() if not _is_probability(share)]:
            found = f"{shorten(value[wrong[0]])} for the class {shorten(wrong[0])}"
            return found, "a probability from 0 to 1 for each class", "correct it"
        if abs(sum(value.values()) - 1) > _TOLERANCE:
            found = f"probabilities with the sum {sum(value.values()):g}"
            return found, "probabilities with the sum 1", "scale them, or add the missing class"
        return None

    def _check_name(self, value: str, expected: str) -> WrongAnswer | None:
        if not value.strip():
            return "an empty class name", expected, "write it, or remove the record"
        if self._may_name(value):
            return None
        alike = difflib.get_close_matches(value.lower(), self.names, n=1, cutoff=0.6)
        hint = f'write "{alike[0]}"' if alike else "correct it"
        hint += "" if self.is_pair or alike else ", or add it to --classes"
        return f"the class {shorten(value)}", expected, hint

    def _may_name(self, name: str) -> bool:
        return not self.names or name in self.names


def _is_probability(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 <= value <= 1


@dataclass(frozen=True)
class Labels(ClassShape):
    """A text and its class.

    Attributes:
        template: of the text, with {input}.
    """

    template: str = PLAIN
    name, source_keys, answer_key = "label", ("input",), "label"
    marks = ("input", "label")
    is_pair = False

    def reads(self, record: Record) -> tuple[str, ...]:
        return (self.template.replace("{input}", record["input"]),)


@dataclass(frozen=True)
class Pairs(ClassShape):
    """A prompt, two answers, and which of them is better."""

    names: tuple[str, ...] = SIDES
    name, source_keys = "pair", ("prompt", "response_a", "response_b")
    answer_key: ClassVar[str | None] = "label"
    marks, any_mark = ("response_a", "response_b"), True

    def reads(self, record: Record) -> tuple[str, ...]:
        return self.texts(record)


class Preferences(Pairs):
    """A prompt, the better answer and the worse one."""

    name, source_keys, answer_key = "chosen", ("prompt", "chosen", "rejected"), None
    marks = ("chosen", "rejected")

    def texts(self, record: Record) -> tuple[str, ...]:
        prompt, chosen, rejected = super().texts(record)
        return (prompt, rejected, chosen) if self._chosen_is_b(record) else super().texts(record)

    def answer(self, record: Record) -> Label:
        return {"b" if self._chosen_is_b(record) else "a": 1.0}

    def _chosen_is_b(self, record: Record) -> bool:
        """Drawn from the record's texts alone, so that runs of other seeds can be compared."""
        content: Any = json.dumps(super().texts(record)).encode()
        return bool(hashlib.blake2b(content, digest_size=1).digest()[0] & 1)
