"""Read a command line, a job file or keyword arguments into a job, with all its problems."""

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from workflow.config.contradictions import contradictions
from workflow.config.field_types import choice, mapping
from workflow.config.flags import Flag, FlagSet, flags_of, read_json_object
from workflow.config.job import JOB_FLAGS
from workflow.config.launch import LaunchOptions
from workflow.config.request import JobRequest
from workflow.config.smoke import reduced
from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import BadInput, Problem

NO_MODEL = "?"
"""The model of a job that names none, so that its other problems can still be found."""

ALIASES = {"data": "data_name"}
CLUSTER_PART = "cluster"
"""The key of a job file that `python3 -m workflow submit` reads."""
_MODELS = ("model_init_name", "model_init_path", "model_pretrain_name")
_EXCLUSIVE = (_MODELS, ("max_steps", "num_train_epochs"))


def parse_command_line(
    task: str, description: str, argv: Sequence[str] | None = None
) -> tuple[JobRequest, LaunchOptions, list[Problem]]:
    """Read a command line: the job, how it is launched, and all problems of its flags.

    A flag with a problem has its default in the job, so that later checks can run.
    """
    of_launch = flags_of(LaunchOptions)
    flags = FlagSet(JOB_FLAGS | of_launch, ALIASES, task)
    usage = "python3 %(prog)s --model_init_name MODEL --data_name DATA [flags]"
    arguments = sys.argv[1:] if argv is None else argv
    typed, given, problems = flags.read_command_line(arguments, description, usage)
    if "config" in typed:
        in_file, more = _read_job_file(Path(typed["config"]), task)
        problems += more
        overridden = {name for group in _EXCLUSIVE if typed.keys() & set(group) for name in group}
        typed = {k: v for k, v in in_file.items() if k not in overridden} | typed
    launch = LaunchOptions(**{name: typed.pop(name) for name in of_launch.keys() & typed.keys()})
    planned = [name for name in vars(launch) if name.startswith("plan_") and getattr(launch, name)]
    if planned and not launch.dry_run:
        hint = "add --dry_run, or remove it"
        problems.append(Problem(f"--{planned[0]}", "set without --dry_run", "--dry_run", hint))
    request, more = _checked(task, typed, typed.keys() | given)
    return request, launch, problems + more


def as_arguments(request: JobRequest) -> tuple[str, ...]:
    """The command-line flags of this job, without a job file."""
    words: list[str] = []
    for name, flag in JOB_FLAGS.items():
        value = getattr(request, name)
        default = TASK_SPECS[request.task].defaults.get(name, flag.default)
        if value is None or value == default:
            continue
        if isinstance(value, tuple) and flag.type.words != 1:
            words += [f"--{name}", *value]
        elif isinstance(value, bool | tuple | dict):
            words.append(f"--{name}={json.dumps(value)}")
        else:
            words.append(f"--{name}={value}")
    return tuple(words)


def make_job(task: str, **values: Any) -> JobRequest:
    """Make a job from flags by name, checked like a command line.

    Raises:
        BadInput: with all problems.
    """
    given = {name: value for name, value in values.items() if value is not None}
    typed, problems = FlagSet(JOB_FLAGS, ALIASES).read_object(given, "")
    request, more = _checked(task, typed, {ALIASES.get(name, name) for name in given})
    if problems := problems + more:
        raise BadInput(problems)
    return request


def _read_job_file(path: Path, task: str) -> tuple[dict[str, Any], list[Problem]]:
    """The flags in a job file, which may also have the keys task and cluster."""
    parsed, problems = read_json_object(path)
    beside = {
        "task": Flag("", choice(task), "the script"),
        CLUSTER_PART: Flag("", mapping(), "of `submit`"),
    }
    typed, more = FlagSet(JOB_FLAGS | beside, ALIASES).read_object(parsed, f"--config {path}: ")
    return {k: v for k, v in typed.items() if k not in beside}, problems + more


def _checked(
    task: str, typed: dict[str, Any], given: Collection[str]
) -> tuple[JobRequest, list[Problem]]:
    """The job of these values, and its contradictions.

    Args:
        given: flags that the user wrote, with or without a valid value: a flag with a bad value is
            not missing.
    """
    problems = []
    models = [name for name in _MODELS if name in given]
    if len(models) != 1:
        problems.append(
            Problem(
                "model",
                " and ".join(f"--{name}" for name in models) or "missing",
                "exactly one of --model_init_name, --model_init_path, --model_pretrain_name",
                "keep one of them" if models else "add --model_init_name FOLDER_IN_MOUNT_MODELS",
            )
        )
        typed = {name: value for name, value in typed.items() if name not in _MODELS}
    if "data_name" not in given:
        problems.append(
            Problem("data", "missing", "the name of a data file", "add --data_name NAME")
        )
    if not typed.keys() & set(_MODELS):
        typed["model_init_name"] = NO_MODEL
    request = JobRequest(task=task, **{**TASK_SPECS[task].defaults, **typed})
    return reduced(request), [*problems, *contradictions(request)]
