"""What changes while a run goes on: how far it is, what was best, and figures to log."""

import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from workflow.batching import StepPlan
from workflow.metrics import is_better


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None

    def note_checkpoint(self, step: int, metric: str, value: float | None) -> None:
        """Remember the checkpoint of a step where it is the best so far; None: not evaluated."""
        if is_better(metric, value, self.best_value):
            self.best_step, self.best_value = step, value


@dataclass
class LogWindow:
    """Figures of the steps since the last logged one; time spent outside steps does not count."""

    loss: float = 0.0
    normalizer: int = 0
    examples: int = 0
    real_positions: int = 0
    padded_positions: int = 0
    slowest_positions: float = 0.0
    seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    def begin_step(self) -> None:
        self._began = time.perf_counter()

    def end_step(self, loss: float, normalizer: int, plan: StepPlan) -> None:
        """Add a step.

        Args:
            loss: the sum of the step's losses.
            normalizer: what it is divided by.
        """
        self.loss += loss
        self.normalizer += normalizer
        self.examples += len(plan.examples)
        self.real_positions += plan.real_positions
        self.padded_positions += plan.padded_positions
        self.slowest_positions += plan.imbalance * plan.padded_positions
        self.seconds += time.perf_counter() - self._began

    def figures(self, step: int, learning_rate: float, gradient_norm: float) -> dict[str, Any]:
        """A line of train_log.jsonl, but for the memory."""
        return {
            "step": step,
            "loss": self.loss / self.normalizer,
            "learning_rate": learning_rate,
            "grad_norm": gradient_norm,
            "examples_per_second": round(self.examples / self.seconds, 3),
            "tokens_per_second": round(self.real_positions / self.seconds, 1),
            "padding_ratio": round(self.padded_positions / self.real_positions, 4),
            "imbalance": round(self.slowest_positions / self.padded_positions, 4),
            "time": time.time(),
        }


def peak_memory_gb() -> float:
    """Peak memory of this process in GB (10⁹ bytes): the GPU's where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
