"""What changes during a run: its progress, its best checkpoint, and figures to log."""

import dataclasses
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from workflow.data.step_planner import StepPlan
from workflow.metrics.names import is_better


@dataclass
class LogWindow:
    """Figures of the steps since the last logged one; time spent outside steps does not count."""

    loss: float = 0.0
    loss_denominator: int = 0
    examples: int = 0
    tokens: int = 0
    computed: int = 0
    padded_positions: int = 0
    slowest_positions: float = 0.0
    seconds: float = 0.0

    def add_step(self, loss: float, loss_denominator: int, plan: StepPlan, seconds: float) -> None:
        """Add a step.

        Args:
            loss: the sum of the step's losses.
            loss_denominator: the number that it is divided by.
        """
        self.loss += loss
        self.loss_denominator += loss_denominator
        self.examples += len(plan.examples)
        self.tokens += plan.tokens
        self.computed += plan.computed
        self.padded_positions += plan.padded_positions
        self.slowest_positions += plan.imbalance * plan.padded_positions
        self.seconds += seconds

    def figures(self, step: int, learning_rate: float, gradient_norm: float) -> dict[str, Any]:
        """A line of train_log.jsonl, without the memory."""
        return {
            "step": step,
            "loss": self.loss / self.loss_denominator,
            "learning_rate": learning_rate,
            "grad_norm": gradient_norm,
            "examples_per_second": round(self.examples / self.seconds, 3),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "padding_ratio": round(self.padded_positions / self.computed, 4),
            "imbalance": round(self.slowest_positions / self.padded_positions, 4),
            "time": time.time(),
        }


@dataclass
class Progress:
    """How far a run is; saved with every checkpoint.

    Attributes:
        step: of the last update.
        evaluated_step: of the last evaluation; `evaluated_value` is its metric for the best
            checkpoint.
        window: the steps since the last logged one.
        ephemeral: the steps of checkpoints that were saved on a stop or by `save_seconds`; they are
            removed as soon as there is a newer one.
        longest_step: in seconds.
        longest_save: in seconds.
    """

    step: int = 0
    evaluated_step: int | None = None
    evaluated_value: float | None = None
    best_step: int | None = None
    best_value: float | None = None
    ephemeral: list[int] = field(default_factory=list)
    longest_step: float = 0.0
    longest_save: float = 0.0
    window: LogWindow = field(default_factory=LogWindow)

    def add_step(
        self, step: int, loss: float, loss_denominator: int, plan: StepPlan, seconds: float
    ) -> None:
        """Count a step with its summed loss and the denominator of that."""
        self.step = step
        self.longest_step = max(self.longest_step, seconds)
        self.window.add_step(loss, loss_denominator, plan, seconds)

    def note_evaluation(self, value: float | None) -> None:
        """Note that the step was evaluated, and its metric for the best checkpoint."""
        self.evaluated_step, self.evaluated_value = self.step, value

    def note_checkpoint(self, metric: str) -> None:
        """Note this step's checkpoint as the best, if it was evaluated and is."""
        value = self.evaluated_value if self.evaluated_step == self.step else None
        if is_better(metric, value, self.best_value):
            self.best_step, self.best_value = self.step, value

    @property
    def stop_seconds(self) -> float:
        """The longest time to finish a step and save, as far as known."""
        return self.longest_step + self.longest_save

    def as_json(self) -> dict[str, Any]:
        """The progress as in state.json, where two keys have older names."""
        values = dataclasses.asdict(self)
        values["passing"] = values.pop("ephemeral")
        values["window"]["normalizer"] = values["window"].pop("loss_denominator")
        return values

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Progress":
        """The inverse of `as_json`; raises KeyError or TypeError for anything else."""
        window = dict(values["window"])
        window["loss_denominator"] = window.pop("normalizer")
        values = values | {"window": LogWindow(**window)}
        values["ephemeral"] = values.pop("passing")
        return cls(**values)


def memory_figures() -> dict[str, float]:
    """This process's figures for a line of train_log.jsonl, each since its start.

    On a GPU also the memory that torch has taken from it (the rest is cache), and how often torch
    had to give its cache back because none was left.
    """
    figures = {"memory_gb": round(peak_memory_gb(), 3)}
    if torch.cuda.is_available():
        figures["memory_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 3)
        figures["alloc_retries"] = torch.cuda.memory_stats()["num_alloc_retries"]
    return figures


def peak_memory_gb() -> float:
    """Peak memory of this process in GB (10⁹ bytes): the GPU's if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
