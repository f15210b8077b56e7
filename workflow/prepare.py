"""From what was asked to all that a run needs, with every problem told before anything is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.command import NO_MODEL
from workflow.config import JobSpec, complete
from workflow.engine import computing_model, fast_bf16, pick_device, positions_that_fit
from workflow.errors import BadInput, Problem
from workflow.models import Model, fetch_model, load_config, load_model, load_tokenizer
from workflow.mount import Mount, default_run_name, find_data, find_model, find_run_folder
from workflow.records import load_records
from workflow.run_folder import is_finished
from workflow.tasks import Task, get_task
from workflow.tokens import TokenizedSplit, prepare_splits


@dataclass(frozen=True)
class Job:
    """A job that can begin."""

    spec: JobSpec
    task: Task
    model: Model
    tokenizer: Any
    splits: dict[str, TokenizedSplit]
    model_source: Path | str
    run_path: Path


def prepare(spec: JobSpec, mount: Mount, flag_problems: Sequence[Problem] = ()) -> Job | Path:
    """Find, check and load everything; the run's folder alone where the job is done already.

    Raises:
        BadInput: with all problems of flags, names and data together.
    """
    task = get_task(spec.task)
    splits = ["eval"] if spec.no_train else ["train", "eval"]
    files, model_source, run_path = _find(spec, mount, task, splits, list(flag_problems))

    folder = fetch_model(model_source)
    tokenizer = load_tokenizer(folder)
    config = load_config(folder, len(tokenizer))
    _check_lengths(spec, config)
    data = prepare_splits(
        files, splits, task, tokenizer, mount.cache / "tokens", answers_needed=not spec.no_train
    )
    spec = complete(
        spec,
        run_name=default_run_name(spec),
        train_count=len(data["train"]) if "train" in data else 0,
        longest_target=_longest_target(data, spec),
        fast_bf16=fast_bf16(),
        micro_batch_tokens=positions_that_fit(config),
    )
    if is_finished(run_path, spec):
        return run_path
    model = load_model(folder, spec.dropout_rate).to(pick_device())
    if spec.no_train:
        model = computing_model(model, bool(spec.bf16))
    return Job(spec, task, model, tokenizer, data, model_source, run_path)


def _find(
    spec: JobSpec, mount: Mount, task: Task, splits: list[str], problems: list[Problem]
) -> tuple[dict[str, Path], Path | str, Path]:
    """The data's files, the model and the run's folder, or BadInput with all there is to mend."""
    run_path, found = find_run_folder(mount, spec.training_run_name or default_run_name(spec))
    problems += found
    model_source, found = find_model(mount, spec) if spec.model != NO_MODEL else (NO_MODEL, [])
    problems += found
    files, found = find_data(mount, spec.data_name) if spec.data_name else ({}, [])
    problems += found
    if problems:
        if files:
            try:
                load_records(files, splits, task.schema, answers_needed=not spec.no_train)
            except BadInput as error:
                problems += error.problems
        raise BadInput(problems)
    return files, model_source, run_path


def _check_lengths(spec: JobSpec, config: Any) -> None:
    """A model with learned positions has only so many."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return
    problems = [
        Problem(
            f"--{name}",
            str(getattr(spec, name)),
            f"at most {positions}, the positions this model has",
            f"add --{name} {positions}",
        )
        for name in ("max_source_length", "max_target_length")
        if getattr(spec, name) > positions
    ]
    if problems:
        raise BadInput(problems)


def _longest_target(data: dict[str, TokenizedSplit], spec: JobSpec) -> int:
    """Tokens of the longest completion, after the cut; the cut itself where there is none."""
    lengths = [split.targets.lengths(spec.max_target_length).max() for split in data.values()]
    return int(max(lengths)) or spec.max_target_length
