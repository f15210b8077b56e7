"""What families of encoder-decoders have of their own: how decoding starts, what encoders want."""

from dataclasses import dataclass
from typing import Any

import torch

from workflow.models.languages import language_ids
from workflow.models.state_dict import Model

REFUSED = {
    "bigbird_pegasus": "a batch of short texts changes its attention for good, so what one record "
    "gives depends on those before it",
    "fsmt": "its output layer is no module, so logits cannot be had at some positions only",
    "nllb-moe": "an expert takes so many tokens of a batch and no more, so what one record gives "
    "depends on the others beside it",
    "prophetnet": "it learns several tokens ahead with a loss of its own",
}
"""Model types that load, but cannot keep what this tool promises, and why."""

ONE_PROCESS = {
    "switch_transformers": "an expert that the records of a process do not reach has no gradient "
    "there, and processes would wait for each other",
}
"""Model types that several processes cannot train together, and why."""

_LABELS_MOVED = ("mbart", "plbart")
"""Where transformers moves the last id of the labels to their front, and ignores the setting."""


@dataclass(frozen=True)
class DecoderIds:
    """The ids that a model's decoder is given, whatever the record.

    Attributes:
        start: stands before the first token, in training and in generation.
        forced: the first token of every generation; None where the model is free. Of tokenizers
            that begin targets with the code of their language it is that code.
    """

    start: int
    forced: int | None = None

    def set_in(self, model: Model) -> None:
        """Let a model's settings say so, and those of the checkpoints saved of it."""
        for settings in (model.config, model.generation_config):
            settings.decoder_start_token_id = self.start
        model.generation_config.forced_bos_token_id = self.forced


def find_decoder_ids(config: Any, generation: Any, tokenizer: Any) -> DecoderIds | None:
    """What a model's decoder starts with, as transformers shifts labels; None if unknown.

    Args:
        generation: the model's own generation settings.
    """
    codes, target = language_ids(tokenizer), tokenizer(text_target="")["input_ids"]
    forced = generation.forced_bos_token_id
    if forced is None:  # some folders have it in config.json alone
        forced = getattr(config, "forced_bos_token_id", None)
    if codes:
        forced = target[0] if target[0] in codes else None
    if config.model_type in _LABELS_MOVED:
        return DecoderIds(target[-1], forced)
    start = getattr(config, "decoder_start_token_id", None)
    if config.model_type in ("t5gemma", "t5gemma2"):
        start = config.decoder.bos_token_id
    return None if start is None else DecoderIds(start, forced)


def decoder_config(config: Any) -> Any:
    """The part of a configuration that is the decoder's: all of it, where it is not divided."""
    parts = ("encoder", "decoder")
    return config.decoder if all(hasattr(config, part) for part in parts) else config


def parts_of(config: Any) -> list[Any]:
    """A configuration and those within it, each of which may hold sizes and dropout."""
    inner = [getattr(config, name) for name in getattr(config, "sub_configs", {})]
    return [config, *(part for found in inner if found is not None for part in parts_of(found))]


def embedding_weights(model: Model) -> list[Any]:
    """The weights that read tokens: one that all share, or the encoder's and the decoder's own."""
    readers = model, model.get_encoder(), model.get_decoder()
    return [reader.get_input_embeddings().weight for reader in readers]


def vocabulary_size(config: Any) -> int:
    """Ids that the model can write."""
    return int(decoder_config(config).vocab_size)


def widen_vocabulary(config: Any, tokens: int) -> None:
    """Let a configuration have a row for each of so many tokens, at least."""
    for part in parts_of(config):
        if hasattr(part, "vocab_size"):
            part.vocab_size = max(part.vocab_size, tokens)


def encoder_options(model: Model, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the encoder takes besides ids and their mask (rows, length).

    LED was trained with global attention on the first token (Beltagy et al. 2020,
    arXiv:2004.05150), and has none unless it is told where.
    """
    if model.config.model_type != "led":
        return {}
    everywhere = torch.zeros_like(mask)
    everywhere[:, 0] = 1
    return {"global_attention_mask": everywhere}
