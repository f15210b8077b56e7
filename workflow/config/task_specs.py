"""The two tasks as data: what each is called, what its files and metrics are named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TaskSpec:
    """What the rest of the program may know of a task without asking for its name.

    Attributes:
        name: as jobs have it, and the entry script without its `.py`.
        source_key, answer_key: of a record of its data.
        output: what an evaluation writes of a record: "texts" or "scores".
        shown_metrics: those that the log and tables show, in this order.
    """

    name: str
    source_key: str
    answer_key: str
    output: Literal["texts", "scores"]
    shown_metrics: tuple[str, ...]


TASK_SPECS: dict[str, TaskSpec] = {
    "seq2seq": TaskSpec(
        name="seq2seq",
        source_key="prompt",
        answer_key="completion",
        output="texts",
        shown_metrics=(
            "loss",
            "token_accuracy",
            "exact_match",
            "rougeL",
            "rougeL_unicode",
            "bleu",
            "chrf",
        ),
    ),
    "clf": TaskSpec(
        name="clf",
        source_key="input",
        answer_key="target",
        output="scores",
        shown_metrics=("loss", "accuracy", "auc", "brier", "ece", "spearman"),
    ),
}


def task_of(spec: Mapping[str, Any]) -> TaskSpec:
    """The task of a run's training_args.json; seq2seq where that does not say clf."""
    return TASK_SPECS["clf" if spec.get("task") == "clf" else "seq2seq"]
