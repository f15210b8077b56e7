"""The job as it runs: the request with every open value filled in."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from workflow.config.flags import Decision, flags_of
from workflow.config.request import JobRequest

JOB_FLAGS = flags_of(JobRequest)


@dataclass(frozen=True, kw_only=True)
class JobSpec(JobRequest):
    """A job with a value for every flag that it uses; the same for the same command.

    Flags it does not use keep the request's value, mostly None: those of training under --no_train,
    and max_new_tokens of a task that scores.
    """

    training_run_name: str
    max_steps: int
    bf16: bool
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    eval_steps: int
    max_new_tokens: int
    save_steps: int

    def planned(self, micro_batch_tokens: int) -> "PlannedSpec":
        """The job with the memory plan's micro-batch."""
        return PlannedSpec(**vars(self) | {"micro_batch_tokens": micro_batch_tokens})


@dataclass(frozen=True, kw_only=True)
class PlannedSpec(JobSpec):
    """A job whose memory plan fits its machine."""

    micro_batch_tokens: int


def written(request: JobRequest) -> dict[str, Any]:
    """The content of training_args.json: all flags but those of a single start."""
    values = dataclasses.asdict(request)
    return {name: value for name, value in values.items() if name not in flags_deciding("start")}


def flags_deciding(*what: Decision) -> frozenset[str]:
    """Names of the flags with one of these values of `Flag.decides`."""
    return frozenset(name for name, flag in JOB_FLAGS.items() if flag.decides in what)


def resolve_defaults(
    request: JobRequest, run_name: str, train_count: int, longest_target: int, fast_bf16: bool
) -> JobSpec:
    """Fill in the values that depend on the data and the machine, except on its memory.

    Args:
        run_name: the user's, or the default name.
        train_count: number of train records (0 under --no_train).
        longest_target: tokens of the longest completion after truncation.
        fast_bf16: whether the hardware multiplies bfloat16 matrices fast.
    """
    values = vars(request) | {"training_run_name": run_name}
    if request.bf16 is None:
        values["bf16"] = fast_bf16
    if request.writes_texts:
        most = max(longest_target, request.min_new_tokens)
        values["max_new_tokens"] = request.max_new_tokens or most
    if not request.no_train:
        values |= _resolved_training(request, train_count)
    return JobSpec(**values)


def _resolved_training(request: JobRequest, train_count: int) -> dict[str, Any]:
    epochs = 4.0 if request.num_train_epochs is None else request.num_train_epochs
    max_steps = request.max_steps or max(1, math.ceil(epochs * train_count / request.batch_size))
    adafactor = request.optim == "adafactor"
    schedule = request.lr_scheduler_type or ("constant" if adafactor else "linear")
    warmup = 0.05 if request.warmup_steps is None else request.warmup_steps
    warmup_steps = math.ceil(warmup * max_steps) if warmup < 1 else round(warmup)
    # Warmup starts at a learning rate of zero: a run of warmup alone would learn nothing.
    warmup_steps = min(warmup_steps, max_steps - 1)
    quarter = math.ceil(max_steps / 4)
    return {
        "max_steps": max_steps,
        "num_train_epochs": None,
        "learning_rate": request.learning_rate or (1e-3 if adafactor else 1e-4),
        "lr_scheduler_type": schedule,
        "warmup_steps": 0 if schedule == "constant" else warmup_steps,
        "eval_steps": request.eval_steps or quarter,
        "save_steps": request.save_steps or quarter,
    }
