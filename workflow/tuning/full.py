"""Full tuning: all parameters learn, and a checkpoint holds the whole model."""

from collections.abc import Iterator

import torch

from workflow.models.state_dict import Model, saved_names


class FullTuning:
    """All of a model learns."""

    def apply(self, model: Model) -> Model:
        return model

    def trainable(self, model: Model) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield from model.named_parameters()

    def saved(self, model: Model) -> dict[str, torch.Tensor]:
        return saved_names(model)
