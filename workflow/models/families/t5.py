"""T5 and mT5: relative positions, so several examples can share a row."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.models.batch import Batch, in_one_segment
from workflow.models.configuration import dropout_of
from workflow.models.families.base import Modules
from workflow.models.families.encoder_decoder import EncoderDecoder
from workflow.models.kernels.cross_attention import FoldedAttention
from workflow.models.kernels.fused import FUSED_ATTENTION, biased_mask, cross_mask
from workflow.models.kernels.t5 import ATTENTION, use_fast_t5_modules
from workflow.models.lm_head import select_logits


class T5(EncoderDecoder):
    """The family of T5, ByT5, Flan-T5 and mT5."""

    def _modules(self, config: PreTrainedConfig) -> Modules:
        dropout, _ = dropout_of(config)
        return Modules(own=True, gated=config.is_gated_act, dropout=dropout)

    def supports_packing(self, model: PreTrainedModel) -> bool:
        """True where attention takes a mask of (rows, 1, queries, keys)."""
        return model.config._attn_implementation in ("sdpa", ATTENTION, FUSED_ATTENTION)

    def target_logits(
        self, model: PreTrainedModel, batch: Batch, words: Sequence[int] | None = None
    ) -> torch.Tensor:
        if not self.supports_packing(model):
            return super().target_logits(model, batch, words)
        with select_logits(model, batch.target_positions, words):
            return _packed_logits(model, batch)

    def use_fast_modules(self, model: PreTrainedModel) -> None:
        attention = self.supports_packing(model)
        use_fast_t5_modules(model)
        super().use_fast_modules(model)
        if attention:
            model.set_attn_implementation(ATTENTION)

    def use_fused_modules(self, model: PreTrainedModel) -> None:
        attention = self.supports_packing(model)
        super().use_fused_modules(model)
        if attention:
            model.set_attn_implementation(FUSED_ATTENTION)

    def optimize_for_scoring(self, model: PreTrainedModel) -> None:
        """Use folded cross-attention for one query per record; parameters and names stay."""
        if self.supports_packing(model):
            for block in model.get_decoder().block:
                attention = block.layer[1].EncDecAttention
                if {type(attention.k), type(attention.v)} == {torch.nn.Linear}:  # no adapters
                    block.layer[1].EncDecAttention = FoldedAttention(attention)


def _packed_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits of packed rows, whose examples do not attend to each other.

    Exact for relative positions, since position differences within an example are unchanged.
    """
    source, target = batch.source_segments, batch.target_segments
    within_source = in_one_segment(source, source)
    within_target = in_one_segment(target, target)
    within_target &= torch.ones_like(within_target[:1]).tril()
    # Padded queries attend to the first example: some CUDA kernels return NaN for queries that
    # attend to nothing (pytorch#196678), and a NaN would spread from outputs nobody uses.
    of_example = in_one_segment(target.clamp(min=1), source)
    if model.config._attn_implementation == FUSED_ATTENTION:
        within_source = biased_mask(model.get_encoder(), within_source)
        within_target = biased_mask(model.get_decoder(), within_target)
        of_example = cross_mask(of_example, within_target.dtype)
    encoded = model.get_encoder()(input_ids=batch.input_ids, attention_mask=within_source)
    output = model(
        encoder_outputs=encoded,
        attention_mask=of_example,
        decoder_input_ids=batch.decoder_input_ids,
        decoder_attention_mask=within_target,
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits
