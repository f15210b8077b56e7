"""Arrays in files, of which parts are read as they are asked for."""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workflow.core.errors import RunFailed


class FileArray:
    """A flat array in a file; `array[start:stop]` reads that part.

    It is not mapped: the pages that were read of a mapped file count as memory of the process,
    and in the end that is all of them.
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
            raise RunFailed(f"{self._path} has become shorter while it was in use")
        return np.frombuffer(content, self._dtype)
