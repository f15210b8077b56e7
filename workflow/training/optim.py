"""The optimizer and its learning-rate schedule."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import get_scheduler
from transformers.optimization import Adafactor

from workflow.config.job import JobSpec
from workflow.core.errors import BadInput, Problem
from workflow.models.state_dict import whole_shape

_OF_IMAGES = ("vision_tower", "multi_modal_projector")
"""Parts of T5Gemma 2 for images."""


def make_optimizer(
    trainable: Iterable[tuple[str, torch.nn.Parameter]], spec: JobSpec
) -> torch.optim.Optimizer:
    """AdamW, also with moments in 8 bits, or Adafactor with a fixed learning rate.

    Norms and biases have no weight decay, nor have parts that read images: texts give them no
    gradient, but ZeRO would decay them.
    """
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in trainable:
        undecayed = any(part in name for part in ("bias", *_OF_IMAGES))
        groups[len(whole_shape(parameter)) > 1 and not undecayed].append(parameter)
    parameters = [
        {"params": of_group, "weight_decay": spec.weight_decay * decays}
        for decays, of_group in groups.items()
        if of_group  # DeepSpeed fails at an empty group
    ]
    if spec.optim == "adamw_bnb_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit

        return AdamW8bit(parameters, lr=spec.learning_rate)
    if spec.optim == "adafactor":
        return Adafactor(
            parameters, lr=spec.learning_rate, scale_parameter=False, relative_step=False
        )
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, fused=True)


def make_scheduler(optimizer: torch.optim.Optimizer, spec: JobSpec) -> Any:
    """The job's schedule; raises BadInput if it rejects --lr_scheduler_kwargs."""
    try:
        return get_scheduler(
            spec.lr_scheduler_type,
            optimizer,
            num_warmup_steps=int(spec.warmup_steps),
            num_training_steps=spec.max_steps,
            scheduler_specific_kwargs=spec.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise _bad_schedule(spec, error) from error


def _bad_schedule(spec: JobSpec, error: Exception) -> BadInput:
    found = f"{spec.lr_scheduler_kwargs}: {error}"
    expected = f"arguments of the schedule {spec.lr_scheduler_type} of transformers"
    return BadInput([Problem("--lr_scheduler_kwargs", found, expected, "correct the keys")])


def check_schedule(spec: JobSpec) -> None:
    """Raise BadInput, before anything is loaded, if the schedule cannot compute a rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    scheduler = make_scheduler(optimizer, spec)
    try:
        for step in (0, int(spec.warmup_steps), spec.max_steps // 2, spec.max_steps):
            [function(step) for function in scheduler.lr_lambdas]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _bad_schedule(spec, error) from error


@contextmanager
def zero_learning_rate(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let optimizer steps within the block change no parameter, but allocate missing state."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def go_to_step(optimizer: torch.optim.Optimizer, scheduler: Any, step: int) -> None:
    """Advance an optimizer that has its state, and a new schedule, to a step."""
    for state in filter(None, optimizer.state.values()):  # empty if a step was skipped
        if torch.is_tensor(state["step"]):
            state["step"].fill_(step)
        else:
            state["step"] = step
    for _ in range(step):
        scheduler.step()
