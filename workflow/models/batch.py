"""Batches of padded rows, each of one example or of several packed ones."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Batch:
    """Examples computed together, in rows padded at the end.

    A row may hold several consecutive examples, numbered from 1 on by its segments; 0 is padding.
    Shapes: input_ids, source_segments (rows, source length); decoder_input_ids, target_segments
    (rows, target length); targets (real target positions): the labels, row after row.
    """

    input_ids: torch.Tensor
    source_segments: torch.Tensor
    decoder_input_ids: torch.Tensor
    target_segments: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


def make_batch(
    sources: Sequence[Sequence[Any]],
    decoder_inputs: Sequence[Sequence[Any]],
    targets: torch.Tensor,
    pad_id: int,
) -> Batch:
    """Create a batch from the ids of each row's examples."""
    return Batch(
        input_ids=pad_rows([np.concatenate(row) for row in sources], pad_id),
        source_segments=pad_rows([_segments(row) for row in sources], 0),
        decoder_input_ids=pad_rows([np.concatenate(row) for row in decoder_inputs], pad_id),
        target_segments=pad_rows([_segments(row) for row in decoder_inputs], 0),
        targets=targets,
    )


def _segments(parts: Sequence[Any]) -> Any:
    """1 for each id of the first part, 2 of the second, …"""
    return np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])


def pad_rows(rows: Sequence[Any], value: int) -> torch.Tensor:
    """Rows of ids as one int64 tensor (rows, longest), padded at the end with `value`."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(padded)
