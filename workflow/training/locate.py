"""Find what a job names: data, model, run folder, checkpoint to resume from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.config.job import JOB_FLAGS
from workflow.config.request import JobRequest
from workflow.config.smoke import RECORDS
from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import BadInput, Problem
from workflow.data.reading import check_records, first_record
from workflow.data.records import Record
from workflow.data.source import DataSource, HeldOut
from workflow.data.split_names import TEXT_SUFFIX
from workflow.reporting.trackers.base import problems_of_trackers
from workflow.runs.mount import Mount, find_data, find_run_folder, run_name_of
from workflow.runs.resume_state import ResumePoint, find_resume_point
from workflow.runs.status import is_requeued, read_status
from workflow.tasks import task_for
from workflow.tasks.base import Task
from workflow.training.adapters import find_model_and_adapter
from workflow.training.judges import Judge, find_judges
from workflow.training.plan import own_settings


@dataclass(frozen=True)
class Located:
    """The paths of what a job names.

    Attributes:
        files: data files by split.
        model: its folder, or its name on the hub; of an adapter, those of its base.
        adapter: the adapter's folder, if the job names one.
        first: the first record, whose keys say what kind the records are.
        judges: the models that judge for --metric, by metric.
    """

    files: dict[str, Path]
    first: Record
    model: Path | str
    adapter: Path | None
    run_path: Path
    resume_point: ResumePoint | None
    judges: dict[str, Judge]


def locate(request: JobRequest, mount: Mount, problems: Sequence[Problem]) -> Located:
    """Find the data's files, the model, the run's folder and what it may resume from.

    Raises:
        BadInput: with all problems found.
    """
    _, of_deepspeed = own_settings(request)
    problems = [*problems, *of_deepspeed]
    if not mount.root.is_dir():
        expected = "a folder with data/ and models/"
        hint = "create it, or set --mount or $WORKFLOW_MOUNT"
        raise BadInput([*problems, Problem(str(mount.root), "does not exist", expected, hint)])
    run_path, of_run = find_run_folder(mount, run_name_of(request))
    model, adapter, of_model = find_model_and_adapter(mount, request)
    resume_point, of_checkpoint = _find_resume_point(request, mount, run_path)
    judges, of_judges = find_judges(request.metric, mount)
    files, of_data = find_data(mount, request.data_name) if request.data_name else ({}, [])
    if texts := _problems_of_texts(files, request):
        files, of_data = {}, texts
    first = first_record(data_source(files, request)) if files else {}
    problems += _problems_of_unused(task_for(request, first), request) if files else []
    problems += [
        *of_run, *of_model, *_problems_of_model_in_run(adapter or model, run_path), *of_checkpoint,
        *problems_of_trackers(request.report_to), *of_judges, *of_data,
    ]  # fmt: skip
    if problems:
        raise BadInput([*problems, *problems_of_records(files, request)])
    return Located(files, first, model, adapter, run_path, resume_point, judges)


def _problems_of_texts(files: dict[str, Path], request: JobRequest) -> list[Problem]:
    """The text files of a job that scores, of which there is nothing else to say."""
    if request.task != "clf":
        return []
    expected, hint = "records to score", "learn plain text with seq2seq.py, or write records"
    paths = [path for path in files.values() if path.suffix == TEXT_SUFFIX]
    return [Problem(str(path), "plain text", expected, hint) for path in paths]


def _find_resume_point(
    request: JobRequest, mount: Mount, run_path: Path
) -> tuple[ResumePoint | None, list[Problem]]:
    if request.no_train:
        return None, []
    requeued = is_requeued(read_status(run_path))  # resumes whatever the flags say
    named = None if requeued else request.resume_from_checkpoint
    return find_resume_point(run_path, requeued or not request.overwrite_output_dir, named, mount)


def _problems_of_model_in_run(model: Path | str, run_path: Path) -> list[Problem]:
    if not isinstance(model, Path) or run_path.resolve() not in model.resolve().parents:
        return []
    where = f"--training_run_name {run_path.name}"
    hint = "choose another --training_run_name"
    inside = "the run that contains the initial model"
    return [Problem(where, inside, "another run", hint)]


def _problems_of_unused(task: Task, request: JobRequest) -> list[Problem]:
    """The flags that the job's records have no use for."""
    defaults = TASK_SPECS[request.task].defaults
    return [
        Problem(
            f"--{name}", f"set for records like {task.shape.example}",
            "records that it applies to", "remove it",
        )
        for name in task.unused
        if getattr(request, name) != defaults.get(name, JOB_FLAGS[name].default)
    ]  # fmt: skip


def data_source(files: dict[str, Path], request: JobRequest) -> DataSource:
    most = RECORDS if request.smoke else math.inf
    limits: dict[str, Any] = {"most": most, "separator": request.document_separator}
    if request.no_train:  # excludes --eval_fraction
        return DataSource(files, ["eval"], answers_needed=False, **limits)
    held_out = HeldOut(request.eval_fraction, request.seed) if request.eval_fraction else None
    return DataSource(files, ["train", "eval"], held_out=held_out, **limits)


def problems_of_records(files: dict[str, Path], request: JobRequest) -> list[Problem]:
    """The problems of the records in these files, if any."""
    source = data_source(files, request)
    try:
        if files:
            check_records(source, task_for(request, first_record(source)).shape)
    except BadInput as error:
        return error.problems
    return []
