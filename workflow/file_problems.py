"""What is wrong with data files, found with the whole of them in memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.errors import Problem
from workflow.records import (
    RepeatedKeys,
    Schema,
    check_record,
    decoder,
    missing_key,
    name_type,
    repeated_keys,
    too_deep,
)

_BROKEN: Any = object()
"""Stands for what could not be parsed and is told already."""


def find_problems(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, answers_needed: bool
) -> list[Problem]:
    """All problems of all splits: those of the files, then those of the records.

    For files that are not well-formed, where a syntax error is told by its line and column and a
    missing key by those that are there.
    """
    problems: list[Problem] = []
    in_files = _read_splits(files, splits, schema, problems)
    for split, records in in_files.items():
        for index, record in enumerate(records):
            if record is not _BROKEN:
                place = place_of(files, split, index)
                check_record(record, place, schema, answers_needed, problems)
    return problems


def place_of(files: Mapping[str, Path], split: str, index: int) -> str:
    """The words for where a record stands."""
    if "" in files:
        return f"{files['']}: {split}[{index}]"
    return f"{files[split]}: line {index + 1}: {split}[{index}]"


def _read_splits(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, problems: list[Problem]
) -> dict[str, list[Any]]:
    if "" in files:
        return _read_json(files[""], splits, schema, problems)
    found = {}
    for split in splits:
        if split in files:
            found[split] = _read_json_lines(files[split], problems)
        else:
            folder = next(iter(files.values())).parent
            expected = f"{schema.example} on each line of {split}.jsonl"
            problems.append(Problem(str(folder), f"no {split}.jsonl", expected, "add the file"))
    return found


def _read_text(path: Path, problems: list[Problem]) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        problems.append(Problem(str(path), reason.lower(), "a readable file", "mend the file"))
        return None
    if not content.strip():
        problems.append(Problem(str(path), "an empty file", "records", "write the data into it"))
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(
            Problem(
                f"{path}: line {line}",
                f"byte 0x{content[error.start]:02x}, which is not UTF-8",
                "a file in UTF-8",
                "save it as UTF-8",
            )
        )
        return None


def _read_json(
    path: Path, splits: Sequence[str], schema: Schema, problems: list[Problem]
) -> dict[str, list[Any]]:
    text = _read_text(path, problems)
    if text is None:
        return {}
    data = _parse(text, path, problems)
    expected = f'{{"train": [{schema.example}, …], "eval": […]}}'
    if data is _BROKEN:
        return {}
    if not isinstance(data, dict):
        problems.append(
            Problem(
                str(path),
                f"{name_type(data)} at the top",
                expected,
                'put the list under "train" and "eval"' if isinstance(data, list) else "rewrite it",
            )
        )
        return {}
    problems += [repeated_keys(str(path), data)] if isinstance(data, RepeatedKeys) else []
    loaded = {}
    for split in splits:
        if split not in data:
            problems.append(missing_key(str(path), split, data, f"a list of {schema.example}"))
        elif not isinstance(data[split], list):
            found = name_type(data[split])
            problems.append(Problem(f"{path}: {split}", found, "a list", "make it a list"))
        elif not data[split]:
            problems.append(
                Problem(f"{path}: {split}", "an empty list", "at least one record", "add records")
            )
        else:
            loaded[split] = data[split]
    return loaded


def _read_json_lines(path: Path, problems: list[Problem]) -> list[Any]:
    text = _read_text(path, problems)
    if text is None:
        return []
    lines = text.rstrip("\r\n").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            records.append(_parse(line, path, problems, number, last=number == len(lines)))
        else:
            where = f"{path}: line {number}"
            problems.append(Problem(where, "an empty line", "a record", "remove the line"))
            records.append(_BROKEN)
    return records


def _parse(
    text: str, path: Path, problems: list[Problem], line: int | None = None, last: bool = False
) -> Any:
    """The JSON value of a file or of one `line` of it; `_BROKEN`, with a problem, for none."""
    where = f"{path}" if line is None else f"{path}: line {line}"
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        at = f"{path}: line {line or error.lineno}, column {error.colno}"
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        cut = last or at_end
        mend = "the file may have been cut off: write it again" if cut else "correct it there"
        problems.append(Problem(at, f"no valid JSON ({error.msg})", "JSON", mend))
    except RecursionError:
        problems.append(too_deep(where))
    except ValueError:  # int() refuses more than 4,300 digits
        found = "a whole number of thousands of digits"
        problems.append(Problem(where, found, "a number", "write it in quotes"))
    return _BROKEN
