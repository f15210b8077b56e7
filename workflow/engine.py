"""Engines: forward, backward and update. This one is a single process in plain torch."""

import copy
from typing import Any

import torch
from transformers import get_scheduler
from transformers.optimization import Adafactor

from workflow.config import JobSpec
from workflow.errors import BadInput, Problem
from workflow.losses import ELEMENTS_AT_ONCE
from workflow.machine import pick_device
from workflow.models import Model


class SingleProcessEngine:
    """Trains a float32 model; in bf16 a bfloat16 copy computes, and nothing else is bfloat16.

    Attributes:
        master: the float32 model: its parameters, their gradients and the optimizer's state are
            what training changes and what is saved.
        model: the model that computes; `master` itself where the job computes in float32.
    """

    def __init__(self, model: Model, spec: JobSpec):
        """Take a float32 model from the host's memory to the device that computes."""
        device = pick_device()
        computing = copy.deepcopy(model).to(torch.bfloat16) if spec.bf16 else model
        self.master = model.to(device)
        self.model = computing.to(device)
        if spec.bf16:
            self._accumulate_in_master()
        if spec.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self._optimizer = make_optimizer(self.master, spec)
        self._scheduler = make_scheduler(self._optimizer, spec)
        self._max_grad_norm = spec.max_grad_norm

    def _accumulate_in_master(self) -> None:
        """Add every gradient to its master's, in float32, as soon as it is there."""
        pairs = zip(self.master.parameters(), self.model.parameters(), strict=True)
        for master, parameter in pairs:

            def accumulate(computed: Any, master: Any = master) -> None:
                if master.grad is None:
                    master.grad = torch.zeros_like(master)
                add_by_parts(master.grad, computed.grad)
                computed.grad = None

            parameter.register_post_accumulate_grad_hook(accumulate)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, a part of the step's loss, to the step's gradient."""
        loss.backward()

    def gradient_norm(self) -> float:
        """The Euclidean norm of the step's gradient."""
        return float(torch.nn.utils.get_total_norm(self._gradients()))

    def update(self, gradient_norm: float) -> None:
        """Clip, step the optimizer and the schedule, and clear the gradient."""
        if gradient_norm > self._max_grad_norm > 0:
            torch._foreach_mul_(self._gradients(), self._max_grad_norm / gradient_norm)
        self._optimizer.step()
        self._scheduler.step()
        # The masters' gradients in float32 keep their memory.
        self._optimizer.zero_grad(set_to_none=self.model is self.master)
        if self.model is not self.master:
            with torch.no_grad():
                torch._foreach_copy_(list(self.model.parameters()), list(self.master.parameters()))

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.master.parameters() if p.grad is not None]


def add_by_parts(total: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add a gradient in 16 bits to one in 32 without a copy of it all in 32."""
    parts = (t.view(-1).split(ELEMENTS_AT_ONCE) for t in (total, gradient.contiguous()))
    for part, added in zip(*parts, strict=True):
        part.add_(added)


def make_optimizer(model: Model, spec: JobSpec) -> torch.optim.Optimizer:
    """AdamW, or Adafactor with a fixed rate; norms and biases do not decay."""
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and "bias" not in name].append(parameter)
    parameters = [
        {"params": groups[True], "weight_decay": spec.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    if spec.optim == "adafactor":
        return Adafactor(
            parameters, lr=spec.learning_rate, scale_parameter=False, relative_step=False
        )
    assert spec.learning_rate is not None
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, fused=True)


def make_scheduler(optimizer: torch.optim.Optimizer, spec: JobSpec) -> Any:
    """The schedule named; raises BadInput where it does not take --lr_scheduler_kwargs."""
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
    found = f"{spec.lr_scheduler_kwargs} ({error})"
    expected = f"what the schedule {spec.lr_scheduler_type} of transformers takes"
    return BadInput([Problem("--lr_scheduler_kwargs", found, expected, "correct the keys")])


def check_schedule(spec: JobSpec) -> None:
    """Raise BadInput, before anything is loaded, where the schedule cannot give a rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    scheduler = make_scheduler(optimizer, spec)
    try:
        for step in (0, int(spec.warmup_steps), spec.max_steps // 2, spec.max_steps):
            [function(step) for function in scheduler.lr_lambdas]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _bad_schedule(spec, error) from error
