"""The interface of model families."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workflow.models.batch import Batch, Rows
from workflow.models.configuration import dropout_of
from workflow.models.kernels.attention import use_cpu_attention
from workflow.models.kernels.cpu import use_fast_modules
from workflow.models.kernels.fused import fused
from workflow.models.kernels.replace import replace_modules


@dataclass(frozen=True)
class DecoderIds:
    """The ids that decoding starts with.

    Attributes:
        start: the decoder input before the first token, in training and generation; None for
            models without a decoder of their own, which continue the prompt.
        forced: the first token of every generation, e.g. the code of the target language; None if
            the model generates it.
        ends: the tokens that end a text, if not those of the model's own settings.
    """

    start: int | None
    forced: int | None = None
    ends: tuple[int, ...] = ()

    def ended_by(self, end: int | None) -> "DecoderIds":
        """The same with another end token, if any."""
        if end is None:
            return self
        return replace(self, ends=tuple(dict.fromkeys([end, *self.ends])))

    def set_in(self, model: PreTrainedModel) -> None:
        """Write the ids to a model's settings, and so to its checkpoints."""
        if self.start is not None:
            for settings in (model.config, model.generation_config):
                settings.decoder_start_token_id = self.start
            model.generation_config.forced_bos_token_id = self.forced
        elif self.ends:
            model.generation_config.eos_token_id = list(self.ends)


@dataclass(frozen=True)
class GenerationStart:
    """What transformers' `generate` starts from.

    Attributes:
        inputs: arguments of `generate`.
        first_logits: raw logits (prompts, vocabulary) of the first new position.
        skipped: ids of each generated row that come before the first new one.
    """

    inputs: dict[str, Any]
    first_logits: torch.Tensor
    skipped: int


@dataclass(frozen=True)
class Modules:
    """How a model computes, as far as it decides what is kept for the backward pass.

    Attributes:
        own: whether norms, gates and attention are those of `workflow.models.kernels`, which keep
            less than transformers'.
        norms: of a layer.
        rms_norms: whether these are RMS norms.
        head_norms: whether queries and keys have norms too.
        attention: its name in transformers: "sdpa" is torch's, others keep the scores.
        relative: relative positions that each query is compared with, as in DeBERTa.
        gated: whether feed-forward blocks have two matrices of the inner width, like Flan-T5's.
        relu: whether their activation is relu, which keeps only its output.
        experts: feed-forward blocks that compute each token.
        capped_logits: whether logits pass through a tanh.
        dropout, attention_dropout: whether training drops hidden states, and attention weights.
        recomputes: whether layers can be recomputed in the backward pass.
        trimmed: whether the last layer is computed where a head reads it, on a CPU.
    """

    own: bool = False
    norms: int = 2
    rms_norms: bool = False
    head_norms: bool = False
    attention: str = "sdpa"
    relative: int = 0
    gated: bool = False
    relu: bool = False
    experts: int = 1
    capped_logits: bool = False
    dropout: bool = False
    attention_dropout: bool = False
    recomputes: bool = True
    trimmed: bool = False


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a model's layers.

    Attributes:
        inner: the sum of all attention heads' widths.
        keys: the same of the keys' and values' heads, of which some models have fewer.
        joins_texts: as of ModelFamily.
        feed_forward: the inner width of the feed-forward blocks.
        vocabulary: number of output ids.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    inner: int
    keys: int
    feed_forward: int
    vocabulary: int
    joins_texts: bool
    modules: Modules

    def bytes_per_position(self, computing: int) -> int:
        """Bytes that generation takes for a source or new token, without logits.

        Args:
            computing: bytes per number.
        """
        keys_and_values = 2 * self.keys * self.decoder_layers
        return computing * (keys_and_values + 2 * self.feed_forward + 4 * self.inner)


def first_of(config: Any, *names: str, default: int = 0) -> int:
    """The value of the first of these names that a configuration has."""
    found = (getattr(config, name, None) for name in names)
    return int(next((value for value in found if value), default))


def activation_of(config: Any) -> str:
    """The name of the feed-forward blocks' activation."""
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    return next((getattr(config, name) for name in names if hasattr(config, name)), "gelu")


def modules_of(config: PreTrainedConfig, model_class: type[PreTrainedModel], **own: Any) -> Modules:
    """How the layers of a configuration compute.

    Args:
        own: what the configuration's family knows besides.
    """
    dropout, attention_dropout = dropout_of(config)
    return Modules(
        relu=activation_of(config) == "relu",
        dropout=dropout,
        attention_dropout=attention_dropout,
        recomputes=model_class.supports_gradient_checkpointing,
        **own,
    )


def class_in(mapping: Any, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a configuration in a mapping of transformers, the first of several."""
    found: Any = mapping[type(config)]
    first: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return first


class ModelFamily(Protocol):
    """The functions that depend on the model type, with defaults where most families agree.

    Families derive from it or from `GeneratingFamily`, and have no state. Loading, saving and the
    head (`models.lm_head`) are common to all models.

    Attributes:
        name: as in task.json.
        joins_texts: whether the model reads an example's source and target as one text, which needs
            one row in place of two.
        generates: whether its models generate texts; others only score.
    """

    name: str
    joins_texts: bool
    generates: bool = False

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The model's class in transformers."""

    def vocabulary_size(self, config: PreTrainedConfig) -> int:
        """The number of ids."""
        return int(config.vocab_size)

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        """The sizes that determine the memory of training and generation."""

    def max_positions(self, config: PreTrainedConfig) -> tuple[float, float]:
        """The most tokens of a source and of a target; of both together if they are joined."""

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

    def collate(self, config: PreTrainedConfig, rows: Rows, targets: torch.Tensor) -> Batch:
        """The batch of rows of examples, whose labels are `targets`."""

    def set_classes(self, config: PreTrainedConfig, classes: Sequence[str]) -> None:
        """Give a head of the configuration an output for each class; () for two unnamed ones."""
        return

    def is_head(self, model: PreTrainedModel, name: str) -> bool:
        """Whether a tensor belongs to a head that is new where a checkpoint does not have it."""
        return False

    def supports_packing(self, model: PreTrainedModel) -> bool:
        """Whether several examples can share a row without attending to each other."""
        return False

    def shares_prefixes(self, config: PreTrainedConfig) -> bool:
        """Whether packed rows hold only once what their sources begin with."""
        return False

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
        use_fast_modules(model)
        use_cpu_attention(model)

    def use_fused_modules(self, model: PreTrainedModel) -> None:
        """Replace modules of a model on any device by torch's fused operations."""
        replace_modules(model, fused)

    def use_modules_for(self, model: PreTrainedModel, device: torch.device) -> None:
        """Replace modules of a model by those that suit its device."""
        replace = self.use_fast_modules if device.type == "cpu" else self.use_fused_modules
        replace(model)

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        """Speed up a model that computes the logits of one position per record, if it can be."""
        return


@runtime_checkable
class GeneratingFamily(ModelFamily, Protocol):
    """A family whose models generate texts."""

    generates: bool = True

    def start_generation(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int
    ) -> GenerationStart:
        """What `generate` starts from, each prompt's row repeated `samples` times."""
