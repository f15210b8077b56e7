"""Arrays in files, read in slices."""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.core.errors import RunFailed


class FileArray:
    """A flat array in a file; `array[start:stop]` reads that slice.

    The file is not memory-mapped, since pages of a mapped file count as memory of the process.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike):
        self._path, self._dtype = path, np.dtype(dtype)
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._length = os.fstat(self._descriptor).st_size // self._dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        start, stop, _ = part.indices(self._length)
        size = self._dtype.itemsize
        content = os.pread(self._descriptor, (stop - start) * size, start * size)
        if len(content) < (stop - start) * size:
            raise RunFailed(f"{self._path} was truncated while in use")
        return np.frombuffer(content, self._dtype)
