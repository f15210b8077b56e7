"""The text of `--dry_run`: a job's memory under every setting, and what fits."""

import textwrap

from workflow.memory.activations import Work
from workflow.memory.machine import GPU_BYTES, SPARED, Machine
from workflow.memory.model_dims import Sizes, checkpoint_bytes
from workflow.memory.search import Plan, name_of, taken

_TOGETHER = "\xa0"
"""A non-breaking space."""


def render_plans(sizes: Sizes, machine: Machine, work: Work, found: list[Plan]) -> list[str]:
    """The table, the chosen setting and its details; at most 100 characters wide."""
    chosen = next((plan for plan in found if plan.positions is not None), None)
    return [
        _model_line(sizes, work),
        *_machine_lines(machine),
        "",
        *_table(machine, work, found),
        "",
        *_chosen_lines(sizes, work, chosen),
        _checkpoint_line(sizes, work.trains),
    ]


def _model_line(sizes: Sizes, work: Work) -> str:
    precision = "bfloat16 on float32 masters" if work.bf16 else "float32"
    checkpointing = ", gradient checkpointing" if work.gradient_checkpointing else ""
    return f"model: {_count(sizes.parameters)} parameters, {precision}{checkpointing}"


def _machine_lines(machine: Machine) -> list[str]:
    nodes = -(-machine.processes // machine.on_each)
    on_nodes = f"{nodes} node{'s' * (nodes > 1)}"
    if not machine.on_gpu:
        processes = f"{machine.on_each} process{'es' * (machine.on_each > 1)} per node on CPUs"
        usable = f"{_gb(max(machine.for_device, 0))} GB per process for the model"
        return [f"machine: {on_nodes}, {processes}; {usable}"]
    host = "host memory unlimited"
    if machine.host_memory is not None:
        host = f"{_gb(machine.host_memory)} GB of host memory per node"
    devices = f"{machine.on_each} GPU{'s' * (machine.on_each > 1)} per node"
    memory = f"{_gb(machine.device_memory)} GB per GPU"
    kept = f"{SPARED:.0%} and {_gb(GPU_BYTES)} GB kept free"
    return [
        f"machine: {on_nodes}, {devices}, {memory} ({_gb(machine.for_device)} usable: {kept})",
        f"         {host}",
    ]


def _table(machine: Machine, work: Work, found: list[Plan]) -> list[str]:
    head = "GB per GPU" if machine.on_gpu else "GB per process"
    lines = [
        f"{'':26}{'minimum':>14}{'minimum':>14}{'':>11}{'largest micro-batch':>29}",
        f"{'setting':26}{head:>14}{'GB per host':>14}{'fits':>11}"
        f"{'positions':>12}{f'of {work.length} tokens':>17}",
    ]
    for plan in found:
        device = taken(plan, machine)
        host = (plan.least.host if machine.on_gpu else device) * machine.on_each
        allowed = ["-", "-"]
        if plan.positions is not None:
            examples = max(1, plan.positions // work.length)
            allowed = [f"{plan.positions:,}", f"{examples:,} example{'s' * (examples > 1)}"]
        lines.append(
            f"{name_of(plan.strategy):26}{_gb(device):>14}{_gb(host):>14}"
            f"{_verdict(machine, plan):>11}{allowed[0]:>12}{allowed[1]:>17}"
        )
    return lines


def _verdict(machine: Machine, plan: Plan) -> str:
    if plan.positions is not None:
        return "yes"
    if not machine.on_gpu:
        return "no"
    return "no: GPU" if plan.least.device > machine.for_device else "no: host"


def _chosen_lines(sizes: Sizes, work: Work, chosen: Plan | None) -> list[str]:
    if chosen is None:
        return ["nothing fits"]
    lines = [f"chosen: {name_of(chosen.strategy)}, micro-batches of {chosen.positions:,} positions"]
    phase = chosen.need.greatest
    parts = sorted(phase.device.items(), key=lambda part: -part[1])
    shown = [f"{name} {_gb(size)}" for name, size in parts if size >= 5e7]
    text = ", ".join(shown).replace(" ", _TOGETHER).replace("," + _TOGETHER, ", ")
    lines.append(f"  peak per process, in {phase.name}: {_gb(sum(phase.device.values()))} GB")
    wrapped = textwrap.wrap(text, 95, initial_indent="    ", subsequent_indent="    ")
    lines += [line.replace(_TOGETHER, " ") for line in wrapped]
    if chosen.strategy is not None and chosen.strategy.stage == 3:
        whole = _gb(work.computing * sizes.parameters)
        lines.append(
            f"  evaluation: a complete copy of the weights ({whole} GB) fits each process"
            if chosen.strategy.gathers
            else f"  evaluation: a complete copy ({whole} GB) does not fit; generation will be slow"
        )
    return lines


def _checkpoint_line(sizes: Sizes, trains: bool) -> str:
    weights, with_state = checkpoint_bytes(sizes)
    if not trains:
        return "checkpoints: none"
    total = f"{_gb(with_state)} GB with optimizer state"
    return f"checkpoint: {_gb(weights)} GB of float32 weights, {total}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 or not size else f"{size / 1e9:.2g}"


def _count(parameters: int) -> str:
    if parameters >= 1e9:
        return f"{parameters / 1e9:.2f} billion"
    return f"{parameters / 1e6:.1f} million"
