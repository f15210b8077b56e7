"""Data files to records, with every problem told by its place in the file."""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.errors import BadInput, Problem, shorten

Record = dict[str, Any]
DEEPEST = 100
Where = Callable[[int], str]
"""The words for where record i stands."""


@dataclass(frozen=True)
class Schema:
    """What a task wants in a record: a text to read and an answer to give.

    `check_answer` returns (found, expected, mend) for an answer that will not do, else None; an
    empty `found` stands for the name of its type. An answer is a text or, where there is an
    `answer_range` (least, greatest), a number in it. A `template` may stand around the text.
    """

    source_key: str
    answer_key: str
    check_answer: Callable[[object], tuple[str, str, str] | None]
    answer_range: tuple[float, float] | None = None
    template: str = "{input}"

    def read(self, record: Record) -> str:
        """What the model is given to read of a record."""
        return self.template.replace("{input}", record[self.source_key])

    @property
    def example(self) -> str:
        return f'{{"{self.source_key}": …, "{self.answer_key}": …}}'


def load_records(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, answers_needed: bool
) -> dict[str, list[Record]]:
    """Read and check the records of `splits`.

    Args:
        files: {"": one JSON file of all splits}, or one JSON Lines file a split.
        answers_needed: False where a record may lack its answer.

    Raises:
        BadInput: with all problems of all splits.
    """
    problems: list[Problem] = []
    loaded: dict[str, list[Record]] = {}
    for split, (records, place) in _read_splits(files, splits, schema, problems).items():
        for index, record in enumerate(records):
            if record is not _BROKEN:
                _check_record(record, place(index), schema, answers_needed, problems)
        loaded[split] = records
    if problems:
        raise BadInput(problems)
    return loaded


def _read_splits(
    files: Mapping[str, Path], splits: Sequence[str], schema: Schema, problems: list[Problem]
) -> dict[str, tuple[list[Any], Where]]:
    if "" in files:
        path = files[""]
        in_file = _read_json(path, splits, schema, problems)
        return {split: (records, _place(path, split)) for split, records in in_file.items()}
    found = {}
    for split in splits:
        if split in files:
            records = _read_json_lines(files[split], problems)
            found[split] = (records, _place(files[split], split, lines=True))
        else:
            folder = next(iter(files.values())).parent
            expected = f"{schema.example} on each line of {split}.jsonl"
            problems.append(Problem(str(folder), f"no {split}.jsonl", expected, "add the file"))
    return found


def _place(path: Path, split: str, lines: bool = False) -> Where:
    def place(index: int) -> str:
        line = f"line {index + 1}: " if lines else ""
        return f"{path}: {line}{split}[{index}]"

    return place


# --- files ---------------------------------------------------------------------------------------


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
                f"{_name_type(data)} at the top",
                expected,
                'put the list under "train" and "eval"' if isinstance(data, list) else "rewrite it",
            )
        )
        return {}
    problems += [_repeated_keys(str(path), data)] if isinstance(data, _RepeatedKeys) else []
    loaded = {}
    for split in splits:
        if split not in data:
            problems.append(_missing_key(str(path), split, data, f"a list of {schema.example}"))
        elif not isinstance(data[split], list):
            found = _name_type(data[split])
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


# --- JSON ----------------------------------------------------------------------------------------

_BROKEN: Any = object()
"""Stands for what could not be parsed and is told already."""


class _RepeatedKeys(dict[str, Any]):
    """An object in which a key stands more than once; `repeated` names those keys."""

    repeated: list[str]


class _NotFinite:
    """A NaN or an infinity."""

    def __init__(self, text: str):
        self.text = text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    keys = [key for key, _ in pairs]
    marked = _RepeatedKeys(made)
    marked.repeated = sorted({key for key in keys if keys.count(key) > 1})
    return marked


def _float(text: str) -> float | _NotFinite:
    value = float(text)
    return value if math.isfinite(value) else _NotFinite(text)


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_NotFinite
)


def _parse(
    text: str, path: Path, problems: list[Problem], line: int | None = None, last: bool = False
) -> Any:
    """The JSON value of a file or of one `line` of it; `_BROKEN`, with a problem, for none."""
    where = f"{path}" if line is None else f"{path}: line {line}"
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        at = f"{path}: line {line or error.lineno}, column {error.colno}"
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        cut = last or at_end
        mend = "the file may have been cut off: write it again" if cut else "correct it there"
        problems.append(Problem(at, f"no valid JSON ({error.msg})", "JSON", mend))
    except RecursionError:
        problems.append(_too_deep(where))
    except ValueError:  # int() refuses more than 4,300 digits
        found = "a whole number of thousands of digits"
        problems.append(Problem(where, found, "a number", "write it in quotes"))
    return _BROKEN


def _name_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    if isinstance(value, _NotFinite):
        return value.text
    return names.get(type(value), f"the number {shorten(value)}")


# --- records -------------------------------------------------------------------------------------


def _check_record(
    record: object, place: str, schema: Schema, answers_needed: bool, problems: list[Problem]
) -> None:
    if not isinstance(record, dict):
        problems.append(
            Problem(place, _name_type(record), schema.example, "make the record an object")
        )
        return
    if isinstance(record, _RepeatedKeys):
        problems.append(_repeated_keys(place, record))
    if schema.source_key not in record:
        problems.append(_missing_key(place, schema.source_key, record, "a text"))
    elif not isinstance(record[schema.source_key], str):
        found = _name_type(record[schema.source_key])
        where = f"{place}.{schema.source_key}"
        problems.append(Problem(where, found, "a text", "write it in quotes"))
    told = False
    if schema.answer_key in record:
        wrong = schema.check_answer(record[schema.answer_key])
        if wrong is not None:
            found, expected, mend = wrong
            found = found or _name_type(record[schema.answer_key])
            problems.append(Problem(f"{place}.{schema.answer_key}", found, expected, mend))
            told = True
    elif answers_needed or _near_key(schema.answer_key, record):
        problems.append(_missing_key(place, schema.answer_key, record, "an answer to learn"))
    others = {key: value for key, value in record.items() if key != schema.answer_key}
    _check_values(place, others if told else record, problems, depth=0)


def _check_values(
    place: str, record: Mapping[str, Any], problems: list[Problem], depth: int
) -> None:
    for key, value in record.items():
        if not key.isascii():
            _check_value(f"{place}: key {shorten(key)}", key, problems, depth)
        _check_value(f"{place}.{shorten(key)[1:-1]}", value, problems, depth)


def _check_value(place: str, value: object, problems: list[Problem], depth: int) -> None:
    """What a value may not hold anywhere, so that it can be tokenized and written back."""
    if depth > DEEPEST:
        problems.append(_too_deep(place.split("[0][0]")[0]))
    elif isinstance(value, str):
        if "\0" in value:
            problems.append(Problem(place, "a NUL byte", "text", "remove the byte"))
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                found = f"the lone surrogate \\u{ord(value[error.start]):04x}"
                problems.append(Problem(place, found, "valid Unicode", "write the text again"))
    elif isinstance(value, _NotFinite):
        problems.append(Problem(place, value.text, "a finite number", "use null or leave it out"))
    elif isinstance(value, dict):
        if isinstance(value, _RepeatedKeys):
            problems.append(_repeated_keys(place, value))
        _check_values(place, value, problems, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(f"{place}[{index}]", inner, problems, depth + 1)


def _too_deep(place: str) -> Problem:
    return Problem(place, "brackets nested too deeply", "flat records", "remove the nesting")


def _repeated_keys(place: str, value: _RepeatedKeys) -> Problem:
    keys = ", ".join(shorten(key) for key in value.repeated)
    return Problem(place, f"the key {keys} more than once", "each key once", "keep one of them")


def _near_key(key: str, record: Mapping[str, Any]) -> str | None:
    lower = {str(found).strip().lower(): str(found) for found in record}
    near = difflib.get_close_matches(key, list(lower), n=1, cutoff=0.85)
    return lower[near[0]] if near else None


def _missing_key(place: str, key: str, record: Mapping[str, Any], meaning: str) -> Problem:
    near = _near_key(key, record)
    keys = ", ".join(shorten(found, 30) for found in list(record)[:8]) or "none"
    if near is not None:
        return Problem(place, f'the key "{near}"', f'the key "{key}"', f'rename it to "{key}"')
    return Problem(place, f'no key "{key}" (keys: {keys})', f'"{key}": {meaning}', "add it")
