"""The planned activations against what autograd saves on a CPU, for the families of one stack."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import CONFIG_MAPPING

from workflow.memory.activations import Work, activation_bytes
from workflow.memory.model_dims import sizes_of_model
from workflow.models.batch import Batch, Example
from workflow.models.configuration import set_dropout
from workflow.models.families import family_of

USUAL = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 768}
LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 256, "n_head": 4, "n_layer": 8},
    "opt": USUAL | {"ffn_dim": 1024, "word_embed_proj_dim": 256},
    "llama": USUAL | GROUPED,
    "qwen2": USUAL | GROUPED,
    "qwen3": USUAL | GROUPED | {"head_dim": 64},
    "gemma2": USUAL | GROUPED | {"head_dim": 64},
    "bert": USUAL,
    "distilbert": {"dim": 256, "n_heads": 4, "hidden_dim": 1024, "n_layers": 8},
    "albert": USUAL | {"embedding_size": 64},
    "modernbert": USUAL | {"intermediate_size": 384, "cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": USUAL | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 64,
        "max_relative_positions": -1, "share_att_key": True,
    },
}  # fmt: skip
"""As their models are, but narrow; all have eight layers."""
ROWS, SOURCE, TARGET = 4, 192, 64


def make_model(kind: str, dropout: float, bf16: bool) -> Any:
    config = CONFIG_MAPPING[kind](
        **{"num_hidden_layers": 8} | LAYOUTS[kind],
        vocab_size=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    set_dropout(config, dropout)
    family = family_of(config)
    model = family.model_class(config)._from_config(config)
    family.use_fast_modules(model)
    return model.to(torch.bfloat16 if bf16 else torch.float32).train()


def make_rows(model: Any) -> Batch:
    """Rows of two packed examples, if the model can have these."""
    family = family_of(model.config)
    each = 2 if family.supports_packing(model) else 1
    read = TARGET // each - 1 if family.generates else 0
    source = (SOURCE + TARGET) // each - 1 - read
    row = [Example(np.full(source, 7 + number), np.full(read, 8)) for number in range(each)]
    shorter = [Example(row[0].source[1:], row[0].read), *row[1:]]  # so that there is a mask
    return family.collate(model.config, [*[row] * (ROWS - 1), shorter], torch.empty(0))


def planned_bytes(model: Any, bf16: bool, recomputes: bool = False) -> float:
    positions = ROWS * (SOURCE + TARGET)
    work = Work(bf16, SOURCE, TARGET, positions, on_gpu=False, gradient_checkpointing=recomputes)
    return activation_bytes(sizes_of_model(model), work)["activations"]


def saved_bytes(model: Any) -> int:
    """The bytes that a forward pass saves for the backward pass, without weights."""
    held = [*model.parameters(), *model.buffers()]
    weights = {tensor.untyped_storage()._cdata for tensor in held}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda _: torch.empty(0)):
        family_of(model.config).target_logits(model, make_rows(model))
    return sum(kept.nbytes() for place, kept in saved.items() if place not in weights)


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_plan_is_what_autograd_saves(kind: str, dropout: float, bf16: bool) -> None:
    model = make_model(kind, dropout, bf16)
    ratio = planned_bytes(model, bf16) / saved_bytes(model)
    assert 0.87 < ratio < 1.15


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bert", "modernbert"])
def test_the_plan_is_what_recomputed_layers_take(kind: str, bf16: bool) -> None:
    model = make_model(kind, 0.1, bf16)
    model.activation_checkpointing_enable()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = make_rows(model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        family_of(model.config).target_logits(model, batch).sum().backward()
    events = [event for event in found.profiler.kineto_results.events()  # type: ignore[union-attr]
              if event.name() == "[memory]"]  # fmt: skip
    taken = np.cumsum([event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())])
    ratio = planned_bytes(model, bf16, recomputes=True) / taken.max()
    assert 0.85 < ratio < 1.15
