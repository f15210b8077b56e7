"""The engine interface, and the engine in plain torch."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from workflow.config.job import JobSpec
from workflow.models.batch import Batch
from workflow.models.loading import held_tensors
from workflow.models.losses import ELEMENTS_ON_CPU
from workflow.models.quantized import frozen_modules
from workflow.models.safetensors_writer import Tensors
from workflow.models.state_dict import Named
from workflow.training.optim import go_to_step, make_optimizer, make_scheduler, zero_learning_rate
from workflow.tuning import FullTuning, TuningMethod

Loss = Callable[[PreTrainedModel, Batch], torch.Tensor]
"""The summed float32 loss of a batch."""


@dataclass(frozen=True)
class Figures:
    """What decides whether a step's gradient is applied: all of it must be finite.

    Attributes:
        losses: of this process's micro-batches.
        loss: their sum over all processes.
        gradient_norm: over all processes; NaN if not computed.
    """

    losses: list[float]
    loss: float
    gradient_norm: float


class Engine(Protocol):
    """Computes gradients and updates, and provides the model for evaluation and saving.

    Attributes:
        model: the compute model; it may be partitioned among processes.
    """

    model: PreTrainedModel

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""

    def tensors(self) -> Tensors:
        """The float32 tensors that a checkpoint stores, by name."""

    def optimizer_state(self) -> Tensors:
        """The optimizer state by parameter, e.g. NAME.exp_avg; available after a first step."""

    def add_gradient(self, batch: Batch, weight: float, last: bool) -> torch.Tensor:
        """Add the gradient of `weight` × the batch's loss to the step's; return that loss.

        Only launches the work on a GPU.

        Args:
            last: whether this is the step's last micro-batch.
        """

    def update(self, losses: torch.Tensor) -> Figures:
        """Clip, step the optimizer and the schedule, and clear the gradient.

        Changes nothing unless loss and gradient norm are finite. Waits for a GPU to read them.

        Args:
            losses: of this process's micro-batches (micro-batches,).
        """

    def evaluating(self) -> AbstractContextManager[tuple[PreTrainedModel, bool]]:
        """The model in evaluation mode, and whether all processes must call it equally often."""

    def probe(self, first: Batch, largest: Batch) -> None:
        """Allocate all memory that training needs, in two updates with learning rate zero.

        This includes the optimizer state, which `restore` fills.

        Args:
            first: any micro-batch of the job: the first update allocates the optimizer state.
            largest: the micro-batch that takes the most memory: the second update accumulates its
                gradient with that of `first`, as training does.
        """

    def restore(self, step: int, optimizer_state: Iterable[Named]) -> None:
        """Set the optimizer state and the schedule to those after a step; call `probe` before.

        Args:
            optimizer_state: that of the step's checkpoint; empty for step 0.
        """


class SingleProcessEngine:
    """Trains float32 parameters; in bf16 a bfloat16 copy of them computes.

    Attributes:
        master: the model that is updated and saved.
        model: the compute model; `master` itself if the job computes in float32. Both share what is
            frozen.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        spec: JobSpec,
        loss: Loss,
        tuning: TuningMethod | None = None,
    ):
        """Train a model that is on its device, whose trained parameters are float32."""
        self._tuning = tuning = tuning or FullTuning()
        self.master = model
        self.model = bfloat16_copy(model) if spec.bf16 else model
        self._loss = loss
        if spec.bf16:
            self._accumulate_in_master()
        if spec.gradient_checkpointing:
            recompute_layers(self.model)
        self._optimizer = make_optimizer(tuning.trainable(self.master), spec)
        self._scheduler = make_scheduler(self._optimizer, spec)
        self._max_grad_norm = spec.max_grad_norm
        self.model.train()

    def _accumulate_in_master(self) -> None:
        """Accumulate every gradient in its master's, in float32, as soon as it is computed."""
        for master, parameter in self._pairs():

            def accumulate(computed: Any, master: Any = master) -> None:
                if master.grad is None:
                    master.grad = torch.zeros_like(master)
                add_without_copy(master.grad, computed.grad)
                computed.grad = None

            parameter.register_post_accumulate_grad_hook(accumulate)

    def _pairs(self) -> Iterator[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """The trained parameters with their copies in the compute model."""
        pairs = zip(self.master.parameters(), self.model.parameters(), strict=True)
        return ((master, copied) for master, copied in pairs if copied.requires_grad)

    def add_gradient(self, batch: Batch, weight: float, last: bool) -> torch.Tensor:
        loss = self._loss(self.model, batch)
        (loss * weight).backward()
        return loss.detach()

    def update(self, losses: torch.Tensor) -> Figures:
        gradients = [p.grad for p in self.master.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # One copy: each would wait for the device.
        *of_losses, gradient_norm = torch.cat([losses, norm[None]]).tolist()
        figures = Figures(of_losses, sum(of_losses), gradient_norm)
        if math.isfinite(figures.loss) and math.isfinite(gradient_norm):
            if 0 < self._max_grad_norm < gradient_norm:
                torch._foreach_mul_(gradients, clip_factor(norm, self._max_grad_norm))
            self._optimizer.step()
            self._scheduler.step()
        # Float32 master gradients keep their memory.
        self._optimizer.zero_grad(set_to_none=self.model is self.master)
        self._copy_masters()
        return figures

    def _copy_masters(self) -> None:
        """Give the compute model the masters' values."""
        if self.model is not self.master:
            masters, copies = zip(*self._pairs(), strict=True)
            with torch.no_grad():
                torch._foreach_copy_(copies, masters)

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @contextmanager
    def evaluating(self) -> Iterator[tuple[PreTrainedModel, bool]]:
        self.model.eval()
        yield self.model, False
        self.model.train()

    def tensors(self) -> Tensors:
        return held_tensors(self._tuning.saved(self.master))

    def optimizer_state(self) -> Tensors:
        return held_tensors({
            f"{name}.{kind}": tensor
            for name, parameter in self._tuning.saved(self.master).items()
            for kind, tensor in self._state_of(parameter).items()
        })  # fmt: skip

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """A parameter's optimizer state; empty if the loss does not depend on it."""
        state = self._optimizer.state.get(parameter, {})
        return {kind: t for kind, t in state.items() if torch.is_tensor(t) and kind != "step"}

    def probe(self, first: Batch, largest: Batch) -> None:
        with zero_learning_rate(self._optimizer):
            self._zero_step(first)
            self._zero_step(first, largest)
        self._copy_masters()  # in float32 where a router has converted its weights (Switch)

    def restore(self, step: int, optimizer_state: Iterable[Named]) -> None:
        parameters = self._tuning.saved(self.master)
        for named, tensor in optimizer_state:
            name, _, kind = named.rpartition(".")
            state = self._state_of(parameters[name])
            if kind in state:
                state[kind].copy_(tensor)
        go_to_step(self._optimizer, self._scheduler, step)

    def _zero_step(self, *batches: Batch) -> None:
        """A step with gradient zero, even if a loss is not finite."""
        for batch in batches:
            self.add_gradient(batch, 0.0, last=batch is batches[-1])
        torch._foreach_zero_([p.grad for p in self.master.parameters() if p.grad is not None])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=self.model is self.master)


def bfloat16_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that computes in bfloat16, and shares the frozen parameters that do so already.

    What a model computes when it is made, e.g. the frequencies of rotary positions, stays as it is:
    rounded, they would give other positions than the model has when it is loaded.
    """
    copied = copy.deepcopy(model, {id(module): module for module in frozen_modules(model)})
    for module in copied.modules():
        computed = module._non_persistent_buffers_set
        held = [one for name, one in module.named_buffers(recurse=False) if name not in computed]
        for tensor in [*module.parameters(recurse=False), *held]:
            if tensor.dtype == torch.float32:
                tensor.data = tensor.data.bfloat16()
    return copied


def recompute_layers(model: PreTrainedModel) -> None:
    """Recompute layers in the backward pass, but not frozen ones below all that is trained.

    transformers lets embeddings ask for a gradient, which only reentrant recomputation needs; the
    backward pass would go through every layer.
    """
    model.activation_checkpointing_enable()
    model.disable_input_require_grads()


def clip_factor(norm: torch.Tensor, most: float) -> torch.Tensor:
    """The factor that clips gradients of this norm, as in torch's clip_grad_norm_ and DeepSpeed."""
    return most / (norm + 1e-6)


def add_without_copy(total: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add a 16-bit gradient to a 32-bit one without a complete 32-bit copy.

    A GPU's kernel converts as it adds; on a CPU, torch would convert the gradient first.
    """
    if total.device.type != "cpu":
        total.add_(gradient)
        return
    parts = (t.view(-1).split(ELEMENTS_ON_CPU) for t in (total, gradient.contiguous()))
    for part, added in zip(*parts, strict=True):
        part.add_(added)
