"""Engines: forward, backward and update. This one is a single process in plain torch."""

import copy
from typing import Any

import torch
from transformers import get_scheduler
from transformers.optimization import Adafactor

from workflow.config import JobSpec
from workflow.errors import BadInput, Problem
from workflow.models import Model


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def computing_model(model: Model, bf16: bool) -> Model:
    """The model in the precision it computes in."""
    return model.to(torch.bfloat16) if bf16 else model


class SingleProcessEngine:
    """Trains a float32 model; in bf16 a bfloat16 copy computes, and nothing else is bfloat16.

    Attributes:
        master: the float32 model: its parameters, their gradients and the optimizer's state are
            what training changes and what is saved.
        model: the model that computes; `master` itself where the job computes in float32.
    """

    def __init__(self, model: Model, spec: JobSpec):
        self.master = model
        self.model = model
        if spec.bf16:
            self.model = computing_model(copy.deepcopy(model), bf16=True)
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
                    master.grad = computed.grad.float()
                else:
                    master.grad += computed.grad
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
        self._optimizer.zero_grad(set_to_none=True)
        if self.model is not self.master:
            with torch.no_grad():
                torch._foreach_copy_(list(self.model.parameters()), list(self.master.parameters()))

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.master.parameters() if p.grad is not None]


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
        where = "--lr_scheduler_kwargs"
        found = f"{spec.lr_scheduler_kwargs} ({error})"
        expected = f"what the schedule {spec.lr_scheduler_type} of transformers takes"
        raise BadInput([Problem(where, found, expected, "correct the keys")]) from error


def positions_that_fit(config: Any) -> int:
    """Padded positions of a micro-batch that this machine computes at once, cautiously.

    On a GPU: the memory left by parameters, gradients and optimizer state (18 bytes a parameter,
    estimated from the configuration), over 34 × width bytes a layer and position (Korthikanti et
    al. 2022, "Reducing Activation Recomputation in Large Transformer Models", for 16 bits).
    """
    if not torch.cuda.is_available():
        return 2048
    decoder_layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    layers = config.num_hidden_layers + decoder_layers
    width = config.hidden_size
    parameters = 16 * layers * width**2 + 2 * config.vocab_size * width
    free, _ = torch.cuda.mem_get_info()
    fitting = (0.8 * free - 18 * parameters) / (34 * width * layers)
    return int(min(max(fitting, 512), 16_384))
