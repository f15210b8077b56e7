"""The interface of tuning methods."""

from collections.abc import Iterator
from typing import Protocol

import torch
from transformers import PreTrainedModel


class TuningMethod(Protocol):
    """Chooses which parameters of a model are trained; the rest of training is the same for all."""

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model to train, in which frozen parameters need no gradient."""

    def trainable(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters that the optimizer updates, by name, in the model's order."""

    def saved(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint holds, by name in its files; one of each tied group."""
