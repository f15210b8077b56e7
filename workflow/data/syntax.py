"""What is wrong where text is no JSON, in the words of whoever wrote it."""

import json
import re

OF_PYTHON = re.compile(r"'|[ubr]+'|(None|True|False|nan|inf|array|set|datetime)\b|\(")
_NAMED = re.compile(r"[A-Za-z_]\w*\s*:")
_QUOTES = "“”„‟«»‘’‚‹›`"
BY_PYTHON = "single quotes or words of Python, as repr() and str() write them"
GOES_ON = "a record that goes on at the next line"

Told = tuple[str, str]
"""What was found, and how to mend it."""


def explain(text: str, error: json.JSONDecodeError, in_lines: bool, last: bool) -> Told:
    """What an error in a JSON file, or in a line of JSON Lines, comes from.

    Args:
        in_lines: whether the text is a line of several.
        last: whether nothing stands behind the text.
    """
    rest, before = text[error.pos :], text[: error.pos].rstrip()
    at_end = not rest.strip()
    if at_end or (error.msg.startswith("Unterminated") and not text.rstrip().endswith(("}", "]"))):
        if last:
            return _plain(error, "the file may have been cut off: write it again")
        if in_lines:
            return GOES_ON, "write each record on a line of its own, line breaks in texts as \\n"
    return (
        _strange_character(rest)
        or _trailing_comma(rest, before)
        or _in_text(rest, error.msg)
        or _several_values(rest, error.msg, in_lines)
        or _plain(error, "correct it there")
    )


def _plain(error: json.JSONDecodeError, mend: str) -> Told:
    return f"no valid JSON ({error.msg})", mend


def _strange_character(rest: str) -> Told | None:
    first = rest[:1]
    if first == "\ufeff":
        return "a byte order mark (U+FEFF), as where files were joined", "remove the mark"
    if first and first in _QUOTES:
        return f"the quotation mark {first} (U+{ord(first):04X})", 'write " instead'
    if rest.startswith(("//", "/*", "#")):
        return "a comment", "remove it: JSON has none"
    if rest.startswith(("undefined", "function")):
        return "JavaScript", "write it by JSON.stringify"
    if OF_PYTHON.match(rest):
        return BY_PYTHON, "write it by json.dumps"
    if _NAMED.match(rest):
        return "a key without quotes", 'write it in quotes, as "prompt"'
    return None


def _trailing_comma(rest: str, before: str) -> Told | None:
    behind = rest[1:].lstrip() if rest.startswith(",") else rest
    comma = rest.startswith(",") or before.endswith(",")
    if comma and behind.startswith(("}", "]")):
        return "a comma before the closing bracket", "remove the comma"
    return None


def _in_text(rest: str, message: str) -> Told | None:
    if message.startswith("Invalid control character"):
        written = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(rest[:1], f"\\u{ord(rest[0]):04x}")
        what = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}
        return f"{what.get(rest[:1], 'a control character')} in a text", f"write it as {written}"
    if message.startswith("Invalid \\"):
        return "a backslash in a text", "write it as \\\\"
    return None


def _several_values(rest: str, message: str, in_lines: bool) -> Told | None:
    if not message.startswith("Extra data") or not rest.startswith(("{", "[")):
        return None
    if in_lines:
        return "another record on the same line", "write each record on a line of its own"
    return (
        "several JSON values one after the other",
        "write each record on a line of its own, in train.jsonl and eval.jsonl",
    )
