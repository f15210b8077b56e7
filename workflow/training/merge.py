"""`python3 -m workflow merge`: an adapter and its base as a plain model."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.config.parse import make_job
from workflow.config.request import JobRequest
from workflow.core.checksums import find_damage, write_checksums
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem, RunFailed
from workflow.core.files import whole_folder
from workflow.distributed.world import World
from workflow.models.batch import Example
from workflow.models.configuration import ADAPTER_DROPOUT
from workflow.models.families import family_of
from workflow.models.hub import fetch_weights
from workflow.models.loading import load_model, save_model
from workflow.models.quantized import quantize
from workflow.models.settings import load_model_settings
from workflow.models.state_dict import file_tensors
from workflow.models.task_file import TASK_FILE, read_task
from workflow.runs.mount import Mount, find_run_folder
from workflow.tasks.formats import text_format
from workflow.training.adapters import (
    adopt_adapter,
    check_base,
    digest_of,
    find_model_and_adapter,
    tensor_digests,
)
from workflow.tuning import tuning_of
from workflow.tuning.base import set_values

TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest logit, that rounding in float32 causes."""


def merge(name: str, target: str, mount: Mount) -> Path:
    """Write the model that an adapter and its base are together, verified, to mount/models.

    Raises:
        BadInput: there is no such adapter, its base is another, or the name is taken.
        RunFailed: the merged model computes other logits.
    """
    task = read_task(mount.models / name).get("task", "seq2seq")
    request = make_job(task, model_init_name=name, data_name="none", no_train=True)
    base, adapter, problems = find_model_and_adapter(mount, request)
    path, of_target = find_run_folder(mount, target)
    if path.exists():
        of_target.append(Problem(str(path), "exists", "an unused name", "choose another name"))
    if adapter is None and not problems:
        found, hint = "no adapter", "name a checkpoint of a run with --tuning lora or ia3"
        problems = [Problem(str(mount.models / name), found, "a folder of an adapter", hint)]
    if problems + of_target:
        raise BadInput(problems + of_target)
    assert adapter is not None
    request = adopt_adapter(adapter, request)
    if request.virtual_positions:
        found = f"an adapter of {request.tuning}, whose virtual tokens are no weights of a model"
        hint = "use the adapter itself by --model_init_name"
        raise BadInput([Problem(str(adapter), found, "an adapter of lora or ia3", hint)])
    folder = fetch_weights(base)
    if damage := find_damage(adapter) + find_damage(folder):
        raise BadInput(damage)
    check_base(adapter, base, digest_of([tensor_digests(folder, World())]))
    with whole_folder(path) as partial_folder:
        _write(request, adapter, folder, partial_folder)
    return path


def _write(request: JobRequest, adapter: Path, base: Path, folder: Path) -> None:
    """Write the merged model, read it again, and compare its logits with the adapter's."""
    settings, request = load_model_settings(base, request, 1, adapter)
    format = text_format(settings, request)
    model = adapted(request, adapter, base)
    settings.decoder_ids.ended_by(format.end).set_in(model)
    expected = sample_logits(model)
    merge_modules(model)
    save_model(model, settings.tokenizer, folder)
    task = read_task(adapter)
    trained_on = task.pop("base", None) or {}
    (folder / TASK_FILE).write_text(json.dumps(task, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder, {})
    difference = _difference(sample_logits(load_model(folder)), expected)
    if not difference <= TOLERANCE:
        message = f"the merged model's logits differ from the adapter's by {difference:.1e}"
        raise RunFailed(f"{message} of the largest; nothing was written")
    log.info("logits of adapter and merged model differ by %.1e of the largest", difference)
    if bits := trained_on.get("bits"):
        changed = _difference(sample_logits(adapted(request, adapter, base, bits)), expected)
        log.warning(
            "the adapter was trained on its base in %d bits, and is merged into the base in full "
            "precision, which changes logits by %.1e of the largest. Hint: evaluate the result",
            bits, changed,
        )  # fmt: skip


def adapted(
    request: JobRequest, adapter: Path, base: Path, bits: int | None = None
) -> PreTrainedModel:
    """The base with its adapter, in float32."""
    model, tuning = load_model(base), tuning_of(request, adapter)
    if bits is not None:
        quantize(model, bits, torch.device("cpu"))
    tuning.apply(model)
    set_values(tuning.saved(model), dict(file_tensors(adapter)), adapter)
    model.eval()
    return model


def merge_modules(model: PreTrainedModel) -> None:
    """Replace peft's modules by plain ones with the same outputs."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    vars(model.config).pop(ADAPTER_DROPOUT, None)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])


def sample_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a few texts drawn at random."""
    family, generator = family_of(model.config), np.random.default_rng(0)
    draw = partial(generator.integers, 3, family.vocabulary_size(model.config))
    rows = [[Example(draw(12), draw(6))] for _ in range(4)]
    with torch.no_grad():
        batch = family.collate(model.config, rows, torch.empty(0))
        return family.target_logits(model, batch).float()


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
