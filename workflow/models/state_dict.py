"""Weight files, read one tensor at a time into a model that may be partitioned."""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from workflow.core.errors import Problem
from workflow.models.hub import shorten_names

Named = tuple[str, torch.Tensor]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, in the order of preference of transformers."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            return [folder / shard for shard in sorted(shards)]
    raise FileNotFoundError("neither model.safetensors nor pytorch_model.bin, whole or in shards")


def file_tensors(folder: Path) -> Iterator[Named]:
    """Every tensor in the weight files of a folder, one at a time.

    Files are mapped: of a tensor that is only read in part, no more than that is read.
    """
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            yield from mapped_tensors(path)
        else:
            mapped = zipfile.is_zipfile(path)
            yield from torch.load(path, weights_only=True, mmap=mapped, map_location="cpu").items()


def mapped_tensors(path: Path) -> Iterator[Named]:
    """The tensors of a safetensors file, which is mapped."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name)


def own_part(parameter: Any, tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter whose whole value is `tensor`.

    All of it, but of a parameter that ZeRO-3 has partitioned a slice of its flat values, which is
    shorter than the others on the last process that has one, and empty behind it.
    """
    if not is_partitioned(parameter):
        return tensor
    size = parameter.ds_tensor.ds_numel
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    return tensor.reshape(-1)[rank * size : (rank + 1) * size]


def is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def whole_shape(parameter: Any) -> torch.Size:
    """The shape of a parameter, partitioned or not."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


Misfits = dict[str, list[str]]
"""Names of tensors that do not fit, by what is wrong with them."""
_MISFITS = {
    "missing": ("no tensor", "every tensor of the model", "get the whole model again"),
    "unexpected": (
        "tensors that the model lacks:",
        "the tensors of the model",
        "correct config.json: a layer may be missing there",
    ),
    "misshapen": (
        "tensors of other shapes than the model's:",
        "weights that fit config.json",
        "correct config.json, or get the model again",
    ),
    "differing": (
        "several values for",
        "one value for tensors that are tied",
        "say in config.json whether the head is tied to the embedding (tie_word_embeddings)",
    ),
}


def problems_of_misfits(misfits: Misfits, folder: Path) -> list[Problem]:
    """What is to be told of a folder whose tensors do not fit."""
    return [
        Problem(str(folder), f"{found} {shorten_names(sorted(misfits[kind]))}", expected, hint)
        for kind, (found, expected, hint) in _MISFITS.items()
        if misfits[kind]
    ]


def load_state_dict(model: PreTrainedModel, tensors: Iterable[Named]) -> Misfits:
    """Copy tensors into a model, each only in the part that this process holds.

    A tensor that stands in the files under several names must be the same under all of them.
    Parameters that are not learned and not in the files (positions of sines) are computed.
    """
    misfits: Misfits = {kind: [] for kind in _MISFITS}
    by_name = model.state_dict(keep_vars=True)
    filled = set()
    for given, tensor in tensors:
        name = model_name(model, by_name, given)
        if name is None:
            if not _may_be_left_over(model, given):
                misfits["unexpected"].append(given)
            continue
        target = by_name[name]
        part = own_part(target, tensor)
        held = target.ds_tensor.data[: len(part)] if is_partitioned(target) else target.data
        if whole_shape(target) != tensor.shape:
            shapes = f"{list(tensor.shape)} for {list(whole_shape(target))}"
            misfits["misshapen"].append(f"{name} ({shapes})")
        elif id(target) not in filled:
            held.copy_(part)
        elif not torch.equal(held, part.to(held)):
            misfits["differing"].append(name)
        filled.add(id(target))
    for name, target in by_name.items():
        if id(target) not in filled and not _is_computed(model, name, target):
            misfits["missing"].append(name)
            filled.add(id(target))  # told once, under its first name
    return misfits


def model_name(model: PreTrainedModel, known: Mapping[str, Any], given: str) -> str | None:
    """A model's own name for a tensor of its files, which may lack the prefix of a bare model."""
    for name in (given, f"{model.base_model_prefix}.{given}"):
        if name in known:
            return name
    return None


def _may_be_left_over(model: PreTrainedModel, name: str) -> bool:
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return any(re.search(pattern, name) for pattern in patterns)


def _is_computed(model: PreTrainedModel, name: str, target: Any) -> bool:
    """Whether a tensor is not learned; it then has its value after this call."""
    if target.requires_grad:
        return False
    if isinstance(target, torch.nn.Parameter):
        partitioned: Any = target if is_partitioned(target) else None
        if partitioned is not None:
            partitioned.all_gather()
        model._init_weights(model.get_submodule(name.rpartition(".")[0]))
        if partitioned is not None:
            partitioned.partition(has_been_updated=True)
    return True


def saved_names(model: PreTrainedModel) -> dict[str, Any]:
    """The tensors that are saved, by name: each once, under the first of its names."""
    first: dict[int, tuple[str, Any]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())
