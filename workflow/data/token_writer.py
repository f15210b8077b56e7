"""Write a split's token ids and records to the cache, chunk by chunk."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workflow.core.files import whole_folder, write_json
from workflow.core.threads import made_ahead
from workflow.data.records import Record
from workflow.data.text_ids import Frame

CHUNK = 1024
"""Most records tokenized together."""
CHUNK_BYTES = 1 << 22
"""Most bytes of records tokenized together, unless a single one has more: the tokenizer takes about
30 bytes of memory for each of them, and 80 more of the texts that it is at."""
FILES = {"source": "source.ids", "target": "target.ids", "records": "records.jsonl"}
"""The files of a cached split; NAME.offsets holds the start and end of each row."""
NAME_FILE = "name.txt"

Encoded = tuple[list[list[int]], list[list[int]]]
"""Rows of sources and of targets."""


@dataclass(frozen=True)
class SplitWriter:
    """Writes the token ids and records of splits, with one chunk in memory at a time.

    Attributes:
        encode: converts records to the token ids of their sources and targets.
        frames: the number of special tokens around each "source" and "target".
        threads: that call `encode`. Each call uses all cores, except while Python makes its lists.
    """

    encode: Callable[[Sequence[Record]], Encoded]
    frames: Mapping[str, Frame]
    threads: int = 1

    def write(
        self, folder: Path, name: str, lines: Iterator[bytes], advance: Callable[[int], object]
    ) -> None:
        """Create `folder` atomically.

        Args:
            name: name of the split in the data files.
            lines: the records as JSON, each with a line break.
            advance: called with the number of records in each chunk.
        """
        offsets = {part: array("q", [0]) for part in FILES}
        with whole_folder(folder) as partial:
            with ExitStack() as stack:
                files = {
                    part: stack.enter_context(open(partial / file, "wb"))
                    for part, file in FILES.items()
                }
                for chunk, (sources, targets) in made_ahead(
                    self._encode, chunks_of(lines), self.threads
                ):
                    files["source"].write(_ids(sources))
                    files["target"].write(_ids(targets))
                    files["records"].write(b"".join(chunk))
                    for part, rows in (
                        ("source", sources),
                        ("target", targets),
                        ("records", chunk),
                    ):
                        last = offsets[part].pop()
                        offsets[part].extend(accumulate(map(len, rows), initial=last))
                    advance(len(chunk))
            for part, of_rows in offsets.items():
                (partial / f"{part}.offsets").write_bytes(of_rows.tobytes())
            write_json(partial / "frames.json", self.frames)
            (partial / NAME_FILE).write_text(name)
            sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
            write_json(partial / "sizes.json", sizes)

    def _encode(self, lines: Sequence[bytes]) -> Encoded:
        return self.encode(parse_lines(b"".join(lines)))


_as_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one each time


def as_line(record: Record) -> bytes:
    """A record as a line of JSON."""
    return _as_json(record).encode() + b"\n"


def parse_lines(lines: bytes) -> list[Record]:
    """The records in lines made by `as_line`; all at once takes half the time."""
    records: list[Record] = json.loads(b"[" + lines.rstrip().replace(b"\n", b",") + b"]")
    return records


def chunks_of(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines in chunks of at most CHUNK lines and CHUNK_BYTES bytes, or of a single longer line."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) == CHUNK or size + len(line) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield chunk


def chunk_bounds(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The first line and the end of such chunks, of lines that begin and end at these offsets."""
    start, end = 0, len(offsets) - 1
    while start < end:
        stop = int(np.searchsorted(offsets, offsets[start] + CHUNK_BYTES, "right")) - 1
        stop = min(max(stop, start + 1), start + CHUNK)
        yield start, stop
        start = stop


def _ids(rows: list[list[int]]) -> bytes:
    return np.fromiter(chain.from_iterable(rows), np.int32).tobytes()
