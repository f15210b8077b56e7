"""The sizes of a model, from its configuration alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workflow.core.errors import BadInput
from workflow.models.families import decoder_config
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.models.loading import build_model
from workflow.models.state_dict import Model, saved_names


@dataclass(frozen=True)
class Sizes:
    """What memory depends on.

    Attributes:
        parameters, largest_tensor: numbers in all tensors, each counted once, and in the largest.
        heads, inner: of attention, and all heads' widths together.
        feed_forward: the inner width of the feed-forward blocks.
        gated: whether those have two matrices of that width, as Flan-T5's.
    """

    parameters: int
    largest_tensor: int
    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    inner: int
    feed_forward: int
    gated: bool
    vocabulary: int


def sizes_of(folder: Path) -> Sizes:
    """The sizes of a folder's model, of which no weight is read.

    Raises:
        BadInput: where its settings are broken.
    """
    try:
        with torch.device("meta"):
            return sizes_of_model(build_model(folder))
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "settings that a model can be made of")]) from error


def sizes_of_model(model: Model) -> Sizes:
    """The sizes of a model, which may be on the meta device."""
    config = decoder_config(model.config)
    encoder = getattr(model.config, "encoder", config)
    counts = [tensor.numel() for tensor in saved_names(model).values()]
    width, heads = config.hidden_size, config.num_attention_heads
    return Sizes(
        parameters=sum(counts),
        largest_tensor=max(counts),
        encoder_layers=_first(encoder, "encoder_layers", "num_layers", "num_hidden_layers"),
        decoder_layers=_first(config, "decoder_layers", "num_decoder_layers", "num_hidden_layers"),
        width=width,
        heads=heads,
        inner=heads * _first(config, "d_kv", "head_dim", default=width // heads),
        feed_forward=_first(
            config, "d_ff", "encoder_ffn_dim", "intermediate_size", default=4 * width
        ),
        gated=bool(getattr(config, "is_gated_act", config is not model.config)),
        vocabulary=config.vocab_size,
    )


def checkpoint_bytes(sizes: Sizes) -> tuple[int, int]:
    """Bytes of a checkpoint on disk: its float32 weights, and these with both moments."""
    return 4 * sizes.parameters, 12 * sizes.parameters


def _first(config: Any, *names: str, default: int = 0) -> int:
    """The first of these that a configuration has."""
    found = (getattr(config, name, None) for name in names)
    return int(next((value for value in found if value), default))
