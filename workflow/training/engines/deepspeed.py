"""The engine for DeepSpeed ZeRO 1, 2 and 3: several processes, or one that offloads."""

import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from workflow.config.job import JobSpec
from workflow.core.errors import RunFailed
from workflow.distributed.strategy import ShardingStrategy, zero_configuration
from workflow.distributed.world import World
from workflow.models.batch import Batch
from workflow.models.safetensors_writer import Tensors, Whole
from workflow.models.state_dict import (
    Named,
    Weights,
    is_partitioned,
    model_name,
    own_part,
    saved_names,
    whole_shape,
)
from workflow.training.engines.single import Figures, Loss, recompute_layers, rotary_frequencies
from workflow.training.optim import go_to_step, make_optimizer, make_scheduler, zero_learning_rate
from workflow.tuning import FullTuning, TuningMethod

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter."""


def import_deepspeed() -> Any:
    """Import DeepSpeed without its log of every import and parameter group."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    warnings.filterwarnings("ignore", ".*torch.distributed.*deprecated", FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Its reduction in shared memory is compiled at the first start; gloo needs no compiler.
        deepspeed.ops.__compatible_ops__ = {}
    _import_muon()
    return deepspeed


def _import_muon() -> None:
    """Import the Muon optimizer, which DeepSpeed checks for, without torch's compiler.

    The compiler would take each process another second, for functions that are never called.
    """
    compiling = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        torch.compile = compiling


def partitioning(spec: JobSpec, strategy: ShardingStrategy) -> AbstractContextManager[None]:
    """A context in which a new model is partitioned module by module (ZeRO-3)."""
    pinned = torch.cuda.is_available()
    config = zero_configuration(spec, strategy, pinned)
    context: AbstractContextManager[None] = import_deepspeed().zero.Init(
        config_dict_or_path=config,  # its precision too: Init's own dtype is misread on a CPU
        remote_device="cpu" if strategy.offload == "all" else None,
        pin_memory=pinned and strategy.offload == "all",
    )
    return context


class _LossModule(torch.nn.Module):
    """A model and its loss as one module: ZeRO-3 gathers weights when modules are called."""

    def __init__(self, model: PreTrainedModel, loss: Loss):
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._loss(self.model, batch)


@dataclass(frozen=True)
class ShardedModel:
    """A model whose states are sharded, and the source of its weights.

    Attributes:
        model: in compute precision; for stage 3, created under `partitioning`.
        strategy: how the states are sharded.
        weights: the model's tensors in full precision, for the float32 masters.
        whole_copy: creates an unpartitioned model without weights, for evaluation.
    """

    model: PreTrainedModel
    strategy: ShardingStrategy
    weights: Weights
    whole_copy: Callable[[], PreTrainedModel]


class ZeroEngine:
    """Trains a model whose states are sharded among processes, or offloaded to host memory.

    Attributes:
        model: in compute precision; partitioned under ZeRO-3.
    """

    def __init__(
        self,
        sharded: ShardedModel,
        spec: JobSpec,
        loss: Loss,
        world: World,
        tuning: TuningMethod | None = None,
    ):
        deepspeed = import_deepspeed()
        self.model = model = sharded.model
        self._world = world
        self._tuning = tuning = tuning or FullTuning()
        self._whole_copy = sharded.whole_copy
        if spec.gradient_checkpointing:
            recompute_layers(model)
        self._gathers = sharded.strategy.gathers
        optimizer = None if spec.no_train else make_optimizer(tuning.trainable(model), spec)
        if optimizer is not None:
            self._scheduler = make_scheduler(optimizer, spec)
        on_gpu = torch.cuda.is_available()
        largest = max(parameter.numel() for parameter in model.parameters())
        overlaps = sharded.strategy.overlaps(world.size, largest, on_gpu)
        frequencies = [one.data for one in rotary_frequencies(model)]
        with redirect_stdout(io.StringIO()):  # its bfloat16 optimizer prints memory reports
            self._engine, self._zero, _, _ = deepspeed.initialize(
                model=_LossModule(model, loss),
                optimizer=optimizer,
                config=zero_configuration(spec, sharded.strategy, on_gpu, overlaps),
                dist_init_required=False,
            )
        for rounded, exact in zip(rotary_frequencies(model), frequencies, strict=True):
            rounded.data = exact
        if spec.bf16 and not spec.no_train:
            self._set_masters(sharded.weights())
        self._engine.train()

    def _set_masters(self, weights: Iterable[Named]) -> None:
        """Load the float32 masters in full precision: DeepSpeed copied them from bfloat16."""
        by_name, saved = self.model.state_dict(keep_vars=True), self._tuning.saved(self.model)
        for name, tensor in weights:
            known = by_name.get(model_name(self.model, by_name, name) or "")
            parameter = saved.get(name, known)
            if parameter is not None and parameter.requires_grad:
                _set_state(parameter, tensor)

    def add_gradient(self, batch: Batch, weight: float, last: bool) -> torch.Tensor:
        self._engine.set_gradient_accumulation_boundary(last)
        loss: torch.Tensor = self._engine(batch)
        # DeepSpeed averages over processes; we sum.
        self._engine.backward(loss * (weight * self._world.size))
        return loss.detach()

    def update(self, losses: torch.Tensor) -> Figures:
        of_losses = losses.tolist()
        loss, norm = self._world.sum(sum(of_losses)), math.nan
        if math.isfinite(loss):
            self._engine.step()
            if self._engine.was_step_applied():
                norm = float(self._engine.get_global_grad_norm())
                self._scheduler.step()
        return Figures(of_losses, loss, norm)

    @property
    def learning_rate(self) -> float:
        return float(self._zero.param_groups[0]["lr"])

    @contextmanager
    def evaluating(self) -> Iterator[tuple[PreTrainedModel, bool]]:
        partitioned = is_partitioned(next(self.model.parameters()))
        if partitioned and self._gathers:
            whole = self._whole_copy()
            self._gather_into(whole)
            yield whole, False
            return
        self.model.eval()
        yield self.model, partitioned
        self.model.train()

    def _gather_into(self, whole: PreTrainedModel) -> None:
        """Copy the partitioned weights into an unpartitioned model, tensor by tensor."""
        from deepspeed.runtime.zero import GatheredParameters

        copies = saved_names(whole)
        with torch.no_grad():
            for name, parameter in saved_names(self.model).items():
                if is_partitioned(parameter):
                    with GatheredParameters([parameter]):
                        copies[name].copy_(parameter)
                else:
                    copies[name].copy_(parameter)

    def tensors(self) -> Tensors:
        return {
            name: Whole(whole_shape(tensor), partial(_whole_tensor, tensor))
            for name, tensor in self._tuning.saved(self.model).items()
        }

    def optimizer_state(self) -> Tensors:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_moments()
        return {
            f"{name}.{kind}": Whole(
                whole_shape(tensor), partial(safe_get_full_optimizer_state, tensor, kind)
            )
            for name, tensor in self._tuning.saved(self.model).items()
            if _is_learned(tensor)
            for kind in MOMENTS
        }

    def probe(self, first: Batch, largest: Batch) -> None:
        with zero_learning_rate(self._zero.optimizer):
            self._zero_step(first)
            self._zero_step(first, largest)

    def restore(self, step: int, optimizer_state: Iterable[Named]) -> None:
        if step and not self._engine.was_step_applied():  # a non-finite loss, times zero
            raise RunFailed("non-finite loss on the first record; the run cannot resume")
        self._link_moments()
        parameters = self._tuning.saved(self.model)
        for named, tensor in optimizer_state:
            name, _, kind = named.rpartition(".")
            _set_state(parameters[name], tensor, kind)
        go_to_step(self._zero.optimizer, self._scheduler, step)

    def _zero_step(self, *batches: Batch) -> None:
        """A step with gradient zero."""
        for batch in batches:
            self.add_gradient(batch, 0.0, last=batch is batches[-1])
        self._engine.step()

    def _link_moments(self) -> None:
        """Let DeepSpeed find the optimizer state of all parameters.

        ZeRO-1 and 2 look for it only once, after the first group's first step, when the second
        group (norms and biases) has none yet (DeepSpeed 0.19.8).
        """
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()


def _is_learned(tensor: Any) -> bool:
    return isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad


def _whole_tensor(tensor: Any) -> torch.Tensor:
    """A complete tensor of the model in full precision; all processes must call this."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if _is_learned(tensor):
        master: torch.Tensor = safe_get_full_fp32_param(tensor)
        return master
    with GatheredParameters([tensor], enabled=is_partitioned(tensor)):
        found: torch.Tensor = tensor.detach()
        return found.clone() if is_partitioned(tensor) else found


def _set_state(parameter: Any, value: torch.Tensor, kind: str | None = None) -> None:
    """Set a parameter's float32 master, or its optimizer state `kind`, from a complete tensor.

    Each process sets only its own part.
    """
    from deepspeed import utils

    if is_partitioned(parameter):
        part = own_part(parameter, value)
        held = torch.zeros(parameter.ds_tensor.ds_numel)
        held[: len(part)] = part
        if kind is None:
            utils.safe_set_local_fp32_param(parameter, held)
        else:
            utils.safe_set_local_optimizer_state(parameter, held, kind)
    elif kind is None:
        utils.safe_set_full_fp32_param(parameter, value.float())
    else:
        utils.safe_set_full_optimizer_state(parameter, value.float(), kind)
