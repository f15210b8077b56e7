"""A split's token ids and records, written to the cache as they come."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from workflow.core.console import log
from workflow.core.files import whole_folder, write_json
from workflow.data.schema import Record
from workflow.data.text_ids import Frame

Encode = Callable[[Sequence[Record]], tuple[list[list[int]], list[list[int]]]]
"""Records to the rows of their sources and targets."""

CHUNK = 4096
"""Records tokenized at once."""
FILES = {"source": "source.ids", "target": "target.ids", "records": "records.jsonl"}
"""What a cached split holds; NAME.offsets say where the rows of each begin and end."""

NAME_FILE = "name.txt"


@contextmanager
def writing(
    folder: Path, split: str, name: str, encode: Encode, frames: Mapping[str, Frame]
) -> Iterator["SplitWriter"]:
    """Yield a writer of what becomes `folder` when the block ends well.

    Args:
        name: of the split, as a JSON file of all has it.
    """
    with whole_folder(folder) as partial, ExitStack() as stack:
        files = {
            part: stack.enter_context(open(partial / name, "wb")) for part, name in FILES.items()
        }
        write_json(partial / "frames.json", frames)
        (partial / NAME_FILE).write_text(name)
        yield SplitWriter(partial, files, split, encode)


class SplitWriter:
    """Writes the cache of a split; of its records no more than a chunk is held."""

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, BinaryIO],
        split: str,
        encode: Encode,
    ):
        self._folder, self._files, self._split = folder, files, split
        self._encode = encode
        self._offsets = {part: array("q", [0]) for part in files}
        self._chunk: list[Record] = []

    def add(self, record: Record) -> None:
        self._chunk.append(record)
        if len(self._chunk) == CHUNK:
            self._write_chunk()

    def finish(self) -> None:
        """Write what is left, the offsets, and the sizes of all files."""
        self._write_chunk()
        for part, file in self._files.items():
            file.close()
            with open(self._folder / f"{part}.offsets", "wb") as offsets:
                self._offsets[part].tofile(offsets)
        sizes = {path.name: path.stat().st_size for path in self._folder.iterdir()}
        write_json(self._folder / "sizes.json", sizes)

    def _write_chunk(self) -> None:
        if not self._chunk:
            return
        if len(self._offsets["records"]) == 1:
            log.info("tokenizing the %s records (once; kept for later runs)", self._split)
        sources, targets = self._encode(self._chunk)
        lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in self._chunk]
        self._append("source", map(len, sources), _joined(sources))
        self._append("target", map(len, targets), _joined(targets))
        self._append("records", map(len, lines), b"".join(lines))
        self._chunk = []

    def _append(self, part: str, lengths: Iterable[int], content: bytes) -> None:
        """Write rows of these lengths."""
        offsets = self._offsets[part]
        for length in lengths:
            offsets.append(offsets[-1] + length)
        self._files[part].write(content)


def _joined(rows: list[list[int]]) -> bytes:
    return np.fromiter(chain.from_iterable(rows), np.int32).tobytes()
