"""Encoders of transformers with a classification head: BERT, RoBERTa, DeBERTa, ModernBERT, …"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workflow.models.batch import SECOND, Batch, Rows, in_one_segment, make_joined_batch
from workflow.models.families.base import (
    DecoderIds,
    Dimensions,
    ModelFamily,
    Modules,
    class_in,
    first_of,
    modules_of,
)
from workflow.models.families.decoder_only import restarting_positions
from workflow.models.kernels.attention import attention_of
from workflow.models.kernels.last_layer import last_layer_at

PACKED = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Types whose packed examples have the same logits as alone, as `test_decoder_only.py` shows."""
_BERT_LAYERS = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
_FROM_PADDING = (
    "camembert", "esm", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Types whose positions are counted from the padding id on."""


class Encoder(ModelFamily):
    """The family of encoders, which score: a head with an output per class reads one token."""

    name = "encoder"
    joins_texts = True

    def model_class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        return class_in(AutoModelForSequenceClassification._model_mapping, config)

    def dimensions(self, config: PreTrainedConfig) -> Dimensions:
        width, heads = config.hidden_size, config.num_attention_heads
        return Dimensions(
            encoder_layers=config.num_hidden_layers,
            decoder_layers=0,
            width=width,
            heads=heads,
            inner=width,
            keys=width,
            feed_forward=first_of(config, "intermediate_size", "hidden_dim", default=4 * width),
            joins_texts=self.joins_texts,
            vocabulary=int(config.num_labels or 2),
            modules=_modules_of(config, self.model_class(config)),
        )

    def max_positions(self, config: PreTrainedConfig) -> tuple[float, float]:
        positions = getattr(config, "max_position_embeddings", math.inf)
        unused = config.pad_token_id + 1 if config.model_type in _FROM_PADDING else 0
        return positions - unused, math.inf

    def decoder_ids(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> DecoderIds:
        return DecoderIds(None)

    def collate(self, config: PreTrainedConfig, rows: Rows, targets: torch.Tensor) -> Batch:
        return make_joined_batch(rows, targets, config.pad_token_id, first=True)

    def set_classes(self, config: PreTrainedConfig, classes: Sequence[str]) -> None:
        config.num_labels = len(classes or (0, 1))
        if classes:
            config.id2label = dict(enumerate(classes))
            config.label2id = {name: index for index, name in enumerate(classes)}

    def is_head(self, model: PreTrainedModel, name: str) -> bool:
        """Whether a tensor is outside of the encoder, or in the pooler behind it."""
        body = {model.base_model_prefix, *dict(model.base_model.named_children())}
        first, _, rest = name.partition(".")
        return first not in body or first == "pooler" or rest.startswith("pooler.")

    def supports_packing(self, model: PreTrainedModel) -> bool:
        return model.config.model_type in PACKED

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        """The head's logits of each example in float32; `words` do not matter."""
        segments = batch.source_segments
        is_second = batch.input_ids >= SECOND
        inputs = {"input_ids": torch.where(is_second, batch.input_ids - SECOND, batch.input_ids)}
        if getattr(model.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = is_second.long()
        if not self.supports_packing(model):
            unpacked: torch.Tensor = model(**inputs, attention_mask=(segments > 0).long()).logits
            return unpacked.float()
        positions = restarting_positions(segments)
        if model.config.model_type in _FROM_PADDING:
            positions = positions + model.config.pad_token_id + 1
        with _first_tokens(model, batch):
            logits: torch.Tensor = model(
                **inputs,
                attention_mask=in_one_segment(segments, segments),
                position_ids=positions,
            ).logits
        return logits.float()


def _modules_of(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Modules:
    relative = 0
    if getattr(config, "relative_attention", False):
        spans = first_of(config, "position_buckets", "max_relative_positions", default=1)
        span = spans if spans > 0 else config.max_position_embeddings
        relative = 2 * span * len(config.pos_att_type)
    return modules_of(
        config,
        model_class,
        attention=attention_of(config),
        trimmed=config.model_type in _BERT_LAYERS,
        relative=relative,
        gated=config.model_type == "modernbert",
    )


@contextmanager
def _first_tokens(model: PreTrainedModel, batch: Batch) -> Iterator[None]:
    """Let the head read the first token of each example, and on a CPU compute no more than that.

    (On a GPU, reading how many tokens there are would wait for it. Layers that are recomputed or
    compiled stay as they are.)
    """
    positions, segments = batch.target_positions, batch.source_segments
    if not _is_trimmed(model):
        with _head_at(model, positions):
            yield
        return
    row, column = positions // segments.shape[1], positions % segments.shape[1]
    number = segments[row, column] - 1
    tokens = segments.new_zeros(len(segments), int(number.max()) + 1)
    tokens[row, number] = column
    with (
        last_layer_at(model, tokens, segments),
        _head_at(model, row * tokens.shape[1] + number),
    ):
        yield


def _is_trimmed(model: Any) -> bool:
    if model.device.type != "cpu" or model.config.model_type not in _BERT_LAYERS:
        return False
    compiled = model.base_model.encoder.layer[-1]._compiled_call_impl is not None
    return not (compiled or model.is_activation_checkpointing)


@contextmanager
def _head_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Let a classification head, which reads the first token of each row, read these positions.

    Args:
        positions: (examples,), in the last layer's rows laid end to end.
    """

    def chosen(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.flatten(0, 1).index_select(0, positions).unsqueeze(1)

    def of_output(module: Any, inputs: Any, output: Any) -> Any:
        output["last_hidden_state"] = chosen(output["last_hidden_state"])
        return output

    base: Any = model.base_model
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        handle = pooler.register_forward_pre_hook(lambda _, inputs: (chosen(inputs[0]),))
    else:
        handle = base.register_forward_hook(of_output)
    try:
        yield
    finally:
        handle.remove()
