"""Write tensors to safetensors files from all processes, one tensor at a time."""

import hashlib
import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SHARD_BYTES = 5_000_000_000
"""Maximum size of a file, unless a single tensor is larger."""
STAGED_ELEMENTS = 2**24
"""Elements of a GPU's tensor that are copied at a time: 67 MB."""

Files = Mapping[str, Sequence[str]]
"""The names of the tensors in each file, by the file's name."""


@dataclass(frozen=True)
class Whole:
    """A tensor that may be partitioned: all processes must call `take`, which gathers it."""

    shape: torch.Size
    take: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Its size in a file, as float32."""
        return 4 * math.prod(self.shape)


Tensors = Mapping[str, Whole]


def plan_files(
    stem: str, tensors: Tensors, processes: int = 1, most_bytes: int = SHARD_BYTES
) -> dict[str, list[str]]:
    """The names of the tensors in each file, with the file names of transformers.

    The files are as equal as the tensors' order allows, and their number is a multiple of the
    processes that write them, or less if there are too few tensors.
    """
    wanted = processes * -(-len(_filled(tensors, most_bytes)) // processes)
    bounds = range(most_bytes)
    least = bisect_left(bounds, True, key=lambda bound: len(_filled(tensors, bound)) <= wanted)
    shards = _filled(tensors, least)
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _filled(tensors: Tensors, most_bytes: int) -> list[list[str]]:
    """The names of the tensors, in order, in as few files of at most `most_bytes` as possible."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.bytes > most_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.bytes
    return shards


def write_tensors(
    folder: Path, files: Files, tensors: Tensors, rank: int = 0, size: int = 1
) -> dict[str, str]:
    """Write files of float32 tensors, as many at a time as there are processes.

    Each process writes one of these files. All processes gather one tensor per file in turn, and
    each keeps its own. So they write at the same time, and none holds more than two tensors.

    Returns:
        The SHA-256 of each file that this process wrote, by name.

    Raises:
        OSError: after the last tensor, since the other processes need this one for gathering.
    """
    digests: dict[str, str] = {}
    failure: OSError | None = None
    names = list(files)
    for first in range(0, len(names), size):
        together = names[first : first + size]
        mine = _taken([files[name] for name in together], tensors, rank)
        if rank < len(together) and failure is None:
            name = together[rank]
            header = _header({one: tensors[one].shape for one in files[name]})
            try:
                digests[name] = _write(folder / name, header, mine)
            except OSError as error:
                failure = error.with_traceback(None)  # a traceback keeps the tensor alive
                failure.__context__ = None  # so does an earlier error
        for _ in mine:  # take part in gathering the rest
            pass
    if failure is not None:
        raise failure
    return digests


def _taken(files: Sequence[Sequence[str]], tensors: Tensors, rank: int) -> Iterator[torch.Tensor]:
    """The tensors of this process's file, gathered in turn with those of all other files."""
    for turn in range(max(map(len, files))):
        held = None
        for writer, names in enumerate(files):
            if turn < len(names):
                tensor = tensors[names[turn]].take()
                held = tensor if writer == rank else held
                del tensor
        if held is not None:
            yield held


def _write(path: Path, header: bytes, tensors: Iterator[torch.Tensor]) -> str:
    """Write and sync a file, one tensor at a time; returns its SHA-256."""
    digest = hashlib.sha256(header)
    with open(path, "wb") as file:
        file.write(header)
        staging = _staging()
        for tensor in tensors:
            parts = _host_parts(tensor, staging)
            del tensor  # before the next one is gathered
            for data in parts:
                file.write(data)
                digest.update(data)
                del data
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _staging() -> torch.Tensor | None:
    """Pinned host memory to copy a GPU's tensors to; torch keeps it for the next file."""
    if not torch.cuda.is_available():
        return None
    return torch.empty(STAGED_ELEMENTS, pin_memory=True)


def _host_parts(tensor: torch.Tensor, staging: torch.Tensor | None) -> Iterator[memoryview]:
    """A tensor's values in float32, each part valid until the next; copied only if necessary."""
    flat = tensor.detach().reshape(-1)
    del tensor
    if staging is None:
        yield flat.to("cpu", torch.float32).numpy().data
        return
    for part in flat.split(len(staging)):
        yield staging[: len(part)].copy_(part).numpy().data


def write_index(folder: Path, stem: str, files: Files, tensors: Tensors) -> None:
    """Write the index of sharded weights in the format of transformers."""
    if len(files) > 1:
        where = {name: file for file, names in files.items() for name in names}
        total = sum(tensor.bytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


def _header(shapes: Mapping[str, torch.Size]) -> bytes:
    """The header of a safetensors file, see
    https://huggingface.co/docs/safetensors/index#format."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
