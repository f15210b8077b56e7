"""The sizes of a model, from its configuration alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from workflow.core.errors import BadInput
from workflow.memory.tuned_layers import TunedLayers, tuned_layers
from workflow.models.families import Dimensions, family_of
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.models.loading import Adaptation, build_model
from workflow.models.quantized import layers_to_quantize, quantized_bytes
from workflow.models.state_dict import saved_names


@dataclass(frozen=True)
class Sizes(Dimensions):
    """The sizes that memory depends on.

    Attributes:
        parameters: elements of all tensors, tied ones counted once.
        largest_tensor: elements of the largest.
        trained: elements that are trained.
        largest_trained: elements of the largest tensor that is trained.
        tuned: what the layers keep for the gradients of these.
        quantized: frozen elements that are held in `bits` bits, 4 or 8.
    """

    parameters: int
    largest_tensor: int
    trained: int
    largest_trained: int
    tuned: TunedLayers = TunedLayers()
    quantized: int = 0
    bits: int = 0

    def frozen_bytes(self, computing: int) -> float:
        """Bytes of what is not trained, with so many bytes per number where not quantized."""
        plain = self.parameters - self.trained - self.quantized
        return computing * plain + quantized_bytes(self.quantized, self.bits)


def sizes_of(
    folder: Path,
    dropout_rate: float | None = None,
    apply_tuning: Callable[[PreTrainedModel], None] = lambda model: None,
    bits: int | None = None,
) -> Sizes:
    """The sizes of a folder's model; reads no weights.

    Args:
        dropout_rate: None for the model's own.
        apply_tuning: freezes what is not trained, and adds adapters.
        bits: of the linear layers of a frozen model, if they are quantized.

    Raises:
        BadInput: if its settings are invalid, or the tuning does not fit it.
    """
    try:
        with torch.device("meta"):
            model = build_model(folder, Adaptation(dropout_rate))
            layers = dict(layers_to_quantize(model)) if bits else {}
            apply_tuning(model)
            sizes = sizes_of_model(model)
            if not bits:
                return sizes
            quantized = sum(layer.weight.numel() for layer in layers.values())
            tuned = tuned_layers(model, layers if bits == 8 else ())
            return replace(sizes, tuned=tuned, quantized=quantized, bits=bits)
    except BadInput:
        raise
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "valid settings of a model")]) from error


def sizes_of_model(model: PreTrainedModel) -> Sizes:
    """The sizes of a model, which may be on the meta device."""
    tensors = saved_names(model).values()
    counts = [tensor.numel() for tensor in tensors]
    trained = [tensor.numel() for tensor in tensors if tensor.requires_grad]
    dimensions = family_of(model.config).dimensions(model.config)
    return Sizes(
        **vars(dimensions),
        parameters=sum(counts),
        largest_tensor=max(counts),
        trained=sum(trained),
        largest_trained=max(trained, default=0),
        tuned=tuned_layers(model),
    )


def checkpoint_bytes(sizes: Sizes) -> tuple[int, int]:
    """Bytes of a checkpoint on disk: float32 weights, and these with optimizer state."""
    return 4 * sizes.parameters, 4 * sizes.parameters + 8 * sizes.trained
