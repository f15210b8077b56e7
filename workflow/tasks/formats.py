"""The format of a job's texts, by its model's family."""

from workflow.config.request import JobRequest
from workflow.data.text_format import ContinuedText, SeparateTexts, TextFormat
from workflow.models.families import family_of
from workflow.models.settings import ModelSettings


def text_format(settings: ModelSettings, request: JobRequest) -> TextFormat:
    """How a job's texts become ids of the model."""
    assert request.template is not None
    family = family_of(settings.config)
    if family.joins_texts and family.generates:
        return ContinuedText.of(settings.tokenizer, request.template)
    return SeparateTexts(settings.decoder_ids.start, request.template)
