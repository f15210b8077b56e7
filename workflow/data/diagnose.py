"""What is wrong with data files, found with the whole of them in memory."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from workflow.core.errors import Problem, shorten
from workflow.data.file_kinds import recognize
from workflow.data.schema import (
    RepeatedKeys,
    Schema,
    check_record,
    decoder,
    missing_key,
    name_type,
    repeated_keys,
    too_deep,
)
from workflow.data.split_names import (
    LINES,
    eval_key,
    eval_names,
    file_of,
    filled,
    near_eval_names,
)
from workflow.data.syntax import explain
from workflow.data.tally import Tally

_BROKEN: Any = object()
"""Stands for what could not be parsed and is told already."""
HOLD_OUT = "--eval_fraction 0.1"
ONE_LIST = "one JSON list, not JSON Lines"


def find_problems(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, answers_needed: bool
) -> list[Problem]:
    """All problems of all splits: those of the files, then those of the records.

    For files that are not well-formed, where a syntax error is told by its line and column and a
    missing key by those that are there.
    """
    problems: list[Problem] = []
    in_files = _read_splits(files, splits, schema, problems)
    for name, records in in_files.items():
        tally = Tally(whole_of(files, name))
        for index, record in enumerate(records):
            if record is not _BROKEN:
                place = place_of(files, name, index)
                tally.add(place, check_record(record, place, schema, answers_needed))
        problems += tally.problems()
    return problems


def place_of(files: Mapping[str, Path], name: str, index: int) -> str:
    """The words for where a record stands.

    Args:
        name: of the split, as the files have it.
    """
    if "" in files:
        return f"{whole_of(files, name)}[{index}]"
    line = f"{file_of(files, name)}: line {index + 1}"
    return line if LINES in files else f"{line}: {name}[{index}]"


def whole_of(files: Mapping[str, Path], name: str) -> str:
    """The words for where all records of a split stand."""
    path = file_of(files, name)
    return str(path) if LINES in files else f"{path}: {name}"


def _read_splits(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, problems: list[Problem]
) -> dict[str, list[Any]]:
    """The records of each split, by its name in the files."""
    if "" in files:
        return _read_json(files[""], splits, schema, problems)
    if LINES in files and len(splits) > 1:
        told: list[Problem] = []
        records = _read_json_lines(files[LINES], told, splits[0])
        if not any(problem.found == ONE_LIST for problem in told):
            problems.append(_no_second_split(files[LINES]))
        problems += told
        return {splits[0]: records}
    found = {}
    for split in splits:
        path = file_of(files, split)
        if path is not None:
            key = split if LINES in files else None
            found[split] = _read_json_lines(path, problems, key)
            continue
        folder = next(iter(files.values())).parent
        expected = f"{schema.example} on each line of {split}.jsonl"
        mend = "add the file"
        if "train" in files:
            otherwise = HOLD_OUT if "train" in splits else "rename train.jsonl to eval.jsonl"
            mend = f"{mend}, or {otherwise}"
        problems.append(Problem(str(folder), f"no {split}.jsonl", expected, mend))
    return found


def _no_second_split(path: Path) -> Problem:
    found = "JSON Lines, which are records of one kind"
    mend = f"add {HOLD_OUT}; or make a folder of it: train.jsonl, and eval.jsonl beside it"
    return Problem(str(path), found, "records to train on and records to evaluate", mend)


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
    if kind := recognize(path, content):
        found, mend = kind
        problems.append(Problem(str(path), found, "JSON or JSON Lines in UTF-8", mend))
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        cut = error.end == len(content) and error.reason == "unexpected end of data"
        problems.append(
            Problem(
                f"{path}: line {line}",
                f"byte 0x{content[error.start]:02x}, which is not UTF-8",
                "a file in UTF-8",
                "the file may have been cut off: write it again" if cut else "save it as UTF-8",
            )
        )
        return None


def _read_json(
    path: Path, splits: Sequence[str], schema: Schema, problems: list[Problem]
) -> dict[str, list[Any]]:
    text = _read_text(path, problems)
    if text is None:
        return {}
    data = _parse(text, str(path), problems)
    if data is _BROKEN:
        return {}
    if not isinstance(data, dict):
        expected = f'{{"train": [{schema.example}, …], "eval": […]}}'
        under = " and ".join(f'"{split}"' for split in splits)
        mend = f"put the list under {under}" if isinstance(data, list) else "rewrite it"
        problems.append(Problem(str(path), f"{name_type(data)} at the top", expected, mend))
        return {}
    problems += [repeated_keys(str(path), data)] if isinstance(data, RepeatedKeys) else []
    loaded = {}
    for split in splits:
        name = eval_key(data) if split == "eval" else split
        misnamed = misnamed_eval(path, data) if split == "eval" else []
        holds_out = "train" in splits and isinstance(data.get("train"), list)
        if misnamed:
            problems += misnamed
        elif name not in data:
            problems.append(_missing_split(path, split, data, schema, holds_out))
        elif not isinstance(data[name], list):
            found = name_type(data[name])
            problems.append(Problem(f"{path}: {name}", found, "a list", "make it a list"))
        elif not data[name]:
            mend = "add records" + (f", or {HOLD_OUT}" if split == "eval" and holds_out else "")
            expected = "at least one record"
            problems.append(Problem(f"{path}: {name}", "an empty list", expected, mend))
        else:
            loaded[name] = data[name]
    return loaded


def misnamed_eval(path: Path, data: Mapping[str, Any]) -> list[Problem]:
    """Whether there are records to evaluate on, but not under a name that says which."""
    names = eval_names(filled(data))
    if len(names) == 1:
        return []
    names = names or near_eval_names(data)
    if len(names) == 1:
        found = f'the key "{names[0]}"'
        return [Problem(str(path), found, 'the key "eval"', 'rename it to "eval"')]
    if not names:
        return []
    no_eval = 'an empty list under "eval"' if "eval" in data else 'no key "eval"'
    found = f"{no_eval}, and the keys {' and '.join(map(shorten, names))}"
    mend = 'rename one of them to "eval"'
    return [Problem(str(path), found, "one of them to evaluate on", mend)]


def _missing_split(
    path: Path, split: str, data: Mapping[str, Any], schema: Schema, holds_out: bool
) -> Problem:
    missing = missing_key(str(path), split, data, f"a list of {schema.example}")
    if split != "eval" or missing.mend != "add it" or not isinstance(data.get("train"), list):
        return missing
    mend = 'put the records under "eval", or rename the key "train" to "eval"'
    return replace(missing, mend=f"add it, or {HOLD_OUT}" if holds_out else mend)


def _read_json_lines(path: Path, problems: list[Problem], key: str | None) -> list[Any]:
    """The records of a file.

    Args:
        key: under which they could stand in a JSON file instead, if they could.
    """
    text = _read_text(path, problems)
    if text is None:
        return []
    text = text.rstrip("\r\n")
    if "\n" not in text and "\r" in text:
        mend = f"write it with LF: tr '\\r' '\\n' < {path.name} > NEW"
        found = "lines that end in CR alone"
        problems.append(Problem(str(path), found, "lines that end in LF, or CR and LF", mend))
        return []
    if _is_list(text):
        mend = "write each record on a line of its own, without brackets around them"
        instead = f', or name it {path.stem}.json and put the list under "{key}"' if key else ""
        problems.append(Problem(str(path), ONE_LIST, "a record on each line", mend + instead))
        return []
    lines = text.split("\n")
    records, tally = [], Tally(str(path))
    for number, line in enumerate(lines, start=1):
        told: list[Problem] = []
        where = f"{path}: line {number}"
        if line.strip():
            records.append(_parse(line, where, told, in_lines=True, last=number == len(lines)))
        else:
            told.append(Problem(where, "an empty line", "a record", "remove the line"))
            records.append(_BROKEN)
        tally.add(where, told)
    problems += tally.problems()
    return records


def _is_list(text: str) -> bool:
    """Whether a text is one JSON list, on however many lines."""
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return isinstance(decoder.decode(text), list)
    return False


def _parse(
    text: str, where: str, problems: list[Problem], in_lines: bool = False, last: bool = True
) -> Any:
    """The JSON value of a file, or of a line of it; `_BROKEN`, with a problem, for none."""
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        found, mend = explain(text, error, in_lines, last)
        line = "" if in_lines else f": line {error.lineno}"
        at = f"{where}{line}, column {error.colno}"
        problems.append(Problem(at, found, "JSON", mend))
    except RecursionError:
        problems.append(too_deep(where))
    except ValueError:  # int() refuses more than 4,300 digits
        found = "a whole number of thousands of digits"
        problems.append(Problem(where, found, "a number", "write it in quotes"))
    return _BROKEN
