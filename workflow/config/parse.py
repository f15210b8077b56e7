"""From a command line, a job file or keyword arguments to a job, with every problem of it."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.config import flags
from workflow.config.field_types import FieldType, choice, mapping
from workflow.config.job import (
    BEST_METRICS,
    GREEDY_BELOW,
    ONLY_FOR,
    TASK_DEFAULTS,
    JobSpec,
    LaunchOptions,
)
from workflow.core.errors import BadInput, Problem, shorten

NO_MODEL = "?"
"""Stands for a model that was not named, so that other problems can still be found."""

ALIASES = {"data": "data_name"}
CLUSTER_PART = "cluster"
"""The key of a job file for what `python3 -m workflow submit` reads there."""
_ONE_OF = (("model_init_name", "model_init_path", "model_pretrain_name"),
           ("max_steps", "num_train_epochs"))  # fmt: skip
_JOB_FIELDS = [field for field in dataclasses.fields(JobSpec) if field.name != "task"]
_ALL_FIELDS = [*_JOB_FIELDS, *dataclasses.fields(LaunchOptions)]


def parse_command_line(
    task: str, description: str, argv: Sequence[str] | None = None
) -> tuple[JobSpec, LaunchOptions, list[Problem]]:
    """The job asked for by a command line, with every problem of its flags.

    A flag with a problem has its default in the job, so that further checks can go on.
    """
    usage = "%(prog)s --MODEL_FLAG MODEL --data_name DATA [flags]"
    parser = flags.build_parser(_ALL_FIELDS, ALIASES, description=description, usage=usage)
    arguments = sys.argv[1:] if argv is None else argv
    given, problems = flags.read_command_line(parser, _ALL_FIELDS, ALIASES, arguments)
    typed, more = flags.convert_values(given, _ALL_FIELDS)
    problems += more
    if "config" in typed:
        in_file, more = _read_job_file(Path(typed["config"]), task)
        problems += more
        overridden = {name for group in _ONE_OF if typed.keys() & set(group) for name in group}
        typed = {k: v for k, v in in_file.items() if k not in overridden} | typed
    of_place = {field.name for field in dataclasses.fields(LaunchOptions)}
    launch = LaunchOptions(**{name: typed.pop(name) for name in of_place & typed.keys()})
    planned = [name for name in vars(launch) if name.startswith("plan_") and getattr(launch, name)]
    if planned and not launch.dry_run:
        mend = "add --dry_run, or leave it out"
        expected = "a description of a machine with --dry_run only"
        problems.append(Problem(f"--{planned[0]}", "no --dry_run", expected, mend))
    spec, more = _checked(task, typed, given)
    return spec, launch, problems + more


def as_arguments(spec: JobSpec) -> tuple[str, ...]:
    """The flags that ask for this job, and no file."""
    words: list[str] = []
    for field in _JOB_FIELDS:
        value = getattr(spec, field.name)
        default = TASK_DEFAULTS[spec.task].get(field.name, field.default)
        if value is None or value == default:
            continue
        if isinstance(value, tuple) and field.metadata["kind"].words != 1:
            words += [f"--{field.name}", *value]
        elif isinstance(value, bool | tuple | dict):
            words.append(f"--{field.name}={json.dumps(value)}")
        else:
            words.append(f"--{field.name}={value}")
    return tuple(words)


def make_job(task: str, **values: Any) -> JobSpec:
    """A job from flag names and values, checked as a command line is; raises BadInput."""
    known = {field.name for field in _JOB_FIELDS}
    named = {ALIASES.get(name, name): value for name, value in values.items() if value is not None}
    problems = [flags.unknown_flag(n, sorted(known)) for n in named if n not in known]
    typed, more = flags.convert_values(
        {name: value for name, value in named.items() if name in known}, _JOB_FIELDS, "{}"
    )
    spec, still_more = _checked(task, typed, named)
    problems += more + still_more
    if problems:
        raise BadInput(problems)
    return spec


def _read_job_file(path: Path, task: str) -> tuple[dict[str, Any], list[Problem]]:
    beside = [_field("task", choice(task)), _field(CLUSTER_PART, mapping())]
    fields = [*_JOB_FIELDS, *beside]
    values, problems = flags.read_job_file(path, fields, ALIASES)
    typed, more = flags.convert_values(values, fields, f"--config {path}: {{}}")
    for field in beside:
        typed.pop(field.name, None)
    return typed, problems + more


def _field(name: str, kind: FieldType) -> dataclasses.Field[Any]:
    field: dataclasses.Field[Any] = dataclasses.field(metadata={"kind": kind})
    field.name = name
    return field


def _checked(
    task: str, typed: dict[str, Any], given: dict[str, Any]
) -> tuple[JobSpec, list[Problem]]:
    """The job of these values, and what does not fit together in it.

    `given` holds what the user wrote, also where it could not be converted: a flag with a bad
    value is not missing.
    """
    problems = []
    asked = typed.keys() | given.keys()
    models = [name for name in _ONE_OF[0] if name in asked]
    if len(models) != 1:
        problems.append(
            Problem(
                "model",
                " and ".join(f"--{name}" for name in models) or "no name of a model",
                "exactly one of --model_init_name, --model_init_path, --model_pretrain_name",
                "keep one of them" if models else "add --model_init_name FOLDER_IN_MOUNT_MODELS",
            )
        )
        typed = {name: value for name, value in typed.items() if name not in _ONE_OF[0]}
    if "data_name" not in asked:
        problems.append(
            Problem("data", "no --data_name", "the name of a data file", "add --data_name NAME")
        )
    if not typed.keys() & set(_ONE_OF[0]):
        typed["model_init_name"] = NO_MODEL
    spec = JobSpec(task, **(TASK_DEFAULTS[task] | typed))
    return spec, problems + _contradictions(spec)


def _contradictions(spec: JobSpec) -> list[Problem]:
    problems = []
    if spec.max_steps is not None and spec.num_train_epochs is not None:
        problems.append(
            Problem(
                "--max_steps",
                f"{spec.max_steps} together with --num_train_epochs {spec.num_train_epochs:g}",
                "one length of the run",
                "keep one of the two",
            )
        )
    if spec.no_train and spec.eval_fraction is not None:
        expected = "no share where all records are evaluated (--no_train)"
        found = f"{spec.eval_fraction:g}"
        problems.append(Problem("--eval_fraction", found, expected, "leave it out"))
    if spec.offload == "all" and spec.zero_stage in (1, 2):
        found = f"all with --zero_stage {spec.zero_stage}"
        expected = "--zero_stage 3, which alone divides parameters"
        mend = "leave --zero_stage out, or use --offload optimizer"
        problems.append(Problem("--offload", found, expected, mend))
    problems += _contradictions_of_task(spec)
    if spec.task == "seq2seq":
        problems += _contradictions_of_decoding(spec)
    constant = spec.lr_scheduler_type == "constant"
    constant = constant or (spec.lr_scheduler_type is None and spec.optim == "adafactor")
    for name in ("warmup_steps", "lr_scheduler_kwargs"):
        if constant and getattr(spec, name):
            problems.append(
                Problem(
                    f"--{name}",
                    shorten(getattr(spec, name)),
                    "nothing with the constant schedule, which ignores it",
                    "leave it out, or choose --lr_scheduler_type constant_with_warmup or another",
                )
            )
    return problems


def _contradictions_of_task(spec: JobSpec) -> list[Problem]:
    """Flags that mean nothing in this task, and a range of targets that is none."""
    defaults = {field.name: field.default for field in _JOB_FIELDS}
    found = []
    for task, names in ONLY_FOR.items():
        for name in names if task != spec.task else ():
            value = getattr(spec, name)
            if value != defaults[name]:
                expected = f"a flag of {spec.task}.py"
                mend = f"leave it out: it is for {task}.py"
                found.append(Problem(f"--{name}", shorten(value), expected, mend))
    if spec.metric_for_best_model not in BEST_METRICS[spec.task]:
        expected = f"one of {', '.join(BEST_METRICS[spec.task])}"
        name = spec.metric_for_best_model
        found.append(Problem("--metric_for_best_model", name, expected, "choose one of them"))
    if not spec.target_min < spec.target_max:
        wanted = f"{spec.target_max:g} with --target_min {spec.target_min:g}"
        found.append(Problem("--target_max", wanted, "more than that", "raise it"))
    return found


def _contradictions_of_decoding(spec: JobSpec) -> list[Problem]:
    found = []
    at = f"at temperature {spec.temperature:g}"
    greedy = f"where decoding is greedy (temperature below {GREEDY_BELOW})"
    if spec.num_beams > 1 and not spec.greedy:
        mend = "keep one of the two: beams are not drawn"
        expected = f"a temperature below {GREEDY_BELOW} with beams"
        found.append(Problem("--num_beams", f"{spec.num_beams} {at}", expected, mend))
    elif spec.num_beams > 1 and spec.n_samples > spec.num_beams:
        wanted = f"{spec.n_samples} of {spec.num_beams} beams"
        found.append(Problem("--n_samples", wanted, "at most --num_beams", "raise --num_beams"))
    elif spec.greedy and spec.num_beams == 1 and spec.n_samples > 1:
        mend = "raise --temperature, or every sample would be the same"
        found.append(Problem("--n_samples", f"{spec.n_samples} {at}", f"1 {greedy}", mend))
    for name in ("top_k", "top_p"):
        value = getattr(spec, name)
        if spec.greedy and value is not None:
            mend = "leave it out, or raise --temperature"
            found.append(Problem(f"--{name}", f"{value} {at}", f"nothing {greedy}", mend))
    if spec.max_new_tokens is not None and spec.min_new_tokens > spec.max_new_tokens:
        wanted = f"{spec.min_new_tokens} with --max_new_tokens {spec.max_new_tokens}"
        mend = "lower it, or raise --max_new_tokens"
        found.append(Problem("--min_new_tokens", wanted, "no more than that", mend))
    return found
