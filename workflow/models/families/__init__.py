"""Model families: all code specific to model types, and the types that are refused.

To add a family, write a module with a class that derives from `ModelFamily`, and add it to
`family_of`.
"""

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter

from workflow.models.families.base import (
    DecoderIds,
    Dimensions,
    GeneratingFamily,
    ModelFamily,
    Modules,
)
from workflow.models.families.decoder_only import DecoderOnly
from workflow.models.families.encoder import Encoder
from workflow.models.families.encoder_decoder import EncoderDecoder
from workflow.models.families.t5 import T5

__all__ = [
    "ONE_PROCESS",
    "REFUSED",
    "DecoderIds",
    "Dimensions",
    "GeneratingFamily",
    "ModelFamily",
    "Modules",
    "family_of",
    "refusal",
]

REFUSED = {
    "bigbird_pegasus": "a batch of short texts changes its attention permanently, so results "
    "depend on earlier records",
    "fsmt": "its output layer is not a module, so logits cannot be restricted to some positions",
    "nllb-moe": "its experts have a capacity per batch, so results depend on the batch",
    "prophetnet": "it predicts several tokens ahead with a loss of its own",
}
"""Model types that load but break guarantees of this tool, with the reason."""

ONE_PROCESS = {
    "switch_transformers": "an expert without tokens on a process has no gradient there, so "
    "processes would deadlock",
}
"""Model types that only one process can train, with the reason."""


def refusal(model_type: str) -> str | None:
    """Why models of a type are refused; None if they are not."""
    changes = get_checkpoint_conversion_mapping(model_type) or []
    if any(isinstance(change, WeightConverter) for change in changes):
        return "transformers joins several tensors of its files into one, as of experts"
    return REFUSED.get(model_type)


def family_of(config: PreTrainedConfig) -> ModelFamily:
    """The family of a model with this configuration; raises ValueError for an unknown type."""
    if config.model_type in ("t5", "mt5"):
        return T5()
    if type(config) in AutoModelForSeq2SeqLM._model_mapping:
        return EncoderDecoder()
    if type(config) in AutoModelForMaskedLM._model_mapping and not getattr(
        config, "is_decoder", False
    ):
        if type(config) in AutoModelForSequenceClassification._model_mapping:
            return Encoder()
    elif type(config) in AutoModelForCausalLM._model_mapping:
        return DecoderOnly()
    raise ValueError(f"unknown model type {config.model_type}")
