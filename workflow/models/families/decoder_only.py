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

from workflow.models.batch import (
    SHARED,
    Batch,
    Rows,
    in_one_segment,
    make_joined_batch,
    pad_rows,
)
from workflow.models.configuration import has_dropout
from workflow.models.families.base import (
    DecoderIds,
    Dimensions,
    GeneratingFamily,
    GenerationStart,
    Modules,
    activation_of,
    class_in,
    first_of,
    modules_of,
)
from workflow.models.kernels.attention import attention_of
from workflow.models.lm_head import select_logits

PACKED = (
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "granite", "llama",
    "mistral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm",
    "starcoder2",
)  # fmt: skip
"""Types whose packed examples have the same logits as alone (`tests/models/test_decoder_only.py`).

transformers finds the examples of a row where position ids restart, and masks the others."""
_OTHER_MASKS = ("gemma2", "gemma3_text", "gpt_neo")
"""Packed types some of whose layers do not attend to all earlier tokens."""

_NORMED_TWICE = ("gemma2", "gemma3_text", "glm4")
"""Types with norms before and after each block."""
_NORMED_HEADS = ("gemma3_text", "olmo2", "qwen3", "qwen3_moe")
"""Types that norm queries and keys."""


class DecoderOnly(GeneratingFamily):
    """The family of causal language models."""

    name = "decoder-only"
    joins_texts = True

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        return class_in(AutoModelForCausalLM._model_mapping, config)

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
            joins_texts=self.joins_texts,
            vocabulary=self.vocabulary_size(config),
            modules=_modules_of(config, self.model_class(config)),
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
        return make_joined_batch(rows, targets, pad_id=0, shares=self.shares_prefixes(config))

    def supports_packing(self, model: PreTrainedModel) -> bool:
        return model.config.model_type in PACKED

    def shares_prefixes(self, config: PreTrainedConfig) -> bool:
        """With dropout, each example needs a prefix of its own."""
        return attends_to_all(config) and not has_dropout(config)

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits at the positions before each target.

        Texts are padded at the end, where the padding changes nothing before it.
        """
        segments = batch.source_segments
        positions = mask = None
        if batch.packed:
            positions = restarting_positions(segments)
            mask = visible(segments) if attends_to_all(model.config) else None
        with select_logits(model, batch.target_positions, words):
            logits: torch.Tensor = model(
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=positions,
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


def attends_to_all(config: PreTrainedConfig) -> bool:
    """Whether all layers attend to all earlier tokens of an example."""
    kind, window = config.model_type, getattr(config, "sliding_window", None)
    return kind in PACKED and kind not in _OTHER_MASKS and window is None


def visible(segments: torch.Tensor) -> torch.Tensor:
    """Whether tokens (rows, 1, queries, 1) see tokens (rows, 1, 1, keys) of packed rows.

    Each sees the earlier ones of its example and of what the row's examples share.
    """
    shared = segments[:, None, None, :] == SHARED
    return (in_one_segment(segments, segments) | shared).tril()


def _modules_of(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Modules:
    rms = hasattr(config, "rms_norm_eps")
    return modules_of(
        config,
        model_class,
        norms=4 if config.model_type in _NORMED_TWICE else 2,
        rms_norms=rms,
        head_norms=config.model_type in _NORMED_HEADS,
        attention=attention_of(config),
        gated=rms or activation_of(config) == "silu",
        experts=first_of(config, "num_experts_per_tok", default=1),
        capped_logits=bool(getattr(config, "final_logit_softcapping", None)),
    )


def restarting_positions(segments: torch.Tensor) -> torch.Tensor:
    """The position of each token in its example, from 0; that of padding is 0.

    Args:
        segments: (rows, length), as of `Batch`.
    """
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = segments != segments.roll(1, dims=1)
    starts: torch.Tensor = (index * begins).cummax(dim=1).values
    shared = (segments == SHARED).sum(dim=1, keepdim=True)
    positions = index - starts + shared * (segments != SHARED)
    return positions * (segments != 0)  # padding may be longer than the model has positions
