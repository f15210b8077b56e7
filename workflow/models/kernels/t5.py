"""T5's layers on a CPU: fused norm and feed-forward, and attention with dropout.

They save little for the backward pass and recompute what is cheap.
"""

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

from workflow.models.kernels.attention import Attended
from workflow.models.kernels.cpu import Dropout
from workflow.models.kernels.replace import replace_modules

ATTENTION = "workflow_cpu"
"""The name of `attention` in transformers."""


def use_fast_t5_modules(model: torch.nn.Module) -> None:
    """Replace the norms and gated feed-forward blocks of T5 and mT5 by those below."""

    def fast(module: torch.nn.Module) -> torch.nn.Module | None:
        if type(module) in (T5DenseGatedActDense, MT5DenseGatedActDense) and (
            type(module.act) is NewGELUActivation
        ):
            return GatedFeedForward(module)
        if type(module) in (T5LayerNorm, MT5LayerNorm):
            return RootMeanSquareNorm(module)
        return None

    replace_modules(model, fast)


class RootMeanSquareNorm(torch.nn.Module):
    """T5's norm: weight (width,) × x / root mean square of x; the mean in float32."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

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
        """Use torch's fused backward of layer normalization with mean 0.

        It also differentiates the mean and so subtracts the mean of gradient × weight, which is
        added again here.
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
    """T5's gated feed-forward: wo (dropout (gelu (wi_0 x) × wi_1 x)), with the tanh gelu."""

    def __init__(self, dense: Any):
        super().__init__()
        self.wi_0, self.wi_1, self.wo = dense.wi_0, dense.wi_1, dense.wo
        self.dropout = Dropout(dense.dropout.p)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gated = _Gated.apply(self.wi_0(hidden), self.wi_1(hidden))
        output: torch.Tensor = self.wo(self.dropout(gated))
        return output


class _Gated(torch.autograd.Function):
    """gelu(gate) × linear; recomputes the gelu in the backward pass."""

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


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """T5's attention with dropout; without dropout torch's, which is fused."""
    dropout, bias = options.get("dropout"), options.get("position_bias")
    if not dropout or attention_mask is None or bias is None or options.get("scaling") != 1.0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    added = create_position_bias_mask(bias, attention_mask, False, query, key)
    output: torch.Tensor = Attended.apply(query, key, value, added, dropout)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
