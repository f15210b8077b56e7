"""Encoder-decoders of transformers: BART, mBART, Pegasus, LED, T5Gemma, …"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workflow.models.batch import Batch
from workflow.models.families.base import DecoderIds, Dimensions
from workflow.models.kernels.cpu import use_fast_modules
from workflow.models.kernels.fused import fused
from workflow.models.kernels.replace import replace_modules
from workflow.models.languages import language_ids
from workflow.models.lm_head import select_logits

_LABELS_MOVED = ("mbart", "plbart")
"""Types whose decoder inputs start with the last label, whatever decoder_start_token_id is."""


class EncoderDecoder:
    """The family of all encoder-decoders without a family of their own."""

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        found: Any = AutoModelForSeq2SeqLM._model_mapping[type(config)]
        first: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
        return first

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        return int(_decoder_config(config).vocab_size)

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        decoder = _decoder_config(config)
        encoder = getattr(config, "encoder", decoder)
        width, heads = decoder.hidden_size, decoder.num_attention_heads
        return Dimensions(
            encoder_layers=_first(encoder, "encoder_layers", "num_layers", "num_hidden_layers"),
            decoder_layers=_first(
                decoder, "decoder_layers", "num_decoder_layers", "num_hidden_layers"
            ),
            width=width,
            heads=heads,
            inner=heads * _first(decoder, "d_kv", "head_dim", default=width // heads),
            feed_forward=_first(
                decoder, "d_ff", "encoder_ffn_dim", "intermediate_size", default=4 * width
            ),
            gated=bool(getattr(decoder, "is_gated_act", decoder is not config)),
            vocabulary=self.vocabulary_size(config),
        )

    def decoder_ids(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> DecoderIds | None:
        """The ids that decoding starts with, as transformers shifts labels; None if unknown."""
        codes = language_ids(tokenizer).values()
        target = tokenizer(text_target="")["input_ids"]
        forced = generation.forced_bos_token_id
        if forced is None:  # some folders have it in config.json only
            forced = getattr(config, "forced_bos_token_id", None)
        if codes:
            forced = target[0] if target[0] in codes else None
        if config.model_type in _LABELS_MOVED:
            return DecoderIds(target[-1], forced)
        start = getattr(config, "decoder_start_token_id", None)
        if config.model_type in ("t5gemma", "t5gemma2"):
            start = config.decoder.bos_token_id
        return None if start is None else DecoderIds(start, forced)

    def encoder_options(
        self, model: PreTrainedModel, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """LED's mask of global attention.

        LED was trained with global attention on the first token (Beltagy et al. 2020,
        arXiv:2004.05150); without the mask it has none.
        """
        if model.config.model_type != "led":
            return {}
        everywhere = torch.zeros_like(mask)
        everywhere[:, 0] = 1
        return {"global_attention_mask": everywhere}

    def supports_packing(self, model: PreTrainedModel) -> bool:
        return False  # positions are absolute, or masks must have two dimensions

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        mask = (batch.source_segments > 0).long()
        with select_logits(model, batch.target_positions, words):
            logits: torch.Tensor = model(
                input_ids=batch.input_ids,
                attention_mask=mask,
                decoder_input_ids=batch.decoder_input_ids,
                use_cache=False,
                **self.encoder_options(model, mask),
            ).logits
        return logits

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        use_fast_modules(model)

    def use_fused_modules(self, model: PreTrainedModel) -> None:
        replace_modules(model, fused)

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        pass


def _decoder_config(config: PreTrainedConfig) -> Any:
    """The decoder's part of a configuration, or the configuration itself if it has no parts."""
    parts = ("encoder", "decoder")
    return config.decoder if all(hasattr(config, part) for part in parts) else config


def _first(config: Any, *names: str, default: int = 0) -> int:
    """The value of the first of these names that a configuration has."""
    found = (getattr(config, name, None) for name in names)
    return int(next((value for value in found if value), default))
