"""Change sizes and dropout in a model's nested configurations.

Most model types name these settings differently; only this module knows the names.
"""

import copy
from typing import Any

from transformers import PreTrainedConfig

from workflow.core.errors import BadInput, Problem

_LAYERS = (
    "num_layers", "num_decoder_layers", "num_hidden_layers", "encoder_layers", "decoder_layers",
    "n_layer", "n_layers",
)  # fmt: skip
_SMALL = {
    2: (
        "num_heads", "num_attention_heads", "encoder_attention_heads", "decoder_attention_heads",
        "num_key_value_heads", "n_head", "n_heads",
    ),
    8: ("head_dim", "d_kv"),
    16: (
        "d_model", "hidden_size", "cross_attention_hidden_size", "d_ff", "encoder_ffn_dim",
        "decoder_ffn_dim", "intermediate_size", "n_embd", "n_inner", "ffn_dim",
        "word_embed_proj_dim", "dim", "hidden_dim", "embedding_size", "pooler_hidden_size",
    ),
}  # fmt: skip
"""Names of the settings of a small copy, by size."""


_DROPOUT = (
    "dropout_rate", "dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout_prob", "hidden_dropout",
)  # fmt: skip
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
_MORE_DROPOUT = (
    *_ATTENTION_DROPOUT, "activation_dropout", "classifier_dropout", "classifier_dropout_prob",
    "seq_classif_dropout", "embedding_dropout", "mlp_dropout", "residual_dropout",
)  # fmt: skip

ADAPTER_DROPOUT = "adapter_dropout"
"""Set while a model has an adapter with dropout."""


def parts_of(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A configuration and all configurations nested in it."""
    inner = [getattr(config, name) for name in config.sub_configs]
    return [config, *(part for found in inner if found is not None for part in parts_of(found))]


def widen_vocabulary(config: PreTrainedConfig, tokens: int) -> None:
    """Set the vocabulary size to at least `tokens`."""
    for part in parts_of(config):
        if hasattr(part, "vocab_size"):
            part.vocab_size = max(part.vocab_size, tokens)


def has_dropout(config: PreTrainedConfig) -> bool:
    """Whether anything is random in training."""
    names = (*_DROPOUT, *_MORE_DROPOUT, "router_jitter_noise", ADAPTER_DROPOUT)
    return any(getattr(part, name, 0) for part in parts_of(config) for name in names)


def set_dropout(config: PreTrainedConfig, rate: float) -> None:
    """Set the dropout rate in all parts of a configuration.

    Attention and activation dropout are set too, unless they are 0.

    Raises:
        BadInput: the configuration has no dropout setting.
    """
    names = [name for name in _DROPOUT if hasattr(config, name)]
    names = names or [name for name in ("attention_dropout",) if hasattr(config, name)]
    if not names:
        found = f"a {config.model_type} model without dropout settings"
        raise BadInput([Problem("--dropout_rate", found, "a model with dropout", "remove it")])
    for part in parts_of(config):
        for name in names:
            setattr(part, name, rate)
        for name in _MORE_DROPOUT:
            if getattr(part, name, 0):
                setattr(part, name, rate)
        if rate == 0 and hasattr(part, "router_jitter_noise"):
            part.router_jitter_noise = 0.0


def dropout_of(config: PreTrainedConfig) -> tuple[bool, bool]:
    """Whether training drops hidden states, and attention weights."""

    def any_of(names: tuple[str, ...]) -> bool:
        return any(getattr(config, name, None) for name in names)

    return any_of(_DROPOUT), any_of(_ATTENTION_DROPOUT)


def small_configuration(config: PreTrainedConfig, window: int) -> PreTrainedConfig:
    """A configuration of the same model type with small sizes.

    Layer counts keep their order: the smallest becomes 1, the next 2. Other sizes stay, since some
    model types only work with these.

    Args:
        window: size of LED's local attention.
    """
    config = copy.deepcopy(config)
    parts: list[Any] = [*parts_of(config)]
    counts = {vars(part).get(name) for part in parts for name in _LAYERS} - {None}
    small = {count: rank for rank, count in enumerate(sorted(counts), start=1)}
    for part in parts:
        given = {name for name, value in vars(part).items() if value is not None}
        for name in given.intersection(_LAYERS):
            setattr(part, name, small[getattr(part, name)])
        for size, names in _SMALL.items():
            for name in given.intersection(names):
                setattr(part, name, size)
        if hasattr(part, "layer_types"):
            part.layer_types = part.layer_types[: part.num_hidden_layers]
        if hasattr(part, "attention_window"):  # LED pads every text to a multiple of it
            part.attention_window = [window] * part.encoder_layers
    return config
