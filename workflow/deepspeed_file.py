"""A user's own DeepSpeed settings: what may be set there, and which flag is for what may not."""

import json
from pathlib import Path
from typing import Any

from workflow.errors import Problem, shorten

ALLOWED = (
    "zero_optimization",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "comms_logger",
)
"""Settings of DeepSpeed that are the user's; all others follow from the job."""

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
    """The settings of a DeepSpeed file, and what is wrong with them.

    A value `"auto"` in zero_optimization, as transformers' examples have it, is left to us.

    Args:
        stage, offload: what --zero_stage and --offload ask for.
    """
    where = f"--deepspeed {path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or str(error)
        return {}, [Problem(where, reason, "a file that can be read", "correct the path")]
    except ValueError as error:
        return {}, [Problem(where, str(error), "a JSON object", "correct the file")]
    if not isinstance(found, dict):
        return {}, [Problem(where, shorten(found), "a JSON object", "correct the file")]
    problems = [_refused(where, key) for key in found if key not in ALLOWED]
    zero = found.get("zero_optimization", {})
    if not isinstance(zero, dict):
        problems.append(
            Problem(f"{where}: zero_optimization", shorten(zero), "an object", "mend it")
        )
        return {}, problems
    zero = {key: value for key, value in zero.items() if value != "auto"}
    own_stage = zero.get("stage", stage)
    if own_stage not in (None, 1, 2, 3) or isinstance(own_stage, bool):
        mend = "choose one of them; one process without it is plain torch"
        problems.append(Problem(f"{where}: stage", shorten(own_stage), "1, 2 or 3", mend))
    elif stage not in (None, own_stage):
        mend = "keep one of the two"
        problems.append(Problem("--zero_stage", str(stage), f"{own_stage}, as {path} says", mend))
    if offload not in (None, "none") and {"offload_optimizer", "offload_param"} & zero.keys():
        mend = "keep one of the two"
        problems.append(Problem("--offload", offload or "", f"what {path} says", mend))
    return found | ({"zero_optimization": zero} if zero else {}), problems


def _refused(where: str, key: str) -> Problem:
    if key in _FLAG_INSTEAD:
        expected = f"{', '.join(ALLOWED)} only"
        return Problem(
            f"{where}: {key}", "a setting of the job", expected, f"use {_FLAG_INSTEAD[key]}"
        )
    expected = f"one of {', '.join(ALLOWED)}"
    return Problem(f"{where}: {key}", "a setting that is not passed on", expected, "leave it out")
