"""A user's DeepSpeed settings: which are allowed, and the flag to use for those that are not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.core.errors import Problem, shorten

ALLOWED = ("zero_optimization", "communication_data_type", "comms_logger")
"""Settings that users may give; all others follow from the job."""

_ZERO_REFUSED = (
    "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights", "compute_grad_norm", "zenflow", "legacy_stage1",
    "memory_efficient_linear", "super_offload",
)  # fmt: skip
"""ZeRO settings that would break loading, gradient norms or exactness."""

_FLAG_INSTEAD = {
    "train_batch_size": "--train_batch_size",
    "train_micro_batch_size_per_gpu": "--micro_batch_tokens",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "gradient_clipping": "--max_grad_norm",
    "optimizer": "--optim, --learning_rate and --weight_decay",
    "scheduler": "--lr_scheduler_type and --warmup_steps",
    "bf16": "--bf16",
    "bfloat16": "--bf16",
    "fp16": "--bf16 (T5 overflows in fp16)",
    "amp": "--bf16",
    "torch_autocast": "--bf16",
    "data_types": "--bf16",
    "activation_checkpointing": "--gradient_checkpointing",
    "steps_per_print": "--logging_steps",
}


def read_deepspeed_file(
    path: Path, stage: int | None, offload: str | None
) -> tuple[dict[str, Any], list[Problem]]:
    """Read a DeepSpeed file: its settings, and all problems.

    Values `"auto"` in zero_optimization, as in transformers' examples, are ignored.

    Args:
        stage, offload: values of --zero_stage and --offload.
    """
    where = f"--deepspeed {path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or str(error)
        return {}, [Problem(where, reason, "a readable file", "correct the path")]
    except ValueError as error:
        return {}, [Problem(where, str(error), "a JSON object", "correct the file")]
    if not isinstance(found, dict):
        return {}, [Problem(where, shorten(found), "a JSON object", "correct the file")]
    problems = [_refused(where, key) for key in found if key not in ALLOWED]
    zero = found.get("zero_optimization", {})
    if not isinstance(zero, dict):
        problems.append(
            Problem(f"{where}: zero_optimization", shorten(zero), "an object", "correct it")
        )
        return {}, problems
    zero = {key: value for key, value in zero.items() if value != "auto"}
    own_stage = zero.get("stage", stage)
    if own_stage not in (None, 1, 2, 3) or isinstance(own_stage, bool):
        hint = "choose one of them; for one process in plain torch remove the file"
        problems.append(Problem(f"{where}: stage", shorten(own_stage), "1, 2 or 3", hint))
    elif stage not in (None, own_stage):
        hint = "keep one of the two"
        problems.append(Problem("--zero_stage", str(stage), f"{own_stage}, as in {path}", hint))
    own_offload = offload_of({"zero_optimization": zero})
    if offload is not None and own_offload not in ("none", offload):
        hint = "keep one of the two"
        problems.append(Problem("--offload", offload, f"{own_offload}, as in {path}", hint))
    problems += [
        Problem(f"{where}: {key}", "not supported", "no value", "remove it")
        for key in _ZERO_REFUSED if key in zero
    ]  # fmt: skip
    return found | ({"zero_optimization": zero} if zero else {}), problems or _unreadable(
        where, zero
    )


def offload_of(settings: Mapping[str, Any]) -> str:
    """What DeepSpeed settings offload to host memory: none, optimizer or all."""
    zero = settings.get("zero_optimization", {})
    for offload, key in (("all", "offload_param"), ("optimizer", "offload_optimizer")):
        if isinstance(zero.get(key), dict) and zero[key].get("device", "none") != "none":
            return offload
    return "none"


def _unreadable(where: str, zero: dict[str, Any]) -> list[Problem]:
    """Problems that DeepSpeed itself finds, and devices that need a compiler."""
    devices = [
        zero[key].get("device") for key in ("offload_param", "offload_optimizer")
        if isinstance(zero.get(key), dict)
    ]  # fmt: skip
    if "nvme" in devices:
        hint = "use cpu"
        return [Problem(f"{where}: device", "nvme", "cpu or none", hint)]
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # slow

    try:
        DeepSpeedZeroConfig(**zero)
    except (ValueError, AssertionError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = shorten(" ".join(lines[1:3] or lines[:1]), 160).strip("'\"")
        expected = "settings that DeepSpeed accepts"
        return [Problem(f"{where}: zero_optimization", message, expected, "correct it")]
    return []


def _refused(where: str, key: str) -> Problem:
    if key in _FLAG_INSTEAD:
        expected = f"{', '.join(ALLOWED)} only"
        return Problem(
            f"{where}: {key}", "set by a flag of the job", expected, f"use {_FLAG_INSTEAD[key]}"
        )
    expected = f"one of {', '.join(ALLOWED)}"
    return Problem(f"{where}: {key}", "not supported", expected, "remove it")
