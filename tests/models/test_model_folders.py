"""Folders that are not a model are recognized."""

import json
from pathlib import Path

import pytest

from workflow.core.errors import BadInput
from workflow.models.folders import check_folder

_WHOLE = "copy the complete model folder"
FOLDERS: dict[str, tuple[list[str], str, str]] = {
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"],
        "an adapter of google/flan-t5-small",
        "merge that adapter first: python3 -m workflow merge",
    ),
    "diffusers": (
        ["model_index.json", "unet/config.json"],
        "a diffusers pipeline",
        "choose another model",
    ),
    "sentence-transformers": (
        ["modules.json", "0_Transformer/config.json"],
        "a sentence-transformers model",
        "choose the folder of its encoder",
    ),
    "GGUF": (["x.gguf"], "GGUF weights", "use the model's safetensors"),
    "TensorFlow": (
        ["config.json", "tokenizer.json", "tf_model.h5"],
        "TensorFlow weights only",
        "convert them with transformers 4 (from_tf=True)",
    ),
    "Flax": (
        ["config.json", "flax_model.msgpack"],
        "Flax weights only",
        "convert them with transformers 4 (from_flax=True)",
    ),
    "ONNX": (
        ["config.json", "onnx/decoder_model.onnx"],
        "ONNX weights only",
        "use the model's safetensors",
    ),
    "DeepSpeed": (
        ["latest", "zero_to_fp32.py", "global_step20/mp_rank_00_model_states.pt"],
        "a DeepSpeed checkpoint",
        "convert it: python zero_to_fp32.py FOLDER NEW",
    ),
    "global_step20": (
        ["mp_rank_00_model_states.pt"],
        "a DeepSpeed checkpoint",
        "convert it: python zero_to_fp32.py FOLDER NEW",
    ),
    "FSDP": (
        ["__0_0.distcp"],
        "an FSDP checkpoint",
        "convert it: accelerate merge-weights FOLDER NEW",
    ),
    "a run": (
        ["checkpoint-20/config.json", "checkpoint-100/config.json", "training_args.json"],
        "a run, not a model",
        "use {folder}/checkpoint-100",
    ),
    "the hub's cache": (
        ["refs/main", "snapshots/abc/config.json"],
        "a folder of the hub cache",
        "use {folder}/snapshots/abc",
    ),
    "a folder around it": (
        ["flan/config.json"],
        "a folder that contains a model",
        "use {folder}/flan",
    ),
    "a tokenizer": (
        ["tokenizer.json", "tokenizer_config.json"],
        "a tokenizer without a model",
        _WHOLE,
    ),
    "weights": (["model.safetensors"], "weights without config.json", _WHOLE),
    "nothing": ([], "an empty folder", _WHOLE),
}


def make(folder: Path, files: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"base_model_name_or_path": "google/flan-t5-small"}))
    return folder


def message_for(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        check_folder(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_a_model(tmp_path: Path, name: str) -> None:
    files, found, hint = FOLDERS[name]
    folder = make(tmp_path / name, files)
    assert message_for(folder) == (
        f"{folder}: {found} (expected a language model with config.json). "
        f"Hint: {hint.format(folder=folder)}."
    )


def test_the_resume_state_of_a_checkpoint(tmp_path: Path) -> None:
    make(tmp_path, ["config.json", "model.safetensors", "resume/state.json"])
    assert message_for(tmp_path / "resume") == (
        f"{tmp_path}/resume: the resume state of a checkpoint, without weights (expected a "
        f"language model with config.json). Hint: use {tmp_path}."
    )


@pytest.mark.parametrize(
    "beside", ["adapter_config.json", "tf_model.h5", "onnx/model.onnx", "zero_to_fp32.py"]
)
def test_a_model_may_have_other_files_in_its_folder(tmp_path: Path, beside: str) -> None:
    make(tmp_path, ["config.json", "tokenizer.json", "model.safetensors", beside])
    check_folder(tmp_path)
