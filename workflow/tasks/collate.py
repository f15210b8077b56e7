"""Examples to rows of tensors, and rows to logits: alone in a row, or several without mixing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workflow.models.families import encoder_options
from workflow.models.lm_head import select_logits, supports_packing
from workflow.models.state_dict import Model
from workflow.tasks.base import Batch


def make_batch(
    sources: Sequence[Sequence[Any]],
    decoder_inputs: Sequence[Sequence[Any]],
    targets: torch.Tensor,
    pad_id: int,
) -> Batch:
    """A batch from the ids of each row's examples."""
    return Batch(
        input_ids=pad_rows([np.concatenate(row) for row in sources], pad_id),
        source_segments=pad_rows([_segments(row) for row in sources], 0),
        decoder_input_ids=pad_rows([np.concatenate(row) for row in decoder_inputs], pad_id),
        target_segments=pad_rows([_segments(row) for row in decoder_inputs], 0),
        targets=targets,
    )


def target_logits(model: Model, batch: Batch, words: Sequence[int] | None = None) -> torch.Tensor:
    """Logits at the real target positions only, (positions, vocabulary); `batch` on its device.

    Args:
        words: where given, only the logits of these ids, in float32: (positions, words).
    """
    with select_logits(model, batch.target_segments > 0, words):
        if supports_packing(model):
            return _packed_logits(model, batch)
        mask = (batch.source_segments > 0).long()
        logits: torch.Tensor = model(
            input_ids=batch.input_ids,
            attention_mask=mask,
            decoder_input_ids=batch.decoder_input_ids,
            use_cache=False,
            **encoder_options(model, mask),
        ).logits
        return logits


def _packed_logits(model: Model, batch: Batch) -> torch.Tensor:
    """Logits of rows in which examples see nothing of each other.

    Exact where positions are relative, for within an example their differences are what they
    would be alone.
    """
    source, target = batch.source_segments, batch.target_segments
    within_source = source[:, None, :, None] == source[:, None, None, :]
    within_target = target[:, None, :, None] == target[:, None, None, :]
    before = torch.ones_like(within_target[:1]).tril()
    encoded = model.get_encoder()(input_ids=batch.input_ids, attention_mask=within_source)
    output = model(
        encoder_outputs=encoded,
        attention_mask=target[:, None, :, None] == source[:, None, None, :],
        decoder_input_ids=batch.decoder_input_ids,
        decoder_attention_mask=within_target & before,
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits


def _segments(parts: Sequence[Any]) -> Any:
    """1 for each id of the first part, 2 of the second, …"""
    return np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])


def pad_rows(rows: Sequence[Any], value: int) -> torch.Tensor:
    """Rows of ids as one int64 tensor (rows, longest), `value` behind the shorter ones."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(padded)
