"""From a prepared job to a model in memory, and to the engine that trains it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from workflow.cpu import tune_memory, use_fast_modules
from workflow.engine import Engine, SingleProcessEngine
from workflow.errors import WorkflowError
from workflow.head import packs_rows
from workflow.hub import fetch_weights
from workflow.machine import pick_device
from workflow.models import build_model, check_weight_files, load_model, weights_of
from workflow.prepare import Job
from workflow.tasks.task import Batch
from workflow.vocabulary import Growth
from workflow.weights import Model
from workflow.world import World
from workflow.zero import ZeroEngine, partitioning

T = TypeVar("T")


def load_together(job: Job, world: World) -> Model:
    """The job's model; raises BadInput on all processes where one of them cannot load it."""
    folder = _together(world, lambda: _find_weights(job))
    return _together(world, lambda: ready_model(job, folder))


def _together(world: World, function: Callable[[], T]) -> T:
    """What a function gives on each process; what it raises on one is raised on all.

    (Of what a user can mend: anything else ends its process, and a launcher the others.) Processes
    are to meet between what may fail on one of them and what takes all of them.
    """
    failure: Exception | None = None
    try:
        found = function()
    except (WorkflowError, OSError) as error:
        failure = error
    failure = world.agree(failure)
    if failure is not None:
        raise failure
    return found


def _find_weights(job: Job) -> Path:
    folder = fetch_weights(job.model_source)
    check_weight_files(folder)
    return folder


def ready_model(job: Job, folder: Path) -> Model:
    """The job's model where it is to compute, with a row for each of the tokenizer's tokens.

    In float32 where plain torch is to train it: then the engine makes the copy that computes. Under
    ZeRO-3 it is partitioned, and left as it is: a task may read weights without calling their
    modules, which would not gather them.
    """
    device = pick_device()
    spec, setting = job.spec, job.setting
    if device.type == "cpu":
        tune_memory(keeps=setting is None)
    keeps_masters = setting is None and not spec.no_train
    dtype = torch.bfloat16 if spec.bf16 and not keeps_masters else torch.float32
    if setting is not None and setting.stage == 3:
        with partitioning(spec, setting):
            model = load_model(folder, spec.dropout_rate, growth_of(job), dtype)
    else:
        with device:
            model = load_model(folder, spec.dropout_rate, growth_of(job), dtype)
        job.task.adapt(model)
    return _made_fast(model, device)


def make_engine(job: Job, model: Model, world: World) -> Engine:
    """The engine that trains the job's model: plain torch, or ZeRO where the job has a setting."""
    spec, setting = job.spec, job.setting

    def loss(model: Model, batch: Batch) -> torch.Tensor:
        return job.task.loss(model, batch, spec.label_smoothing_factor)

    if setting is None:
        return SingleProcessEngine(model, spec, loss)
    folder = Path(model.name_or_path)
    return ZeroEngine(
        model, spec, loss, world, setting,
        weights=lambda: weights_of(model, folder, growth_of(job)),
        whole_copy=lambda: _whole_copy(job, folder),
    )  # fmt: skip


def growth_of(job: Job) -> Growth | None:
    """The tokens that the job's model is to have besides those it learned."""
    tokens = len(job.tokenizer)
    return Growth(job.model_tokens, tokens) if tokens > job.model_tokens else None


def _whole_copy(job: Job, folder: Path) -> Model:
    device = pick_device()
    dtype = torch.bfloat16 if job.spec.bf16 else torch.float32
    with device:
        model = build_model(folder, job.spec.dropout_rate, growth_of(job), dtype)
    job.task.adapt(model)
    return _made_fast(model, device)


def _made_fast(model: Model, device: torch.device) -> Model:
    if device.type == "cpu":
        use_fast_modules(model, attention=packs_rows(model))
    return model
