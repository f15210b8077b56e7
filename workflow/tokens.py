"""Records to token ids, once: a memory-mapped cache keyed by data, tokenizer and task."""

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workflow.batching import Indexes, Lengths
from workflow.console import log, progress_bar
from workflow.files import discard_folder, remove_partials, whole_folder, write_json
from workflow.records import Record, Schema, load_records

CACHE_FORMAT = 1
CHUNK = 4096
"""Records tokenized at once."""


class Encoder(Protocol):
    """What of a task is needed here."""

    @property
    def encoding(self) -> str:
        """Differs where `encode` or `schema` do."""

    @property
    def schema(self) -> Schema:
        """What the task wants in a record."""

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of sources, and targets as rows of 32 bits: token ids, or what a task makes of
        its answers; an empty target where the answer is missing."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array; row i is values[offsets[i]:offsets[i + 1]]."""

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def row(self, index: int, longest: int, side: str = "right") -> npt.NDArray[np.int32]:
        """Row `index`; beyond `longest` ids it is cut at its `side`: right, left or middle.

        The last id, the end of text, is always kept.
        """
        row = self.values[self.offsets[index] : self.offsets[index + 1]]
        if len(row) <= longest:
            return row
        head = {"right": longest - 1, "left": 0, "middle": longest // 2}[side]
        return np.concatenate([row[:head], row[len(row) - (longest - head) :]])

    def lengths(self, longest: int, rows: Indexes | None = None) -> Lengths:
        """Lengths after the cut at `longest`, of all rows or of `rows`."""
        if rows is None:
            rows = np.arange(len(self.offsets) - 1)
        lengths: Lengths = self.offsets[rows + 1] - self.offsets[rows]
        return np.minimum(lengths, longest)

    def count_cut(self, longest: int) -> int:
        """How many rows the cut at `longest` shortens."""
        return int((np.diff(self.offsets) > longest).sum())


@dataclass(frozen=True)
class CutRows(Sequence[npt.NDArray[np.int32]]):
    """Rows as they are cut at `longest` ids, each read when it is asked for."""

    rows: Ragged
    longest: int
    side: str = "right"

    def __len__(self) -> int:
        return len(self.rows.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        return self.rows.row(index, self.longest, self.side)

    @property
    def lengths(self) -> Lengths:
        return self.rows.lengths(self.longest)


class TokenizedSplit:
    """The records of one split and their token ids, read from disk as they are asked for.

    Attributes:
        key: differs where data, split, tokenizer or task differ.
    """

    def __init__(self, folder: Path):
        self.key = folder.name
        self._folder = folder
        self.sources = _open_ragged(folder, "source")
        self.targets = _open_ragged(folder, "target")
        self._record_offsets = np.fromfile(folder / "records.offsets", np.int64)

    def __len__(self) -> int:
        return len(self._record_offsets) - 1

    @cached_property
    def _records(self) -> mmap.mmap:
        with open(self._folder / "records.jsonl", "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def record(self, index: int) -> Record:
        """Record `index` as it stood in the data file."""
        start, end = self._record_offsets[index], self._record_offsets[index + 1]
        record: Record = json.loads(self._records[start:end])
        return record

    @cached_property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which records have an answer."""
        return np.diff(self.targets.offsets) > 0


def prepare_splits(
    files: Mapping[str, Path],
    splits: Sequence[str],
    task: Encoder,
    tokenizer: Any,
    cache: Path,
    answers_needed: bool,
) -> dict[str, TokenizedSplit]:
    """The tokenized splits, from the cache where it holds them, else read, checked and tokenized.

    Several jobs may do this at once: each writes beside, the first to finish wins.

    Raises:
        BadInput: with all problems of the data.
    """
    cache.mkdir(parents=True, exist_ok=True)
    remove_partials(cache)
    fingerprint = tokenizer_fingerprint(tokenizer)
    folders = {}
    for split in splits:
        path = files.get(split) or files.get("")
        content = "none" if path is None else _file_digest(path)
        key = json.dumps([CACHE_FORMAT, task.encoding, fingerprint, split, content])
        folders[split] = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = {split: _open_cached(folder) for split, folder in folders.items()}
    if not all(_serves(split, answers_needed) for split in cached.values()):
        records = load_records(files, splits, task.schema, answers_needed)
        for split in splits:
            if cached[split] is None:
                _write_split(folders[split], records.pop(split), split, task, tokenizer)
    return {split: TokenizedSplit(folder) for split, folder in folders.items()}


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest that differs where two tokenizers could give different ids."""
    if tokenizer.is_fast:
        content = tokenizer.backend_tokenizer.to_str()
    else:
        content = json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return hashlib.sha256((content + special).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """A digest of the file's content; where it cannot be read, `load_records` will say why."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "none"


def _serves(split: TokenizedSplit | None, answers_needed: bool) -> bool:
    return split is not None and (not answers_needed or bool(split.answered.all()))


def _open_cached(folder: Path) -> TokenizedSplit | None:
    """The cached split; None where there is none. One whose files are not as written is removed."""
    if not folder.is_dir():
        return None
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        if all((folder / name).stat().st_size == size for name, size in sizes.items()):
            return TokenizedSplit(folder)
    except (OSError, ValueError):
        pass
    log.warning("the token cache %s is damaged and is made again", folder)
    discard_folder(folder)
    return None


def _open_ragged(folder: Path, name: str) -> Ragged:
    path = folder / f"{name}.ids"
    if path.stat().st_size == 0:
        values = np.zeros(0, np.int32)
    else:
        values = np.memmap(path, np.int32, mode="r")
    return Ragged(values, np.fromfile(folder / f"{name}.offsets", np.int64))


def _write_split(
    folder: Path, records: list[Record], split: str, task: Encoder, tokenizer: Any
) -> None:
    log.info("tokenizing %d %s records (once; kept for later runs)", len(records), split)
    offsets = {name: array("q", [0]) for name in ("source", "target", "records")}
    with whole_folder(folder) as partial, progress_bar(len(records), f"tokenize {split}") as bar:
        with (
            open(partial / "source.ids", "wb") as source_file,
            open(partial / "target.ids", "wb") as target_file,
            open(partial / "records.jsonl", "wb") as records_file,
        ):
            for chunk in _chunks(records):
                sources, targets = task.encode(tokenizer, chunk)
                lines = [
                    json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in chunk
                ]
                _append(source_file, offsets["source"], sources)
                _append(target_file, offsets["target"], targets)
                records_file.write(b"".join(lines))
                for line in lines:
                    offsets["records"].append(offsets["records"][-1] + len(line))
                bar.update(len(chunk))
        for name, values in offsets.items():
            (partial / f"{name}.offsets").write_bytes(values.tobytes())
        write_json(partial / "sizes.json", {p.name: p.stat().st_size for p in partial.iterdir()})


def _chunks(records: list[Record]) -> Iterator[list[Record]]:
    for start in range(0, len(records), CHUNK):
        yield records[start : start + CHUNK]


def _append(file: Any, offsets: "array[int]", rows: list[list[int]]) -> None:
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    np.fromiter((i for row in rows for i in row), np.int32).tofile(file)
