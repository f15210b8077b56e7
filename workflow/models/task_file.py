"""task.json of a checkpoint: how the model was trained to be used."""

import dataclasses
from pathlib import Path
from typing import Any

from workflow.config.job import JOB_FLAGS, JobSpec
from workflow.config.request import JobRequest
from workflow.config.task_specs import TASK_SPECS
from workflow.core.console import log
from workflow.core.errors import Problem, shorten
from workflow.core.files import read_object

TASK_FILE = "task.json"
_MEANING = ("template", "label_words", "classes", "target_min", "target_max")
"""Flags that decide what the model reads, and what its answers mean."""
_LIMITS = (
    "max_source_length", "max_target_length", "max_new_tokens", "truncation_side", "stop",
    "pair_shares",
)  # fmt: skip
"""Flags that only cut texts."""


def task_content(spec: JobSpec, family: str) -> dict[str, Any]:
    """The content of task.json: the task, the kind of model, and the flags that it uses."""
    used = (name for name in (*_MEANING, *_LIMITS) if JOB_FLAGS[name].only_for in (None, spec.task))
    return {"task": spec.task, "family": family} | {name: getattr(spec, name) for name in used}


def read_task(folder: Path) -> dict[str, Any]:
    """The content of a folder's task.json; empty if there is none."""
    return read_object(folder / TASK_FILE)


def base_in_task(folder: Path) -> dict[str, Any]:
    """What the task.json of an adapter states of its base: name, digest, bits; empty if nothing."""
    return read_task(folder).get("base") or {}


def adopt_task(folder: Path, request: JobRequest) -> tuple[JobRequest, list[Problem]]:
    """A job with the flags of its model's task.json, where the job leaves them at their defaults.

    An evaluation with another value is a problem, a training with one is logged.
    """
    stored = read_task(folder)
    if stored.get("task") != request.task:
        return request, []
    adopted: dict[str, Any] = {}
    problems = []
    for name in _MEANING:
        value, given = stored.get(name), getattr(request, name)
        value = tuple(value) if isinstance(value, list) else value
        if value is None or value == given:
            continue
        if given == TASK_SPECS[request.task].defaults.get(name, JOB_FLAGS[name].default):
            adopted[name] = value
            log.info("using --%s %s, with which the model was trained", name, _shown(value))
        elif request.no_train:
            expected = f"{_shown(value)}, with which the model was trained"
            problem = Problem(f"--{name}", _shown(given), expected, f"remove --{name}")
            problems.append(problem)
        else:
            log.warning(
                "--%s %s: the model was trained with %s", name, _shown(given), _shown(value)
            )
    return dataclasses.replace(request, **adopted), problems


def _shown(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shorten(text)
