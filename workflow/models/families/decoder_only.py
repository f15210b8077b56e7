"""Decoder-only models of transformers: GPT-2, OPT, Llama, Qwen, Gemma, …"""

import math
from collections.abc import Sequence

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workflow.models.batch import Batch, Rows, make_joined_batch, pad_rows
from workflow.models.families.base import (
    DecoderIds,
    Dimensions,
    GenerationStart,
    class_in,
    first_of,
)
from workflow.models.kernels.cpu import use_fast_modules
from workflow.models.kernels.fused import fused
from workflow.models.kernels.replace import replace_modules
from workflow.models.lm_head import select_logits

PACKED = (
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "granite", "llama",
    "mistral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm",
    "starcoder2",
)  # fmt: skip
"""Types whose packed examples have the same logits as alone (`tests/models/test_decoder_only.py`).

transformers finds the examples of a row where position ids restart, and masks the others."""


class DecoderOnly:
    """The family of causal language models."""

    name = "decoder-only"
    joins_texts = True
    generates = True

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        return class_in(AutoModelForCausalLM._model_mapping, config)

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        return int(config.vocab_size)

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        width, heads = config.hidden_size, config.num_attention_heads
        head = first_of(config, "head_dim", default=width // heads)
        return Dimensions(
            encoder_layers=0,
            decoder_layers=config.num_hidden_layers,
            width=width,
            heads=heads,
            inner=heads * head,
            keys=head * first_of(config, "num_key_value_heads", default=heads),
            feed_forward=first_of(
                config, "intermediate_size", "ffn_dim", "n_inner", default=4 * width
            ),
            gated=hasattr(config, "rms_norm_eps"),
            joins_texts=self.joins_texts,
            vocabulary=self.vocabulary_size(config),
        )

    def max_positions(self, config: PreTrainedConfig) -> tuple[float, float]:
        positions = getattr(config, "max_position_embeddings", math.inf)
        return positions, positions

    def decoder_ids(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> DecoderIds:
        """The end tokens of the model's own settings, and the tokenizer's."""
        own = generation.eos_token_id
        ends = own if isinstance(own, list) else [own]
        known = dict.fromkeys([*ends, tokenizer.eos_token_id])
        return DecoderIds(None, ends=tuple(end for end in known if end is not None))

    def collate(self, config: PreTrainedConfig, rows: Rows, targets: torch.Tensor) -> Batch:
        return make_joined_batch(rows, targets, pad_id=0)

    def is_head(self, model: PreTrainedModel, name: str) -> bool:
        return False

    def supports_packing(self, model: PreTrainedModel) -> bool:
        return model.config.model_type in PACKED

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits at the positions before each target.

        Texts are padded at the end, where the padding changes nothing before it.
        """
        segments = batch.source_segments
        mask = None
        if model.config.model_type == "opt":  # it ignores where position ids restart
            mask = (segments[:, None, :, None] == segments[:, None, None, :]).tril()
        with select_logits(model, batch.target_positions, words):
            logits: torch.Tensor = model(
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=restarting_positions(segments),
                use_cache=False,
            ).logits
        return logits

    def start_generation(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int
    ) -> GenerationStart:
        """The prompts padded at the start, so that all end together."""
        longest = max(map(len, prompts))
        ids = pad_rows([prompt[::-1] for prompt in prompts], 0).flip(1).to(model.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long().to(model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
        inputs = {
            "input_ids": ids.repeat_interleave(samples, dim=0),
            "attention_mask": mask.repeat_interleave(samples, dim=0),
        }
        return GenerationStart(inputs, output.logits[:, -1], skipped=longest)

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        use_fast_modules(model)

    def use_fused_modules(self, model: PreTrainedModel) -> None:
        replace_modules(model, fused)

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        pass


def restarting_positions(segments: torch.Tensor) -> torch.Tensor:
    """The position of each token within its segment, from 0; the padding behind is one segment.

    Args:
        segments: (rows, length), the number of each token's example in its row; 0 for padding.
    """
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = segments != segments.roll(1, dims=1)
    starts: torch.Tensor = (index * begins).cummax(dim=1).values
    return index - starts
