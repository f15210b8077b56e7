"""Documents of a plain text file, read as a stream."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from workflow.core.errors import BadInput
from workflow.data import diagnose


def read_documents(path: Path, file: BinaryIO, separator: str | None) -> Iterator[str]:
    """The documents of a file in UTF-8, without blank lines at their ends.

    Args:
        separator: a text in one line that ends a document; None for blank lines.

    Raises:
        BadInput: the file is empty or not UTF-8.
    """
    lines: list[str] = []
    found = False
    for number, content in enumerate(file, start=1):
        try:
            line = content.removeprefix(codecs.BOM_UTF8 * (number == 1)).decode()
        except UnicodeDecodeError as error:
            last = number == 1 or not content.endswith(b"\n")
            raise BadInput([diagnose.unfit_text(error, path, number, last)]) from None
        line = line.replace("\r\n", "\n")
        *ended, rest = [line] if separator is None else line.split(separator)
        if separator is None and line.isspace():
            ended, rest = [""], ""
        for part in ended:
            if document := _document([*lines, part]):
                found = True
                yield document
            lines.clear()
        lines.append(rest)
    if document := _document(lines):
        yield document
    elif not found:
        raise BadInput([diagnose.empty_file(path)])


def _document(lines: list[str]) -> str:
    text = "".join(lines)
    return text.strip("\n") if not text.isspace() else ""
