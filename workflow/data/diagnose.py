"""What is wrong with a file that is no data, in the words of whoever wrote it."""

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path

from workflow.core.errors import Problem
from workflow.data.file_kinds import kind_of
from workflow.data.schema import Schema, decoder, name_type, too_deep
from workflow.data.split_names import HOLD_OUT

_OF_PYTHON = re.compile(r"'|[ubr]+'|(None|True|False|nan|inf|array|set|datetime)\b|\(")
_NAMED = re.compile(r"[A-Za-z_]\w*\s*:")
_QUOTES = "“”„‟«»‘’‚‹›`"
_BY_PYTHON = "single quotes or words of Python, as repr() and str() write them"
_GOES_ON = "a record that goes on at the next line"

Explained = tuple[str, str]
"""What was found, and a hint."""


def unfit_file(path: Path) -> Problem | None:
    """Why a file cannot hold JSON, as far as its beginning tells."""
    try:
        path.open("rb").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Problem(str(path), reason, "a readable file", "mend the file")
    kind = kind_of(path)
    return kind and Problem(str(path), kind[0], "JSON or JSON Lines in UTF-8", kind[1])


def empty_file(path: Path) -> Problem:
    return Problem(str(path), "an empty file", "records", "write the data into it")


def unfit_json(path: Path, splits: Sequence[str], schema: Schema) -> Problem | None:
    """Why a file is no JSON object, found with the whole of it in memory; None where it is one."""
    content = path.read_bytes()
    if not content.strip():
        return empty_file(path)
    try:
        data = decoder.decode(content.removeprefix(codecs.BOM_UTF8).decode())
    except (RecursionError, ValueError) as error:
        return unfit_text(error, path)
    if isinstance(data, dict):
        return None
    expected = f'{{"train": [{schema.example}, …], "eval": […]}}'
    under = " and ".join(f'"{split}"' for split in splits)
    hint = f"put the list under {under}" if isinstance(data, list) else "rewrite it"
    return Problem(str(path), f"{name_type(data)} at the top", expected, hint)


def changed_meanwhile(path: Path) -> Problem:
    """For a file that is not what it was a moment ago."""
    found, expected = "data that change while they are read", "files that nobody writes to"
    return Problem(str(path), found, expected, "start again")


def no_second_split(path: Path) -> Problem:
    """For JSON Lines alone, where a job wants several splits."""
    found = "JSON Lines, which are records of one kind"
    hint = f"add {HOLD_OUT}; or make a folder of it: train.jsonl, and eval.jsonl beside it"
    return Problem(str(path), found, "records to train on and records to evaluate", hint)


def no_lines_of(split: str, splits: Sequence[str], beside: Path, schema: Schema) -> Problem:
    """For a split without a file, where another, or the same by another name, is `beside`."""
    hint = "add the file"
    if beside.name == "train.jsonl":
        otherwise = HOLD_OUT if "train" in splits else "rename train.jsonl to eval.jsonl"
        hint = f"{hint}, or {otherwise}"
    expected = f"{schema.example} on each line of {split}.jsonl"
    return Problem(str(beside.parent), f"no {split}.jsonl", expected, hint)


def one_list(path: Path, key: str | None) -> Problem:
    """For JSON Lines that are one list.

    Args:
        key: under which it could stand in a JSON file instead, if it could.
    """
    hint = "write each record on a line of its own, without brackets around them"
    instead = f', or name it {path.stem}.json and put the list under "{key}"' if key else ""
    found = "one JSON list, not JSON Lines"
    return Problem(str(path), found, "a record on each line", hint + instead)


def old_line_ends(path: Path) -> Problem:
    hint = f"write it with LF: tr '\\r' '\\n' < {path.name} > NEW"
    found = "lines that end in CR alone"
    return Problem(str(path), found, "lines that end in LF, or CR and LF", hint)


def unfit_text(
    error: RecursionError | ValueError, path: Path, line: int | None = None, last: bool = True
) -> Problem:
    """Why text could not be decoded as JSON.

    Args:
        line: of JSON Lines, from 1 on; None: the text is that of the whole file.
        last: whether nothing stands behind the text.
    """
    where = str(path) if line is None else f"{path}: line {line}"
    first = line or 1
    if isinstance(error, UnicodeDecodeError):
        first += error.object.count(b"\n", 0, error.start)
        found = f"byte 0x{error.object[error.start]:02x}, which is not UTF-8"
        is_cut = last and error.reason == "unexpected end of data"
        hint = "the file may have been cut off: write it again" if is_cut else "save it as UTF-8"
        return Problem(f"{path}: line {first}", found, "a file in UTF-8", hint)
    if isinstance(error, json.JSONDecodeError):
        found, hint = _explain(error, in_lines=line is not None, last=last)
        place = f"{path}: line {first + error.lineno - 1}, column {error.colno}"
        return Problem(place, found, "JSON", hint)
    if isinstance(error, RecursionError):
        return too_deep(where)
    found = "a whole number of thousands of digits"  # int() refuses more than 4,300
    return Problem(where, found, "a number", "write it in quotes")


def _explain(error: json.JSONDecodeError, in_lines: bool, last: bool) -> Explained:
    """What an error in a JSON file, or in a line of JSON Lines, comes from."""
    text = error.doc
    rest, before = text[error.pos :], text[: error.pos].rstrip()
    at_end = not rest.strip()
    if at_end or (error.msg.startswith("Unterminated") and not text.rstrip().endswith(("}", "]"))):
        if last:
            return _plain(error, "the file may have been cut off: write it again")
        if in_lines:
            return _GOES_ON, "write each record on a line of its own, line breaks in texts as \\n"
    return (
        _strange_character(rest)
        or _trailing_comma(rest, before)
        or _in_text(rest, error.msg)
        or _several_values(rest, error.msg, in_lines)
        or _plain(error, "correct it there")
    )


def _plain(error: json.JSONDecodeError, mend: str) -> Explained:
    return f"no valid JSON ({error.msg})", mend


def _strange_character(rest: str) -> Explained | None:
    first = rest[:1]
    if first == "\ufeff":
        return "a byte order mark (U+FEFF), as where files were joined", "remove the mark"
    if first and first in _QUOTES:
        return f"the quotation mark {first} (U+{ord(first):04X})", 'write " instead'
    if rest.startswith(("//", "/*", "#")):
        return "a comment", "remove it: JSON has none"
    if rest.startswith(("undefined", "function")):
        return "JavaScript", "write it by JSON.stringify"
    if _OF_PYTHON.match(rest):
        return _BY_PYTHON, "write it by json.dumps"
    if _NAMED.match(rest):
        return "a key without quotes", 'write it in quotes, as "prompt"'
    return None


def _trailing_comma(rest: str, before: str) -> Explained | None:
    behind = rest[1:].lstrip() if rest.startswith(",") else rest
    comma = rest.startswith(",") or before.endswith(",")
    if comma and behind.startswith(("}", "]")):
        return "a comma before the closing bracket", "remove the comma"
    return None


def _in_text(rest: str, message: str) -> Explained | None:
    if message.startswith("Invalid control character"):
        written = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(rest[:1], f"\\u{ord(rest[0]):04x}")
        what = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}
        return f"{what.get(rest[:1], 'a control character')} in a text", f"write it as {written}"
    if message.startswith("Invalid \\"):
        return "a backslash in a text", "write it as \\\\"
    return None


def _several_values(rest: str, message: str, in_lines: bool) -> Explained | None:
    if not message.startswith("Extra data") or not rest.startswith(("{", "[")):
        return None
    if in_lines:
        return "another record on the same line", "write each record on a line of its own"
    return (
        "several JSON values one after the other",
        "write each record on a line of its own, in train.jsonl and eval.jsonl",
    )
