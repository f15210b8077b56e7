"""The plan of what adapters and frozen layers keep, against what autograd saves on a CPU."""

from typing import Any

import pytest
import test_layers_on_cpu as layers
import torch
from test_layers_on_cpu import ROWS, SOURCE, TARGET, saved_bytes
from transformers import CONFIG_MAPPING

from workflow.config.request import JobRequest
from workflow.config.task_specs import TASK_SPECS
from workflow.memory.activations import Work, activation_bytes
from workflow.memory.model_dims import sizes_of_model
from workflow.models.configuration import set_dropout
from workflow.models.families import family_of
from workflow.tuning import tuning_of

LAYOUTS = layers.LAYOUTS | {
    "t5": {
        "d_model": 256, "num_heads": 4, "d_ff": 640, "num_layers": 4,
        "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
    },
}  # fmt: skip
KINDS = ["t5", "llama", "gpt2", "bert"]
TUNINGS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora"},
    "lora without dropout": {"tuning": "lora", "lora_dropout": 0.0},
    "lora everywhere": {"tuning": "lora", "lora_target_modules": ("all-linear",)},
    "dora": {"tuning": "lora", "use_dora": True},
    "ia3": {"tuning": "ia3"},
    "prompt": {"tuning": "prompt"},
    "prefix": {"tuning": "prefix"},
    "bottom": {"freeze": ("bottom:2",)},
}


def request_of(**flags: Any) -> JobRequest:
    return JobRequest(task="seq2seq", **{**TASK_SPECS["seq2seq"].defaults, **flags})


def tuned(kind: str, bf16: bool, dropout: float = 0.0, **flags: Any) -> Any:
    """A model of eight layers in all, in the precision that computes."""
    ids = {"vocab_size": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = CONFIG_MAPPING[kind](**{"num_hidden_layers": 8} | LAYOUTS[kind] | ids)
    set_dropout(config, dropout)
    family = family_of(config)
    model = family.model_class(config)._from_config(config)
    tuning_of(request_of(**flags)).apply(model)
    family.use_fast_modules(model)
    return model.to(torch.bfloat16 if bf16 else torch.float32).train()


def ratio_of(model: Any, bf16: bool) -> float:
    """Planned over saved; without logits, which tests of all layouts leave out."""
    positions = ROWS * (SOURCE + TARGET)
    work = Work(bf16, SOURCE, TARGET, positions, on_gpu=False)
    return activation_bytes(sizes_of_model(model), work)["activations"] / saved_bytes(model)


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_what_autograd_saves(kind: str, tuning: str, bf16: bool) -> None:
    if tuning == "prefix" and kind in ("t5", "bert"):
        pytest.skip("no prefix")
    model = tuned(kind, bf16, 0.0, **TUNINGS[tuning])
    assert 0.85 < ratio_of(model, bf16) < 1.15
