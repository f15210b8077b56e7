"""Families of models: all that is known of a kind of model, and which are refused.

A new kind is a module here with a class that keeps `ModelFamily`, and a line in `family_of`.
"""

from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig

from workflow.models.families.base import DecoderIds, Dimensions, ModelFamily
from workflow.models.families.encoder_decoder import EncoderDecoder
from workflow.models.families.t5 import T5

__all__ = ["ONE_PROCESS", "REFUSED", "DecoderIds", "Dimensions", "ModelFamily", "family_of"]

REFUSED = {
    "bigbird_pegasus": "a batch of short texts changes its attention for good, so what one record "
    "gives depends on those before it",
    "fsmt": "its output layer is no module, so logits cannot be had at some positions only",
    "nllb-moe": "an expert takes so many tokens of a batch and no more, so what one record gives "
    "depends on the others beside it",
    "prophetnet": "it learns several tokens ahead with a loss of its own",
}
"""Model types that load, but cannot keep what this tool promises, and why."""

ONE_PROCESS = {
    "switch_transformers": "an expert that the records of a process do not reach has no gradient "
    "there, and processes would wait for each other",
}
"""Model types that several processes cannot train together, and why."""


def family_of(config: PreTrainedConfig) -> ModelFamily:
    """The family of a model with this configuration; raises ValueError where there is none."""
    if config.model_type in ("t5", "mt5"):
        return T5()
    if type(config) in AutoModelForSeq2SeqLM._model_mapping:
        return EncoderDecoder()
    raise ValueError(f"no family of models has the type {config.model_type}")
