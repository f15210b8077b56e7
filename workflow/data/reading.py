"""Read and check the records of data files as a stream, without keeping them in memory."""

import codecs
import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from workflow.core.console import progress_bar
from workflow.core.errors import BadInput, Problem, shorten
from workflow.data import diagnose
from workflow.data.json_stream import JsonStream, NotWellFormed
from workflow.data.records import Record, decoder, make_object, name_type
from workflow.data.schema import check_record
from workflow.data.shapes.base import Shape
from workflow.data.source import DataSource
from workflow.data.split_names import (
    LINES,
    OTHER_NAMES,
    TEXT_SUFFIX,
    eval_names,
    filled,
    find_splits,
    misnamed_eval,
)
from workflow.data.tally import Tally
from workflow.data.text_file import read_documents

Take = Callable[[str, Record], object]
"""Called with the name of a split in the files, and a record."""
Value = tuple[str, int, Any]
"""The name of a split in the files, an index in it, and the value there."""


def check_records(
    source: DataSource, shape: Shape, take: Take = lambda name, record: None
) -> dict[str, str]:
    """Read and check all records that a job needs.

    Args:
        take: called with each valid record, in the order of the files. For a single JSON file that
            includes the records under every possible name of eval, since the choice depends on all
            keys.

    Returns:
        The name of each split in the files.

    Raises:
        BadInput: all problems of all splits.
    """
    check = _Check(source, shape, take)
    for key in source.keys_read:
        check.read(key)
    if problems := check.problems():
        raise BadInput(problems)
    return check.names


def first_record(source: DataSource) -> Record:
    """The first record that a job reads; empty if there is none, which `check_records` reports."""
    with suppress(BadInput, OSError, RecursionError, ValueError):
        for key in source.keys_read:
            path = source.files.get(key)
            if path is not None and path.suffix == TEXT_SUFFIX:
                return {"text": ""}
            if path is None or diagnose.unfit_file(path):
                continue
            with open(path, "rb") as file:
                for found in _first_values(key, path, file, source):
                    if isinstance(found, dict):
                        return found
    return {}


def _first_values(
    key: str, path: Path, file: io.BufferedReader, source: DataSource
) -> Iterator[Any]:
    """The first value of a file of JSON Lines, or of each wanted split of a JSON file."""
    if key != "":
        yield from (value for _, value in islice(_read_lines(path, file, None), 1))
        return
    wanted = {*source.splits_read, *OTHER_NAMES}
    for name, value in JsonStream(file).members():
        if isinstance(value, Iterator):
            yield from (islice(value, 1) if name in wanted else ())
            deque(value, maxlen=0)


def read_list(path: Path) -> Iterator[Any]:
    """The items of a file that holds one JSON list, one at a time.

    Raises:
        BadInput: the file is not a JSON list; may be raised after some items.
    """
    try:
        with open(path, "rb") as file:
            stream = JsonStream(file)
            yield from stream.items()
            stream.end()
    except (OSError, RecursionError, ValueError) as error:
        found = shorten(str(error))
        if isinstance(error, NotWellFormed):
            found = "an incomplete or invalid JSON list"
        hint = "restore it from a copy or create it again"
        raise BadInput([Problem(str(path), found, "an intact file", hint)]) from None


class _Check:
    """The state of reading a data set.

    Attributes:
        names: the name in the files of each split that could be read.
    """

    def __init__(self, source: DataSource, shape: Shape, take: Take):
        self._source, self._shape, self._take = source, shape, take
        self._splits = source.splits_read
        self._of_files = source.conflicts
        self._of_records: dict[str, Tally] = {}
        self._learned = source.most < math.inf  # whether some answer is, or may be, not empty
        self.names: dict[str, str] = {}

    def read(self, key: str) -> None:
        """Read the file under a key of the source."""
        try:
            path = self._source.files.get(key)
            if path is None:
                beside = next(iter(self._source.files.values()))
                raise BadInput([diagnose.no_lines_of(key, self._splits, beside, self._shape)])
            if problem := diagnose.unfit_file(path):
                raise BadInput([problem])
            with (
                open(path, "rb") as file,
                progress_bar(path.stat().st_size, "check", unit="B") as bar,
            ):
                values = (
                    self._read_json(path, file) if key == "" else self._read_lines(key, path, file)
                )
                for name, index, value in values:
                    self._add(name, index, value)
                    bar.update(file.tell() - bar.n)
        except BadInput as error:
            self._of_files += error.problems

    def problems(self) -> list[Problem]:
        """All problems: those of the files, then those of the records of each split."""
        tallies = [self._of_records.get(name) for name in self.names.values()]
        problems = self._of_files + [one for tally in tallies if tally for one in tally.problems()]
        if "train" in self.names and "train" in self._of_records and not self._learned:
            key = self._shape.answer_key or "text"
            found, expected = f"an empty {key} in every record", f"at least one non-empty {key}"
            where, hint = self._source.whole("train"), f"write the {key}s"
            problems.append(Problem(where, found, expected, hint))
        return problems

    def _add(self, name: str, index: int, value: Any) -> None:
        """Check a record, and pass it on if it is valid."""
        needed = self._source.answers_needed
        several = name != "train"
        place, problems = "", check_record(value, "", self._shape, needed, several)
        if problems:  # to name the place of each record takes a tenth of the time
            place = self._source.place(name, index)
            problems = check_record(value, place, self._shape, needed, several)
        if name not in self._of_records:
            self._of_records[name] = Tally(self._source.whole(name))
        self._of_records[name].add(place, problems)
        if not self._learned:
            self._learned = name == "train" and not self._shape.is_blank(value)
        if not problems:
            self._take(name, value)

    def _read_json(self, path: Path, file: io.BufferedReader) -> Iterator[Value]:
        """The records under the names of splits in an object, which may have other keys."""
        wanted = {*self._splits, *(OTHER_NAMES if "eval" in self._splits else ())}
        members: list[tuple[str, Any]] = []
        try:
            stream = JsonStream(file)
            for key, value in stream.members():
                if not isinstance(value, Iterator):
                    members.append((key, name_type(value)))
                    continue
                first: list[Any] = []
                for index, item in enumerate(value):
                    first = first or [item]
                    if key in wanted and index < self._source.most:
                        yield key, index, item
                members.append((key, first))
            stream.end()
        except (RecursionError, ValueError):
            problem = diagnose.unfit_json(path, self._splits, self._shape)
            raise BadInput([problem or diagnose.changed_meanwhile(path)]) from None
        outline = make_object(members)
        self.names, problems = find_splits(path, outline, self._splits, self._shape)
        self._of_files += problems
        if self._source.held_out and (names := eval_names(filled(outline))):
            self._of_files += self._source.second_eval(names[0])
        elif self._source.held_out:
            self._of_files += misnamed_eval(path, outline)

    def _read_lines(self, key: str, path: Path, file: io.BufferedReader) -> Iterator[Value]:
        """The lines that can be decoded."""
        is_only = key == LINES
        split = self._splits[0] if is_only else key
        broken = Tally(str(path))
        values = _values(path, file, split if is_only else None, self._source.separator)
        for number, value in values:
            if number > self._source.most:
                break
            problems = [value] if isinstance(value, Problem) else []
            broken.add(f"{path}: line {number}", problems)
            if not problems:
                yield split, number - 1, value
        if is_only and len(self._splits) > 1:
            self._of_files.append(diagnose.no_second_split(path))
        self._of_files += broken.problems()
        self.names[split] = split


def _values(
    path: Path, file: io.BufferedReader, key: str | None, separator: str | None
) -> Iterator[tuple[int, object]]:
    """The numbered documents of a text file, or lines of another file, as `_read_lines`."""
    if path.suffix != TEXT_SUFFIX:
        return _read_lines(path, file, key)
    documents = read_documents(path, file, separator)
    return enumerate(({"text": document} for document in documents), start=1)


def _read_lines(
    path: Path, file: io.BufferedReader, key: str | None
) -> Iterator[tuple[int, object]]:
    """The values of JSON Lines, numbered from 1 on; a `Problem` for a line that is not JSON.

    Args:
        key: for the records in a JSON file; None if the data cannot be a JSON file.
    """
    if file.peek().startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    filled = 0
    for number, line in enumerate(file, start=1):
        text = line.rstrip(b"\r\n")
        if not text.strip():
            continue  # allowed at the end of the file only
        for empty in range(filled + 1, number):
            where = f"{path}: line {empty}"
            yield empty, Problem(where, "an empty line", "a record", "remove the line")
        filled = number
        if number == 1 and text.lstrip().startswith(b"[") and _is_one_list(path):
            raise BadInput([diagnose.one_list(path, key)])
        try:
            value = decoder.decode(text.decode())
        except (RecursionError, ValueError) as error:
            last = not file.peek().strip()
            if last and number == 1 and b"\r" in text:
                raise BadInput([diagnose.old_line_ends(path)]) from None
            value = diagnose.unfit_text(error, path, number, last)
        yield number, value
    if not filled:
        raise BadInput([diagnose.empty_file(path)])


def _is_one_list(path: Path) -> bool:
    with suppress(RecursionError, ValueError):
        return isinstance(decoder.decode(path.read_text("utf-8-sig")), list)
    return False
