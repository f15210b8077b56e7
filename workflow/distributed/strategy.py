"""How training states are sharded, and the DeepSpeed configuration for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow.config.job import JobSpec

BUCKET_ELEMENTS = 200_000_000
"""Elements that are reduced or gathered at once: 0.8 GB of gradients."""


@dataclass(frozen=True)
class ShardingStrategy:
    """How training states are sharded.

    Attributes:
        stage: of ZeRO: 1 shards the optimizer state, 2 gradients too, 3 parameters too.
        offload: what is kept in host memory: none, optimizer, or all.
        gathers: whether each process gathers a complete copy of the weights to evaluate (ZeRO-3).
        users: the user's own DeepSpeed settings.
    """

    stage: int
    offload: str = "none"
    gathers: bool = True
    users: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        resting = {"none": "", "optimizer": ", optimizer state offloaded to host memory"}
        offloaded = resting.get(self.offload, ", all states offloaded to host memory")
        slowly = "" if self.gathers else "; slow evaluations on partitioned weights"
        return f"DeepSpeed ZeRO {self.stage}{offloaded}{slowly}"

    def requested(self, name: str, default: float) -> float:
        """A number or switch in the user's `zero_optimization`, else the default."""
        value = dict(self.users or {}).get("zero_optimization", {}).get(name, default)
        return float(value) if isinstance(value, int | float) else float(default)

    def overlaps(self, processes: int, largest_tensor: int, on_gpu: bool) -> bool:
        """Whether ZeRO 1 and 2 reduce a bucket of gradients while the next one fills.

        CPUs would wait for it all the same. A gradient larger than a bucket is reduced in place,
        and DeepSpeed 0.19.8 may free it before that is done (stage_1_and_2.py, average_tensor).
        """
        fits = largest_tensor <= self.requested("reduce_bucket_size", BUCKET_ELEMENTS)
        possible = self.stage < 3 and processes > 1 and on_gpu and fits
        return bool(self.requested("overlap_comm", possible))


def zero_configuration(
    spec: JobSpec, strategy: ShardingStrategy, pinned: bool, overlaps: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration of a job.

    We handle batches and accumulation (its counts are all 1, and each micro-batch sets the
    accumulation boundary). Gradients are accumulated and reduced in float32, also in bf16.

    Args:
        pinned: whether offloaded memory is pinned, which only a GPU needs.
        overlaps: whether ZeRO 1 and 2 reduce gradients during the backward pass.
    """
    host = {"device": "cpu", "pin_memory": pinned}
    zero: dict[str, Any] = {
        "stage": strategy.stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if overlaps:
        zero["overlap_comm"] = True
    if strategy.offload != "none":
        zero["offload_optimizer"] = host
    if strategy.offload == "all":
        zero["offload_param"] = host
    users = dict(strategy.users or {})
    zero |= users.pop("zero_optimization", {})
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.max_grad_norm,
        "bf16": {"enabled": bool(spec.bf16), "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's needs no compiler, and is fused too
        "steps_per_print": None,
        "zero_optimization": zero,
        **users,
    }
