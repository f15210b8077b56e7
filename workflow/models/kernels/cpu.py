"""What makes a CPU fast: memory that is kept, cheap random bits, fused norm and activation.

And what makes it hold little for the backward pass: what is dropped in a byte, and nothing that is
quickly computed again.
"""

import ctypes
import os
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import (
    create_position_bias_mask,
    sdpa_attention_forward,
)
from transformers.masking_utils import sdpa_mask
from transformers.models.mt5.modeling_mt5 import MT5DenseGatedActDense, MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm

ATTENTION = "workflow_cpu"
"""The name under which transformers finds `attention`."""

PRODUCTS_KEPT = 128
"""Shapes of 16-bit products that oneDNN remembers."""

GIVEN_BACK = 1 << 17
"""Bytes of a block that is given back when it is freed, where memory is not kept."""

LEVELS = 1 << 16
"""Dropout rates are rounded to multiples of 1 / LEVELS."""


def tune_memory(keeps: bool) -> None:
    """Settle what the process does with memory that it frees, and let it have small caches.

    Every step allocates the same hundreds of megabytes anew. glibc gives them back to the system
    in between, and memory that is new costs a page fault for each 4 KB, a fifth of a step
    (mallopt(3)). Keeping it suits plain torch, which allocates alike in every step. DeepSpeed makes
    and drops large buffers of many sizes, and took 1.7 times what it used at once: there blocks of
    128 KB and more are given back; with a megabyte 0.9 GB of freed activations stayed in one case.

    oneDNN keeps 1,024 products of 16-bit matrices by their shapes, with up to 33 MB of scratch
    space each; no step has half as many shapes as it may keep here. Must be called before the
    first product; does nothing on systems and in builds that know neither.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(PRODUCTS_KEPT))
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # as in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if keeps:
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)
    else:
        mallopt(mmap_threshold, GIVEN_BACK)


def use_fast_modules(model: torch.nn.Module, attention: bool) -> None:
    """Let a model compute the same with fewer passes over its memory.

    Args:
        attention: whether its attention is T5's, with a position bias and masks in four dimensions.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p))
            elif type(child) in (T5DenseGatedActDense, MT5DenseGatedActDense) and (
                type(child.act) is NewGELUActivation
            ):
                setattr(module, name, GatedFeedForward(child))
            elif type(child) is NewGELUActivation:
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
            elif type(child) in (T5LayerNorm, MT5LayerNorm):
                setattr(module, name, RootMeanSquareNorm.of(child))
    model.train(model.training)  # the modules that took the place of others too
    if attention:
        model.set_attn_implementation(ATTENTION)  # type: ignore[operator]


class RootMeanSquareNorm(torch.nn.Module):
    """T5's norm: weight (width,) × x / root mean square of x; the mean in float32."""

    def __init__(self, weight: torch.nn.Parameter, epsilon: float):
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    @classmethod
    def of(cls, norm: Any) -> "RootMeanSquareNorm":
        """The same norm, with the same parameter, as one of transformers'."""
        return cls(norm.weight, norm.variance_epsilon)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = _Normed.apply(hidden, self.weight, self.epsilon)
        return normed


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, scale, weight)
        return torch.mul(hidden, scale, out=torch.empty_like(hidden)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """By torch's fused backward of layer normalisation about the mean 0.

        That takes the mean of gradient × weight away from the gradient, for it differentiates
        the mean too; here it is added again.
        """
        (gradient,) = gradients
        hidden, scale, weight = ctx.saved_tensors
        width = hidden.shape[-1]
        for_hidden, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, hidden, [width], torch.zeros_like(scale), scale,
            weight.float(), None, [True, False, False],
        )  # fmt: skip
        by_mean = (gradient @ weight).unsqueeze(-1) * (scale / width)
        for_hidden += by_mean.to(for_hidden.dtype)
        products = (gradient * hidden).view(-1, width)
        for_weight = scale.to(products.dtype).view(1, -1) @ products
        return for_hidden, for_weight.view(width), None


class GatedFeedForward(torch.nn.Module):
    """T5's gated feed-forward: wo (dropout (gelu (wi_0 x) × wi_1 x)), the gelu by its tanh."""

    def __init__(self, dense: Any):
        """The same, with the same parameters, as one of transformers'."""
        super().__init__()
        self.wi_0, self.wi_1, self.wo = dense.wi_0, dense.wi_1, dense.wo
        self.dropout = Dropout(dense.dropout.p)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gated = _Gated.apply(self.wi_0(hidden), self.wi_1(hidden))
        output: torch.Tensor = self.wo(self.dropout(gated))
        return output


class _Gated(torch.autograd.Function):
    """gelu(gate) × linear; the gelu is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, linear)
        return F.gelu(gate, approximate="tanh").mul_(linear)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = gradients
        gate, linear = ctx.saved_tensors
        for_linear = F.gelu(gate, approximate="tanh").mul_(gradient)
        for_gate = torch.ops.aten.gelu_backward(gradient * linear, gate, approximate="tanh")
        return for_gate, for_linear


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` by `drop`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return drop(hidden, self.p) if self.training and self.p else hidden


def drop(hidden: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero each element with probability `rate`, and scale the others so that the mean stays."""
    dropped: torch.Tensor = _Dropped.apply(hidden, *_kept(hidden, rate))
    return dropped


def _kept(hidden: torch.Tensor, rate: float) -> tuple[torch.Tensor, float]:
    """Which elements are kept, a byte each, and what they are multiplied by.

    Takes 16 bits of torch's generator an element, five times as fast as `bernoulli_`.
    """
    count = hidden.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = bits.view(torch.int16)[:count].view(hidden.shape)
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    kept = torch.empty(hidden.shape, dtype=torch.uint8)
    torch.ge(bits, dropped - LEVELS // 2, out=kept)
    return kept, LEVELS / (LEVELS - dropped)


def _scaled(hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    return kept.to(hidden.dtype).mul_(scale).mul_(hidden)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(hidden, kept, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _scaled(gradients[0], kept, ctx.scale), None, None


class _Attended(torch.autograd.Function):
    """dropout(softmax(scores)) @ value, where the dropped weights are computed again."""

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, value: torch.Tensor, kept: torch.Tensor, scale: float
    ) -> torch.Tensor:
        weights = scores.softmax(-1)
        ctx.save_for_backward(weights, value, kept)
        ctx.scale = scale
        return _scaled(weights, kept, scale) @ value

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (gradient,) = gradients
        weights, value, kept = ctx.saved_tensors
        for_value = _scaled(weights, kept, ctx.scale).transpose(2, 3) @ gradient
        for_weights = _scaled(gradient @ value.transpose(2, 3), kept, ctx.scale)
        for_scores = torch.ops.aten._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        return for_scores, for_value, None, None


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """T5's attention where there is dropout; else torch's own, which is fused only without."""
    if not dropout or attention_mask is None or position_bias is None or scaling != 1.0:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask,
            dropout=dropout, scaling=scaling, position_bias=position_bias, **kwargs,
        )  # fmt: skip
    scores = query @ key.transpose(2, 3)
    scores = scores + create_position_bias_mask(position_bias, attention_mask, False, query, key)
    output = _Attended.apply(scores, value, *_kept(scores, dropout))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
