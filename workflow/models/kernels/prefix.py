"""Attention to learned keys and values that come before every row (prefix tuning)."""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PREFIX_ATTENTION = "workflow_prefix"
"""The name of `attention` in transformers."""


def can_attend_to_prefix(model: PreTrainedModel) -> bool:
    """Whether attention is torch's, which takes keys and values from here."""
    return bool(model.config._attn_implementation == "sdpa")


class PrefixAttention:
    """Learned keys and values of the virtual tokens of each layer, as peft arranges them."""

    def __init__(self, embedding: torch.nn.Embedding, heads: int):
        """Take what is learned as rows (tokens, layers × 2 × heads × width of a head)."""
        self._embedding, self._heads = embedding, heads
        self._layers: torch.Tensor | None = None

    def use_in(self, model: PreTrainedModel) -> None:
        """Let the model's attention see the prefix, and count positions behind it."""
        modules: Any = model.modules()
        for module in modules:
            if hasattr(module, "layer_idx") and hasattr(module, "is_causal"):
                module.prefix = (self,)  # in a tuple: it is no part of the module
        model.set_attn_implementation(PREFIX_ATTENTION)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)

    def _begin(self, model: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Compute the prefix once for all layers, and move positions behind it."""
        tokens = self._embedding.num_embeddings
        rows = self._embedding(torch.arange(tokens, device=self._embedding.weight.device))
        by_layer = rows.view(tokens, model.config.num_hidden_layers, 2, self._heads, -1)
        self._layers = by_layer.permute(1, 2, 3, 0, 4)
        positions = options.get("position_ids")
        if positions is None:
            ids = options["input_ids"]
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        return args, options | {"position_ids": positions + tokens}

    def before(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (rows, heads, tokens, width) behind those of the prefix."""
        assert self._layers is not None
        keys, values = self._layers[layer].to(key.dtype)[:, None].expand(-1, len(key), -1, -1, -1)
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


def with_prefix(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Keys, values and mask, with those of the module's prefix if it has one."""
    if not hasattr(module, "prefix"):
        return key, value, mask
    (prefix,) = module.prefix
    if mask is None and query.shape[2] > 1:
        shape = query.shape[2], key.shape[2]
        mask = torch.ones(shape, dtype=torch.bool, device=key.device).tril()[None, None]
    longer_key, longer_value = prefix.before(module.layer_idx, key, value)
    if mask is not None:
        seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
        tokens = longer_key.shape[2] - key.shape[2]
        mask = torch.cat([seen(*mask.shape[:3], tokens), mask], dim=3)
    return longer_key, longer_value, mask


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """torch's attention, with the module's prefix."""
    key, value, attention_mask = with_prefix(module, query, key, value, attention_mask)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(PREFIX_ATTENTION, attention)
AttentionMaskInterface.register(PREFIX_ATTENTION, sdpa_mask)
