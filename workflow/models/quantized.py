"""Linear layers of a frozen model in 8 or 4 bits, by bitsandbytes."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from workflow.core.errors import BadInput, Problem
from workflow.models.families import family_of


def layers_to_quantize(model: PreTrainedModel) -> list[tuple[str, torch.nn.Linear]]:
    """The linear layers that lose little, by name: not heads, nor what must be precise.

    T5's `wo` must (https://github.com/huggingface/transformers/issues/20287), as transformers has
    it in `_keep_in_fp32_modules`.
    """
    is_head, output = family_of(model.config).is_head, model.get_output_embeddings()
    precise = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return [
        (name, module) for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module is not output
        and not is_head(model, f"{name}.weight") and not precise & {*name.split(".")}
    ]  # fmt: skip


def quantize(model: Any, bits: int, device: torch.device) -> None:
    """Quantize a model's layers one by one to a device, and move the rest there.

    In 8 bits by rows (Dettmers et al. 2022, arXiv:2208.07339), in 4 bits NF4 with quantized scales
    (Dettmers et al. 2023, arXiv:2305.14314).

    Raises:
        BadInput: the model has no such layers.
    """
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    layers = layers_to_quantize(model)
    if not layers:
        found = f"set for the model type {model.config.model_type}, without linear layers of torch"
        expected, hint = "a model with layers to quantize", "remove it"
        raise BadInput([Problem(f"--load_in_{bits}bit", found, expected, hint)])
    for name, layer in layers:
        sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
        new: Any
        weight: Any
        if bits == 8:
            new = Linear8bitLt(*sizes, bias, has_fp16_weights=False, device="meta")
            weight = Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            new = Linear4bit(
                *sizes, bias, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta"
            )
            # Evaluations would pack the weights for a CPU; no gradient flows through packed ones.
            new.support_avx512bf16_for_cpu = False
            weight = Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=new
            )
        new.weight = weight.to(device)
        new.bias = layer.bias
        model.set_submodule(name, new)
    model.to(device)
    setattr(model, f"is_loaded_in_{bits}bit", True)  # read by peft


def quantized_bytes(count: float, bits: int) -> float:
    """Bytes of so many elements: in 4 bits with a byte for 64 of them, and 4 for 64 × 256."""
    return count if bits == 8 else count * (0.5 + 1 / 64 + 4 / (64 * 256))


def frozen_modules(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Modules without children whose parameters are all frozen in compute precision."""
    for module in model.modules():
        held = list(module.parameters(recurse=False))
        trained = any(one.requires_grad or one.dtype == torch.float32 for one in held)
        if held and not trained and not any(True for _ in module.children()):
            yield module
