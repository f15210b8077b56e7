"""Folders that are named as a model and are none, or none that can be read here."""

import json
from contextlib import suppress
from pathlib import Path

from workflow.core.errors import BadInput, Problem

_WHOLE = "get the whole folder of the model"
_OF_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("*.gguf",), "weights in GGUF, as of llama.cpp", "get the model's safetensors"),
    (("tf_model*.h5", "*.ckpt.index", "saved_model.pb"),
     "weights of TensorFlow alone", "convert them: from_tf=True of transformers 4"),
    (("flax_model*.msgpack",),
     "weights of Flax alone", "convert them: from_flax=True of transformers 4"),
    (("*.onnx", "onnx/*.onnx"), "weights in ONNX alone", "get the model's safetensors"),
    (("openvino_model.bin", "*.tflite", "*.mlmodel", "*.mlpackage"),
     "weights for inference alone", "get the model's safetensors"),
    (("zero_to_fp32.py", "global_step*", "*model_states.pt"),
     "a checkpoint of DeepSpeed", "make weights of it: python zero_to_fp32.py FOLDER NEW"),
    (("*.distcp", "pytorch_model_fsdp*"),
     "a checkpoint of FSDP", "make weights of it: accelerate merge-weights FOLDER NEW"),
)  # fmt: skip
"""Files of weights that others write, what they are, and what to do instead."""
_AROUND = (
    ("checkpoint-*", "a run, not a model"),
    ("snapshots/*", "a folder of the hub's cache"),
    ("*", "no config.json, but a folder that has it"),
)
"""Where a model lies in a folder that is none, and what that is."""


def check_folder(folder: Path) -> None:
    """Raise BadInput for a folder that is something else than a model, where its files tell."""
    if told := _recognize(folder):
        found, hint = told
        expected = "the folder of an encoder-decoder model, with config.json"
        raise BadInput([Problem(str(folder), found, expected, hint)])


def _recognize(folder: Path) -> tuple[str, str] | None:
    """What a folder is instead of a model, and what to do."""
    weights = _has(folder, "model*.safetensors", "pytorch_model*.bin")
    if _has(folder, "adapter_config.json") and not weights:
        hint = "merge it into its model first (merge_and_unload of peft, then save_pretrained)"
        return f"an adapter of {_base_of_adapter(folder)}", hint
    if _has(folder, "model_index.json"):
        return "a pipeline of diffusers", "choose a model that reads and writes text"
    if _has(folder, "modules.json"):
        return "a model of sentence-transformers, which only encodes", "choose another model"
    for patterns, what, hint in _OF_OTHERS:
        if _has(folder, *patterns) and not weights:
            return what, hint
    if _has(folder, "config.json"):
        return None
    if folder.name == "resume" and _has(folder.parent, "config.json"):
        return "what going on with a run needs, without weights", f"name {folder.parent}"
    for pattern, what in _AROUND:
        if inside := list(folder.glob(f"{pattern}/config.json")):
            newest = max(inside, key=lambda path: (len(str(path)), path))  # 100 is after 20
            return what, f"name {newest.parent}"
    if weights:
        return "weights without config.json", _WHOLE
    if _has(folder, "tokenizer*.json", "*.model", "vocab.*"):
        return "a tokenizer alone", _WHOLE
    return None if _has(folder, "*") else ("an empty folder", _WHOLE)


def _has(folder: Path, *patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _base_of_adapter(folder: Path) -> str:
    with suppress(OSError, ValueError):
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return settings.get("base_model_name_or_path") or "a model"
    return "a model"
