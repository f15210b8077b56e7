"""The sizes of a model, from its configuration alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from workflow.core.errors import BadInput
from workflow.models.families import Dimensions, family_of
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.models.loading import Adaptation, build_model
from workflow.models.state_dict import saved_names


@dataclass(frozen=True)
class Sizes(Dimensions):
    """The sizes that memory depends on.

    Attributes:
        parameters: elements of all tensors, tied ones counted once.
        largest_tensor: elements of the largest.
        trained: elements that are trained.
    """

    parameters: int
    largest_tensor: int
    trained: int


def sizes_of(
    folder: Path,
    dropout_rate: float | None = None,
    apply_tuning: Callable[[PreTrainedModel], None] = lambda model: None,
) -> Sizes:
    """The sizes of a folder's model; reads no weights.

    Args:
        dropout_rate: None for the model's own.
        apply_tuning: freezes what is not trained, and adds adapters.

    Raises:
        BadInput: if its settings are invalid, or the tuning does not fit it.
    """
    try:
        with torch.device("meta"):
            model = build_model(folder, Adaptation(dropout_rate))
            apply_tuning(model)
            return sizes_of_model(model)
    except BadInput:
        raise
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "valid settings of a model")]) from error


def sizes_of_model(model: PreTrainedModel) -> Sizes:
    """The sizes of a model, which may be on the meta device."""
    tensors = saved_names(model).values()
    counts = [tensor.numel() for tensor in tensors]
    dimensions = family_of(model.config).dimensions(model.config)
    return Sizes(
        **vars(dimensions),
        parameters=sum(counts),
        largest_tensor=max(counts),
        trained=sum(tensor.numel() for tensor in tensors if tensor.requires_grad),
    )


def checkpoint_bytes(sizes: Sizes) -> tuple[int, int]:
    """Bytes of a checkpoint on disk: float32 weights, and these with optimizer state."""
    return 4 * sizes.parameters, 12 * sizes.parameters
