"""Out of memory and the next start; peaks of large models against the memory plan."""

import json
from pathlib import Path
from typing import Any

from benchmarks.synthetic import make_model
from gpu_checks.place import Failed, Place, Skip

WIDE = {"vocab_size": 1024, "d_model": 64, "d_kv": 8, "d_ff": 128, "num_heads": 32,
        "num_layers": 2}  # fmt: skip
"""A small model whose attention takes much memory."""
LONG = 500
"""Tokens of a source of it."""
SOURCE, TARGET, ROWS = 384, 128, 16
"""Tokens of a record, and records of a micro-batch, whose peak is predicted."""
STEPS = 3
AIM = 0.15
"""How far a peak may be over the plan."""
LAYOUTS = (("large", False), ("large", True), ("xl", True), ("xl", False))
"""And whether activations are recomputed."""


def out_of_memory(place: Place) -> str:
    """A run that lacks memory for its largest micro-batch fails, and the next one halves that."""
    make_model(place.folder / "models" / "wide", WIDE)
    batch = 64 if place.device == "cuda" else 8
    place.write_even(LONG, 8, batch)
    flags = {
        "model_pretrain_name": str(place.folder / "models" / "wide"), "max_steps": 1,
        "max_source_length": LONG, "train_batch_size": batch, "num_processes": 1,
    }  # fmt: skip
    scarce = Path(__file__).with_name("scarce.py")
    place.call(place.command("scarce", scarce, **flags), status=1)
    status = _read(place.run_folder("scarce") / "status.json")
    place.note(message=status["error"])
    bound = status.get("micro_batch_tokens")
    planned = _bound(place)
    if bound is None or not bound <= planned // 2 + 1:
        raise Failed(f"micro-batches of {planned} positions; the next start's: {bound}")
    place.run("scarce", **flags)
    if _bound(place) != bound:
        raise Failed(f"the next start's micro-batches had {_bound(place)} positions, not {bound}")
    place.note(positions=[planned, bound])
    return f"{planned} positions, then {bound}"


def _bound(place: Place) -> int:
    """The positions of a micro-batch, as the run has them in its settings."""
    found: int = _read(place.run_folder("scarce") / "training_args.json")["micro_batch_tokens"]
    return found


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def peaks(place: Place) -> str:
    """The peaks of large and xl in plain torch and bf16; fails where the plan promised less."""
    if place.device == "cpu":
        raise Skip("no CUDA device (python3 -m benchmarks memory measures CPUs)")
    place.write_even(SOURCE, TARGET, 4 * ROWS)
    ratios, over = [], []
    for layout, recomputes in LAYOUTS:
        name = layout + "-recomputing" * recomputes
        try:
            found = _peak(place, name, layout, recomputes)
        except (Skip, Failed) as error:
            place.note(**{name: {"error": str(error)}})
            continue
        place.note(**{name: found})
        ratios.append(f"{name} {found['ratio']:.2f}")
        if found["ratio"] < 1 / (1 + AIM):
            over.append(name)
    if not ratios:
        raise Failed("no run has logged its peak; see the figures")
    said = f"predicted / measured: {', '.join(ratios)}"
    if over:
        raise Failed(f"more than predicted: {', '.join(over)}; {said}")
    return said


def _peak(place: Place, run: str, layout: str, recomputes: bool) -> dict[str, Any]:
    import torch

    folder = place.layout(layout)
    positions = ROWS * (SOURCE + TARGET)
    predicted = _predicted(Path(folder), positions, recomputes)
    free, _ = torch.cuda.mem_get_info()
    if predicted > 0.95 * free:
        raise Skip(f"{predicted / 1e9:.1f} GB predicted, {free / 1e9:.1f} GB free")
    line = place.run_steps(
        run, STEPS, num_processes=1, model_pretrain_name=folder, bf16=True,
        gradient_checkpointing=recomputes, micro_batch_tokens=positions,
        train_batch_size=2 * ROWS, max_source_length=SOURCE, max_target_length=TARGET,
    )[-1]  # fmt: skip
    measured = line["memory_gb"]
    return {
        "predicted_gb": round(predicted / 1e9, 2),
        "measured_gb": measured,
        "ratio": predicted / 1e9 / measured,
        "log": line,
    }


def _predicted(folder: Path, positions: int, recomputes: bool) -> float:
    """Bytes of the device, but for evaluations: the runs end before theirs."""
    from workflow.memory.activations import Work
    from workflow.memory.estimate import predict
    from workflow.memory.model_dims import sizes_of

    work = Work(
        bf16=True, source_length=SOURCE, target_length=TARGET, positions=positions,
        gradient_checkpointing=recomputes,
    )  # fmt: skip
    phases = predict(sizes_of(folder), work, None).phases
    return max(sum(phase.device.values()) for phase in phases if phase.name != "evaluate")
