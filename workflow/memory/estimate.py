"""Predict the memory of a job from the model's sizes alone: bytes of one process, by phase.

The terms follow what deepspeed 0.19.8 allocates under the configuration of
`workflow.distributed.strategy`, as read in its source and as measured on CPU processes
(docs/operate/performance.md). P trained parameters, N processes, c bytes per number in compute
precision, B elements of a bucket. What is frozen takes c per element and nothing else, or what it
takes quantized; ZeRO 3 shards it, 1 and 2 do not.

plain torch     float32: weights, gradients and two moments, 4 P each; in bf16 also a copy, 2 P.
ZeRO 1, 2       (runtime/zero/stage_1_and_2.py) all weights c P, flat; float32 masters 4 P / N and
                moments 8 P / N. Stage 1 keeps all gradients, 4 P, stage 2 its share, 4 P / N (in
                float32 a new one in addition to that of earlier micro-batches). Reducing takes a
                bucket, a flat copy of it, and in bf16 another copy in float32; on GPUs during the
                backward pass, with a second bucket, in memory that torch keeps for the stream that
                reduces. Offloaded: the host has masters, moments, gradients 4 P / N and a buffer
                c P / N; in bf16 the gradients' share stays on the device.
ZeRO 1 in bf16  (runtime/bf16_optimizer.py, without offload) gradients in bf16, 2 P, and in float32,
                4 P, of which reducing makes a flat copy, 4 P, whatever the bucket.
ZeRO 3          (runtime/zero/stage3.py) shares of weights c P / N, masters 4 P / N (in float32
                too), gradients 4 P / N, moments 8 P / N; a permanent bucket in float32, and a copy
                of it to reduce; the weights gathered at the time. Offloaded: the host has the
                gradients twice. Evaluation holds a complete copy, c P.

A GPU's host buffers are pinned: torch rounds each up to a power of two, and keeps those that are
freed (ATen/core/CachingHostAllocator.h of 2.13). Moments, and the masters of ZeRO 3, are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from workflow.distributed.strategy import BUCKET_ELEMENTS, ShardingStrategy
from workflow.memory.activations import Work, activation_bytes, evaluation_bytes
from workflow.memory.model_dims import Sizes

REUSE_ELEMENTS = 1_000_000_000
"""DeepSpeed's stage3_max_reuse_distance: weights used again sooner stay gathered. At the turn from
forward to backward those are the last half of it."""
PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's stage3_prefetch_bucket_size."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's sub_group_size: what ZeRO-3 updates at once."""
FRAGMENTED = 0.45
"""Free memory between activations on a CPU in bfloat16, as a part of these, which the small states
of adapters do not hide. Measured with SmolLM2-135M, as was next to none in float32; oneDNN's cached
scratch space is a third of it."""

Bytes = Mapping[str, float]
"""Bytes by use."""


@dataclass(frozen=True)
class Phase:
    """What one process holds at the same time."""

    name: str
    device: Bytes
    host: Bytes = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """Bytes that one process needs, phase by phase."""

    phases: tuple[Phase, ...]

    @property
    def device(self) -> float:
        return max(sum(phase.device.values()) for phase in self.phases)

    @property
    def host(self) -> float:
        return max(sum(phase.host.values()) for phase in self.phases)

    @property
    def both(self) -> float:
        """The need if device and host share one memory."""
        return max(sum(phase.device.values()) + sum(phase.host.values()) for phase in self.phases)

    @property
    def greatest(self) -> Phase:
        """The phase that takes most of the device."""
        return max(self.phases, key=lambda phase: sum(phase.device.values()))


def predict(sizes: Sizes, work: Work, strategy: ShardingStrategy | None) -> Need:
    """The need of one process of a job."""
    if not work.trains:
        return _evaluation_alone(sizes, work, strategy)
    if strategy is None:
        return _plain(sizes, work)
    if strategy.stage == 3:
        return _partitioned(sizes, work, strategy)
    if strategy.stage == 1 and work.bf16 and strategy.offload == "none":
        return _bfloat16_whole_gradients(sizes, work)
    return _flat(sizes, work, strategy)


def _evaluation_alone(sizes: Sizes, work: Work, strategy: ShardingStrategy | None) -> Need:
    """The need of a process that only evaluates: all weights, or its share of them."""
    whole = work.computing * sizes.trained + sizes.frozen_bytes(work.computing)
    evaluating = evaluation_bytes(sizes, work)
    if strategy is None:
        evaluate = Phase("evaluate", {"weights": whole} | evaluating)
        return Need((*_loading(sizes, work), evaluate))
    live = work.computing * min(sizes.parameters, REUSE_ELEMENTS)
    gathered = {"evaluation's copy": whole} if strategy.gathers else {"gathered weights": live}
    share = {"weights": whole / work.processes}
    return Need((Phase("evaluate", _sum(share, gathered, evaluating)),))


def _plain(sizes: Sizes, work: Work) -> Need:
    count, computing = sizes.trained, work.computing
    copies = 2 * count if work.bf16 else 0
    weights = 4 * count + copies + sizes.frozen_bytes(computing)
    rest = {"weights": weights, "optimizer": work.moments * count}
    gradients: dict[str, float] = {"gradients": 4 * count + computing * sizes.largest_trained}
    evaluating, activations = evaluation_bytes(sizes, work), activation_bytes(sizes, work)
    if work.bf16 and not work.on_gpu:
        gradients["fragmented"] = FRAGMENTED * sum(activations.values())
    return Need((
        *_loading(sizes, work),
        Phase("backward", rest | gradients | activations),
        Phase("update", rest | {"gradients": 4 * count}),
        Phase("evaluate", rest | {"gradients": copies and 4 * count} | evaluating),
    ))  # fmt: skip


def _loading(sizes: Sizes, work: Work) -> tuple[Phase, ...]:
    """What a model to quantize takes before: it is loaded on the host in compute precision."""
    if not sizes.quantized:
        return ()
    whole = {"weights": float(work.computing * sizes.parameters)}
    if work.on_gpu:
        return (Phase("load", {"weights": sizes.frozen_bytes(work.computing)}, whole),)
    return (Phase("load", whole),)


def _flat(sizes: Sizes, work: Work, strategy: ShardingStrategy) -> Need:
    """ZeRO 1 and 2, except stage 1 in bf16 without offload."""
    count, computing, offloads = sizes.trained, work.computing, strategy.offload != "none"
    share, bucket = count / work.processes, _bucket(sizes, work, strategy)
    largest = computing * sizes.largest_trained
    activations = activation_bytes(sizes, work)
    weights = computing * count + sizes.frozen_bytes(computing)
    device: dict[str, float] = {"weights": weights}
    states = {"masters": 4 * share, "optimizer": work.moments * share}
    host: dict[str, float] = {}
    if offloads:
        device["buffers"] = largest
        host = states | {"masters": _pinned(work, 4 * share)}
        host["gradients"] = _pinned(work, 4 * share)
        host["buffers"] = _pinned(work, computing * share, largest)
    else:
        device |= states
    if strategy.stage == 1:
        held = 4 * count + (2 * sizes.largest_trained if work.bf16 else 0)
        during = {"gradients": held} | activations
        buckets = 4 * bucket if work.on_gpu else 0
        reduced = held + (4 * share if work.bf16 else 0)
        reducing = {"gradients": reduced, "reduction": 4 * bucket}
    else:
        partial = count > bucket
        kept = 4 * share * (2 if partial and not work.bf16 else 1)
        if offloads and not work.bf16:
            kept = 0.0
            host["gradients"] += 4 * share  # of earlier micro-batches
        during = {"gradients": kept + largest} | activations
        buckets = computing * bucket
        left = 1 - bucket / count if partial else 0.0
        reducing = {"gradients": kept + largest, "reduction": 8 * bucket}
        reducing |= {name: left * size for name, size in activations.items()}
    if strategy.overlaps(work.processes, sizes.largest_tensor, work.on_gpu):
        second = 4 if strategy.stage == 1 else computing
        reducing["reduction"] = buckets = (8 + second) * bucket
    updating = 4 * share if work.bf16 else 0.0 if offloads else 8 * share
    return Need((
        Phase("initialize", {"weights": weights + computing * count}),
        Phase("backward", device | during | {"reduction": buckets}, host),
        Phase("reduce", device | reducing, host),
        Phase("update", device | {"gradients": updating}, host),
        Phase("gather", device | {"gathering": _gloo(work, computing * count)}, host),
        Phase("evaluate", device | evaluation_bytes(sizes, work), host),
    ))  # fmt: skip


def _bfloat16_whole_gradients(sizes: Sizes, work: Work) -> Need:
    """ZeRO 1 in bf16 without offload: DeepSpeed's BF16_Optimizer."""
    count = sizes.trained
    share = count / work.processes
    device = {
        "weights": 2 * count + sizes.frozen_bytes(2), "masters": 4 * share,
        "optimizer": work.moments * share, "gradients": 6 * count,
    }  # fmt: skip
    return Need((
        Phase("backward", device | activation_bytes(sizes, work)),
        Phase("reduce", device | {"reduction": 4 * count}),
        Phase("evaluate", device | evaluation_bytes(sizes, work)),
    ))  # fmt: skip


def _partitioned(sizes: Sizes, work: Work, strategy: ShardingStrategy) -> Need:
    """ZeRO 3."""
    count, computing = sizes.trained, work.computing
    whole_weights = computing * count + sizes.frozen_bytes(computing)
    share, bucket = count / work.processes, _bucket(sizes, work, strategy)
    largest, largest_trained = (
        computing * size for size in (sizes.largest_tensor, sizes.largest_trained)
    )
    states = {"masters": 4 * share, "gradients": 4 * share, "optimizer": work.moments * share}
    device: dict[str, float] = {"reduction": 4 * bucket, "weights": whole_weights / work.processes}
    host: dict[str, float] = {}
    if strategy.offload == "none":
        device |= states
    else:
        sub_groups = [4 * SUB_GROUP_ELEMENTS] * int(share // SUB_GROUP_ELEMENTS)
        left = 4 * (share % SUB_GROUP_ELEMENTS)
        host |= states | {"gradients": _pinned(work, 4 * share, *sub_groups, left)}
    if strategy.offload == "all":
        freed = device["weights"] if work.on_gpu else 0.0  # each tensor's part, once flattened
        host["weights"] = _pinned(work, device.pop("weights")) + freed
    reuse = strategy.requested("stage3_max_reuse_distance", REUSE_ELEMENTS) / 2
    prefetch = strategy.requested("stage3_prefetch_bucket_size", PREFETCH_ELEMENTS)
    live = {
        "gathered weights": min(
            whole_weights, computing * (reuse + prefetch + sizes.largest_tensor)
        )
    }
    activations = activation_bytes(sizes, work)
    left = max(0.0, 1 - bucket / count)
    later = {name: left * size for name, size in activations.items()}
    flat = 4 * min(share, SUB_GROUP_ELEMENTS) if strategy.offload == "none" else 0.0
    whole = {"evaluation's copy": whole_weights} if strategy.gathers else live
    gradients = {"gradients": 2 * largest_trained}
    reducing = {"reduction": 4 * bucket + (2 * bucket if work.bf16 else 0)}
    evaluating = evaluation_bytes(sizes, work)
    return Need((
        Phase("backward", _sum(device, live, gradients, activations), host),
        Phase("reduce", _sum(device, live, gradients, reducing, later), host),
        Phase("update", _sum(device, {"gradients": flat}), host),
        Phase("evaluate", _sum(device, whole, {"gathered weights": largest}, evaluating), host),
    ))  # fmt: skip


def _bucket(sizes: Sizes, work: Work, strategy: ShardingStrategy) -> float:
    """Elements of a bucket: a GPU reserves all of it, a CPU only what is written."""
    requested = strategy.requested("reduce_bucket_size", BUCKET_ELEMENTS)
    return requested if work.on_gpu else min(requested, sizes.trained)


def _pinned(work: Work, *sizes: float) -> float:
    """Host bytes of buffers of these sizes, which are pinned for a GPU."""
    if not work.on_gpu:
        return sum(sizes)
    return float(sum(1 << (ceil(size) - 1).bit_length() for size in sizes if size > 0))


def _gloo(work: Work, gathered: float) -> float:
    """Bytes of gloo's gather buffer; NCCL gathers in place."""
    return 0.0 if work.on_gpu or work.processes == 1 else gathered


def _sum(*parts: Bytes) -> dict[str, float]:
    """The sum of several, by use."""
    total: dict[str, float] = {}
    for part in parts:
        for name, size in part.items():
            total[name] = total.get(name, 0.0) + size
    return total
