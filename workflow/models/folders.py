"""Folders that are named as a model and are none, or none that can be read here."""

import json
from contextlib import suppress
from pathlib import Path

from workflow.core.errors import BadInput, Problem

_EXPECTED = "the folder of an encoder-decoder model, with config.json"
_WHOLE = "get the whole folder of the model"

Told = tuple[str, str]
"""What a folder is, and what to do instead."""


def check_folder(folder: Path) -> None:
    """Raise BadInput for a folder that is something else than a model, where its files tell."""
    for look in (_adapter, _library, _weights_of_others, _without_config):
        if told := look(folder):
            found, mend = told
            raise BadInput([Problem(str(folder), found, _EXPECTED, mend)])


def _has(folder: Path, *patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _own_weights(folder: Path) -> bool:
    return _has(folder, "model*.safetensors", "pytorch_model*.bin")


def _adapter(folder: Path) -> Told | None:
    if not (folder / "adapter_config.json").is_file() or _own_weights(folder):
        return None
    base = "a model"
    with suppress(OSError, ValueError, AttributeError):
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = settings.get("base_model_name_or_path") or base
    mend = "merge it into its model first (merge_and_unload of peft, then save_pretrained)"
    return f"an adapter of {base}", mend


def _library(folder: Path) -> Told | None:
    """What other libraries write, some of it beside a config.json."""
    if (folder / "model_index.json").is_file():
        return "a pipeline of diffusers", "choose a model that reads and writes text"
    if (folder / "modules.json").is_file():
        return "a model of sentence-transformers, which only encodes", "choose another model"
    return None


_OTHERS: tuple[tuple[tuple[str, ...], Told], ...] = (
    (("*.gguf",), ("weights in GGUF, as of llama.cpp", "get the model's safetensors")),
    (("tf_model*.h5", "*.ckpt.index", "saved_model.pb"),
     ("weights of TensorFlow alone", "convert them: from_tf=True of transformers 4")),
    (("flax_model*.msgpack",),
     ("weights of Flax alone", "convert them: from_flax=True of transformers 4")),
    (("*.onnx", "onnx/*.onnx"), ("weights in ONNX alone", "get the model's safetensors")),
    (("openvino_model.bin", "*.tflite", "*.mlmodel", "*.mlpackage"),
     ("weights for inference alone", "get the model's safetensors")),
    (("zero_to_fp32.py", "global_step*", "*model_states.pt"),
     ("a checkpoint of DeepSpeed", "make weights of it: python zero_to_fp32.py FOLDER NEW")),
    (("*.distcp", "pytorch_model_fsdp*"),
     ("a checkpoint of FSDP", "make weights of it: accelerate merge-weights FOLDER NEW")),
)  # fmt: skip


def _weights_of_others(folder: Path) -> Told | None:
    if _own_weights(folder):
        return None
    return next((told for patterns, told in _OTHERS if _has(folder, *patterns)), None)


def _without_config(folder: Path) -> Told | None:
    if (folder / "config.json").is_file():
        return None
    if folder.name == "resume" and (folder.parent / "config.json").is_file():
        return "what going on with a run needs, without weights", f"name {folder.parent}"
    for pattern, what in _INSIDE:
        if inside := sorted(folder.glob(f"{pattern}/config.json"), key=_by_step):
            return what, f"name {inside[-1].parent}"
    if not next(folder.iterdir(), None):
        return "an empty folder", _WHOLE
    if _own_weights(folder):
        return "weights without config.json", _WHOLE
    if _has(folder, "tokenizer*.json", "*.model", "vocab.*"):
        return "a tokenizer alone", _WHOLE
    return None


_INSIDE = (
    ("checkpoint-*", "a run, not a model"),
    ("snapshots/*", "a folder of the hub's cache"),
    ("*", "no config.json, but a folder that has it"),
)


def _by_step(config: Path) -> tuple[int, str]:
    step = config.parent.name.rpartition("-")[2]
    return (int(step) if step.isdecimal() else -1), str(config)
