"""How processes divide the states of training, and DeepSpeed's configuration for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow.config.job import JobSpec

BUCKET_ELEMENTS = 200_000_000
"""Elements that are reduced or gathered in one go: 0.8 GB of gradients."""


@dataclass(frozen=True)
class ShardingStrategy:
    """How the states of training are divided.

    Attributes:
        stage: of ZeRO: 1 divides the optimizer's state, 2 gradients too, 3 parameters too.
        offload: what rests in the host's memory: none, optimizer, or all.
        gathers: whether under ZeRO-3 each process holds a whole copy of the weights to evaluate.
        users: what the user asks of DeepSpeed besides.
    """

    stage: int
    offload: str = "none"
    gathers: bool = True
    users: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        resting = {"none": "", "optimizer": ", the optimizer's state in the host's memory"}
        offloaded = resting.get(self.offload, ", all states in the host's memory")
        slowly = "" if self.gathers else "; evaluations compute on partitioned weights, slowly"
        return f"DeepSpeed ZeRO {self.stage}{offloaded}{slowly}"


def zero_configuration(spec: JobSpec, strategy: ShardingStrategy, pinned: bool) -> dict[str, Any]:
    """DeepSpeed's configuration of a job.

    Batches and accumulation are ours (its counts are all 1, and what is accumulated is said with
    every micro-batch). Gradients are added up and reduced in float32 in bf16 too.

    Args:
        pinned: whether offloaded memory is pinned, which only a GPU needs.
    """
    host = {"device": "cpu", "pin_memory": pinned}
    zero: dict[str, Any] = {
        "stage": strategy.stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
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
