"""The seam between kinds of models and all that works with any of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workflow.models.batch import Batch


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

    def set_in(self, model: PreTrainedModel) -> None:
        """Let a model's settings say so, and those of the checkpoints saved of it."""
        for settings in (model.config, model.generation_config):
            settings.decoder_start_token_id = self.start
        model.generation_config.forced_bos_token_id = self.forced


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a model's layers.

    Attributes:
        heads, inner: of attention, and all heads' widths together.
        feed_forward: the inner width of the feed-forward blocks.
        gated: whether those have two matrices of that width, as Flan-T5's.
        vocabulary: ids that the model can write.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    inner: int
    feed_forward: int
    gated: bool
    vocabulary: int


class ModelFamily(Protocol):
    """What the program must know of a kind of model.

    A family keeps nothing: each function is given the configuration or the model. What all models
    have in common is no member: loading and saving, the batch, the head (`models.lm_head`).
    """

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The class of transformers that such a model is of."""

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        """Ids that the model can write."""

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        """What the memory of training and generation depends on."""

    def decoder_ids(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> DecoderIds | None:
        """What the model's decoder starts with; None if unknown.

        Args:
            generation: the model's own generation settings.
        """

    def encoder_options(
        self, model: PreTrainedModel, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the encoder takes besides ids and their mask (rows, length)."""

    def supports_packing(self, model: PreTrainedModel) -> bool:
        """Whether several examples can stand in one row without seeing each other."""

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits at the real target positions only, (positions, vocabulary).

        Args:
            batch: on the model's device.
            words: where given, only the logits of these ids, in float32: (positions, words).
        """

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        """Let a model that is on a CPU compute the same with fewer passes over its memory."""

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        """Let a model that is asked at one position a record compute the same faster."""
