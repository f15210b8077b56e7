"""Load weight files into a model that may be partitioned, one tensor at a time."""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, apply_renamings

from workflow.core.errors import Problem
from workflow.models.hub import shorten_names

Named = tuple[str, torch.Tensor]
Weights = Callable[[], Iterable[Named]]
"""Reads tensors from their files, in full precision and one at a time."""
ADAPTER_FILE = "adapter_config.json"
_RENAMINGS: WeakKeyDictionary[PreTrainedModel, list[WeightRenaming]] = WeakKeyDictionary()


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model's or adapter's folder, chosen as transformers does."""
    if is_adapter(folder):
        names = ["adapter_model.safetensors", "adapter_model.bin"]
    else:
        names = ["model.safetensors", "pytorch_model.bin"]
    for name in names:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            return [folder / shard for shard in sorted(shards)]
    raise FileNotFoundError(f"no {' or '.join(names)}, single or sharded")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not the model that it belongs to."""
    return (folder / ADAPTER_FILE).is_file() and not any(folder.glob("model*.safetensors"))


def file_tensors(folder: Path) -> Iterator[Named]:
    """Every tensor in the weight files of a folder, one at a time and memory-mapped."""
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            yield from mapped_tensors(path)
        else:
            mapped = zipfile.is_zipfile(path)
            yield from torch.load(path, weights_only=True, mmap=mapped, map_location="cpu").items()


def mapped_tensors(path: Path) -> Iterator[Named]:
    """The tensors of a safetensors file, memory-mapped."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name)


def own_part(parameter: Any, tensor: torch.Tensor) -> torch.Tensor:
    """The part of `tensor` that this process holds as `parameter`.

    For a parameter partitioned by ZeRO-3 it is a slice of the flat values, which may be shorter or
    empty on the last processes; otherwise all of it.
    """
    if not is_partitioned(parameter):
        return tensor
    size = parameter.ds_tensor.ds_numel
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    return tensor.reshape(-1)[rank * size : (rank + 1) * size]


def is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


@contextmanager
def gathered(parameter: Any, changed: bool = False) -> Iterator[None]:
    """Gather a parameter, if it is partitioned, to read or change it; all processes call this."""
    if not is_partitioned(parameter):
        yield
        return
    parameter.all_gather()
    yield
    parameter.partition(has_been_updated=changed)


def whole_shape(parameter: Any) -> torch.Size:
    """The shape of a parameter, which may be partitioned or in 4 bits."""
    quantized = getattr(parameter, "quant_state", None)
    shape: torch.Size = getattr(quantized or parameter, "shape", parameter.shape)
    return getattr(parameter, "ds_shape", shape)


Misfits = dict[str, list[str]]
"""Names of tensors that do not fit the model, by kind of misfit."""
_MISFITS = {
    "missing": ("missing tensors:", "all tensors of the model", "download the model again"),
    "unexpected": (
        "unexpected tensors:",
        "the tensors of the model",
        "correct config.json; a layer may be missing",
    ),
    "misshapen": (
        "mismatched shapes:",
        "weights that fit config.json",
        "correct config.json or download the model again",
    ),
    "differing": (
        "tied tensors with different values:",
        "equal values",
        "set tie_word_embeddings in config.json to false if the head is not tied",
    ),
}


def problems_of_misfits(misfits: Misfits, folder: Path) -> list[Problem]:
    """The problems of a folder whose tensors do not fit the model."""
    return [
        Problem(str(folder), f"{found} {shorten_names(sorted(misfits[kind]))}", expected, hint)
        for kind, (found, expected, hint) in _MISFITS.items()
        if misfits[kind]
    ]


def load_state_dict(model: PreTrainedModel, tensors: Iterable[Named]) -> Misfits:
    """Copy tensors into a model, each only in the part that this process holds.

    Tied tensors that occur under several names must have equal values. Parameters that are neither
    trained nor in the files (sinusoidal positions) are computed.
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
            shapes = f"{list(tensor.shape)} instead of {list(whole_shape(target))}"
            misfits["misshapen"].append(f"{name} ({shapes})")
        elif id(target) not in filled:
            held.copy_(part)
        elif not torch.equal(held, part.to(held)):
            misfits["differing"].append(name)
        filled.add(id(target))
    for name, target in by_name.items():
        if id(target) not in filled and not _is_computed(model, name, target):
            misfits["missing"].append(name)
            filled.add(id(target))  # reported once, under its first name
    return misfits


def model_name(model: PreTrainedModel, known: Mapping[str, Any], given: str) -> str | None:
    """The model's name of a tensor in its files, which may lack the base model's prefix.

    transformers 5 renamed some modules, e.g. the encoder of T5Gemma 2 and the norms of BERT.
    """
    prefix = model.base_model_prefix
    if given in known:
        return given
    if f"{prefix}.{given}" in known:
        return f"{prefix}.{given}"
    renamed = apply_renamings(given, _renamings(model))
    return next((name for name in (renamed, f"{prefix}.{renamed}") if name in known), None)


def _renamings(model: PreTrainedModel) -> list[WeightRenaming]:
    if model not in _RENAMINGS:
        changes = get_model_conversion_mapping(model)
        _RENAMINGS[model] = [one for one in changes if isinstance(one, WeightRenaming)]
    return _RENAMINGS[model]


def _may_be_left_over(model: PreTrainedModel, name: str) -> bool:
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    if name.endswith("embeddings.position_ids"):  # 0, 1, …; saved by earlier versions
        return True
    return any(re.search(pattern, name) for pattern in patterns)


def _is_computed(model: PreTrainedModel, name: str, target: Any) -> bool:
    """Whether a tensor is not trained; if so, initialize it."""
    if target.requires_grad:
        return False
    if isinstance(target, torch.nn.Parameter):
        with gathered(target, changed=True):
            model._init_weights(model.get_submodule(name.rpartition(".")[0]))
    return True


def saved_names(model: PreTrainedModel) -> dict[str, Any]:
    """The tensors to save by name; tied ones only under their first name."""
    first: dict[int, tuple[str, Any]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def frozen_tensors(
    model: PreTrainedModel, saved: Mapping[str, Any], named: Iterable[Named]
) -> dict[str, torch.Tensor]:
    """Those of some tensors in files that belong to frozen parameters, by the names in `saved`."""
    by_name, found = model.state_dict(keep_vars=True), {}
    frozen = {id(one): name for name, one in saved.items() if not one.requires_grad}
    for given, tensor in named:
        name = model_name(model, by_name, given)
        if name is not None and id(by_name[name]) in frozen:
            found[frozen[id(by_name[name])]] = tensor
    return found


def file_names(model: PreTrainedModel) -> dict[str, Any]:
    """The tensors to save by their names in files of all versions of transformers.

    transformers 4 would draw what it does not find, e.g. GPT-NeoX's head `embed_out`.
    """
    changes = get_model_conversion_mapping(model, add_legacy=False)
    back: list[Any] = [
        change.reverse_transform()
        for change in reversed(changes)
        if isinstance(change, WeightRenaming) and not isinstance(change, PrefixChange)
    ]
    return {apply_renamings(name, back): tensor for name, tensor in saved_names(model).items()}
