"""A job's records: read, checked, tokenized, audited, and what the task learns from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from workflow.config.job import JobSpec
from workflow.config.request import JobRequest
from workflow.data.audit import AuditReport
from workflow.data.token_cache import TokenizedSplit, log_eval_records, prepare_splits
from workflow.tasks.base import Examples, Task
from workflow.training.grow_vocabulary import audited, grow_until_nothing_is_missing
from workflow.training.locate import data_source


@dataclass(frozen=True)
class Data:
    """The task, bound to its tokenized records, their tokenizer and their audit."""

    task: Task
    splits: dict[str, TokenizedSplit]
    tokenizer: PreTrainedTokenizerBase
    audit: AuditReport


def prepare_data(
    files: dict[str, Path],
    request: JobRequest,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
) -> Data:
    """Read, check, tokenize and audit the records; extend the tokenizer if requested."""
    source = data_source(files, request)
    tokenize = partial(prepare_splits, source, task, cache=cache / "tokens")
    splits = tokenize(tokenizer)
    task = task.bind_data(splits, request)
    log_eval_records(source, splits)
    if not request.no_train:
        task.check(tokenizer, splits["eval"], request)
    if request.add_missing_tokens and not request.no_train:
        tokenizer, splits, audit = grow_until_nothing_is_missing(
            tokenizer, splits, tokenize,
            lambda grown, data: audited(data, task, grown, request, cache),
        )  # fmt: skip
        return Data(task, splits, tokenizer, audit)
    audit = audited(splits, task, tokenizer, request, cache)
    audit["can_grow"] &= not request.no_train
    return Data(task, splits, tokenizer, audit)


def examples_of(
    task: Task, splits: Mapping[str, TokenizedSplit], spec: JobSpec
) -> dict[str, Examples]:
    return {
        name: task.examples(split, spec, trains=name == "train") for name, split in splits.items()
    }


def count_examples(data: Data, request: JobRequest) -> int:
    """The examples, or blocks of them, that an epoch draws."""
    train = data.splits.get("train")
    return 0 if train is None else data.task.examples(train, request, trains=True).drawn
