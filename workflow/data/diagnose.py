"""Diagnose data files that cannot be read: what the file is, or which mistake was made."""

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path

from workflow.core.errors import Problem
from workflow.data.file_kinds import kind_of
from workflow.data.records import decoder, name_type
from workflow.data.schema import too_deep
from workflow.data.shapes.base import Shape
from workflow.data.split_names import HOLD_OUT, TEXT_SUFFIX

_BY_PYTHON = "Python syntax, e.g. single quotes or None"
_PYTHON = r"'|[ubr]+'|(None|True|False|nan|inf|array|set|datetime)\b|\("
_CAUSES = (
    ("\ufeff", "a byte order mark (U+FEFF) within the file", "remove it"),
    ("[“”„‟«»‘’‚‹›`]", "the quotation mark {mark} (U+{code:04X})", 'use " instead'),
    (r"//|/\*|#", "a comment", "remove it"),
    ("undefined|function", "JavaScript syntax", "write the file with JSON.stringify"),
    (_PYTHON, _BY_PYTHON, "write the file with json.dumps"),
    (r"[A-Za-z_]\w*\s*:", "an unquoted key", 'quote it, e.g. "prompt"'),
    (r",\s*[]}]", "a trailing comma", "remove it"),
)
"""The start of invalid JSON as a pattern, its name, and a hint."""
_TRUNCATED = "write the file again; it may be truncated"
_ONE_PER_LINE = "write one record per line"


def unfit_file(path: Path) -> Problem | None:
    """The problem of a file that cannot be JSON, judged by its first bytes."""
    try:
        path.open("rb").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Problem(str(path), reason, "a readable file", "check the path and its permissions")
    kind = kind_of(path)
    expected = "text" if path.suffix == TEXT_SUFFIX else "JSON or JSON Lines"
    return kind and Problem(str(path), kind[0], f"{expected} in UTF-8", kind[1])


def empty_file(path: Path) -> Problem:
    return Problem(str(path), "an empty file", "records", "add records")


def unfit_json(path: Path, splits: Sequence[str], shape: Shape) -> Problem | None:
    """The problem of a file that is not a JSON object, or None; reads all of it into memory."""
    content = path.read_bytes()
    if not content.strip():
        return empty_file(path)
    try:
        data = decoder.decode(content.removeprefix(codecs.BOM_UTF8).decode())
    except (RecursionError, ValueError) as error:
        return unfit_text(error, path)
    if isinstance(data, dict):
        return None
    expected = f'{{"train": [{shape.example}, …], "eval": […]}}'
    under = " and ".join(f'"{split}"' for split in splits)
    keys = f"key{'s' * (len(splits) > 1)} {under}"
    hint = f"move the list to the {keys}" if isinstance(data, list) else "write an object"
    return Problem(str(path), f"{name_type(data)} at the top level", expected, hint)


def changed_meanwhile(path: Path) -> Problem:
    """The problem of a file that was changed while it was read."""
    expected = "a file that no process writes to"
    return Problem(str(path), "changed while it was read", expected, "rerun the command")


def no_second_split(path: Path) -> Problem:
    """The problem of a single file of JSON Lines or text if a job needs several splits."""
    is_text = path.suffix == TEXT_SUFFIX
    suffix, kind = (TEXT_SUFFIX, "text") if is_text else (".jsonl", "JSON Lines")
    hint = f"add {HOLD_OUT}, or use a folder with train{suffix} and eval{suffix}"
    return Problem(str(path), f"a single {kind} file", "train and eval records", hint)


def no_lines_of(split: str, splits: Sequence[str], beside: Path, shape: Shape) -> Problem:
    """The problem of a missing split file; `beside` is another file of the same data set."""
    hint, suffix = "add the file", beside.suffix
    if beside.stem == "train":
        otherwise = HOLD_OUT if "train" in splits else f"rename {beside.name} to eval{suffix}"
        hint = f"{hint}, or {otherwise}"
    content = "documents" if suffix == TEXT_SUFFIX else f"{shape.example} per line"
    expected = f"{split}{suffix} with {content}"
    return Problem(str(beside.parent), f"no {split}{suffix}", expected, hint)


def one_list(path: Path, key: str | None) -> Problem:
    """The problem of a JSON Lines file that is one JSON list.

    Args:
        key: for the list in a JSON file; None if the data cannot be a JSON file.
    """
    instead = f', or rename it {path.stem}.json and move the list to the key "{key}"' if key else ""
    return Problem(str(path), "a JSON list", "one record per line", _ONE_PER_LINE + instead)


def old_line_ends(path: Path) -> Problem:
    hint = f"convert it: tr '\\r' '\\n' < {path.name} > NEW"
    return Problem(str(path), "CR line endings", "LF or CRLF line endings", hint)


def unfit_text(
    error: RecursionError | ValueError, path: Path, line: int | None = None, last: bool = True
) -> Problem:
    """The problem of text that could not be decoded as JSON.

    Args:
        line: number of the line in JSON Lines, from 1 on; None if the text is the complete file.
        last: whether the text is at the end of the file.
    """
    where = str(path) if line is None else f"{path}: line {line}"
    first = line or 1
    if isinstance(error, UnicodeDecodeError):
        first += error.object.count(b"\n", 0, error.start)
        found = f"the byte 0x{error.object[error.start]:02x}"
        is_cut = last and error.reason == "unexpected end of data"
        hint = _TRUNCATED if is_cut else "save the file as UTF-8"
        return Problem(f"{path}: line {first}", found, "UTF-8", hint)
    if isinstance(error, json.JSONDecodeError):
        found, hint = _explain(error, in_lines=line is not None, last=last)
        place = f"{path}: line {first + error.lineno - 1}, column {error.colno}"
        return Problem(place, found, "valid JSON", hint)
    if isinstance(error, RecursionError):
        return too_deep(where)
    found = "an integer with more than 4,300 digits"  # the limit of int()
    return Problem(where, found, "a shorter number", "quote it")


def _explain(error: json.JSONDecodeError, in_lines: bool, last: bool) -> tuple[str, str]:
    """The cause of a decoding error in a JSON file or in a line of JSON Lines, and a hint."""
    text, rest = error.doc, error.doc[error.pos :]
    invalid = f"invalid JSON: {error.msg}"
    is_cut = error.msg.startswith("Unterminated") and not text.rstrip().endswith(("}", "]"))
    if (is_cut or not rest.strip()) and last:
        return invalid, _TRUNCATED
    if (is_cut or not rest.strip()) and in_lines:
        return "a record on several lines", f"{_ONE_PER_LINE}, with line breaks in texts as \\n"
    if text[: error.pos].rstrip().endswith(",") and rest.startswith(("}", "]")):
        rest = "," + rest  # the decoder skips the comma in an object
    for pattern, found, hint in _CAUSES:
        if re.match(pattern, rest):
            return found.format(mark=rest[0], code=ord(rest[0])), hint
    if error.msg.startswith("Invalid control character"):
        written = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(rest[0], f"\\u{ord(rest[0]):04x}")
        what = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}
        return f"{what.get(rest[0], 'a control character')} in a string", f"write it as {written}"
    if error.msg.startswith("Invalid \\"):
        return "a backslash in a string", "write it as \\\\"
    if error.msg.startswith("Extra data") and rest.startswith(("{", "[")):
        if in_lines:
            return "several records on one line", _ONE_PER_LINE
        return "several JSON values", f"{_ONE_PER_LINE}, in train.jsonl and eval.jsonl"
    return invalid, "correct it"
