"""The planned activations against the tensors that autograd saves, counted on the meta device."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration

from workflow.memory.activations import Work, activation_bytes
from workflow.memory.model_dims import sizes_of_model
from workflow.models.batch import Batch
from workflow.models.families import family_of
from workflow.models.families.t5 import _packed_logits

XL = {"d_model": 2048, "num_heads": 32, "d_ff": 5120, "num_layers": 24}
SMALL = {"d_model": 512, "num_heads": 6, "d_ff": 1024, "num_layers": 8}
FIRST_T5 = {"d_model": 768, "num_heads": 12, "d_ff": 3072, "num_layers": 12}
SHAPES = [(1, 1024, 512), (8, 128, 32), (3, 705, 101), (16, 64, 64)]


def normed(hidden: torch.Tensor, shape: Any, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """CUDA's rms_norm keeps the input and a number per position; so does this."""
    return F.layer_norm(hidden, shape, weight, None, epsilon)


def dropped(hidden: torch.Tensor, p: float, training: bool, inplace: bool = False) -> torch.Tensor:
    """CUDA's dropout keeps a mask of a byte per element."""
    return torch.native_dropout(hidden, p, True)[0] if training else hidden


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor,
    dropout_p: float, scale: float, is_causal: bool,
) -> torch.Tensor:  # fmt: skip
    """The attention that CUDA chooses for additive masks, which copies unaligned ones."""
    if any(stride % 8 for stride in attn_mask.stride()[:-1]):
        keys = attn_mask.shape[-1]
        attn_mask = F.pad(attn_mask, (0, 8 - keys % 8))[..., :keys]
    output: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask.expand(*query.shape[:3], key.shape[2]),
        True, dropout_p, is_causal, scale=scale,
    )[0]  # fmt: skip
    return output


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The meta device computes these three as a CPU does; CUDA's keep other tensors."""
    monkeypatch.setattr(F, "rms_norm", normed)
    monkeypatch.setattr(F, "dropout", dropped)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    yield


def saved_bytes(model: T5ForConditionalGeneration, rows: int, source: int, target: int) -> int:
    """The bytes that a forward pass saves for the backward pass, without weights and logits."""
    model.lm_head = torch.nn.Identity()
    with torch.device("meta"):
        ids = [torch.ones(rows, length, dtype=torch.int64) for length in (source, target)]
    places = torch.arange(ids[1].numel())
    batch = Batch(ids[0], ids[0], ids[1], ids[1], places, ids[1].view(-1))
    weights = {tensor.untyped_storage()._cdata for tensor in model.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _packed_logits(model, batch)
    return sum(kept.nbytes() for place, kept in saved.items() if place not in weights)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize(
    ("shape", "layout"), [(XL, "gated-gelu"), (SMALL, "gated-gelu"), (FIRST_T5, "relu")]
)
def test_the_plan_for_gpus_is_what_autograd_saves(
    shape: dict[str, int], layout: str, bf16: bool
) -> None:
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(**shape, feed_forward_proj=layout))
    model = model.to(torch.bfloat16 if bf16 else torch.float32).train()
    sizes = sizes_of_model(model)
    family_of(model.config).use_fused_modules(model)
    for rows, source, target in SHAPES:
        planned = activation_bytes(sizes, Work(bf16, source, target, rows * (source + target)))
        counted = saved_bytes(model, rows, source, target)
        ratio = (sum(planned.values()) - planned["logits"]) / counted
        assert 0.95 < ratio < 1.15, (rows, source, target, ratio)


@pytest.mark.usefixtures("as_on_cuda")
def test_fused_modules_halve_what_an_xl_keeps_of_long_texts() -> None:
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(**XL, feed_forward_proj="gated-gelu"))
    model = model.bfloat16().train()
    plain = saved_bytes(model, 1, 1024, 512)
    family_of(model.config).use_fused_modules(model)
    assert saved_bytes(model, 1, 1024, 512) < 0.45 * plain
