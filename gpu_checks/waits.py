"""How often the host waits for the device, for each step, micro-batch and token."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_checks.place import Place

SOURCE, TARGET = 48, 16
"""Tokens of a record."""
BATCH = 16
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
"""Operations whose result the host needs at once."""
WARNING = "called a synchronizing CUDA operation"


def waits(place: Place) -> str:
    """By differences between runs, so that starts and ends do not count.

    On a GPU torch counts them; on a CPU, operations that would wait on one are counted.
    """
    place.write_even(SOURCE, TARGET, 4 * BATCH, evaluated=2)
    whole, parts = BATCH * (SOURCE + TARGET), BATCH * (SOURCE + TARGET) // 4
    step = (_training(place, 8, whole) - _training(place, 4, whole)) / 4
    split = (_training(place, 8, parts) - _training(place, 4, parts)) / 4
    token = (_generating(place, 24) - _generating(place, 8)) / 16
    found = {
        "of_a_step": step - (split - step) / 3,
        "of_a_micro_batch": (split - step) / 3,
        "of_a_token": token,
    }
    place.note(**found)
    return ", ".join(f"{value:.2f} {name.replace('_', ' ')}" for name, value in found.items())


def _training(place: Place, steps: int, positions: int) -> int:
    return _counted(
        place, f"train-{steps}-{positions}", max_steps=steps, micro_batch_tokens=positions,
        train_batch_size=BATCH, max_source_length=SOURCE, max_target_length=TARGET,
        logging_steps=100,
    )  # fmt: skip


def _generating(place: Place, tokens: int) -> int:
    return _counted(
        place, f"tokens-{tokens}", no_train=True, max_new_tokens=tokens, min_new_tokens=tokens
    )


def _counted(place: Place, run: str, **changes: Any) -> int:
    """The waits of a job in this process."""
    from workflow import find_mount, make_job, run_job

    flags = place.flags(run, **changes)
    if flags.get("no_train"):
        for name in ("train_batch_size", "logging_steps", "eval_on_start", "eval_steps",
                     "save_steps"):  # fmt: skip
            del flags[name]
    with counting(place.device) as found:
        run_job(make_job("seq2seq", **flags), find_mount(str(place.folder)))
    return found[0]


@contextmanager
def counting(device: str) -> Iterator[list[int]]:
    """Count waits in the block; the list's only item is their number afterwards."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = [0]
    if device == "cuda":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
            found[0] = sum(WARNING in str(warning.message) for warning in caught)
        return

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = function._schema.name
            indexes = args[1] if name.startswith("aten::index") and len(args) > 1 else ()
            by_mask = isinstance(indexes, list | tuple) and any(
                isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indexes
            )
            found[0] += by_mask or name in WAITS
            return function(*args, **(kwargs or {}))

    with Counter():
        yield found
