"""The interface of model families."""

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
    """The ids that decoding starts with.

    Attributes:
        start: the decoder input before the first token, in training and generation.
        forced: the first token of every generation, e.g. the code of the target language; None if
            the model generates it.
    """

    start: int
    forced: int | None = None

    def set_in(self, model: PreTrainedModel) -> None:
        """Write the ids to a model's settings, and so to its checkpoints."""
        for settings in (model.config, model.generation_config):
            settings.decoder_start_token_id = self.start
        model.generation_config.forced_bos_token_id = self.forced


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a model's layers.

    Attributes:
        inner: the sum of all attention heads' widths.
        feed_forward: the inner width of the feed-forward blocks.
        gated: whether these blocks have two matrices of that width, like Flan-T5's.
        vocabulary: number of output ids.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    inner: int
    feed_forward: int
    gated: bool
    vocabulary: int

    def bytes_per_position(self, computing: int) -> int:
        """Bytes that generation takes for a source or new token, without logits.

        Args:
            computing: bytes per number.
        """
        keys_and_values = 2 * self.inner * self.decoder_layers
        return computing * (keys_and_values + 2 * self.feed_forward + 4 * self.inner)


class ModelFamily(Protocol):
    """The functions that depend on the model type.

    Families have no state. Loading, saving, batches and the head (`models.lm_head`) are common to
    all models.
    """

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The model's class in transformers."""

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        """The number of output ids."""

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        """The sizes that determine the memory of training and generation."""

    def decoder_ids(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> DecoderIds | None:
        """The ids that decoding starts with; None if unknown.

        Args:
            generation: the model's own generation settings.
        """

    def encoder_options(
        self, model: PreTrainedModel, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Additional encoder inputs besides ids and mask (rows, length)."""

    def supports_packing(self, model: PreTrainedModel) -> bool:
        """Whether several examples can share a row without attending to each other."""

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits at the real target positions only, (positions, vocabulary).

        Args:
            batch: on the model's device.
            words: token ids; computes only their logits, in float32: (positions, words).
        """

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        """Replace modules of a model on a CPU by equivalents with fewer memory passes."""

    def use_fused_modules(self, model: PreTrainedModel) -> None:
        """Replace modules of a model on any device by torch's fused operations."""

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        """Speed up a model that computes the logits of one position per record."""
