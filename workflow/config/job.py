"""The job that is run: what was asked for, with a value for all that was left open."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from workflow.config.flags import Decision, flags_of
from workflow.config.request import JobRequest

JOB_FLAGS = flags_of(JobRequest)


@dataclass(frozen=True, kw_only=True)
class JobSpec(JobRequest):
    """A job with a value for all that it uses, the same for the same command.

    What it has no use for is as it was asked for, mostly None: the flags of training where it only
    evaluates, and max_new_tokens where it scores.
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
        """The job with what its memory plan says."""
        return PlannedSpec(**vars(self) | {"micro_batch_tokens": micro_batch_tokens})


@dataclass(frozen=True, kw_only=True)
class PlannedSpec(JobSpec):
    """A job that is known to fit its machine."""

    micro_batch_tokens: int


def written(request: JobRequest) -> dict[str, Any]:
    """A job as training_args.json holds it, without what one start of it is to do."""
    values = dataclasses.asdict(request)
    return {name: value for name, value in values.items() if name not in flags_deciding("start")}


def flags_deciding(*what: Decision) -> frozenset[str]:
    """The flags that decide this of a job, in the words of Flag."""
    return frozenset(name for name, flag in JOB_FLAGS.items() if flag.decides in what)


def resolve_defaults(
    request: JobRequest,
    run_name: str,
    train_count: int,
    longest_target: int,
    fast_bf16: bool,
) -> JobSpec:
    """Fill in what was left to the data and the machine, but for what depends on memory.

    Args:
        run_name: the user's, or what the run is called without one.
        train_count: number of train records (0 where the job only evaluates).
        longest_target: tokens of the longest completion, after the cut.
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
    # A warm-up begins at a rate of zero: a run that is nothing else would learn nothing.
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
