"""The last layer of BERT's and alike encoders, at the tokens that a head reads and no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertCrossAttention

from workflow.models.batch import in_one_segment


@contextmanager
def last_layer_at(
    model: PreTrainedModel, tokens: torch.Tensor, segments: torch.Tensor
) -> Iterator[None]:
    """Restrict the last layer's output to some tokens of each row: (rows, tokens, width).

    Args:
        tokens: their positions in the rows (rows, tokens).
        segments: (rows, length), as of `Batch`; tokens attend to their own segment.
    """
    layer: Any = model.base_model.encoder.layer[-1]  # type: ignore[union-attr, index]
    mask = in_one_segment(segments.gather(1, tokens), segments)

    def forward(hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        read = hidden.take_along_dim(tokens[..., None], dim=1)
        # Its queries may be of others than its keys, and its weights have the same names.
        attended = BertCrossAttention.forward(layer.attention.self, read, hidden, mask)[0]
        output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(attended, read))
        return output

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
