"""Tokenized records in a cache on disk, keyed by data, tokenizer and task."""

import hashlib
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress, pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from workflow.core.console import log, progress_bar
from workflow.core.errors import BadInput
from workflow.core.files import discard_folder, remove_partials
from workflow.data.diagnose import changed_meanwhile
from workflow.data.example_lengths import Indexes, Lengths
from workflow.data.file_array import FileArray
from workflow.data.reading import check_records
from workflow.data.records import Record
from workflow.data.shapes.base import Shape
from workflow.data.source import DataSource
from workflow.data.text_ids import Frame, fingerprint, keeps_its_settings, many_words_kept
from workflow.data.token_writer import (
    NAME_FILE,
    SplitWriter,
    as_line,
    chunk_bounds,
    parse_lines,
)

CACHE_FORMAT = 2


class Encoder(Protocol):
    """The part of a task that tokenizing needs."""

    @property
    def encoding(self) -> str:
        """A key that differs if `encode` or `shape` differ."""

    @property
    def shape(self) -> Shape:
        """What the records look like."""

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the sources, and 32-bit rows of the targets: token ids or the task's own
        encoding; an empty row for a missing answer."""

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        """The special tokens around each "source" and "target", which truncation keeps."""


def cut_row(
    row: npt.NDArray[np.int32], longest: int, side: str, frame: Frame
) -> npt.NDArray[np.int32]:
    """A row truncated to `longest` ids at its `side`, without the frame at its ends."""
    if len(row) <= longest:
        return row
    first, last = frame
    most = longest - last
    head = {"right": most, "left": first, "middle": max(first, min(longest // 2, most))}[side]
    return np.concatenate([row[:head], row[len(row) - (longest - head) :]])


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array; row i is values[offsets[i]:offsets[i + 1]].

    Attributes:
        frame: the number of ids at both ends of a row that truncation keeps: the end-of-text token
            and other special tokens around a text, e.g. its language code.
    """

    values: npt.NDArray[np.int32] | FileArray
    offsets: npt.NDArray[np.int64]
    frame: Frame = (0, 1)

    def row(
        self, index: int, longest: int = sys.maxsize, side: str = "right"
    ) -> npt.NDArray[np.int32]:
        """Row `index`, truncated to `longest` ids at its `side`: right, left or middle."""
        row = self.values[self.offsets[index] : self.offsets[index + 1]]
        return cut_row(row, longest, side, self.frame)

    def rows(self, start: int, end: int) -> list[npt.NDArray[np.int32]]:
        """Rows `start` to `end`, read at once."""
        first = self.offsets[start]
        values = self.values[first : self.offsets[end]]
        bounds = (self.offsets[start : end + 1] - first).tolist()
        return [values[begin:stop] for begin, stop in pairwise(bounds)]

    def lengths(self, longest: int, rows: Indexes | None = None) -> Lengths:
        """Lengths of all rows or of `rows`, after truncation to `longest`."""
        if rows is None:
            lengths: Lengths = np.diff(self.offsets)
        else:
            lengths = self.offsets[rows + 1] - self.offsets[rows]
        return np.minimum(lengths, longest, out=lengths)

    def count_cut(self, longest: int) -> int:
        """The number of rows longer than `longest`."""
        return int((np.diff(self.offsets) > longest).sum())


class Rows(Protocol):
    """The rows of examples, read on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...

    @property
    def lengths(self) -> Lengths:
        """Of all rows."""

    def lengths_of(self, indexes: Indexes) -> Lengths:
        """Of some rows, without those of all."""


@dataclass(frozen=True)
class CutRows(Sequence[npt.NDArray[np.int32]]):
    """Rows truncated to `longest` ids, read on access, with `virtual` negative ids before each."""

    rows: Ragged
    longest: int
    side: str = "right"
    virtual: int = 0

    def __len__(self) -> int:
        return len(self.rows.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        row = self.rows.row(index, self.longest, self.side)
        if not self.virtual:
            return row
        return np.concatenate([np.arange(-self.virtual, 0, dtype=np.int32), row])

    @property
    def lengths(self) -> Lengths:
        return self.rows.lengths(self.longest) + self.virtual

    def lengths_of(self, indexes: Indexes) -> Lengths:
        return self.rows.lengths(self.longest, indexes) + self.virtual


class TokenizedSplit:
    """The records of one split and their token ids, read from disk on access.

    Attributes:
        key: a digest of data, split, tokenizer and task.
        name: name of the split in the data files.
    """

    def __init__(self, folder: Path):
        self.key = folder.name
        self.name = (folder / NAME_FILE).read_text()
        frames = json.loads((folder / "frames.json").read_text())
        self.sources = _open_ragged(folder, "source", frames)
        self.targets = _open_ragged(folder, "target", frames)
        self._records = FileArray(folder / "records.jsonl", np.uint8)
        self._record_offsets = np.fromfile(folder / "records.offsets", np.int64)

    def __len__(self) -> int:
        return len(self._record_offsets) - 1

    def record(self, index: int) -> Record:
        """Record `index` of the data file, unchanged."""
        return self.records(index, index + 1)[0]

    def records(self, start: int, end: int) -> list[Record]:
        """Records `start` to `end`, read at once."""
        bounds = self._record_offsets[start], self._record_offsets[end]
        return parse_lines(self._records[slice(*bounds)].tobytes())

    def chunks(self) -> Iterator[tuple[int, int]]:
        """The first record and the end of parts that are small enough to hold in memory."""
        return chunk_bounds(self._record_offsets)

    @cached_property
    def answered(self) -> npt.NDArray[np.bool_]:
        """A mask of the records that have an answer."""
        return np.diff(self.targets.offsets) > 0


def prepare_splits(
    source: DataSource, task: Encoder, tokenizer: Any, cache: Path
) -> dict[str, TokenizedSplit]:
    """The tokenized splits from the cache; missing ones are read, checked and tokenized.

    Several jobs may do this at the same time: the first to finish wins.

    Raises:
        BadInput: all problems of the data.
    """
    cache.mkdir(parents=True, exist_ok=True)
    remove_partials(cache)
    held_out, of_tokenizer = source.held_out, fingerprint(tokenizer)
    paths = {split: source.path("train" if held_out else split) for split in source.splits}
    digests = {path: source.digest(path) for path in paths.values()}
    drawn: list[object] = [held_out.fraction, held_out.seed] if held_out else []
    drawn += [source.most] if source.most < math.inf else []
    drawn += [source.separator] if source.separator else []
    folders = {}
    for split, path in paths.items():
        key = json.dumps([CACHE_FORMAT, task.encoding, of_tokenizer, split, digests[path], *drawn])
        folders[split] = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = {split: _open_cached(folder) for split, folder in folders.items()}
    serve = all(
        split is not None and (split.answered.all() or not source.answers_needed)
        for split in cached.values()
    )
    if source.conflicts or not serve:
        _tokenize(source, task, tokenizer, folders, digests)
    return {split: cached[split] or TokenizedSplit(folder) for split, folder in folders.items()}


def log_eval_records(source: DataSource, splits: Mapping[str, TokenizedSplit]) -> None:
    """Log which records are evaluated, unless the split is named eval."""
    if source.held_out:
        held_out, kept = len(splits["eval"]), len(splits["train"])
        log.info("held out %d of %d train records for eval", held_out, held_out + kept)
        return
    name = source.files["eval"].stem if "eval" in source.files else splits["eval"].name
    if name != "eval":
        log.info("using %s as the eval split", name)


def _open_cached(folder: Path) -> TokenizedSplit | None:
    """The cached split, or None; a damaged one is removed."""
    if not folder.is_dir():
        return None
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        if all((folder / name).stat().st_size == size for name, size in sizes.items()):
            return TokenizedSplit(folder)
    except (OSError, ValueError):
        pass
    log.warning("damaged token cache %s, rebuilding it", folder)
    discard_folder(folder)
    return None


def _open_ragged(folder: Path, name: str, frames: Mapping[str, Sequence[int]]) -> Ragged:
    ids = FileArray(folder / f"{name}.ids", np.int32)
    first, last = frames[name]
    return Ragged(ids, np.fromfile(folder / f"{name}.offsets", np.int64), (first, last))


def _tokenize(
    source: DataSource,
    task: Encoder,
    tokenizer: Any,
    folders: Mapping[str, Path],
    digests: Mapping[Path | None, str],
) -> None:
    """Read and check the data, and write the cache of each split that has no folder yet.

    Records are kept on disk while they are checked, so that problems show before minutes of
    tokenizing. Nothing is written if any split has a problem or a file no longer has its digest.
    """
    with ExitStack() as stack:
        stack.enter_context(many_words_kept(tokenizer))
        cache = next(iter(folders.values())).parent
        kept: defaultdict[str, IO[bytes]] = defaultdict(
            lambda: stack.enter_context(TemporaryFile(dir=cache))
        )
        counts: Counter[str] = Counter()

        def keep(name: str, record: Record) -> None:
            kept[name].write(as_line(record))
            counts[name] += 1

        names = check_records(source, task.shape, keep)
        for path, known in digests.items():
            if path and source.digest(path) != known:
                raise BadInput([changed_meanwhile(path)])
        encode, threads = partial(task.encode, tokenizer), 1 + keeps_its_settings(tokenizer)
        writer = SplitWriter(encode, task.frames(tokenizer), threads)
        for split, folder in folders.items():
            if folder.is_dir():
                continue
            log.info("tokenizing the %s records (cached for later runs)", split)
            name = "train" if source.held_out else names[split]
            kept[name].seek(0)
            chosen = source.choose(split, counts[name])
            with progress_bar(int(chosen.sum()), "tokenize") as bar:
                lines = compress(kept[name], chosen)
                writer.write(folder, names.get(split, split), lines, bar.update)
