"""Adapters as models: their base, its digest, and the flags that they were made with."""

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from workflow.config.job import JOB_FLAGS
from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, Problem
from workflow.core.files import read_object
from workflow.distributed.world import World
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.models.state_dict import ADAPTER_FILE, file_tensors, is_adapter
from workflow.models.task_file import base_in_task
from workflow.runs.mount import Mount, find_model, is_hub_name

_METHODS = {
    "LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix",
}  # fmt: skip
"""Tuning methods by the names of peft's types."""
_KEYS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "use_dora": "use_dora",
    "modules_to_save": "modules_to_save",
    "num_virtual_tokens": "num_virtual_tokens",
}
"""peft's names of flags, in adapter_config.json."""


def find_base(adapter: Path, mount: Mount) -> tuple[Path | str, list[Problem]]:
    """The folder of an adapter's base model, or its name on the hub.

    A name relative to mount/models, as in task.json, still holds where the mount has moved.
    """
    config = read_object(adapter / ADAPTER_FILE)
    name = base_in_task(adapter).get("name") or config.get("base_model_name_or_path")
    if not name:
        hint = "add base_model_name_or_path, the folder or hub name of the model it was trained on"
        where = str(adapter / ADAPTER_FILE)
        return adapter, [Problem(where, "no base model", "the name of the base model", hint)]
    for folder in (mount.models / name, Path(config.get("base_model_name_or_path") or name)):
        if folder.is_dir():
            return folder, []
    if is_hub_name(name):
        return str(name), []
    found = f"an adapter of {name}, which does not exist"
    hint = f"copy the base model to {mount.models / Path(name).name}"
    return adapter, [Problem(str(adapter), found, "an adapter and its base model", hint)]


def find_model_and_adapter(
    mount: Mount, request: JobRequest
) -> tuple[Path | str, Path | None, list[Problem]]:
    """The model of a job; if it names an adapter, the adapter's base and its folder."""
    model, problems = find_model(mount, request)
    if not isinstance(model, Path) or not is_adapter(model):
        return model, None, problems
    base, of_base = find_base(model, mount)
    return base, model, problems + of_base


def name_of_base(model: Path | str, mount: Mount) -> str:
    """The name of an adapter's base in task.json: relative to mount/models, if it is there."""
    if isinstance(model, str):
        return model
    models, folder = mount.models.resolve(), model.resolve()
    return (folder.relative_to(models) if folder.is_relative_to(models) else folder).as_posix()


def adopt_adapter(adapter: Path | None, request: JobRequest) -> JobRequest:
    """The job with the tuning method and settings of the adapter that it starts from, if any.

    Raises:
        BadInput: the job asks for others.
    """
    if adapter is None:
        if request.no_train and request.has_adapter:
            found = f"{request.tuning} with --no_train and a model without an adapter"
            hint = "name an adapter by --model_init_name, or remove --tuning"
            raise BadInput([Problem("--tuning", found, "an adapter to evaluate", hint)])
        return dataclasses.replace(request, tuning=request.tuning or "full")
    config = read_object(adapter / ADAPTER_FILE)
    kind = str(config.get("peft_type"))
    if kind not in _METHODS:
        found, hint = f"an adapter of type {kind}", "merge it into its model with peft"
        raise BadInput([Problem(str(adapter), found, f"one of {', '.join(_METHODS)}", hint)])
    method, problems = _METHODS[kind], []
    merging = f"merge it first: python3 -m workflow merge {request.model} NAME"
    if request.tuning not in (None, method):
        found = f"{request.tuning} for an adapter of {method}"
        problems.append(Problem("--tuning", found, method, f"remove it, or {merging}"))
    adopted: dict[str, Any] = {"tuning": method}
    for name, key in _KEYS.items():
        value, given = config.get(key), getattr(request, name)
        value = tuple(sorted(value)) if isinstance(value, list) else value
        value = (value,) if name == "lora_target_modules" and isinstance(value, str) else value
        if value is None:
            continue
        same = sorted(given) == sorted(value) if isinstance(value, tuple) else given == value
        if given == JOB_FLAGS[name].default:
            adopted[name] = value
        elif not same:
            found, hint = f"{given} for an adapter with {value}", f"remove it, or {merging}"
            problems.append(Problem(f"--{name}", found, str(value), hint))
    if problems:
        raise BadInput(problems)
    return dataclasses.replace(request, **adopted)


def problems_of_packages(request: JobRequest) -> list[Problem]:
    """The flags for which bitsandbytes is missing."""
    flags = {"--load_in_8bit": request.load_in_8bit, "--load_in_4bit": request.load_in_4bit}
    flags["--optim"] = request.optim == "adamw_bnb_8bit"
    if importlib.util.find_spec("bitsandbytes") is not None:
        return []
    hint = "install it with scripts/setup --extra bitsandbytes"
    return [
        Problem(flag, "set, without the package bitsandbytes", "bitsandbytes", hint)
        for flag, is_set in flags.items()
        if is_set
    ]


def tensor_digests(folder: Path, world: World) -> dict[str, str]:
    """The SHA-256 of this process's share of a model's tensors, with types and shapes, by name.

    Raises:
        BadInput: the files cannot be read.
    """
    try:
        return {
            name: _digest(tensor)
            for number, (name, tensor) in enumerate(file_tensors(folder))
            if world.has_file(number)
        }
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "readable weights")]) from error


def digest_of(parts: Iterable[dict[str, str]]) -> str:
    """A digest of all tensors of a model, however they are spread over files and processes."""
    digests = sorted(one for part in parts for one in part.items())
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    header = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    held = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(header + hashlib.sha256(held.data).digest()).hexdigest()


def check_base(adapter: Path, base: Path | str, digest: str) -> None:
    """Raise BadInput if an adapter was trained on another model."""
    expected = base_in_task(adapter).get("digest")
    if expected not in (None, digest):
        found = f"{base}, with the digest {digest[:12]}"
        wanted = f"the model that {adapter} was trained on, with the digest {expected[:12]}"
        hint = "restore that model; an adapter does not fit another one"
        raise BadInput([Problem("base model", found, wanted, hint)])
