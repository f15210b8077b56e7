"""Recognize folders that are not a model, or a model in an unsupported format."""

from pathlib import Path

from workflow.core.errors import BadInput, Problem
from workflow.core.files import read_object

_WHOLE = "copy the complete model folder"
_OF_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("*.gguf",), "GGUF weights", "use the model's safetensors"),
    (("tf_model*.h5", "*.ckpt.index", "saved_model.pb"),
     "TensorFlow weights only", "convert them with transformers 4 (from_tf=True)"),
    (("flax_model*.msgpack",),
     "Flax weights only", "convert them with transformers 4 (from_flax=True)"),
    (("*.onnx", "onnx/*.onnx"), "ONNX weights only", "use the model's safetensors"),
    (("openvino_model.bin", "*.tflite", "*.mlmodel", "*.mlpackage"),
     "inference weights only", "use the model's safetensors"),
    (("zero_to_fp32.py", "global_step*", "*model_states.pt"),
     "a DeepSpeed checkpoint", "convert it: python zero_to_fp32.py FOLDER NEW"),
    (("*.distcp", "pytorch_model_fsdp*"),
     "an FSDP checkpoint", "convert it: accelerate merge-weights FOLDER NEW"),
)  # fmt: skip
"""Patterns of weight files in other formats, the format, and a hint."""
_AROUND = (
    ("checkpoint-*", "a run, not a model"),
    ("snapshots/*", "a folder of the hub cache"),
    ("*", "a folder that contains a model"),
)
"""Patterns of model folders within another folder, and what that folder is."""


def check_folder(folder: Path) -> None:
    """Raise BadInput for a folder whose files show that it is not a model."""
    if recognized := _recognize(folder):
        found, hint = recognized
        expected = "a language model with config.json"
        raise BadInput([Problem(str(folder), found, expected, hint)])


def _recognize(folder: Path) -> tuple[str, str] | None:
    """What a folder is instead of a model, and a hint; None for a model or an unknown folder."""
    weights = _has(folder, "model*.safetensors", "pytorch_model*.bin")
    if _has(folder, "adapter_config.json") and not weights:
        hint = "merge that adapter first: python3 -m workflow merge"
        return f"an adapter of {_base_of_adapter(folder)}", hint
    if _has(folder, "model_index.json"):
        return "a diffusers pipeline", "choose another model"
    if _has(folder, "modules.json") and not _has(folder, "config.json"):
        return "a sentence-transformers model", "choose the folder of its encoder"
    for patterns, what, hint in _OF_OTHERS:
        if _has(folder, *patterns) and not weights:
            return what, hint
    if _has(folder, "config.json"):
        return None
    if folder.name == "resume" and _has(folder.parent, "config.json"):
        return "the resume state of a checkpoint, without weights", f"use {folder.parent}"
    for pattern, what in _AROUND:
        if inside := list(folder.glob(f"{pattern}/config.json")):
            newest = max(inside, key=lambda path: (len(str(path)), path))  # 100 is after 20
            return what, f"use {newest.parent}"
    if weights:
        return "weights without config.json", _WHOLE
    if _has(folder, "tokenizer*.json", "*.model", "vocab.*"):
        return "a tokenizer without a model", _WHOLE
    return None if _has(folder, "*") else ("an empty folder", _WHOLE)


def _has(folder: Path, *patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _base_of_adapter(folder: Path) -> str:
    settings = read_object(folder / "adapter_config.json")
    return settings.get("base_model_name_or_path") or "a model"
