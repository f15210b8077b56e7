"""Data files to checked records, read as a stream: none is held longer than its reader wants it."""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from workflow.console import progress_bar
from workflow.errors import BadInput, Problem, shorten
from workflow.file_problems import find_problems, place_of
from workflow.records import Record, Schema, check_record, decoder

WINDOW = 1 << 20
"""Bytes of a JSON file read at once."""

Advance = Callable[[int], object]
"""Told how many more bytes have been read."""
Value = tuple[str, int, Any]
"""A split, an index in it, and what stands there."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class _NotWellFormed(Exception):
    """A file that a stream cannot make sense of."""


def read_records(
    files: Mapping[str, Path],
    splits: Sequence[str],
    schema: Schema,
    answers_needed: bool,
    label: str,
) -> Iterator[tuple[str, Record]]:
    """The records of `splits`, each with its split, in the order in which they stand in the files.

    Nothing follows the first problem but the others, at the end. Only what is well-formed is read
    as a stream; of any other file `find_problems` can say more.

    Args:
        files: {"": one JSON file of all splits}, or one JSON Lines file a split.
        answers_needed: False where a record may lack its answer.
        label: what the bar says is being done.

    Raises:
        BadInput: with all problems of all splits.
    """
    problems: dict[str, list[Problem]] = {split: [] for split in splits}
    well_formed = True
    try:
        paths = {files.get(split) or files.get("") for split in splits}
        size = sum(path.stat().st_size for path in paths if path)
        with progress_bar(size, label, unit="B") as bar:
            for split, index, record in _read_values(files, splits, bar.update):
                place = place_of(files, split, index)
                check_record(record, place, schema, answers_needed, problems[split])
                if not any(problems.values()):
                    yield split, record
    except (_NotWellFormed, OSError, RecursionError, ValueError):
        well_formed = False
    if not well_formed:  # here the stream and its window are gone
        found = find_problems(files, splits, schema, answers_needed)
        raise BadInput(found or [changed_meanwhile(files)])
    if any(problems.values()):
        raise BadInput([problem for split in splits for problem in problems[split]])


def read_list(path: Path) -> Iterator[Any]:
    """The items of a file that holds one JSON list, one at a time.

    Raises:
        BadInput: where the file is none that can be read; items before that have been given.
    """
    try:
        with open(path, "rb") as file:
            window = _Window(file, lambda size: None)
            yield from _read_list(window)
            if window.peek():
                raise _NotWellFormed
    except (_NotWellFormed, OSError, RecursionError, ValueError) as error:
        found = "no whole JSON list" if isinstance(error, _NotWellFormed) else shorten(str(error))
        mend = "get it back from a copy, or make it again"
        raise BadInput([Problem(str(path), found, "a file as it was written", mend)]) from None


def changed_meanwhile(files: Mapping[str, Path]) -> Problem:
    """For files that are not what they were a moment ago."""
    found, expected = "data that change while they are read", "files that nobody writes to"
    return Problem(str(next(iter(files.values()))), found, expected, "start again")


def _read_values(
    files: Mapping[str, Path], splits: Sequence[str], advance: Advance
) -> Iterator[Value]:
    if "" in files:
        yield from _read_json(files[""], splits, advance)
    elif not set(splits) <= files.keys():
        raise _NotWellFormed
    else:
        for split in splits:
            yield from _read_json_lines(files[split], split, advance)


def _read_json_lines(path: Path, split: str, advance: Advance) -> Iterator[Value]:
    index, ended = 0, False
    with open(path, "rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        for line in file:
            advance(len(line))
            if not line.strip(b"\r\n"):
                ended = True  # nothing but such lines may follow
            elif ended:
                raise _NotWellFormed
            else:
                yield split, index, decoder.decode(line.decode())
                index += 1
    if index == 0:
        raise _NotWellFormed


def _read_json(path: Path, splits: Sequence[str], advance: Advance) -> Iterator[Value]:
    """The records of an object of lists, which may hold anything under other keys."""
    counts: dict[str, int] = {}
    with open(path, "rb") as file:
        window = _Window(file, advance)
        window.expect("{")
        while not counts or window.expect(",}") == ",":
            key = window.next_value(followed_by=":")
            window.expect(":")
            if not isinstance(key, str) or key in counts:
                raise _NotWellFormed
            counts[key] = 0
            if window.peek() == "[":
                for value in _read_list(window):
                    if key in splits:
                        yield key, counts[key], value
                    counts[key] += 1
            else:
                window.next_value(followed_by=",}")
        if window.peek():
            raise _NotWellFormed
    if not all(counts.get(split) for split in splits):
        raise _NotWellFormed


def _read_list(window: "_Window") -> Iterator[Any]:
    window.expect("[")
    if window.peek() == "]":
        window.expect("]")
        return
    yield window.next_value(followed_by=",]")
    while window.expect(",]") == ",":
        yield window.next_value(followed_by=",]")


class _Window:
    """A part of a JSON file's text, which moves on as values are taken from it."""

    def __init__(self, file: BinaryIO, advance: Advance):
        self._file, self._advance = file, advance
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no blank; none at the end of the file."""
        while True:
            self._at = _skip_blanks(self._text, self._at)
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def expect(self, marks: str) -> str:
        """Take the next character, which must be one of `marks`."""
        mark = self.peek()
        if not mark or mark not in marks:
            raise _NotWellFormed
        self._at += 1
        return mark

    def next_value(self, followed_by: str) -> Any:
        """Take the next value, however long.

        It is whole where one of the marks `followed_by` stands behind it: at the window's end
        12 may be the beginning of 123, and 1.5 that of 1.5e3.
        """
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
                behind = _skip_blanks(self._text, end)
                if behind < len(self._text) and self._text[behind] in followed_by:
                    self._at = behind
                    return value
            except json.JSONDecodeError:
                pass  # cut off at the window's end, or no JSON
            if not self._read_more():
                raise _NotWellFormed

    def _read_more(self) -> bool:
        """Drop what has been taken and read on, as much again as is left; False at the end."""
        self._text = self._text[self._at :]
        self._at = 0
        content = self._file.read(max(WINDOW, len(self._text)))
        self._advance(len(content))
        self._text += self._decode(content, final=not content)
        return bool(content)


def _skip_blanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    assert blanks is not None  # it matches nothing too
    return blanks.end()
