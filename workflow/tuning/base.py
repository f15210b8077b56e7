"""What every way of tuning a model answers."""

from collections.abc import Iterator
from typing import Protocol

import torch
from transformers import PreTrainedModel


class TuningMethod(Protocol):
    """Chooses which parameters of a model learn; all else of training is the same for each."""

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model to be trained, in which what is not to learn needs no gradient."""

    def trainable(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters that the optimizer updates, by name, in the model's order."""

    def saved(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint holds, by the names in its files; one of several tied."""
