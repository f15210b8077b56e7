"""Load a prepared job's model, and create the engine that trains it."""

from dataclasses import replace
from pathlib import Path

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
from workflow.models.state_dict import file_tensors
from workflow.runs.checkpoint import RESUME_FOLDER
from workflow.training.engines.deepspeed import ShardedModel, ZeroEngine, partitioning
from workflow.training.engines.single import Engine, SingleProcessEngine
from workflow.training.oom import oom_context
from workflow.training.prepare import Job


def load_together(job: Job, world: World, checkpoint: Path | None) -> PreTrainedModel:
    """The job's model, with the weights of the checkpoint that it resumes from, if any.

    Raises:
        BadInput: on all processes, if any of them cannot load it.
    """
    folder = world.together(lambda: _find_weights(job, world, checkpoint))

    def load() -> PreTrainedModel:
        with oom_context(job, world, "loading the model"):
            return ready_model(job, folder, checkpoint)

    model = world.together(load)
    if checkpoint is None:
        _log_head(job.spec, *head_changes(model, folder))
    return model


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
    folder = fetch_settings(job.model_source) if checkpoint else fetch_weights(job.model_source)
    values = checkpoint or folder
    damage = find_damage(values, world.has_file)
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

    In float32 for training in plain torch, whose engine makes the bfloat16 copy. Under ZeRO-3 it
    is partitioned, and not optimized for the task: a task may read weights without calling their
    modules, which would not gather them.
    """
    device = pick_device()
    spec, strategy = job.spec, job.strategy
    if device.type == "cpu":
        tune_memory(keeps=strategy is None)
    else:  # cuDNN's attention gives NaN for some masks on H100 (pytorch#196678)
        torch.backends.cuda.enable_cudnn_sdp(False)
    keeps_masters = strategy is None and not spec.no_train
    dtype = torch.bfloat16 if spec.bf16 and not keeps_masters else torch.float32
    partitions = strategy if strategy is not None and strategy.stage == 3 else None
    with partitioning(spec, partitions) if partitions else device:
        model = load_model(folder, _adaptation(job), dtype, checkpoint)
    if not partitions:
        job.task.optimize_for_task(model)
    _adapt(model, job, device)
    return job.tuning.apply(model)


def make_engine(
    job: Job, model: PreTrainedModel, world: World, checkpoint: Path | None = None
) -> Engine:
    """The engine that trains the job's model: plain torch, or ZeRO if the job has a strategy.

    Args:
        checkpoint: the source of the weights, if not the job's model.
    """
    spec, strategy = job.spec, job.strategy

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        return job.task.loss(model, batch, spec.label_smoothing_factor)

    if strategy is None:
        return SingleProcessEngine(model, spec, loss, job.tuning)
    folder = Path(str(model.name_or_path))
    sharded = ShardedModel(
        model,
        strategy,
        weights=lambda: (
            file_tensors(checkpoint) if checkpoint else weights_of(model, folder, _adaptation(job))
        ),
        whole_copy=lambda: _whole_copy(job, folder),
    )
    return ZeroEngine(sharded, spec, loss, world, job.tuning)


def _adaptation(job: Job) -> Adaptation:
    return Adaptation(job.spec.dropout_rate, job.extension, job.spec.seed)


def _whole_copy(job: Job, folder: Path) -> PreTrainedModel:
    device = pick_device()
    dtype = torch.bfloat16 if job.spec.bf16 else torch.float32
    with device:
        model = build_model(folder, _adaptation(job), dtype)
    job.task.optimize_for_task(model)
    _adapt(model, job, device)
    model.eval()
    return model


def _adapt(model: PreTrainedModel, job: Job, device: torch.device) -> None:
    """Set the model's decoder ids, and use the modules that suit the device."""
    job.decoder_ids.set_in(model)
    family = family_of(model.config)
    if device.type == "cpu":
        family.use_fast_modules(model)
    else:
        family.use_fused_modules(model)
