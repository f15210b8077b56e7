"""A folder that is named as a model and is none is told for what it is."""

import json
from pathlib import Path

import pytest

from workflow.core.errors import BadInput
from workflow.models.folders import check_folder

_WHOLE = "get the whole folder of the model"
FOLDERS: dict[str, tuple[list[str], str, str]] = {
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"],
        "an adapter of google/flan-t5-small",
        "merge it into its model first (merge_and_unload of peft, then save_pretrained)",
    ),
    "diffusers": (
        ["model_index.json", "unet/config.json"],
        "a pipeline of diffusers",
        "choose a model that reads and writes text",
    ),
    "sentence-transformers": (
        ["modules.json", "config.json", "model.safetensors"],
        "a model of sentence-transformers, which only encodes",
        "choose another model",
    ),
    "GGUF": (["x.gguf"], "weights in GGUF, as of llama.cpp", "get the model's safetensors"),
    "TensorFlow": (
        ["config.json", "tokenizer.json", "tf_model.h5"],
        "weights of TensorFlow alone",
        "convert them: from_tf=True of transformers 4",
    ),
    "Flax": (
        ["config.json", "flax_model.msgpack"],
        "weights of Flax alone",
        "convert them: from_flax=True of transformers 4",
    ),
    "ONNX": (
        ["config.json", "onnx/decoder_model.onnx"],
        "weights in ONNX alone",
        "get the model's safetensors",
    ),
    "DeepSpeed": (
        ["latest", "zero_to_fp32.py", "global_step20/mp_rank_00_model_states.pt"],
        "a checkpoint of DeepSpeed",
        "make weights of it: python zero_to_fp32.py FOLDER NEW",
    ),
    "global_step20": (
        ["mp_rank_00_model_states.pt"],
        "a checkpoint of DeepSpeed",
        "make weights of it: python zero_to_fp32.py FOLDER NEW",
    ),
    "FSDP": (
        ["__0_0.distcp"],
        "a checkpoint of FSDP",
        "make weights of it: accelerate merge-weights FOLDER NEW",
    ),
    "a run": (
        ["checkpoint-20/config.json", "checkpoint-100/config.json", "training_args.json"],
        "a run, not a model",
        "name {folder}/checkpoint-100",
    ),
    "the hub's cache": (
        ["refs/main", "snapshots/abc/config.json"],
        "a folder of the hub's cache",
        "name {folder}/snapshots/abc",
    ),
    "a folder around it": (
        ["flan/config.json"],
        "no config.json, but a folder that has it",
        "name {folder}/flan",
    ),
    "a tokenizer": (["tokenizer.json", "tokenizer_config.json"], "a tokenizer alone", _WHOLE),
    "weights": (["model.safetensors"], "weights without config.json", _WHOLE),
    "nothing": ([], "an empty folder", _WHOLE),
}


def make(folder: Path, files: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"base_model_name_or_path": "google/flan-t5-small"}))
    return folder


def told(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        check_folder(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_is_instead_of_a_model(tmp_path: Path, name: str) -> None:
    files, found, mend = FOLDERS[name]
    folder = make(tmp_path / name, files)
    assert told(folder) == (
        f"{folder}: {found} (expected the folder of an encoder-decoder model, with "
        f"config.json). Hint: {mend.format(folder=folder)}"
    )


def test_the_part_of_a_checkpoint_that_only_going_on_needs(tmp_path: Path) -> None:
    make(tmp_path, ["config.json", "model.safetensors", "resume/state.json"])
    assert told(tmp_path / "resume") == (
        f"{tmp_path}/resume: what going on with a run needs, without weights (expected the "
        f"folder of an encoder-decoder model, with config.json). Hint: name {tmp_path}"
    )


@pytest.mark.parametrize(
    "beside", ["adapter_config.json", "tf_model.h5", "onnx/model.onnx", "zero_to_fp32.py"]
)
def test_a_model_may_have_other_things_beside_it(tmp_path: Path, beside: str) -> None:
    make(tmp_path, ["config.json", "tokenizer.json", "model.safetensors", beside])
    check_folder(tmp_path)
