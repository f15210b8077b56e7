"""Data files to checked records, read as a stream: none is held longer than its reader wants it."""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from workflow.core.console import progress_bar
from workflow.core.errors import BadInput, Problem, shorten
from workflow.data.diagnose import find_problems, misnamed_eval, place_of, whole_of
from workflow.data.schema import Record, Schema, check_record, decoder
from workflow.data.split_names import LINES, OTHER_NAMES, eval_key, eval_names, file_of, filled
from workflow.data.tally import Tally

WINDOW = 1 << 20
"""Bytes of a JSON file read at once."""

LONGEST_NAME = 16
"""Bytes of a split's name in quotes, at most."""

Advance = Callable[[int], object]
"""Told how many more bytes have been read."""
Value = tuple[str, int, Any]
"""A split, an index in it, and what stands there."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class _NotWellFormed(ValueError):
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
        files: {"": one JSON file of all splits}, {LINES: one JSON Lines file of a single one}, or
            one JSON Lines file a split.
        answers_needed: False where a record may lack its answer.
        label: what the bar says is being done.

    Raises:
        BadInput: with all problems of all splits.
    """
    tallies: dict[str, Tally] = {}
    only_blanks, well_formed = "train" in splits, True
    try:
        names = names_of(files, splits)
        tallies = {split: Tally(whole_of(files, name)) for split, name in names.items()}
        paths = {file_of(files, split) for split in splits}
        size = sum(path.stat().st_size for path in paths if path)
        with progress_bar(size, label, unit="B") as bar:
            for split, index, record in _read_values(files, names, bar.update):
                place = place_of(files, names[split], index)
                tallies[split].add(place, check_record(record, place, schema, answers_needed))
                only_blanks &= split != "train" or schema.is_blank(record)
                if not any(tallies.values()):
                    yield split, record
    except (OSError, RecursionError, ValueError):
        well_formed = False
    if not well_formed:  # here the stream and its window are gone
        problems = find_problems(files, splits, schema, answers_needed)
        raise BadInput(problems or [changed_meanwhile(files)])
    problems = [one for tally in tallies.values() for one in tally.problems()]
    if only_blanks:
        whole, expected = whole_of(files, "train"), f"a {schema.answer_key} to learn in some record"
        none = f"an empty {schema.answer_key} in every record"
        problems.append(Problem(whole, none, expected, "write what the model should answer"))
    if problems:
        raise BadInput(problems)


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
    except (OSError, RecursionError, ValueError) as error:
        found = "no whole JSON list" if isinstance(error, _NotWellFormed) else shorten(str(error))
        mend = "get it back from a copy, or make it again"
        raise BadInput([Problem(str(path), found, "a file as it was written", mend)]) from None


def changed_meanwhile(files: Mapping[str, Path]) -> Problem:
    """For files that are not what they were a moment ago."""
    found, expected = "data that change while they are read", "files that nobody writes to"
    return Problem(str(next(iter(files.values()))), found, expected, "start again")


def names_of(files: Mapping[str, Path], splits: Sequence[str]) -> dict[str, str]:
    """The key of each split in a JSON file of all; elsewhere, the split itself.

    Raises:
        ValueError, OSError, RecursionError: where the file is not well-formed.
    """
    names = {split: split for split in splits}
    if "" in files and "eval" in splits and _may_rename_eval(files[""]):
        names["eval"] = eval_key(_outline(files[""]))
    return names


def problems_of_holding_out(files: Mapping[str, Path], fraction: float) -> list[Problem]:
    """Whether there are eval records, of which none is to be made of train then."""
    names, misnamed = [files["eval"].name] if "eval" in files else [], []
    if "" in files:
        with suppress(OSError, RecursionError, ValueError):  # which is told when it is read
            data = _outline(files[""])
            names, misnamed = eval_names(filled(data)), misnamed_eval(files[""], data)
    if not names:
        return misnamed
    found, expected = f"{fraction:g}, and the records of {names[0]}", "data without eval records"
    mend = "leave it out, or take those out of the data"
    return [Problem("--eval_fraction", found, expected, mend)]


def _outline(path: Path) -> dict[str, list[Any] | None]:
    """What stands under the keys of an object: of each list its first item; None for no list."""
    found: dict[str, list[Any] | None] = {}
    with open(path, "rb") as file:
        for key, items in _read_lists(_Window(file, lambda size: None)):
            found[key] = None if items is None else list(islice(items, 1))
            for _ in items or ():
                pass
    return found


def _may_rename_eval(path: Path) -> bool:
    """Whether a file holds another name for eval, if only somewhere: a look without decoding."""
    known = re.compile(f'"({"|".join(OTHER_NAMES)})"'.encode())
    tail = b""
    with open(path, "rb") as file:
        while content := file.read(WINDOW):
            if known.search(tail + content):
                return True
            tail = content[-LONGEST_NAME:]
    return False


def _read_values(
    files: Mapping[str, Path], names: Mapping[str, str], advance: Advance
) -> Iterator[Value]:
    if "" in files:
        splits = {name: split for split, name in names.items()}
        yield from _read_json(files[""], splits, advance)
        return
    if LINES in files and len(names) > 1:
        raise _NotWellFormed
    for split in names:
        path = file_of(files, split)
        if path is None:
            raise _NotWellFormed
        yield from _read_json_lines(path, split, advance)


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
                value = decoder.decode(line.decode())
                if index == 0 and isinstance(value, list):  # it may be all there is
                    raise _NotWellFormed
                yield split, index, value
                index += 1
    if index == 0:
        raise _NotWellFormed


def _read_json(path: Path, splits: Mapping[str, str], advance: Advance) -> Iterator[Value]:
    """The records of an object of lists, which may hold anything under other keys.

    Args:
        splits: by their keys.
    """
    counts = dict.fromkeys(splits, 0)
    with open(path, "rb") as file:
        window = _Window(file, advance)
        for key, items in _read_lists(window):
            for value in items or ():
                if key in splits:
                    yield splits[key], counts[key], value
                    counts[key] += 1
    if not all(counts.values()):
        raise _NotWellFormed


def _read_lists(window: "_Window") -> Iterator[tuple[str, Iterator[Any] | None]]:
    """The keys of an object, each with its list's items, which are to be taken; None: no list."""
    keys: set[str] = set()
    window.expect("{")
    while not keys or window.expect(",}") == ",":
        key = window.next_value(followed_by=":")
        window.expect(":")
        if not isinstance(key, str) or key in keys:
            raise _NotWellFormed
        keys.add(key)
        if window.peek() == "[":
            yield key, _read_list(window)
        else:
            window.next_value(followed_by=",}")
            yield key, None
    if window.peek():
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
