"""The sizes of a model, from its configuration alone."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from workflow.core.errors import BadInput
from workflow.models.families import Dimensions, family_of
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.models.loading import build_model
from workflow.models.state_dict import saved_names


@dataclass(frozen=True)
class Sizes(Dimensions):
    """What memory depends on.

    Attributes:
        parameters, largest_tensor: numbers in all tensors, each counted once, and in the largest.
    """

    parameters: int
    largest_tensor: int


def sizes_of(folder: Path) -> Sizes:
    """The sizes of a folder's model, of which no weight is read.

    Raises:
        BadInput: where its settings are broken.
    """
    try:
        with torch.device("meta"):
            return sizes_of_model(build_model(folder))
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "settings that a model can be made of")]) from error


def sizes_of_model(model: PreTrainedModel) -> Sizes:
    """The sizes of a model, which may be on the meta device."""
    counts = [tensor.numel() for tensor in saved_names(model).values()]
    dimensions = family_of(model.config).dimensions(model.config)
    return Sizes(**vars(dimensions), parameters=sum(counts), largest_tensor=max(counts))


def checkpoint_bytes(sizes: Sizes) -> tuple[int, int]:
    """Bytes of a checkpoint on disk: its float32 weights, and these with both moments."""
    return 4 * sizes.parameters, 12 * sizes.parameters
