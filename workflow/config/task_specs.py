"""The tasks as data: name, record keys, outputs, metrics and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from workflow.config.templates import PLAIN


@dataclass(frozen=True)
class TaskSpec:
    """The facts about a task that the rest of the program uses instead of its name.

    Attributes:
        name: the task of a job, and its entry script without `.py`.
        source_key, answer_key: keys of a data record.
        output: what an evaluation writes for each record: a text, a score, or a class.
        shown_metrics: metrics in the log and in tables, in this order.
        best_metrics: choices of --metric_for_best_model.
        defaults: of flags whose default depends on the task.
    """

    name: str
    source_key: str
    answer_key: str
    output: Literal["texts", "scores", "classes"]
    shown_metrics: tuple[str, ...]
    best_metrics: tuple[str, ...]
    defaults: Mapping[str, Any]


TASK_SPECS: dict[str, TaskSpec] = {
    "seq2seq": TaskSpec(
        name="seq2seq",
        source_key="prompt",
        answer_key="completion",
        output="texts",
        shown_metrics=(
            "loss", "token_accuracy", "exact_match", "rougeL", "rougeL_unicode", "bleu", "chrf",
        ),
        best_metrics=(
            "loss", "perplexity", "token_accuracy", "exact_match", "normalized_exact_match",
            "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeL_unicode", "bleu", "chrf",
        ),
        defaults={"train_batch_size": 16, "truncation_side": "right", "template": None},
    ),
    "clf": TaskSpec(
        name="clf",
        source_key="input",
        answer_key="target",
        output="scores",
        shown_metrics=("loss", "accuracy", "auc", "brier", "ece", "spearman"),
        best_metrics=(
            "loss", "accuracy", "balanced_accuracy", "f1", "auc", "average_precision", "brier",
            "log_loss", "ece", "rmse", "mae", "pearson", "spearman",
        ),
        defaults={"train_batch_size": 32, "truncation_side": "middle", "template": PLAIN},
    ),
}  # fmt: skip
CLASSES = replace(
    TASK_SPECS["clf"],
    answer_key="label",
    output="classes",
    shown_metrics=(
        "loss", "accuracy", "majority_accuracy", "macro_f1", "log_loss", "swap_consistency",
        "first_place_share",
    ),
    best_metrics=("loss", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece"),
)  # fmt: skip
"""clf with several classes, which only its data tell."""


TEXT = replace(
    TASK_SPECS["seq2seq"],
    answer_key="text",
    shown_metrics=("loss", "perplexity", "byte_perplexity", "token_accuracy"),
    best_metrics=("loss", "perplexity", "byte_perplexity", "token_accuracy"),
)
"""seq2seq on plain text, which only its data tell."""
OPENING = 32
"""Tokens of a text that an evaluation continues."""
CONTINUED = 64
"""Most tokens of a continuation, unless --max_new_tokens says otherwise."""


def best_metrics(*tasks: str) -> tuple[str, ...]:
    """Choices of --metric_for_best_model of tasks, whatever their records."""
    specs = [task for task in (*TASK_SPECS.values(), TEXT, CLASSES) if task.name in tasks]
    return tuple(dict.fromkeys(name for task in specs for name in task.best_metrics))


BEST_METRICS = best_metrics(*TASK_SPECS)
"""Choices of all tasks."""


def task_of(spec: Mapping[str, Any]) -> TaskSpec:
    """The task of a training_args.json; seq2seq if it names none."""
    if spec.get("task") == CLASSES.name and spec.get("classes"):
        return CLASSES
    if spec.get("task") == TEXT.name and spec.get("block_packing") is not None:
        return TEXT
    return TASK_SPECS.get(str(spec.get("task")), TASK_SPECS["seq2seq"])


def shown_default(flag: str) -> str:
    """A task-dependent default for the help: the first task's, then the others'."""
    first, *others = TASK_SPECS.values()
    of_others = [f"{task.name} {task.defaults[flag]}" for task in others]
    return "; ".join([str(first.defaults[flag]), *of_others])
