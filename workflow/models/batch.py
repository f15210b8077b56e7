"""Batches of padded rows, each of one example or of several packed ones."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Example:
    """The ids of one example.

    Attributes:
        source: of the prompt.
        read: the ids of the target that the model reads, which predict the next: all but the last.
    """

    source: Any
    read: Any = ()


SECOND = 1 << 30
"""Added to the ids of an encoder's second text, which has the token type 1."""
SHARED = -1
"""The segment of ids that all examples of a row begin with."""

Rows = Sequence[Sequence[Example]]
"""The examples of each row."""


@dataclass(frozen=True)
class Batch:
    """Examples computed together, in rows padded at the end.

    A row may hold several consecutive examples, numbered from 1 on by its segments; 0 is padding,
    and SHARED are the ids that all examples of the row begin with.
    Shapes: input_ids, source_segments (rows, source length); decoder_input_ids, target_segments
    (rows, target length); target_positions, targets (real target positions): where they are in the
    rows laid end to end, and the labels. Where sources and targets are joined, both are in
    input_ids, and the target rows are empty. `packed` says whether any row holds several examples.
    """

    input_ids: torch.Tensor
    source_segments: torch.Tensor
    decoder_input_ids: torch.Tensor
    target_segments: torch.Tensor
    target_positions: torch.Tensor
    targets: torch.Tensor
    packed: bool = False

    def to(self, device: torch.device) -> "Batch":
        """This batch, which is on the host, on a device.

        One copy from page-locked memory: the host does not wait until earlier work is done.
        """
        if device.type == "cpu":
            return self
        held = {name: part for name, part in vars(self).items() if torch.is_tensor(part)}
        parts = list(held.values())
        sent = unpack(pack(parts).pin_memory().to(device, non_blocking=True), parts)
        there: dict[str, Any] = dict(zip(held, sent, strict=True))
        return dataclasses.replace(self, **there)


def make_batch(rows: Rows, targets: torch.Tensor, pad_id: int) -> Batch:
    """Create a batch with separate rows for sources and for what the decoder reads."""
    sources = [[example.source for example in row] for row in rows]
    decoder_inputs = [[example.read for example in row] for row in rows]
    target_segments = pad_rows([_segments(row) for row in decoder_inputs], 0)
    return Batch(
        input_ids=pad_rows([np.concatenate(row) for row in sources], pad_id),
        source_segments=pad_rows([_segments(row) for row in sources], 0),
        decoder_input_ids=pad_rows([np.concatenate(row) for row in decoder_inputs], pad_id),
        target_segments=target_segments,
        target_positions=torch.from_numpy(np.flatnonzero(target_segments)),
        targets=targets,
        packed=_packed(rows),
    )


def make_joined_batch(
    rows: Rows, targets: torch.Tensor, pad_id: int, *, first: bool = False, shares: bool = False
) -> Batch:
    """Create a batch whose rows hold each example's source and target as one text.

    Args:
        first: whether each example has one label, predicted at its first token.
        shares: whether a row holds only once what its sources begin with.
    """
    ids, segments, positions = [], [], []
    for row in rows:
        shared = shared_prefix([example.source for example in row]) if shares and row[1:] else 0
        texts, begin = [row[0].source[:shared]], shared
        for example in row:
            read = np.asarray(example.read, np.int64)
            texts.append(np.concatenate([example.source[shared:], read]))
            end = begin + len(texts[-1])
            positions.append(np.array([begin]) if first else np.arange(end - len(read) - 1, end))
            begin = end
        ids.append(np.concatenate(texts))
        numbers = np.arange(len(texts))
        numbers[0] = SHARED
        segments.append(np.repeat(numbers, list(map(len, texts))))
    input_ids = pad_rows(ids, pad_id)
    none = input_ids.new_zeros(len(rows), 0)
    starts = np.repeat(np.arange(len(rows)) * input_ids.shape[1], list(map(len, rows)))
    return Batch(
        input_ids=input_ids,
        source_segments=pad_rows(segments, 0),
        decoder_input_ids=none,
        target_segments=none,
        target_positions=torch.from_numpy(np.concatenate([
            start + predicted for start, predicted in zip(starts, positions, strict=True)
        ])),
        targets=targets,
        packed=_packed(rows),
    )  # fmt: skip


def _packed(rows: Rows) -> bool:
    return any(len(row) > 1 for row in rows)


def shared_prefix(sources: Iterable[Any]) -> int:
    """The number of ids that all sources begin with, at least one short of the shortest."""
    first, *others = sources
    shared = len(first) - 1
    for source in others:
        most = min(shared, len(source) - 1)
        differs = np.flatnonzero(first[:most] != source[:most])
        shared = int(differs[0]) if len(differs) else most
    return shared


def in_one_segment(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Whether tokens are of one segment: (rows, 1, queries, keys).

    Args:
        queries, keys: the segments of the tokens of each row (rows, tokens).
    """
    return queries[:, None, :, None] == keys[:, None, None, :]


def pack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of tensors, one after the other."""
    return torch.cat([part.flatten().view(torch.uint8) for part in parts])


def unpack(packed: torch.Tensor, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of packed tensors; `parts` has their shapes and dtypes, those of 8 bytes first."""
    pieces = packed.split([part.nbytes for part in parts])
    return [
        piece.view(part.dtype).view(part.shape) for piece, part in zip(pieces, parts, strict=True)
    ]


def _segments(parts: Sequence[Any]) -> Any:
    """1 for each id of the first part, 2 of the second, …"""
    return np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])


def pad_rows(rows: Sequence[Any], value: int) -> torch.Tensor:
    """Rows of ids as one int64 tensor (rows, longest), padded at the end with `value`."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(padded)
