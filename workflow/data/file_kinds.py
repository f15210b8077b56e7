"""Recognize data files in other formats than JSON, and how to convert them."""

import re
import zipfile
from contextlib import suppress
from json import JSONDecoder
from pathlib import Path

from workflow.data.split_names import TEXT_SUFFIX

LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines")
Kind = tuple[str, str]
"""A file's format and a hint; {name} is the file name, {stem} its part before the first dot."""

HEAD = 1 << 12
LONGEST_LINE = 1 << 24
"""Most bytes of the first line of JSON Lines in a file without a suffix for them."""


def _by_pandas(read: str) -> str:
    write = 'to_json("{stem}.jsonl", orient="records", lines=True)'
    return (
        f'name its columns like the keys of a record, then use pandas: {read}("{{name}}").{write}'
    )


def _unpack(command: str) -> str:
    return f"unpack it: {command} {{name}}"


_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x1f\x8b", ("a gzip file", _unpack("gunzip"))),
    (b"BZh", ("a bzip2 file", _unpack("bunzip2"))),
    (b"\xfd7zXZ\0", ("an xz file", _unpack("unxz"))),
    (b"\x28\xb5\x2f\xfd", ("a zstd file", _unpack("unzstd"))),
    (b"7z\xbc\xaf\x27\x1c", ("a 7-Zip archive", _unpack("7z x"))),
    (b"PAR1", ("a Parquet file", _by_pandas("read_parquet"))),
    (b"ARROW1", ("an Arrow file", _by_pandas("read_feather"))),
    (b"SQLite format 3\0", ("an SQLite database", "export a table as JSON Lines")),
    (b"\xd0\xcf\x11\xe0", ("an old Excel or Office file", _by_pandas("read_excel"))),
    (b"\x89HDF", ("an HDF5 file", _by_pandas("read_hdf"))),
    (b"\x93NUMPY", ("a NumPy array", "export its texts as JSON Lines")),
    (b"%PDF", ("a PDF", "export its texts as JSON Lines")),
    (b"version https://git-lfs", ("a Git LFS pointer", "run git lfs pull")),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ENCODING_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_MARKUP = re.compile(r"<(!doctype html|html)", re.IGNORECASE)


def kind_of(path: Path) -> Kind | None:
    """The format of a file that is not JSON, by its first bytes and its name; None if unknown."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    kind = _binary(path, head)
    if path.suffix != TEXT_SUFFIX:
        kind = kind or _of_text(path, head)
    stem = path.name.partition(".")[0]
    return kind and (kind[0], kind[1].replace("{name}", path.name).replace("{stem}", stem))


def _binary(path: Path, head: bytes) -> Kind | None:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _PICKLE.match(head):
        return "a pickle file", "export it with json.dump"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[257:262] == b"ustar" and b"\0" in head[:257]:
        return "a tar archive", _unpack("tar xf")
    marked = [name for mark, name in _ENCODING_MARKS if head.startswith(mark)]
    if marked or re.match(rb"(\0[^\0]|[^\0]\0)\s*", head):
        name = marked[0] if marked else "UTF-16" + ("BE" if head[:1] == b"\0" else "LE")
        return f"text in {name}", f"convert it: iconv -f {name} -t UTF-8 {{name}}"
    if head and not head.strip(b"\0"):
        return "NUL bytes", "write the file again; it may be truncated"
    return None


def _archive(path: Path) -> Kind:
    names: list[str] = []
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if path.suffix.lower() in (".xlsx", ".xlsm") or any(name.startswith("xl/") for name in names):
        return "an Excel workbook", _by_pandas("read_excel")
    return "a zip archive", _unpack("unzip")


def _of_text(path: Path, head: bytes) -> Kind | None:
    text = head.decode("utf-8-sig", "ignore").lstrip()
    if text[:1] in ("{", "["):
        return None
    if _MARKUP.match(text):
        return "an HTML page", "download the file itself; this may be a login page"
    if text.startswith("<"):
        return "XML", "convert its records to JSON Lines"
    if path.suffix in (".yaml", ".yml") or re.match(r"(---|train:|eval:)\s", text):
        return "YAML", 'convert it: json.dump(yaml.safe_load(open("{name}")), …)'
    line = text.partition("\n")[0]
    separator = max(",;\t", key=line.count)
    if path.suffix == ".tsv" or (separator == "\t" and "\t" in line):
        return "tab-separated values (TSV)", _by_pandas("read_table")
    if path.suffix == ".csv" or (line.count(separator) and not re.match(r"[\"\d]", line)):
        return "comma-separated values (CSV)", _by_pandas("read_csv")
    if re.match(r"[A-Za-z]", text) and not re.match(r"(true|false|null|NaN|Infinity)\b", text):
        return "plain text", "convert it to JSON"
    return None


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines: by its suffix, or because its first lines are objects."""
    if path.suffix in LINES_SUFFIXES:
        return True
    try:
        with open(path, encoding="utf-8-sig") as file:
            first, second = file.readline(LONGEST_LINE), file.read(HEAD).lstrip()
        return second.startswith("{") and isinstance(JSONDecoder().decode(first), dict)
    except (OSError, ValueError, RecursionError):
        return False
