"""Losses and gradients of packed rows by torch's attention backends, against float32."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks.synthetic import even_record, make_model
from gpu_checks.place import Failed, Place

LENGTHS = (64, 128, 192, 200, 704)
"""Tokens of a row."""
SHAPE = {"vocab_size": 1024, "d_model": 256, "d_kv": 64, "d_ff": 512, "num_heads": 6,
         "num_layers": 2}  # fmt: skip
MOST = {"fp32": (1e-5, 1e-3), "bf16": (1e-2, 5e-2)}
"""How far losses and gradients may be from float32's, by precision; without dropout."""
USED = "as chosen"
"""The backend that torch takes in a run."""
REQUIRED = {"cuda": (USED, "MATH", "EFFICIENT_ATTENTION"), "cpu": (USED, "MATH")}
"""The others are only noted: runs disable cuDNN's, and flash attention takes no mask on a GPU."""


Result = tuple[float, Any] | str
"""A loss and its gradient, or the error of a backend."""


def attention(place: Place) -> str:
    """Every backend, precision and length, on the batches and masks that training makes."""
    make_model(place.folder / "models" / "heads", SHAPE)
    records = [even_record(part, part) for length in LENGTHS for part in _parts(length)]
    place.write_records(records, [even_record(4, 4)])
    right: list[Result] = []
    worst, bad = {}, []
    for precision, most in MOST.items():
        gradients = []
        for number, results in enumerate(_trained(place, precision)):
            right += [results["MATH"]] * (precision == "fp32")
            found = {name: _differences(one, right[number]) for name, one in results.items()}
            place.note(**{f"{precision} {LENGTHS[number]}": found})
            for backend in REQUIRED[place.device]:
                differs = found[backend]
                gradients.append(differs.get("gradient", math.inf))
                if not (differs.get("loss", math.inf) <= most[0] and gradients[-1] <= most[1]):
                    bad.append(f"{backend} at {LENGTHS[number]} in {precision}: {differs}")
        worst[precision] = max(gradients)
    if bad:
        raise Failed(f"not near fp32: {'; '.join(bad)}")
    return "gradients within " + ", ".join(f"{far:.1e} in {name}" for name, far in worst.items())


def _parts(length: int) -> tuple[int, int, int, int]:
    """The records of two rows: three fill one, another half of the second, which is padded."""
    quarter, half = length // 4, length // 2
    return quarter, half, length - quarter - half, half


def _differences(result: Result, right: Result) -> dict[str, Any]:
    """Relative differences, infinite where something is not finite; or the error."""
    if isinstance(result, str):
        return {"error": result}
    if isinstance(right, str):
        return {"error": f"no fp32 to compare with: {right}"}
    (loss, gradient), (right_loss, right_gradient) = result, right
    found = {
        "loss": abs(loss - right_loss) / abs(right_loss),
        "gradient": float((gradient - right_gradient).norm() / right_gradient.norm()),
    }
    return {name: far if math.isfinite(far) else math.inf for name, far in found.items()}


def _trained(place: Place, precision: str) -> Iterator[dict[str, Result]]:
    """For each length, the results of a batch by backend."""
    import numpy as np

    from workflow import find_mount, make_job
    from workflow.distributed.world import World
    from workflow.training.prepare import prepare
    from workflow.training.setup import load_together, make_engine, weights_in_files

    flags = place.flags(
        "attention", model_pretrain_name=str(place.folder / "models" / "heads"), max_steps=1,
        dropout_rate=0.0, bf16=precision == "bf16", max_source_length=max(LENGTHS),
        max_target_length=max(LENGTHS),
    )  # fmt: skip
    job = prepare(make_job("seq2seq", **flags), find_mount(str(place.folder)))
    job, model = load_together(job, World(), None)
    engine = make_engine(job, model, World(), weights_in_files(job, model, None))
    examples = job.train_examples
    for first in range(0, 4 * len(LENGTHS), 4):
        rows = (np.arange(first, first + 3), np.array([first + 3]))
        batch = job.task.collate(examples, rows, engine.model.config)
        yield {name: _result(engine, batch, chosen) for name, chosen in _backends()}


def _result(engine: Any, batch: Any, chosen: AbstractContextManager[Any]) -> Result:
    """The loss and the gradient of a batch by a backend."""
    import torch

    weights = [*engine.master.parameters()]
    for weight in weights:
        weight.grad = None
    try:
        with chosen:
            loss = float(engine.add_gradient(batch, 1.0, last=True))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return loss, torch.cat([w.grad.flatten() for w in weights if w.grad is not None])


def _backends() -> Iterator[tuple[str, AbstractContextManager[Any]]]:
    """The backends that this torch has."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    yield USED, nullcontext()
    for name in ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"):
        if hasattr(SDPBackend, name):
            yield name, sdpa_kernel([getattr(SDPBackend, name)])
