"""Tensors written as safetensors files by all processes of a job, one tensor at a time."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SHARD_BYTES = 5_000_000_000
"""A file at most, unless a single tensor is larger."""

Files = Mapping[str, Sequence[str]]
"""The names of the tensors in each file, by the file's name."""


@dataclass(frozen=True)
class Whole:
    """A tensor that processes may hold in parts: all must call `take`, which gives it whole."""

    shape: torch.Size
    take: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """What it takes in a file, as float32."""
        return 4 * math.prod(self.shape)


Tensors = Mapping[str, Whole]


def plan_files(stem: str, tensors: Tensors, most_bytes: int = SHARD_BYTES) -> dict[str, list[str]]:
    """Which tensors stand in which file, in their order, named as transformers names weights."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.bytes > most_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.bytes
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def write_tensors(
    folder: Path, files: Files, tensors: Tensors, rank: int = 0, size: int = 1
) -> dict[str, str]:
    """Write files of float32 tensors, as many at a time as there are processes.

    Each process writes one of those files. It takes a tensor of each in turn, keeps its own, and
    writes that when all have been taken, so that the processes write at the same time and none
    holds more than one tensor besides the one that is taken.

    Returns:
        The SHA-256 of each file that this process wrote, by name.

    Raises:
        OSError: after the last tensor, for other processes may have to hand it over.
    """
    digests: dict[str, str] = {}
    failure: OSError | None = None
    names = list(files)
    for first in range(0, len(names), size):
        together = names[first : first + size]
        file: _File | None = None
        for turn in range(max(len(files[name]) for name in together)):
            held = None
            for writer, name in enumerate(together):
                if turn < len(files[name]):
                    tensor = tensors[files[name][turn]].take()
                    held = tensor if writer == rank else held
                    del tensor
            if held is None or failure is not None:
                continue
            try:
                if file is None:
                    name = together[rank]
                    file = _File(folder / name, {n: tensors[n].shape for n in files[name]})
                file.write(held)
            except OSError as error:
                failure = error.with_traceback(None)  # which would hold the tensor
        if file is not None:
            try:
                digests[together[rank]] = file.close()
            except OSError as error:
                failure = failure or error
    if failure is not None:
        raise failure
    return digests


def write_index(folder: Path, stem: str, files: Files, tensors: Tensors) -> None:
    """Say which tensor stands in which file, as transformers does where there are several."""
    if len(files) > 1:
        where = {name: file for file, names in files.items() for name in names}
        total = sum(tensor.bytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


class _File:
    """A file of tensors that come in their order, hashed as it is written."""

    def __init__(self, path: Path, shapes: Mapping[str, torch.Size]):
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._hash = hashlib.sha256()
        try:
            self._put(_header(shapes))
        except OSError:
            with suppress(OSError):
                self._file.close()
            raise

    def write(self, tensor: torch.Tensor) -> None:
        self._put(tensor.detach().to("cpu", torch.float32).reshape(-1).numpy().data)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)

    def close(self) -> str:
        """Close the file, with its content on the disk; closed it is in any case."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._hash.hexdigest()


def _header(shapes: Mapping[str, torch.Size]) -> bytes:
    """What stands before the values in a safetensors file, as its format's description has it:
    https://huggingface.co/docs/safetensors/index#format."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
