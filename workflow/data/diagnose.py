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

_BY_PYTHON = "single quotes or words of Python, as repr() and str() write them"
_PYTHON = r"'|[ubr]+'|(None|True|False|nan|inf|array|set|datetime)\b|\("
_CAUSES = (
    ("\ufeff", "a byte order mark (U+FEFF), as where files were joined", "remove the mark"),
    ("[“”„‟«»‘’‚‹›`]", "the quotation mark {mark} (U+{code:04X})", 'write " instead'),
    (r"//|/\*|#", "a comment", "remove it: JSON has none"),
    ("undefined|function", "JavaScript", "write it by JSON.stringify"),
    (_PYTHON, _BY_PYTHON, "write it by json.dumps"),
    (r"[A-Za-z_]\w*\s*:", "a key without quotes", 'write it in quotes, as "prompt"'),
    (r",\s*[]}]", "a comma before the closing bracket", "remove the comma"),
)
"""What text that is no JSON may begin with, what that is, and a hint."""


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


def _explain(error: json.JSONDecodeError, in_lines: bool, last: bool) -> tuple[str, str]:
    """What an error in a JSON file, or in a line of JSON Lines, comes from, and a hint."""
    text, rest = error.doc, error.doc[error.pos :]
    invalid = f"no valid JSON ({error.msg})"
    is_cut = error.msg.startswith("Unterminated") and not text.rstrip().endswith(("}", "]"))
    if (is_cut or not rest.strip()) and last:
        return invalid, "the file may have been cut off: write it again"
    if (is_cut or not rest.strip()) and in_lines:
        on_one = "write each record on a line of its own, line breaks in texts as \\n"
        return "a record that goes on at the next line", on_one
    if text[: error.pos].rstrip().endswith(",") and rest.startswith(("}", "]")):
        rest = "," + rest  # the decoder passes over the comma in an object
    for pattern, found, hint in _CAUSES:
        if re.match(pattern, rest):
            return found.format(mark=rest[0], code=ord(rest[0])), hint
    if error.msg.startswith("Invalid control character"):
        written = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(rest[0], f"\\u{ord(rest[0]):04x}")
        what = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}
        return f"{what.get(rest[0], 'a control character')} in a text", f"write it as {written}"
    if error.msg.startswith("Invalid \\"):
        return "a backslash in a text", "write it as \\\\"
    if error.msg.startswith("Extra data") and rest.startswith(("{", "[")):
        if in_lines:
            return "another record on the same line", "write each record on a line of its own"
        hint = "write each record on a line of its own, in train.jsonl and eval.jsonl"
        return "several JSON values one after the other", hint
    return invalid, "correct it there"
