"""From what was asked to all that a run needs, with every problem told before a run is begun."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workflow.config.job import JobSpec, resolve_defaults
from workflow.config.parse import NO_MODEL
from workflow.core.checksums import find_damage
from workflow.core.errors import BadInput, Problem
from workflow.data.audit import Report
from workflow.data.held_out import HeldOut
from workflow.data.reading import problems_of_holding_out, read_records
from workflow.data.token_cache import TokenizedSplit, prepare_splits, tell_eval_records
from workflow.distributed.device import fast_bf16
from workflow.distributed.strategy import ShardingStrategy
from workflow.distributed.world import World
from workflow.memory.search import Machine
from workflow.metrics.user import load_user_metric
from workflow.models.families import DecoderIds, vocabulary_size
from workflow.models.hub import fetch_settings
from workflow.models.settings import load_model_settings
from workflow.models.tokenizers.vocabulary import count_ids
from workflow.reporting.trackers.base import problems_of_trackers
from workflow.runs.checkpoint import can_resume
from workflow.runs.mount import Mount, find_data, find_model, find_run_folder, run_name_of
from workflow.runs.resume_state import ComputedWith, find_resume_checkpoint, read_state
from workflow.runs.status import SPEC_FILE, is_requeued, read_status
from workflow.tasks import TASKS
from workflow.tasks.base import Task
from workflow.training.grow_vocabulary import audited, grow_until_nothing_is_missing
from workflow.training.model_check import check_model
from workflow.training.optim import check_schedule
from workflow.training.plan import own_settings, plan_job, problems_of_processes


@dataclass(frozen=True)
class Job:
    """A job that can begin: everything but the model's weights, which may take minutes.

    Attributes:
        spec: the job, complete.
        model_tokens: the tokens that the model has learned; the tokenizer may have more.
        decoder_ids: how the model's decoder starts.
        audit: what the data hold; empty where nothing is learned from them.
        model_source: the model's folder, or its name on the hub.
        run_path: where the run's folder is, or will be.
        claim_lock: a file to lock while the run's folder is made.
        strategy: how processes divide the states; None for one process in plain torch.
        asked: the job as the user gave it, and `resolve_defaults` what fills in the rest.
        checkpoint: what the run would go on from.
        max_padded_tokens: of a micro-batch, where an earlier start ran out of memory.
    """

    spec: JobSpec
    task: Task
    tokenizer: Any
    model_tokens: int
    decoder_ids: DecoderIds
    audit: Report
    splits: dict[str, TokenizedSplit]
    model_source: Path | str
    run_path: Path
    claim_lock: Path
    strategy: ShardingStrategy | None
    asked: JobSpec
    resolve_defaults: Callable[[JobSpec], JobSpec]
    checkpoint: Path | None
    max_padded_tokens: int | None = None

    @property
    def data_keys(self) -> dict[str, str]:
        return {name: split.key for name, split in self.splits.items()}


def prepare(
    spec: JobSpec,
    mount: Mount,
    problems: Sequence[Problem] = (),
    world: World | None = None,
    machine: Machine | None = None,
) -> Job:
    """Find and check everything, and tokenize the data.

    Args:
        problems: those of the command line, to be told together with the others.
        world: the processes that will run the job.
        machine: where they will, if not here.

    Raises:
        BadInput: with all problems of flags, names and data together.
    """
    task = TASKS[spec.task](spec)
    splits = splits_of(spec)
    world = world or World.alone()
    problems = [*problems, *problems_of_processes(spec, world.size)]
    users, found = own_settings(spec)
    problems += found
    files, source, run_path, checkpoint = _find(spec, mount, task, problems)

    folder = fetch_settings(source)
    if damage := find_damage(folder, weights=False):
        raise BadInput(damage)
    try:
        settings, spec = load_model_settings(folder, spec, world.size)
        task = task.bind_tokenizer(settings.tokenizer, settings.decoder_ids.start)
    except BadInput as error:
        raise BadInput([*error.problems, *problems_of_records(files, task, spec)]) from error
    held_out = HeldOut(spec.eval_fraction, spec.seed) if spec.eval_fraction else None
    tokenized = partial(prepare_splits, files, splits, task, cache=mount.cache / "tokens",
                        answers_needed=not spec.no_train, held_out=held_out)  # fmt: skip
    tokenizer = settings.tokenizer
    data = tokenized(tokenizer)
    tell_eval_records(files, data, held_out is not None)
    if not spec.no_train:
        task.check(tokenizer, data["eval"], spec)
    model_tokens = min(count_ids(tokenizer), vocabulary_size(settings.config))
    audit: Report = {}
    if spec.add_missing_tokens and not spec.no_train:
        tokenizer, data, audit = grow_until_nothing_is_missing(
            tokenizer, data, tokenized,
            lambda grown, data: audited(data, task, grown, spec, mount.cache),
        )  # fmt: skip
    elif spec.audit or not spec.no_train:
        audit = audited(data, task, tokenizer, spec, mount.cache)
        audit["can_grow"] &= not spec.no_train
    completed = partial(
        resolve_defaults,
        run_name=run_name_of(spec),
        train_count=len(data["train"]) if "train" in data else 0,
        longest_target=_longest_target(data, spec, source),
        fast_bf16=fast_bf16() if machine is None else machine.on_gpu,
    )
    asked, spec = spec, completed(spec)
    settings = dataclasses.replace(settings, tokenizer=tokenizer)
    check_model(folder, settings, task, data["eval"], spec)
    if not spec.no_train:
        check_schedule(spec)
    most = _most_positions(asked, run_path)
    strategy, positions = world.decided_by_rank_zero(
        lambda: plan_job(folder, spec, data, users, world, _computed(checkpoint), most, machine)
    )
    spec = dataclasses.replace(spec, micro_batch_tokens=positions)
    lock = mount.cache / "claim.lock"
    return Job(
        spec, task, tokenizer, model_tokens, settings.decoder_ids, audit, data, source, run_path,
        lock, strategy, asked, completed, checkpoint, most,
    )  # fmt: skip


def _computed(checkpoint: Path | None) -> ComputedWith | None:
    """How the run that may go on was computed; a checkpoint that is not whole is told later."""
    try:
        return read_state(checkpoint).computed if checkpoint and can_resume(checkpoint) else None
    except BadInput:
        return None


def _most_positions(spec: JobSpec, run_path: Path) -> int | None:
    """What an earlier start that ran out of memory left; a bound of the user's own is not ours."""
    status = read_status(run_path)
    begins_anew = spec.overwrite_output_dir and not is_requeued(status)
    found = status.get("micro_batch_tokens")
    if begins_anew or spec.micro_batch_tokens is not None or not isinstance(found, int):
        return None
    return max(1, found)


def _find(
    spec: JobSpec, mount: Mount, task: Task, problems: list[Problem]
) -> tuple[dict[str, Path], Path | str, Path, Path | None]:
    """The data's files, the model, the run's folder and what it may go on from.

    Raises:
        BadInput: with all there is to mend.
    """
    if not mount.root.is_dir():
        expected = "a folder with data/ and models/"
        mend = "make it, or name another with --mount or $WORKFLOW_MOUNT"
        raise BadInput([*problems, Problem(str(mount.root), "no such mount", expected, mend)])
    run_path, found = find_run_folder(mount, run_name_of(spec))
    problems += found
    source, found = find_model(mount, spec) if spec.model != NO_MODEL else (NO_MODEL, [])
    problems += found
    if isinstance(source, Path) and run_path.resolve() in source.resolve().parents:
        where = f"--training_run_name {run_path.name}"
        found_inside = "the run that holds the model to begin with"
        mend = "choose another --training_run_name"
        problems.append(Problem(where, found_inside, "a folder of its own", mend))
    checkpoint = None
    if not spec.no_train:
        requeued = is_requeued(read_status(run_path))  # which is to go on whatever the flags say
        asked = None if requeued else spec.resume_from_checkpoint
        own = requeued or not spec.overwrite_output_dir
        checkpoint, found = find_resume_checkpoint(run_path, own, asked, mount)
        problems += found
    problems += problems_of_trackers(spec.report_to)
    if spec.metric is not None:
        try:
            load_user_metric(spec.metric)
        except BadInput as error:
            problems += error.problems
    files, found = find_data(mount, spec.data_name) if spec.data_name else ({}, [])
    problems += [*found, *_problems_of_holding_out(files, spec)]
    if problems:
        raise BadInput([*problems, *problems_of_records(files, task, spec)])
    return files, source, run_path, checkpoint


def splits_of(spec: JobSpec) -> list[str]:
    """The splits that a job uses."""
    return ["eval"] if spec.no_train else ["train", "eval"]


def _problems_of_holding_out(files: dict[str, Path], spec: JobSpec) -> list[Problem]:
    if spec.eval_fraction is None or spec.no_train:  # which is told already
        return []
    return problems_of_holding_out(files, spec.eval_fraction)


def problems_of_records(files: dict[str, Path], task: Task, spec: JobSpec) -> list[Problem]:
    splits = ["train"] if spec.eval_fraction and not spec.no_train else splits_of(spec)
    try:
        if files:
            for _ in read_records(files, splits, task.schema, not spec.no_train, "check"):
                pass
    except BadInput as error:
        return error.problems
    return []


def _longest_target(data: dict[str, TokenizedSplit], spec: JobSpec, source: Path | str) -> int:
    """Tokens that the data's completions need.

    Where only eval records were read, a run's checkpoint answers with what its run allowed at
    least, and any other model with `max_target_length` if some completion is unknown.
    """
    longest = max(
        int(split.targets.lengths(spec.max_target_length).max()) for split in data.values()
    )
    if not spec.no_train:
        return longest
    try:
        run = json.loads((Path(source).parent / SPEC_FILE).read_text(encoding="utf-8"))
        return max(longest, int(run["max_new_tokens"]))
    except (OSError, ValueError, KeyError, TypeError):
        return longest if data["eval"].answered.all() else spec.max_target_length
