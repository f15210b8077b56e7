"""Decode records from JSON and check them; each problem names its place."""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import Problem, shorten

Record = dict[str, Any]
Wrong = tuple[str, str, str, str]
"""Something wrong in a record: the key, what was found there, what was expected, a hint."""
DEEPEST = 100
NO_ANSWER = "write it, or remove the record (with --no_train: remove the key)"
"""Hint for an answer that is null."""


@dataclass(frozen=True)
class Schema:
    """The keys of a task's records: texts and their answer, i.e. completion, target or label.

    Attributes:
        source_keys: of the texts.
        answer_key: of the answer; None if the keys of the texts say it.
        check_answer: returns (found, expected, hint) for an invalid answer, else None; an empty
            `found` means the name of its type.
        answer_range: (min, max) of answers that are numbers.
        template: of the input text.
        texts_of, label_of: where answers are labels, the texts of a valid record (an input, or a
            prompt with answers a and b), and its label; None if it has none.
        text_of: the text of a valid record, if it is not that under its keys.
        read_of: the part of it that a model certainly reads as it is, if that is not all.
        answer_of: the answer of a record, if it is not that under its key; None if it has none.
        check: what else is wrong with a record; whether an answer is needed.
        of_other_shape: the keys of a record that is not like the others; None if it is.
        shown: an example of a record, if its keys alone are none.
    """

    source_keys: tuple[str, ...]
    answer_key: str | None
    check_answer: Callable[[object], tuple[str, str, str] | None]
    answer_range: tuple[float, float] | None = None
    template: str = "{input}"
    texts_of: Callable[[Record], tuple[str, ...]] | None = None
    label_of: Callable[[Record], Mapping[str, float] | None] = lambda record: None
    of_other_shape: Callable[[Record], str | None] = lambda record: None
    text_of: Callable[[Record], str] | None = None
    read_of: Callable[[Record], str] | None = None
    answer_of: Callable[[Record], object] | None = None
    check: Callable[[Record, bool], list[Wrong]] = lambda record, answer_needed: []
    shown: str | None = None

    def text(self, record: Record) -> str:
        """The texts of a record."""
        if self.text_of is not None:
            return self.text_of(record)
        if self.texts_of is not None:
            return "\n\n".join(self.texts_of(record))
        return "\n\n".join(record[key] for key in self.source_keys)

    def read(self, record: Record) -> str:
        """The texts of a record, in their template."""
        if self.read_of is not None:
            return self.read_of(record)
        return self.template.replace("{input}", self.text(record))

    def answers(self, record: Record) -> list[Any]:
        """The answer of a valid record, if it has one."""
        if self.answer_of is not None:
            return [one for one in [self.answer_of(record)] if one is not None]
        return [record[key] for key in (self.answer_key,) if key in record]

    def is_blank(self, record: object) -> bool:
        """Whether the answer of a record is an empty or blank text."""
        if not isinstance(record, dict) or self.check(record, False):
            return False
        return any(isinstance(one, str) and not one.strip() for one in self.answers(record))

    @property
    def writes_text(self) -> bool:
        """Whether answers are texts."""
        return self.answer_range is None and self.texts_of is None

    @property
    def answer_kind(self) -> str:
        return "text" if self.writes_text else "a number" if self.answer_range else "a class"

    @property
    def example(self) -> str:
        if self.shown is not None:
            return self.shown
        keys = [*self.source_keys, *([self.answer_key] if self.answer_key else [])]
        return "{" + ", ".join(f'"{key}": …' for key in keys) + "}"


# --- JSON ----------------------------------------------------------------------------------------


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


# --- records -------------------------------------------------------------------------------------


def check_record(record: object, place: str, schema: Schema, answers_needed: bool) -> list[Problem]:
    """The problems of a record at `place`."""
    if not isinstance(record, dict):
        return [Problem(place, name_type(record), schema.example, "write an object")]
    if other := schema.of_other_shape(record):
        expected, hint = f"{schema.example}, as in the first record", "keep one kind in a file"
        return [Problem(place, f"a record with {other}", expected, hint)]
    problems: list[Problem] = []
    if isinstance(record, DuplicateKeys):
        problems.append(duplicate_keys(place, record))
    for key in schema.source_keys:
        if key not in record:
            problems.append(_missing_source(place, key, schema, record))
        elif not isinstance(record[key], str):
            found, absent = name_type(record[key]), record[key] is None
            hint = "write it, or remove the record" if absent else "write it as a string"
            problems.append(Problem(f"{place}.{key}", found, "text", hint))
    reported = False
    if schema.answer_key is None:
        pass
    elif schema.answer_key in record:
        wrong = schema.check_answer(record[schema.answer_key])
        if wrong is not None:
            found, expected, hint = wrong
            found = found or name_type(record[schema.answer_key])
            problems.append(Problem(f"{place}.{schema.answer_key}", found, expected, hint))
            reported = True
    elif answers_needed or _near_key(schema.answer_key, record):
        problems.append(missing_key(place, schema.answer_key, record, schema.answer_kind))
    for key, found, expected, hint in schema.check(record, answers_needed):
        problems.append(Problem(f"{place}.{key}", found, expected, hint))
    others = {key: value for key, value in record.items() if key != schema.answer_key}
    _check_values(place, others if reported else record, problems, depth=0)
    return problems


def _check_values(
    place: str, record: Mapping[str, Any], problems: list[Problem], depth: int
) -> None:
    for key, value in record.items():
        if not key.isascii():
            _check_value(f"{place}: key {shorten(key)}", key, problems, depth)
        _check_value(f"{place}.{shorten(key)[1:-1]}", value, problems, depth)


def _check_value(place: str, value: object, problems: list[Problem], depth: int) -> None:
    """Check that a value can be tokenized and written as JSON again."""
    if depth > DEEPEST:
        problems.append(too_deep(place.split("[0][0]")[0]))
    elif isinstance(value, str):
        if "\0" in value:
            problems.append(Problem(place, "a NUL byte", "text", "remove the byte"))
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                found = f"the lone surrogate \\u{ord(value[error.start]):04x}"
                problems.append(Problem(place, found, "valid Unicode", "fix the text's encoding"))
    elif isinstance(value, NotFinite):
        problems.append(Problem(place, value.text, "a finite number", "use null or remove it"))
    elif isinstance(value, dict):
        if isinstance(value, DuplicateKeys):
            problems.append(duplicate_keys(place, value))
        _check_values(place, value, problems, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(f"{place}[{index}]", inner, problems, depth + 1)


def too_deep(place: str) -> Problem:
    return Problem(place, "too deeply nested", f"at most {DEEPEST} levels", "flatten it")


def duplicate_keys(place: str, value: DuplicateKeys) -> Problem:
    keys = ", ".join(shorten(key) for key in value.duplicates)
    return Problem(place, f"the duplicate key {keys}", "unique keys", "keep one of them")


def _near_key(key: str, record: Mapping[str, Any]) -> str | None:
    lower = {str(found).strip().lower(): str(found) for found in record}
    near = difflib.get_close_matches(key, list(lower), n=1, cutoff=0.85)
    return lower[near[0]] if near else None


def _missing_source(place: str, key: str, schema: Schema, record: Mapping[str, Any]) -> Problem:
    unknown = {name: one for name, one in record.items() if name not in schema.source_keys}
    missing = missing_key(place, key, unknown, "text")
    for task in TASK_SPECS.values():
        if task.source_key in record and task.source_key not in schema.source_keys:
            return replace(missing, hint=f"use {task.name}.py, which reads this data")
    texts = [key for key, value in record.items() if isinstance(value, str)]
    if missing.hint != "add it" or len(texts) != 1 or texts == [schema.answer_key]:
        return missing
    return replace(missing, hint=f'rename {shorten(texts[0], 30)} to "{key}"')


def missing_key(place: str, key: str, record: Mapping[str, Any], meaning: str) -> Problem:
    near = _near_key(key, record)
    keys = ", ".join(shorten(found, 30) for found in list(record)[:8])
    only = f", only {keys}" + ", …" * (len(record) > 8) if keys else ""
    if near is not None:
        return Problem(place, f'the key "{near}"', f'the key "{key}"', f'rename it to "{key}"')
    return Problem(place, f'no key "{key}"{only}', f'"{key}": {meaning}', "add it")


def name_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    if isinstance(value, NotFinite):
        return value.text
    return names.get(type(value), f"the number {shorten(value)}")
