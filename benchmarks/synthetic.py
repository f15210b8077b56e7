"""Random models in Flan-T5's layout, their number of operations, and synthetic records."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import T5_TINY

TINY = {"vocab_size": 1024, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4,
        "num_layers": 2}  # fmt: skip
LEAST = {"vocab_size": 1024, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_heads": 2,
         "num_layers": 1}  # fmt: skip
"""A job with it takes what any job takes besides its model."""
FLAN_T5 = {
    name: shape | {"vocab_size": 32128, "d_kv": 64}
    for name, shape in {
        "small": {"d_model": 512, "d_ff": 1024, "num_heads": 6, "num_layers": 8},
        "base": {"d_model": 768, "d_ff": 2048, "num_heads": 12, "num_layers": 12},
        "large": {"d_model": 1024, "d_ff": 2816, "num_heads": 16, "num_layers": 24},
        "xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32, "num_layers": 24},
        "xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24},
    }.items()
}


def random_model(shape: Mapping[str, Any]) -> Any:
    """A T5 model with a head of its own, and as many decoder layers as encoder layers."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    layout: dict[str, Any] = {
        "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }  # fmt: skip
    config = T5Config(**layout, **shape)
    model = T5ForConditionalGeneration(config)
    head = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
    model.lm_head.weight = torch.nn.Parameter(head)
    return model


def make_model(folder: Path, shape: Mapping[str, Any], tokenizer: Path = T5_TINY) -> int:
    """Save a random model with the tokenizer of a folder; returns how many parameters it has."""
    from transformers import AutoTokenizer

    from workflow.models.loading import save_model

    model = random_model(shape)
    save_model(model, AutoTokenizer.from_pretrained(tokenizer), folder)
    return sum(parameter.numel() for parameter in model.parameters())


def training_gflop(shape: Mapping[str, int], source: float, target: float) -> float:
    """Matrix products of training on so many source and target tokens: 6 × parameters × tokens.

    Encoder blocks meet source tokens, decoder blocks and the head target tokens.
    """
    attention = 4 * shape["d_model"] * shape["num_heads"] * shape["d_kv"]
    feed_forward = 3 * shape["d_model"] * shape["d_ff"]
    encoder = shape["num_layers"] * (attention + feed_forward)
    decoder = shape["num_layers"] * (2 * attention + feed_forward)
    head = shape["vocab_size"] * shape["d_model"]
    return 6 * (encoder * source + (decoder + head) * target) / 1e9


def add_one(number: int) -> dict[str, str]:
    """A record that asks for the next number, digit by digit."""
    prompt = f"add one: {' '.join(str(number))}"
    return {"prompt": prompt, "completion": " ".join(str(number + 1))}


def even_record(source: int, target: int) -> dict[str, str]:
    """A record of so many tokens, end marks included."""
    return {"prompt": "1 " * (source - 1), "completion": "2 " * (target - 1)}


def write_data(path: Path, train: Sequence[Any], evaluated: Sequence[Any]) -> None:
    """A data file in a mount, whose folder is made where it is missing."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"train": train, "eval": evaluated}), encoding="utf-8")
