"""Flan-T5 xxl on 8 to 512 GPUs, from the memory plan and data sheets; a few seconds."""

import argparse

from benchmarks.publish import publish
from benchmarks.synthetic import FLAN_T5, random_model
from workflow.memory.activations import Work
from workflow.memory.machine import Machine
from workflow.memory.model_dims import Sizes, sizes_of_model
from workflow.memory.search import PlanRequest, choose, name_of

SOURCE, TARGET = 512, 128
GPU_MEMORY, HOST_MEMORY, GPUS_A_NODE = 80e9, 1e12, 8
PEAK = 312e12
"""bf16 operations a second of an A100, by its data sheet."""
SHARE = 0.37
"""Of the matrix rate that training in bf16 reaches here on a CPU (`benchmarks train`)."""
BANDWIDTH = 200e9
"""Bytes a second into each GPU from its node, and into each node from the others."""
DISK = 2e9
"""Bytes a second that a node writes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    publish("benchmarks paper", "\n".join([*expectation(xxl()), ""]))


def expectation(sizes: Sizes) -> list[str]:
    """A line for each number of GPUs: what is chosen, what it takes, how long a step is."""
    lines = [
        f"Flan-T5 xxl ({sizes.parameters / 1e9:.1f} billion parameters) on paper, on nodes of "
        f"{GPUS_A_NODE} GPUs of {GPU_MEMORY / 1e9:.0f} GB, {SOURCE} + {TARGET} tokens a record. "
        "Setting and memory are the memory plan's. A step is one micro-batch of every GPU: "
        f"6 operations a parameter and position at {SHARE:.0%} (measured here, on a CPU) of "
        f"{PEAK / 1e12:.0f} TFLOP/s; and the bytes that the setting moves, none of them hidden by "
        f"computing, at {BANDWIDTH / 1e9:.0f} GB/s into each GPU and into each node: under "
        "ZeRO 3 the weights twice in bf16, under all the gradients in float32 and, but for ZeRO 3, "
        f"new weights. Checkpoints: 12 bytes a parameter, at {DISK / 1e9:.0f} GB/s a node.",
        "",
        "| GPUs | setting | positions a GPU | GB a GPU | computing, s | moving, s | tokens/s "
        "| 1 billion tokens, h | a checkpoint, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for gpus in (8, 16, 32, 64, 128, 256, 512):
        machine = Machine(gpus, GPUS_A_NODE, GPU_MEMORY, HOST_MEMORY)
        work = Work(bf16=True, source_length=SOURCE, target_length=TARGET, positions=0)
        plan = choose(sizes, machine, work, PlanRequest())
        assert plan.positions is not None
        assert plan.strategy is not None
        computing = 6 * sizes.parameters * plan.positions / (PEAK * SHARE)
        moved = sizes.parameters * (2 * 2 + 4 if plan.strategy.stage == 3 else 4 + 2)
        moving = moved / BANDWIDTH
        speed = gpus * plan.positions / (computing + moving)
        saving = 12 * sizes.parameters / (DISK * max(1, gpus // GPUS_A_NODE))
        lines.append(
            f"| {gpus} | {name_of(plan.strategy)} | {plan.positions:,} "
            f"| {plan.need.device / 1e9:.1f} | {computing:.1f} | {moving:.2f} | {speed:,.0f} "
            f"| {1e9 / speed / 3600:.1f} | {saving:.0f} |"
        )
    return lines


def xxl() -> Sizes:
    """Flan-T5 xxl's sizes, without its weights."""
    import torch

    with torch.device("meta"):
        return sizes_of_model(random_model(FLAN_T5["xxl"]))
