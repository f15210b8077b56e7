"""Write a split's token ids and records to the cache, chunk by chunk."""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np

from workflow.core.files import whole_folder, write_json
from workflow.data.records import Record
from workflow.data.text_ids import Frame

CHUNK = 4096
"""Records tokenized together."""
FILES = {"source": "source.ids", "target": "target.ids", "records": "records.jsonl"}
"""The files of a cached split; NAME.offsets holds the start and end of each row."""
NAME_FILE = "name.txt"


@dataclass(frozen=True)
class SplitWriter:
    """Writes the token ids and records of splits, with one chunk in memory at a time.

    Attributes:
        encode: converts records to the token ids of their sources and targets.
        frames: the number of special tokens around each "source" and "target".
    """

    encode: Callable[[Sequence[Record]], tuple[list[list[int]], list[list[int]]]]
    frames: Mapping[str, Frame]

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
                while chunk := list(islice(lines, CHUNK)):
                    sources, targets = self.encode([json.loads(line) for line in chunk])
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


def _ids(rows: list[list[int]]) -> bytes:
    return np.fromiter(chain.from_iterable(rows), np.int32).tobytes()
