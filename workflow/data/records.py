"""Records as JSON has them: decoded so that what JSON allows and a record may not is kept."""

import json
import math
from typing import Any

from workflow.core.errors import shorten

Record = dict[str, Any]
Wrong = tuple[str, str, str, str]
"""Something wrong in a record: the key, what was found there, what was expected, a hint."""
WrongAnswer = tuple[str, str, str]
"""Something wrong with an answer: found ("" for the name of its type), expected, a hint."""
NO_ANSWER = "write it, or remove the record (with --no_train: remove the key)"
"""Hint for an answer that is null."""


class DuplicateKeys(dict[str, Any]):
    """An object with duplicate keys, named in `duplicates`."""

    duplicates: list[str]


class NotFinite:
    """A NaN or an infinity."""

    def __init__(self, text: str):
        self.text = text


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of keys and values; `DuplicateKeys` if a key occurs more than once."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    keys = [key for key, _ in pairs]
    marked = DuplicateKeys(made)
    marked.duplicates = sorted({key for key in keys if keys.count(key) > 1})
    return marked


def _float(text: str) -> float | NotFinite:
    value = float(text)
    return value if math.isfinite(value) else NotFinite(text)


decoder = json.JSONDecoder(
    object_pairs_hook=make_object, parse_float=_float, parse_constant=NotFinite
)


def name_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    if isinstance(value, NotFinite):
        return value.text
    return names.get(type(value), f"the number {shorten(value)}")
