"""Full fine-tuning: all parameters are trained, and a checkpoint holds the complete model."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from workflow.models.state_dict import file_names


class FullTuning:
    """Trains all parameters."""

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        return model

    def trainable(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield from model.named_parameters()

    def saved(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        return file_names(model)
