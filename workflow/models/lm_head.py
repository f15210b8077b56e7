"""Compute the output head's logits only at some positions and for some tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel


@contextmanager
def select_logits(
    model: PreTrainedModel, positions: torch.Tensor, words: Sequence[int] | None = None
) -> Iterator[None]:
    """Restrict the head to `positions` (positions,) in the target rows laid end to end.

    The logits are then (positions, vocabulary), or with the token ids `words` in float32
    (positions, words); other logits are never computed.
    """
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].flatten(0, 1).index_select(0, positions),)
    )
    try:
        with nullcontext() if words is None else _head_of(model, head, words):
            yield
    finally:
        handle.remove()


@contextmanager
def _head_of(model: PreTrainedModel, head: Any, words: Sequence[int]) -> Iterator[None]:
    """Restrict a head to the logits of `words`, in float32."""
    rows = on_device(tuple(words), head.weight.device)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[rows].float()
        return F.linear(hidden.float(), head.weight[rows].float(), bias)

    added = getattr(model, "final_logits_bias", None)  # BART adds it to the output of its head
    head.forward = forward
    if added is not None:
        model.final_logits_bias = added[:, rows]
    try:
        yield
    finally:
        del head.forward
        if added is not None:
            model.final_logits_bias = added


@lru_cache(maxsize=8)
def on_device(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Token ids or weights on a device, copied once: a copy waits until its work is done."""
    return torch.tensor(numbers).to(device)
