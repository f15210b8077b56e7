"""Runs of t5-tiny: the same losses everywhere, ZeRO, and equal and interrupted runs."""

import importlib.util
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gpu_checks.place import Failed, Place, Skip

STEPS = 10
NEAR = {"fp32": 1e-3, "bf16": 3e-2}
"""How far a loss may be from that of fp32 on a CPU."""
SETTINGS = {
    "cuda": ((1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "all")),
    "cpu": ((1, "none"), (2, "none"), (3, "all")),
}
"""ZeRO stages and offloads; on a CPU there is nothing to offload."""


def losses(place: Place) -> str:
    """The losses of the first steps on CPU and GPU, in fp32 and bf16."""
    place.write_sums()
    right = _losses(place, "cpu", "fp32")
    kinds = [("cpu", "bf16")]
    if place.device == "cuda":
        kinds += [("cuda", "fp32"), ("cuda", "bf16")]
    farthest = {}
    for device, precision in kinds:
        found = _losses(place, device, precision)
        farthest[f"{device} {precision}"] = _distance(found, right)
        place.note(**{f"{device} {precision}": found})
    place.note(farthest=farthest)
    bad = [kind for kind, far in farthest.items() if not far <= NEAR[kind.split()[1]]]
    shown = ", ".join(f"{kind} {far:.1e}" for kind, far in farthest.items())
    if bad:
        raise Failed(f"not near cpu fp32: {shown}")
    return f"{STEPS} losses near cpu fp32: {shown}"


def _losses(place: Place, device: str, precision: str) -> list[float]:
    """Of the steps of a run without dropout in one process."""
    run = f"{device}-{precision}"
    place.run(
        run, device=device, bf16=precision == "bf16", num_processes=1, dropout_rate=0.0,
        learning_rate=1e-3, max_steps=STEPS,
    )  # fmt: skip
    return [line["loss"] for line in place.log(run)]


def _distance(found: list[float], right: list[float]) -> float:
    """The greatest relative difference."""
    return greatest(abs(one - other) / other for one, other in zip(found, right, strict=True))


def greatest(values: Iterable[float]) -> float:
    """The greatest; infinite where one is not a number, which max would pass over."""
    return max(math.inf if math.isnan(value) else value for value in values)


def zero(place: Place) -> str:
    """ZeRO 1, 2 and 3 and both offloads, in bf16, against plain torch in one process."""
    if importlib.util.find_spec("deepspeed") is None:
        raise Skip("DeepSpeed is not installed")
    place.write_sums()
    flags = {"dropout_rate": 0.0, "learning_rate": 1e-3, "max_steps": STEPS, "bf16": True}
    place.run("plain", num_processes=1, **flags)
    right = [line["loss"] for line in place.log("plain")]
    found: dict[str, Any] = {}
    for stage, offload in SETTINGS[place.device]:
        name = f"zero{stage}-{offload}"
        try:
            place.run(name, zero_stage=stage, offload=offload, **flags)
        except Failed as error:
            found[name] = {"error": str(error)}
        else:
            log = place.log(name)
            far = _distance([line["loss"] for line in log], right)
            found[name] = {"distance": far, "memory_gb": log[-1]["memory_gb"]}
        place.note(**{name: found[name]})
    bad = [name for name in found if not found[name].get("distance", math.inf) <= NEAR["bf16"]]
    if bad:
        first = found[bad[0]]
        why = first.get("error") or f"losses {first['distance']:.1e} from plain torch's"
        raise Failed(f"{', '.join(bad)}; {bad[0]}: {why}")
    far = max(result["distance"] for result in found.values())
    return f"{len(found)} settings on {place.processes} process(es); losses within {far:.1e}"


def repeat(place: Place) -> str:
    """Two equal runs, and one that is killed and resumed: equal bit for bit by --full_determinism.

    On a GPU also without it, where only the differences are noted; on a CPU it changes nothing.
    """
    place.write_sums()
    said, bad = [], []
    for name in ("deterministic", "default") if place.device == "cuda" else ("deterministic",):
        with ThreadPoolExecutor() as pool:
            runs = [f"{name}-1", f"{name}-2", f"{name}-killed"]
            folders = [*pool.map(partial(_finished, place), runs)]
        first, second, resumed = (_weights(folder) for folder in folders)
        again, after = _apart(first, second), _apart(first, resumed)
        place.note(**{name: {"equal_runs_differ": again, "resumed_differs": after}})
        said.append(f"{name}: equal runs differ by {again:.1e}, a resumed one by {after:.1e}")
        if name == "deterministic" and (again or after):
            bad.append(said[-1])
    if bad:
        raise Failed(f"not equal bit for bit: {'; '.join(bad)}")
    return "; ".join(said)


def _finished(place: Place, run: str) -> Path:
    """The last checkpoint of a run, which its name describes."""
    flags: dict[str, Any] = {
        "full_determinism": run.startswith("deterministic"), "learning_rate": 1e-3,
        "max_steps": 3 * STEPS, "save_steps": STEPS // 2,
    }  # fmt: skip
    if run.endswith("killed"):
        saved = place.run_folder(run) / f"checkpoint-{STEPS // 2}"
        place.run_until(place.command(run, **flags), saved.exists)
        if place.log(run)[-1]["step"] >= 3 * STEPS:
            raise Failed("the run had ended before it was killed")
    return place.run(run, **flags) / f"checkpoint-{3 * STEPS}"


def _weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights: dict[str, Any] = load_file(checkpoint / "model.safetensors")
    return weights


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The greatest difference of two models' weights."""
    return greatest(float((tensor - other[name]).abs().max()) for name, tensor in one.items())
