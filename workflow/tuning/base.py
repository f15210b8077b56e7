"""The interface of tuning methods."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.core.errors import BadInput, Problem
from workflow.models.hub import shorten_names

Values = Mapping[str, torch.Tensor]
"""Float32 tensors by their names in a checkpoint's files."""


class TuningMethod(Protocol):
    """Chooses which parameters of a model are trained; the rest of training is the same for all.

    Attributes:
        stem: of the weight files in a checkpoint, which hold the complete model ("model"), or an
            adapter in peft's format.
    """

    stem: str = "model"

    def trains(self, model: PreTrainedModel, name: str) -> bool:
        """Whether a parameter of the base model, before `apply`, is trained or copied to be."""

    def apply(self, model: PreTrainedModel) -> None:
        """Freeze what is not trained, and add the modules of an adapter, if any.

        The model has its weights, unless it is on the meta device.

        Raises:
            BadInput: the method does not fit the model.
        """

    def initial(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> dict[str, torch.Tensor]:
        """First values of what `apply` has added: they depend on the seed and names alone."""
        return {}

    def name_in_file(self, name: str) -> str:
        """The name in a checkpoint's files of a trained parameter."""
        return name

    def trainable(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters that the optimizer updates, by name, in the model's order."""
        return ((name, one) for name, one in model.named_parameters() if one.requires_grad)

    def saved(self, model: PreTrainedModel) -> dict[str, Any]:
        """The tensors that a checkpoint holds, by name in its files; one of each tied group."""

    def base_alone(self, model: PreTrainedModel) -> AbstractContextManager[None] | None:
        """Within the block, the model is the one that training started from.

        None if it is trained itself, or its adapter cannot be left out.
        """
        return None

    def write_settings(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: str
    ) -> None:
        """Write what a checkpoint needs besides its weights, to its folder.

        Args:
            base: the folder of the model that training started from, or its name on the hub.
        """


def set_values(saved: Mapping[str, Any], values: Values, source: Path | str) -> None:
    """Set the tensors of an adapter, which no process has partitioned yet.

    Raises:
        BadInput: the values, of the folder `source`, are those of another adapter.
    """
    shapes = {name: one.shape for name, one in saved.items()}
    other = [name for name, one in values.items() if shapes.pop(name, None) != one.shape]
    if wrong := other + list(shapes):
        found, hint = f"not fitting: {shorten_names(sorted(wrong))}", "use the adapter's own base"
        raise BadInput([Problem(str(source), found, "the tensors of this adapter", hint)])
    for name, value in values.items():
        saved[name].data.copy_(value)
