"""Check records; each problem names its place."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import Problem, shorten
from workflow.data.records import DuplicateKeys, NotFinite, name_type
from workflow.data.shapes import keys_of_other_shape
from workflow.data.shapes.base import Shape

DEEPEST = 100
_NUMBERS = (int, float)


def check_record(
    record: object, place: str, shape: Shape, answers_needed: bool, several: bool = False
) -> list[Problem]:
    """The problems of a record at `place`.

    Args:
        several: whether its answer may be a list of references, as in eval.
    """
    if not isinstance(record, dict):
        return [Problem(place, name_type(record), shape.example, "write an object")]
    if keys := keys_of_other_shape(shape, record):
        found = "a record with " + ", ".join(f'"{key}"' for key in keys)
        expected, hint = f"{shape.example}, as in the first record", "keep one kind in a file"
        return [Problem(place, found, expected, hint)]
    problems: list[Problem] = []
    if isinstance(record, DuplicateKeys):
        problems.append(duplicate_keys(place, record))
    for key in shape.source_keys:
        if key not in record:
            problems.append(_missing_source(place, key, shape, record))
        elif not isinstance(record[key], str):
            found, absent = name_type(record[key]), record[key] is None
            hint = "write it, or remove the record" if absent else "write it as a string"
            problems.append(Problem(f"{place}.{key}", found, "text", hint))
    reported = False
    if shape.answer_key is None:
        pass
    elif shape.answer_key in record:
        for key, answer in _answers(shape, record[shape.answer_key], several).items():
            wrong = shape.check_answer(answer)
            if wrong is not None:
                found, expected, hint = wrong
                problems.append(
                    Problem(f"{place}.{key}", found or name_type(answer), expected, hint)
                )
                reported = True
    elif answers_needed or _near_key(shape.answer_key, record):
        problems.append(missing_key(place, shape.answer_key, record, shape.answer_kind))
    for key, found, expected, hint in shape.check(record, answers_needed):
        problems.append(Problem(f"{place}.{key}", found, expected, hint))
    if reported:
        record = {key: value for key, value in record.items() if key != shape.answer_key}
    _check_values(place, record, problems, depth=0)
    return problems


def _answers(shape: Shape, answer: object, several: bool) -> dict[str, object]:
    """An answer, or the references in it, by key."""
    key = str(shape.answer_key)
    if several and shape.answer_kind == "text" and isinstance(answer, list) and answer:
        return {f"{key}[{number}]": one for number, one in enumerate(answer)}
    return {key: answer}


def _check_values(
    place: str, record: Mapping[str, Any], problems: list[Problem], depth: int
) -> None:
    for key, value in record.items():
        if depth <= DEEPEST and key.isascii() and _is_plain(value):
            continue
        if not key.isascii():
            _check_value(f"{place}: key {shorten(key)}", key, problems, depth)
        _check_value(f"{place}.{shorten(key)[1:-1]}", value, problems, depth)


def _is_plain(value: object) -> bool:
    """Whether a value has no problem and holds no others; most are like that."""
    if isinstance(value, str):
        return value.isascii() and "\0" not in value
    return value is None or isinstance(value, _NUMBERS)


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


def _missing_source(place: str, key: str, shape: Shape, record: Mapping[str, Any]) -> Problem:
    unknown = {name: one for name, one in record.items() if name not in shape.source_keys}
    missing = missing_key(place, key, unknown, "text")
    for task in TASK_SPECS.values():
        if task.source_key in record and task.source_key not in shape.source_keys:
            return replace(missing, hint=f"use {task.name}.py, which reads this data")
    texts = [key for key, value in record.items() if isinstance(value, str)]
    if missing.hint != "add it" or len(texts) != 1 or texts == [shape.answer_key]:
        return missing
    return replace(missing, hint=f'rename {shorten(texts[0], 30)} to "{key}"')


def missing_key(place: str, key: str, record: Mapping[str, Any], meaning: str) -> Problem:
    near = _near_key(key, record)
    keys = ", ".join(shorten(found, 30) for found in list(record)[:8])
    only = f", only {keys}" + ", …" * (len(record) > 8) if keys else ""
    if near is not None:
        return Problem(place, f'the key "{near}"', f'the key "{key}"', f'rename it to "{key}"')
    return Problem(place, f'no key "{key}"{only}', f'"{key}": {meaning}', "add it")
