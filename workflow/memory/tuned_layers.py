"""Which layers keep what for the backward pass if some of a model is frozen."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class TunedLayers:
    """What training some parameters keeps of the layers, if not all as by default.

    A frozen linear layer needs no input for its weights' gradient.

    Attributes:
        silent: layers, from the first of the encoder on, that no gradient reaches.
        inputs: of the inputs of linear layers in all others, the share that is kept.
        adapters: elements that adapters keep besides, per position in a layer.
        masks: bytes of their dropout masks.
    """

    silent: int = 0
    inputs: float = 1.0
    adapters: float = 0.0
    masks: float = 0.0


def tuned_layers(model: PreTrainedModel, in_8_bits: Collection[str] = ()) -> TunedLayers:
    """What the layers of a model keep, which may be on the meta device.

    Args:
        in_8_bits: names of frozen linear layers that bitsandbytes computes, which keep their input.
    """
    names = [name for name, one in model.named_modules()
             if isinstance(one, GradientCheckpointingLayer)]  # fmt: skip
    silent = _silent(model, names)
    everything = kept = adapters = masks = 0.0
    for name in names[silent:]:
        inputs: dict[tuple[str, int], bool] = {}
        for within, layer, width in _linear_layers(model.get_submodule(name)):
            # Layers of the same module read the same, except those of attention's output, which
            # attention itself keeps.
            key = within.rpartition(".")[0], width
            keeps = _keeps_input(layer) or f"{name}.{within}" in in_8_bits
            inputs[key] = inputs.get(key, False) or keeps
            elements, dropped = _of_adapter(layer, width)
            adapters += elements
            masks += dropped
        everything += sum(width for _, width in inputs)
        kept += sum(width for (_, width), keeps in inputs.items() if keeps)
    reached = max(1, len(names) - silent)
    share = kept / everything if everything else 1.0
    return TunedLayers(silent, share, adapters / reached, masks / reached)


def _silent(model: PreTrainedModel, layers: list[str]) -> int:
    """The number of layers before anything trained, in the order of the model's modules.

    Trained embeddings, also of virtual tokens, are before all layers.
    """
    silent, before = len(layers), 0
    for name, parameter in model.named_parameters():
        within = [i for i, layer in enumerate(layers) if name.startswith(f"{layer}.")]
        before = within[0] + 1 if within else before
        module = model.get_submodule(name.rpartition(".")[0])
        if parameter.requires_grad:
            first = not within and isinstance(module, torch.nn.Embedding)
            silent = min(silent, 0 if first else before - len(within))
    return silent


def _linear_layers(module: torch.nn.Module) -> Iterator[tuple[str, Any, int]]:
    """Linear layers by name, with the width of their input; one of each adapter."""
    for name, layer in module.named_modules():
        width = layer.nx if isinstance(layer, Conv1D) else getattr(layer, "in_features", None)
        if width and "base_layer" not in name and "lora_" not in name:
            yield name, layer, int(width)


def _keeps_input(layer: Any) -> bool:
    """Whether the gradient of something trained needs a layer's input as it is."""
    plain = hasattr(layer, "lora_A") and not _drops(layer)
    return plain or bool(getattr(layer, "base_layer", layer).weight.requires_grad)


def _drops(layer: Any) -> bool:
    return any(getattr(one, "p", 0.0) for one in layer.lora_dropout.values())


def _of_adapter(layer: Any, width: int) -> tuple[float, float]:
    """Elements per position that an adapter of peft keeps, and bytes of its dropout mask.

    LoRA keeps what it multiplies by its matrices: its dropped input, and the product with the
    first; DoRA also the results that it scales. (IA)³ keeps what it scales.
    """
    if hasattr(layer, "ia3_l"):
        return (width if layer.is_feedforward else layer.out_features), 0.0
    if not hasattr(layer, "lora_A"):
        return 0.0, 0.0
    dropped = width if _drops(layer) else 0.0
    scaled = 2 * layer.out_features if layer.lora_magnitude_vector else 0
    return dropped + scaled + sum(layer.r.values()), dropped
