"""A model's head where it is asked for something: at some positions, for some words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel


@contextmanager
def select_logits(
    model: PreTrainedModel, positions: torch.Tensor, words: Sequence[int] | None = None
) -> Iterator[None]:
    """Let the model's head compute logits only where `positions` (rows, length) is true.

    The logits are then (true positions, vocabulary), or, of `words` alone and in float32, (true
    positions, words): what is not asked for never exists as logits.
    """
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions],))
    try:
        with nullcontext() if words is None else _head_of(model, head, words):
            yield
    finally:
        handle.remove()


@contextmanager
def _head_of(model: PreTrainedModel, head: Any, words: Sequence[int]) -> Iterator[None]:
    """Let a head compute the logits of `words` alone, in float32."""
    rows = torch.tensor(words, device=head.weight.device)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[rows].float()
        return F.linear(hidden.float(), head.weight[rows].float(), bias)

    added = getattr(model, "final_logits_bias", None)  # BART adds it to what its head gives
    head.forward = forward
    if added is not None:
        model.final_logits_bias = added[:, rows]
    try:
        yield
    finally:
        del head.forward
        if added is not None:
            model.final_logits_bias = added
