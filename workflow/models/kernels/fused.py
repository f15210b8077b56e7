"""torch's fused operations in place of transformers' modules, for GPUs.

transformers computes T5's norm and the tanh gelu by several operations, each of which keeps its
input for the backward pass, and adds position bias and mask again in every layer. These modules
call one operation instead, and one mask serves all layers of a stack.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

FUSED_ATTENTION = "workflow_fused"
"""The name of `attention` in transformers."""
ALIGNMENT = 8
"""torch's memory-efficient attention copies masks whose rows do not start at a multiple of this
number of elements (`preprocess_mask` in ATen/native/transformers/attention.cpp)."""


def aligned(keys: int) -> int:
    """The next multiple of ALIGNMENT above; not `keys` itself, so that all masks are views.

    Compiled layers have guards on strides, and would be compiled again for the others.
    """
    return keys + ALIGNMENT - keys % ALIGNMENT


class FusedNorm(torch.nn.Module):
    """T5's norm by `rms_norm`, which computes in float32 and rounds once, at the end."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.epsilon)


def fused(module: torch.nn.Module) -> torch.nn.Module | None:
    """The fused equivalent of a module, if it has one."""
    if type(module) in (T5LayerNorm, MT5LayerNorm):
        return FusedNorm(module)
    return fused_activation(module)


def fused_activation(module: torch.nn.Module) -> torch.nn.Module | None:
    """torch's gelu in place of transformers' tanh gelu."""
    return torch.nn.GELU(approximate="tanh") if type(module) is NewGELUActivation else None


def biased_mask(stack: PreTrainedModel, seen: torch.Tensor) -> torch.Tensor:
    """The mask that all self-attention layers of a T5 stack add to their scores.

    Args:
        seen: true where a query attends to a key, (rows, 1, queries, keys).

    Returns:
        (rows, heads, queries, keys): the stack's position bias, and the least number of the compute
        dtype where a query does not attend.
    """
    queries, keys = seen.shape[2:]
    attention: Any = stack.block[0].layer[0].SelfAttention  # type: ignore[union-attr, index]
    bias = attention.compute_bias(queries, aligned(keys)).contiguous()
    return _added(seen, bias)


def cross_mask(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask that cross-attention adds to its scores, of the same shape as `seen`."""
    return _added(seen, torch.zeros(aligned(seen.shape[3]), dtype=dtype, device=seen.device))


def _added(seen: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The bias where a key is seen; it has `aligned` keys, of which the last are cut."""
    keys = seen.shape[3]
    padded = F.pad(seen, (0, bias.shape[-1] - keys))
    return torch.where(padded, bias, torch.finfo(bias.dtype).min)[..., :keys]


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """torch's attention; a mask of numbers has the position bias already."""
    if attention_mask is not None and attention_mask.is_floating_point():
        options["position_bias"] = None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(FUSED_ATTENTION, attention)
AttentionMaskInterface.register(FUSED_ATTENTION, sdpa_mask)
