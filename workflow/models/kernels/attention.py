"""Attention on a CPU: with dropout, and in bfloat16 for short rows.

torch's fused attention does not drop weights, and takes three to five times as long in bfloat16.
"""

from typing import Any

import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workflow.models.kernels.cpu import masked, random_mask
from workflow.models.kernels.prefix import PREFIX_ATTENTION, with_prefix

CPU_ATTENTION = "workflow_cpu_rows"
"""The name of `attention` in transformers."""
SHORT = 512
"""Keys up to which attention in bfloat16 is faster than torch's, which keeps no weights."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of transformers: ours with dropout, or for short masked rows in bfloat16."""
    key, value, attention_mask = with_prefix(module, query, key, value, attention_mask)
    dropout, scaling = options.get("dropout") or 0.0, options.get("scaling")
    short = query.dtype == torch.bfloat16 and key.shape[2] <= SHORT
    if not dropout and not (short and attention_mask is not None):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    is_causal = options.get("is_causal")
    if attention_mask is None and (module.is_causal if is_causal is None else is_causal):
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    hidden = None if attention_mask is None else ~attention_mask
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    output: torch.Tensor = Attended.apply(scaled, key, value, hidden, dropout)
    return output.transpose(1, 2).contiguous(), None


class Attended(torch.autograd.Function):
    """dropout(softmax(query @ key + bias)) @ value.

    Keeps the weights before dropout and the mask of the kept ones, not the dropped weights.

    Heads that share keys are the queries of one product. Shapes: query (rows, heads, queries,
    width); key, value (rows, groups of heads, keys, width); bias: numbers (rows, heads, queries,
    keys), or which scores are hidden, of a shape that fits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        dropout: float,
    ) -> torch.Tensor:
        ctx.shapes = [part.shape for part in (query, key, value)]
        grouped = query.reshape(*key.shape[:2], -1, query.shape[3])
        query, key, value = (part.flatten(0, 1) for part in (grouped, key, value))
        scores = torch.bmm(query, key.transpose(1, 2))
        by_head = scores.view(*ctx.shapes[0][:3], -1)
        if bias is not None and bias.dtype == torch.bool:
            by_head.masked_fill_(bias, -torch.inf)
        elif bias is not None:
            by_head += bias
        weights = scores.softmax(-1)
        kept, ctx.scale = random_mask(weights, dropout) if dropout else (None, 1.0)
        ctx.save_for_backward(query, key, value, weights, kept)
        return torch.bmm(_dropped(ctx, weights, kept), value).view(ctx.shapes[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        gradient = gradients[0].reshape(query.shape)
        for_value = torch.bmm(_dropped(ctx, weights, kept).transpose(1, 2), gradient)
        for_weights = _dropped(ctx, torch.bmm(gradient, value.transpose(1, 2)), kept)
        for_scores = torch.ops.aten._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        products = (
            torch.bmm(for_scores, key), torch.bmm(for_scores.transpose(1, 2), query), for_value,
        )  # fmt: skip
        of_inputs = (part.view(shape) for part, shape in zip(products, ctx.shapes, strict=True))
        for_bias = for_scores.view(*ctx.shapes[0][:3], -1) if ctx.needs_input_grad[3] else None
        return *of_inputs, for_bias, None


def _dropped(ctx: Any, weights: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    return weights if kept is None else masked(weights, kept, ctx.scale)


def attention_of(config: PreTrainedConfig) -> str:
    """The attention that a model came with, by its name in transformers."""
    name = config._attn_implementation
    return "sdpa" if name in (None, CPU_ATTENTION, PREFIX_ATTENTION) else name


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Let a model that attends by torch's attention do so by `attention`."""
    if model.config._attn_implementation in ("sdpa", PREFIX_ATTENTION):
        model.set_attn_implementation(CPU_ATTENTION)


AttentionInterface.register(CPU_ATTENTION, attention)
AttentionMaskInterface.register(CPU_ATTENTION, sdpa_mask)
