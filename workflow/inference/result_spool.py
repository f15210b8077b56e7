"""The results of a process, on disk until they are collected."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np


class ResultSpool:
    """JSON-serializable values by index, on disk; memory holds only their offsets.

    The file has no name: a killed job leaves nothing behind.
    """

    def __init__(self, count: int, folder: Path | None):
        """Keep values of 0 … `count` - 1 on the disk of `folder`."""
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._starts = np.full(count, -1, np.int64)
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, which `put` or `flush` has raised
            self._file.close()

    def put(self, index: int, value: Any) -> None:
        """Keep a value; raises OSError if the disk is full."""
        if not 0 <= index < len(self._starts) or self._starts[index] >= 0:
            raise AssertionError(f"result {index} is a duplicate or out of range")
        line = json.dumps(value).encode() + b"\n"
        self._file.write(line)
        self._starts[index] = self._end
        self._end += len(line)

    def flush(self) -> None:
        """Write all values to disk; raises OSError if it is full."""
        self._file.flush()

    def between(self, indexes: range) -> dict[int, bytes]:
        """The values of a range of indexes, if present, as JSON."""
        lines = {}
        places = self._starts[indexes.start : indexes.stop].tolist()
        for index, place in zip(indexes, places, strict=True):
            if place >= 0:
                self._file.seek(place)
                lines[index] = self._file.readline()
        return lines
