"""Load a prepared job's model, and create the engine that trains it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.config.job import JobSpec
from workflow.core.checksums import find_damage
from workflow.core.console import log
from workflow.core.errors import BadInput
from workflow.distributed.device import pick_device
from workflow.distributed.world import World
from workflow.models.batch import Batch
from workflow.models.families import family_of
from workflow.models.hub import fetch_settings, fetch_weights, shorten_names
from workflow.models.kernels.cpu import tune_memory
from workflow.models.loading import (
    Adaptation,
    build_model,
    check_weight_files,
    load_model,
    weights_of,
)
from workflow.models.new_head import head_changes
from workflow.models.quantized import quantize
from workflow.models.random_weights import random_folder
from workflow.models.state_dict import Weights, file_tensors, model_name, whole_shape
from workflow.runs.checkpoint import RESUME_FOLDER
from workflow.training.adapters import check_base, digest_of, tensor_digests
from workflow.training.engines.deepspeed import ShardedModel, ZeroEngine, partitioning
from workflow.training.engines.single import Engine, SingleProcessEngine
from workflow.training.oom import oom_context
from workflow.training.prepare import Job
from workflow.tuning.base import set_values

SAMPLED = 4
"""Records whose loss tells what quantizing the model changes."""


def load_together(job: Job, world: World, checkpoint: Path | None) -> tuple[Job, PreTrainedModel]:
    """The job's model, with the weights of the checkpoint that it resumes from, if any.

    Returns:
        The job, with what is known of its model now: parameters, and the digest of a base.

    Raises:
        BadInput: on all processes, if any of them cannot load it, or an adapter was trained on
            another base.
    """
    if job.spec.init == "random" and checkpoint is None:
        job = replace(job, model_source=world.on_rank_zero(lambda: _drawn_weights(job)))
    folder = world.together(lambda: _find_weights(job, world, checkpoint))
    if job.base is not None:
        hashed = world.together(lambda: tensor_digests(folder, world))
        digest = digest_of(world.gather(hashed))
        if adapter := checkpoint or job.adapter:
            check_base(adapter, job.base["name"], digest)
        job = replace(job, base=job.base | {"digest": digest})

    def load() -> PreTrainedModel:
        with oom_context(job, world, "loading the model"):
            return ready_model(job, folder, checkpoint)

    model = world.together(load)
    return replace(job, parameters=count_parameters(job, model)), model


def _drawn_weights(job: Job) -> Path:
    """A folder with new weights for the job's model."""
    log.info("drawing new weights from seed %d", job.spec.seed)
    cache = job.claim_lock.parent / "random"
    return random_folder(job.model_source, job.tokenizer, job.spec.seed, cache)


def _log_head(spec: JobSpec, new: list[str], unused: list[str]) -> None:
    """Log what a classification head does not have from the model's files."""
    parts = [f"new, drawn from seed {spec.seed}: {shorten_names(new, 9)}"] if new else []
    parts += [f"not used, as of other shape or name: {shorten_names(unused, 9)}"] if unused else []
    if parts:
        log.info("classification head: %s", "; ".join(parts))
    if new and spec.no_train:
        log.warning(
            "the classification head is new, so the scores are random. Hint: train the model, or "
            "evaluate one whose head is trained"
        )


def _find_weights(job: Job, world: World, checkpoint: Path | None) -> Path:
    """The model's folder; verifies the files to be loaded, each on one process.

    A run that resumes needs only the settings of its initial model.
    """
    needs_base = checkpoint is None or job.spec.has_adapter
    folder = fetch_weights(job.model_source) if needs_base else fetch_settings(job.model_source)
    values = checkpoint or job.adapter or folder
    damage = find_damage(values, world.has_file)
    if values != folder and job.spec.has_adapter:
        damage += find_damage(folder, world.has_file)
        check_weight_files(folder)
    if checkpoint:
        damage += find_damage(checkpoint / RESUME_FOLDER, world.has_file)
        older = "or start another run from an older checkpoint's weights with --model_init_name"
        damage = [replace(problem, hint=f"{problem.hint}, {older}") for problem in damage]
    if damage:
        raise BadInput(damage)
    check_weight_files(values)
    return folder


def ready_model(job: Job, folder: Path, checkpoint: Path | None = None) -> PreTrainedModel:
    """The job's model on its device, with an embedding for each of the tokenizer's tokens.

    What is trained is in float32 in plain torch, whose engine makes the bfloat16 copy. Under ZeRO-3
    the model is partitioned, and not optimized for the task: a task may read weights without
    calling their modules, which would not gather them.
    """
    device = pick_device()
    spec, strategy = job.spec, job.strategy
    if device.type == "cpu":
        tune_memory(keeps=strategy is None and not spec.bits)
    else:  # cuDNN's attention gives NaN for some masks on H100 (pytorch#196678)
        torch.backends.cuda.enable_cudnn_sdp(False)
    keeps_masters = strategy is None and not spec.no_train
    all_masters = keeps_masters and not spec.has_adapter and not spec.freeze
    dtype = torch.bfloat16 if spec.bf16 and not all_masters else torch.float32
    partitions = strategy if strategy is not None and strategy.stage == 3 else None
    tuning, adapted, bits = job.tuning, spec.has_adapter, spec.bits
    in_float32 = tuning.trains if keeps_masters else lambda model, name: False
    loads_on = torch.device("cpu") if bits else device
    with partitioning(spec, partitions) if partitions else loads_on:
        whole = None if adapted else checkpoint
        model = load_model(folder, _adaptation(job), dtype, whole, in_float32)
    if checkpoint is None and job.adapter is None:
        _log_head(spec, *head_changes(model, folder))
    heads = _trained_heads(job, model, folder) if adapted else {}
    if bits:
        _quantize(job, model, bits, device)
        if device.type == "cpu":  # not earlier: the weights before leave holes between those after
            tune_memory(keeps=strategy is None)
    with device:
        tuning.apply(model)
        if adapted:
            _fill_adapter(job, model, checkpoint or job.adapter, heads)
    if not partitions:
        job.task.optimize_for_task(model)
    _adapt(model, job, device)
    return model


def _quantize(job: Job, model: PreTrainedModel, bits: int, device: torch.device) -> None:
    """Quantize a model, and log what that changes: its loss on a few records."""
    plain = _sample_loss(job, model)
    quantize(model, bits, device)
    quantized = _sample_loss(job, model)
    if plain is not None and quantized is not None:
        log.info("loss of the frozen model on %d eval records: %.4f, in %d bits %.4f",
                 SAMPLED, plain, bits, quantized)  # fmt: skip


def _sample_loss(job: Job, model: PreTrainedModel) -> float | None:
    """The loss of a model without an adapter on a few eval records, if they have answers."""
    spec = replace(job.spec, tuning="full")
    examples = job.task.examples(job.splits["eval"], spec, trains=False)
    rows = np.flatnonzero(examples.targets.lengths)[:SAMPLED, None]
    if not len(rows):
        return None
    job.decoder_ids.set_in(model)
    with torch.no_grad():
        batch = job.task.collate(examples, tuple(rows), model.config).to(model.device)
        return float(job.task.loss(model, batch, 0.0)) / max(1, len(batch.targets))


def _trained_heads(job: Job, model: PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    """The parameters of the base that an adapter trains a copy of, by their names in its files."""
    by_name, found = model.state_dict(keep_vars=True), {}
    for given, tensor in weights_of(model, folder, _adaptation(job)):
        name = model_name(model, by_name, given)
        if name is not None and job.tuning.trains(model, name):
            found[job.tuning.name_in_file(name)] = tensor
    return found


def _fill_adapter(
    job: Job, model: PreTrainedModel, source: Path | None, heads: dict[str, torch.Tensor]
) -> None:
    """Give an adapter the values of a checkpoint, or else its first ones.

    To be trained it is in float32, else as it computes: heads take what the layers before give.
    """
    rounded = job.spec.bf16 and job.spec.no_train
    for _, parameter in job.tuning.trainable(model):
        parameter.data = parameter.data.to(torch.bfloat16 if rounded else torch.float32)
    if source is None:
        values = heads | job.tuning.initial(model, job.tokenizer, job.spec.seed)
    else:
        values = dict(file_tensors(source))
    set_values(job.tuning.saved(model), values, source or job.spec.model)


def make_engine(job: Job, model: PreTrainedModel, world: World, weights: Weights) -> Engine:
    """The engine that trains the job's model: plain torch, or ZeRO if the job has a strategy.

    Args:
        weights: of the whole model in full precision, for ZeRO's masters. Those of an adapter are
            in the model, until it is rounded here.
    """
    spec, strategy = job.spec, job.strategy

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        return job.task.loss(model, batch, spec.label_smoothing_factor)

    if strategy is None:
        return SingleProcessEngine(model, spec, loss, job.tuning)
    if spec.has_adapter:
        held = {name: one.detach().clone() for name, one in job.tuning.saved(model).items()}
        weights = held.items
    if spec.bf16:  # DeepSpeed does not convert what was added to a model that it has partitioned
        for _, parameter in job.tuning.trainable(model):
            parameter.data = parameter.data.bfloat16()
    sharded = ShardedModel(model, strategy, weights, whole_copy=lambda: _whole_copy(job, model))
    return ZeroEngine(sharded, spec, loss, world, job.tuning)


def weights_in_files(job: Job, model: PreTrainedModel, checkpoint: Path | None) -> Weights:
    """The weights of a whole model that a run starts from, by names in files."""
    if checkpoint:
        return lambda: file_tensors(checkpoint)
    return lambda: weights_of(model, Path(str(model.name_or_path)), _adaptation(job))


def _adaptation(job: Job) -> Adaptation:
    return Adaptation(job.spec.dropout_rate, job.extension, job.spec.seed, job.task.classes)


def _whole_copy(job: Job, partitioned: PreTrainedModel) -> PreTrainedModel:
    device, folder = pick_device(), Path(str(partitioned.name_or_path))
    dtype = torch.bfloat16 if job.spec.bf16 else torch.float32
    with device:
        model = build_model(folder, _adaptation(job), dtype)
        job.tuning.apply(model)
    job.task.optimize_for_task(model)
    _adapt(model, job, device)
    model.eval()
    return model


def _adapt(model: PreTrainedModel, job: Job, device: torch.device) -> None:
    """Set the model's decoder ids, and use the modules that suit the device."""
    job.decoder_ids.set_in(model)
    family_of(model.config).use_modules_for(model, device)


def count_parameters(job: Job, model: PreTrainedModel) -> tuple[int, int]:
    """The parameters of a model, all and those that the job trains."""
    trained = [] if job.spec.no_train else [one for _, one in job.tuning.trainable(model)]
    return _elements(model.parameters()), _elements(trained)


def _elements(parameters: Iterable[Any]) -> int:
    return sum(whole_shape(one).numel() for one in parameters)
