"""Files of other formats to raw records, each with its place."""

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from workflow.core.console import log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import read_object
from workflow.data.file_kinds import LINES_SUFFIXES, LONGEST_LINE, kind_of
from workflow.data.json_stream import WINDOW, JsonStream, NotWellFormed
from workflow.data.records import DuplicateKeys, decoder, make_object
from workflow.data.schema import duplicate_keys
from workflow.data.split_names import OTHER_NAMES

SPLITS = ("train", "eval", *OTHER_NAMES)
_READ = ("comma", "tab-", "plain", "a gzip", "a zstd", "a Parquet", "an Arrow", "text in UTF-16")
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
csv.field_size_limit(sys.maxsize)


class Raw(NamedTuple):
    """A record as its file has it; `reason` says why it cannot be used."""

    place: str
    value: Any
    reason: str = ""
    split: str = ""


def problem(where: object, found: str, expected: str, hint: str) -> BadInput:
    return BadInput([Problem(str(where), found, expected, hint)])


def read(path: Path) -> Iterator[Raw]:
    """The records of a file, whose kind is logged.

    Raises:
        BadInput: it cannot be read; may be raised after some records.
    """
    try:
        known, hint = kind_of(path) or ("", "")
        if known and (not known.startswith(_READ) or known[-2:] in ("LE", "BE")):
            expected = "CSV, JSON, JSON Lines or Parquet, also in gzip or zstd"
            raise problem(path, known, expected, hint)
        if known == "a zstd file":
            _check_zstd(path)
        is_binary = path.suffix == ".arrow" or known == "a Parquet file"
        yield from _of_arrow(path) if is_binary else _of_text(path)
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error) as error:
        raise problem(path, str(error), "an intact file", "write it again") from None


def _package(name: str, path: Path) -> Any:
    try:
        return __import__(name)
    except ImportError:
        hint = f"run scripts/setup --extra import, or pip install {name}"
        raise problem(path, f"needs {name}, which is missing", "the package", hint) from None


def _check_zstd(path: Path) -> None:
    """Check that a file is not cut off; zstandard's reader ignores that."""
    package = _package("zstandard", path)
    frame, left = package.ZstdDecompressor().decompressobj(), b""
    with open(path, "rb") as file:
        while content := left or file.read(1 << 16):
            if frame.eof:
                frame = package.ZstdDecompressor().decompressobj()
            frame.decompress(content)
            left = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("Compressed file ended before the end of its last frame")


def _open(path: Path) -> Any:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(_package("zstandard", path).open(path, "rb"))
    return gzip.open(path) if magic[:2] == b"\x1f\x8b" else open(path, "rb")


def _encoding(path: Path) -> str:
    decode = codecs.getincrementaldecoder("UTF-8")().decode
    with _open(path) as file:
        number, before, line = 1, b"", file.readline(WINDOW)
        if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "UTF-16"
        while True:
            try:
                decode(line, final=not line)
            except UnicodeDecodeError:
                message = "%s: line %d is not UTF-8; reading the file as Windows-1252: %s"
                shown = (line or before).decode("cp1252")
                log.warning(message, path, number, shorten(shown.strip()))
                return "Windows-1252"
            if not line:
                return "UTF-8-sig"
            number += line.endswith(b"\n")
            before, line = line, file.readline(WINDOW)


def _of_text(path: Path) -> Iterator[Raw]:
    encoding = _encoding(path)
    with io.TextIOWrapper(_open(path), encoding, newline="") as file:
        lines = filter(str.strip, iter(partial(file.readline, LONGEST_LINE), ""))
        head, second = next(lines, "").strip(), next(lines, "").strip()
    kind, facts = "JSON", encoding.removesuffix("-sig")
    if (second[:1] == "{" and head[-1:] == "}") or {*path.suffixes} & {*LINES_SUFFIXES}:
        kind = "JSON Lines"
    elif head[:1] not in ("{", "[", ""):
        comma = max(_DELIMITERS, key=lambda one: len(next(csv.reader([head], delimiter=one), "")))
        kind, facts = "CSV", f"{facts}, divided by {_DELIMITERS[comma]}"
    log.info("%s: %s in %s", path, kind, facts)
    if kind == "JSON":
        yield from _of_json(path, encoding, is_list=head[:1] == "[")
        return
    with io.TextIOWrapper(_open(path), encoding, newline="") as file:
        if kind == "CSV":
            yield from _of_rows(path, csv.reader(file, delimiter=comma, strict=True))
        else:
            yield from (_line(number, line) for number, line in enumerate(file, 1) if line.strip())


def _line(number: int, line: str) -> Raw:
    try:
        return Raw(f"line {number}", decoder.decode(line.strip()))
    except (RecursionError, ValueError):
        return Raw(f"line {number}", line, "invalid JSON")


def _of_rows(path: Path, reader: Any) -> Iterator[Raw]:
    header: list[str] = []
    place = "line 1"
    try:
        for row in reader:
            if not header and len({*row}) < len(row):
                found = f"a duplicate column in {', '.join(map(shorten, row))}"
                raise problem(f"{path}: {place}", found, "unique names", "rename one of them")
            if header and row:
                fits = len(row) == len(header)
                value = dict(zip(header, row, strict=True)) if fits else row
                yield Raw(place, value, "" if fits else "a ragged row")
            header = header or row
            place = f"line {reader.line_num + 1}"
    except csv.Error as error:
        hint = 'put cells with " in quotes, and double each " inside'
        raise problem(f"{path}: {place}", str(error), "a row of CSV", hint) from None


def _of_json(path: Path, encoding: str, is_list: bool) -> Iterator[Raw]:
    """The records of a list, an object of splits, or one of columns (lists, or pandas' objects)."""
    try:
        with _open(path) as file:
            stream = JsonStream(file, encoding)
            if is_list:
                yield from (Raw(f"[{index}]", value) for index, value in enumerate(stream.items()))
            else:
                yield from _of_object(path, stream)
            stream.end()
    except NotWellFormed:
        with _open(path) as file:
            decoder.decode(file.read().decode(encoding))  # its error says where
        raise


def _of_object(path: Path, stream: JsonStream) -> Iterator[Raw]:
    members: list[tuple[str, Any]] = []
    splits: list[str] = []
    for name, part in stream.members():
        if isinstance(part, Iterator) and name in SPLITS:
            splits.append(name)
            yield from (Raw(f"{name}[{i}]", value, split=name) for i, value in enumerate(part))
        column = [*part.values()] if isinstance(part, dict) else part
        if isinstance(part, Iterator):  # a column, if there are no splits
            column = deque(part, maxlen=0 if splits else None)
        members.append((name, column))
    data = make_object(members)
    if isinstance(data, DuplicateKeys):
        raise BadInput([duplicate_keys(str(path), data)])
    if splits:
        others = ", ".join(shorten(name) for name in data if name not in splits) or "nothing"
        log.info("%s: splits %s; not read: %s", path, ", ".join(splits), others)
        return
    sizes = {len(part) if isinstance(part, list | deque) else None for part in data.values()}
    if len(sizes) != 1 or None in sizes:
        found = f"an object with the keys {', '.join(map(shorten, [*data][:8]))}"
        expected = "a list, an object of splits, or of columns of equal length"
        raise problem(path, found, expected, 'name the list of records "train"')
    for index, row in enumerate(zip(*data.values(), strict=True)):
        yield Raw(f"[{index}]", dict(zip(data, row, strict=True)))


def _of_arrow(path: Path) -> Iterator[Raw]:
    """The rows of a Parquet file, or of a file in a folder that `datasets` saved."""
    package, is_arrow = _package("pyarrow", path), path.suffix == ".arrow"
    features = read_object(path.with_name("dataset_info.json")).get("features") or {}
    names = (features.get("label") or {}).get("names")
    log.info("%s: %s", path, "Arrow" if is_arrow else "Parquet")
    with open(path, "rb") as file:
        if is_arrow:
            batches = package.ipc.open_stream(file)
        else:
            from pyarrow import parquet

            batches = parquet.ParquetFile(file).iter_batches()
        for index, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            if names and type(row["label"]) is int:  # -1 for none
                row["label"] = dict(enumerate(names)).get(row["label"])
            yield Raw(f"[{index}]", decoder.decode(json.dumps(row, default=str)))
