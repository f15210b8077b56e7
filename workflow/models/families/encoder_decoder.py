"""Encoder-decoders of transformers: BART, mBART, Pegasus, LED, T5Gemma, …"""

import math
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

from workflow.models.batch import Batch, Example, Rows, make_batch, pad_rows
from workflow.models.families.base import (
    DecoderIds,
    Dimensions,
    GeneratingFamily,
    GenerationStart,
    Modules,
    class_in,
    first_of,
    modules_of,
)
from workflow.models.kernels.cpu import use_fast_modules
from workflow.models.languages import language_ids
from workflow.models.lm_head import select_logits

_LABELS_MOVED = ("mbart", "plbart")
"""Types whose decoder inputs start with the last label, whatever decoder_start_token_id is."""


class EncoderDecoder(GeneratingFamily):
    """The family of all encoder-decoders without a family of their own.

    None of them packs: positions are absolute, or masks must have two dimensions.
    """

    name = "encoder-decoder"
    joins_texts = False

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        return class_in(AutoModelForSeq2SeqLM._model_mapping, config)

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        return int(_decoder_config(config).vocab_size)

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        decoder = _decoder_config(config)
        encoder = getattr(config, "encoder", decoder)
        encoder = getattr(encoder, "text_config", encoder)  # T5Gemma 2 also reads images
        width, heads = decoder.hidden_size, decoder.num_attention_heads
        head = first_of(decoder, "d_kv", "head_dim", default=width // heads)
        return Dimensions(
            encoder_layers=first_of(encoder, "encoder_layers", "num_layers", "num_hidden_layers"),
            decoder_layers=first_of(
                decoder, "decoder_layers", "num_decoder_layers", "num_hidden_layers"
            ),
            width=width,
            heads=heads,
            inner=heads * head,
            keys=head * first_of(decoder, "num_key_value_heads", default=heads),
            feed_forward=first_of(
                decoder, "d_ff", "encoder_ffn_dim", "intermediate_size", default=4 * width
            ),
            joins_texts=self.joins_texts,
            vocabulary=self.vocabulary_size(config),
            modules=self._modules(config),
        )

    def _modules(self, config: PreTrainedConfig) -> Modules:
        decoder = _decoder_config(config)
        return modules_of(
            decoder,
            self.model_class(config),
            attention=config._attn_implementation or "sdpa",
            gated=bool(getattr(decoder, "is_gated_act", decoder is not config)),
        )

    def max_positions(self, config: PreTrainedConfig) -> tuple[float, float]:
        both = getattr(config, "max_position_embeddings", math.inf)
        read = getattr(config, "max_encoder_position_embeddings", both)
        return read, getattr(config, "max_decoder_position_embeddings", both)

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
        if codes:
            forced = target[0] if target[0] in codes else None
        if config.model_type in _LABELS_MOVED:
            return DecoderIds(target[-1], forced)
        start = getattr(config, "decoder_start_token_id", None)
        if config.model_type in ("t5gemma", "t5gemma2"):
            start = config.decoder.bos_token_id
        return None if start is None else DecoderIds(start, forced)

    def collate(self, config: PreTrainedConfig, rows: Rows, targets: torch.Tensor) -> Batch:
        start = config.decoder_start_token_id
        read = [[Example(one.source, [start, *one.read]) for one in row] for row in rows]
        return make_batch(read, targets, config.pad_token_id)

    def start_generation(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int
    ) -> GenerationStart:
        """The encodings of the prompts, which are encoded once."""
        ids = pad_rows(prompts, model.config.pad_token_id).to(model.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(model.device)
        options = _encoder_options(model, mask)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, **options)
        start = torch.full((len(mask), 1), model.config.decoder_start_token_id, device=model.device)
        output = model(
            encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, use_cache=False
        )
        if samples > 1:
            encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(samples, dim=0)
            mask = mask.repeat_interleave(samples, dim=0)
        inputs = {"encoder_outputs": encoded, "attention_mask": mask}
        return GenerationStart(inputs, output.logits[:, 0], skipped=1)

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
                **_encoder_options(model, mask),
            ).logits
        return logits

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        use_fast_modules(model)


def _encoder_options(model: PreTrainedModel, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """LED's mask of global attention, from that of the padding (rows, length).

    LED was trained with global attention on the first token (Beltagy et al. 2020,
    arXiv:2004.05150); without the mask it has none.
    """
    if model.config.model_type != "led":
        return {}
    everywhere = torch.zeros_like(mask)
    everywhere[:, 0] = 1
    return {"global_attention_mask": everywhere}


def _decoder_config(config: PreTrainedConfig) -> Any:
    """The decoder's part of a configuration, or the configuration itself if it has no parts."""
    parts = ("encoder", "decoder")
    return config.decoder if all(hasattr(config, part) for part in parts) else config
