"""What a process finds of many records, on disk until all processes put it together."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np


class ResultSpool:
    """Values by their index, which JSON can hold; only where they lie is kept in memory.

    Its file has no name: a killed job leaves nothing behind.
    """

    def __init__(self, count: int, folder: Path | None):
        """Keep values of 0 … `count` - 1 on the disk of `folder`."""
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._starts = np.full(count, -1, np.int64)
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, which was told when it mattered
            self._file.close()

    def put(self, index: int, value: Any) -> None:
        """Keep a value; raises OSError where the disk is full."""
        if not 0 <= index < len(self._starts) or self._starts[index] >= 0:
            raise AssertionError(f"a result for record {index} that came before, or is none")
        line = json.dumps(value).encode() + b"\n"
        self._file.write(line)
        self._starts[index] = self._end
        self._end += len(line)

    def flush(self) -> None:
        """Let the disk have all values; raises OSError where it is full."""
        self._file.flush()

    def between(self, indexes: range) -> dict[int, bytes]:
        """The values of neighbouring indexes, as far as they are here, as JSON."""
        lines = {}
        places = self._starts[indexes.start : indexes.stop].tolist()
        for index, place in zip(indexes, places, strict=True):
            if place >= 0:
                self._file.seek(place)
                lines[index] = self._file.readline()
        return lines
