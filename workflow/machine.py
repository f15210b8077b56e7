"""What this machine is: its device, whether bfloat16 is fast there, and how much fits at once."""

from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def positions_that_fit(config: Any, longest_source: int, bf16: bool) -> int:
    """Padded positions of a micro-batch that this machine computes at once, cautiously.

    On a GPU: what 80% of its memory leaves beside parameters, gradients and optimizer state (18
    bytes a parameter), over the activations of a position, which in 16 bits are 34 × width + 5 ×
    heads × length bytes a layer (Korthikanti et al. 2022, "Reducing Activation Recomputation in
    Large Transformer Models"). Not measured on a GPU yet.
    """
    if not torch.cuda.is_available():
        return 2048
    with torch.device("meta"):
        parameters = AutoModelForSeq2SeqLM.from_config(config).num_parameters()
    decoder_layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    layers = config.num_hidden_layers + decoder_layers
    position = 34 * config.hidden_size + 5 * config.num_attention_heads * longest_source
    activations = position * layers * (1 if bf16 else 2)
    memory = torch.cuda.get_device_properties(0).total_memory
    return int(min(max((0.8 * memory - 18 * parameters) / activations, 256), 16_384))
