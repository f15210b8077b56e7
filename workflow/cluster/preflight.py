"""Checks of a job before it is queued: model, data, flags, disk and memory."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from workflow.cluster.resources import Submission
from workflow.config.parse import NO_MODEL
from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, Problem
from workflow.distributed.world import World
from workflow.memory.machine import Machine, this_machine
from workflow.memory.model_dims import checkpoint_bytes, sizes_of
from workflow.runs.checkpoint import SETTINGS_BYTES
from workflow.runs.mount import Mount, find_data, find_model, find_run_folder, run_name_of
from workflow.runs.status import read_spec
from workflow.training.locate import problems_of_records
from workflow.training.plan import describe_plans
from workflow.training.prepare import Job, prepare, sizes_of_job
from workflow.training.resolve import check_not_held, resolve_run

NOT_CHECKED = "memory not checked: "


def look_ahead(
    request: JobRequest, submission: Submission, here: bool, problems: Sequence[Problem]
) -> list[str]:
    """Check the job, and return the memory plan for the requested machines.

    This tokenizes the data into the cache, from which the job reads it.

    Args:
        here: whether the job will run on this machine.
        problems: those found so far.

    Raises:
        BadInput: with all problems.
    """
    mount = submission.mount
    held = _problems_of_run(request, mount)
    source, missing = find_model(mount, request)
    waits = submission.cluster.dependency is not None
    comes_later = bool(missing) and waits and request.model_init_name is not None
    problems = [*problems, *held, *([] if comes_later else missing)]
    job = None
    if comes_later or isinstance(source, str):
        if source != NO_MODEL and isinstance(source, str):
            problems.append(_problem_of_hub_model(source))
        problems += _problems_of_data(request, mount)
    else:
        problems += [] if missing else _problems_of_disk(request, mount, source)
        try:
            job = _prepared(request, submission, here)
            if not held:
                resolve_run(job)
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    if job is None:
        return [f"{NOT_CHECKED}the model will be written by the job of --dependency"]
    machine = _machine(submission, here)
    if machine.device_memory == float("inf"):
        word = "--gpu_memory" if machine.on_gpu else "--memory"
        return [f"{NOT_CHECKED}{word} is not set"]
    return describe_plans(sizes_of_job(job), job.spec, job.examples, machine)


def _prepared(request: JobRequest, submission: Submission, here: bool) -> Job:
    """Prepare the job as its machines will, except that a run's recorded precision is kept."""
    if request.bf16 is None:
        run, _ = find_run_folder(submission.mount, run_name_of(request))
        request = dataclasses.replace(request, bf16=read_spec(run).get("bf16"))
    machine = None if here else _machine(submission, here)
    return prepare(request, submission.mount, (), _world(submission), machine)


def _world(submission: Submission) -> World:
    """The processes of the job."""
    on_each = submission.processes
    return World(0, on_each * submission.cluster.num_nodes, on_each)


def _machine(submission: Submission, here: bool) -> Machine:
    """Return the requested machines; unspecified memory counts as infinite."""
    cluster, world, enough = submission.cluster, _world(submission), float("inf")
    if here:
        return this_machine(world)
    on_gpu = cluster.gpus_per_node > 0
    of_cpus = enough if cluster.memory is None else cluster.memory / world.local_size
    return Machine(
        processes=world.size,
        on_each=world.local_size,
        device_memory=(cluster.gpu_memory or enough) if on_gpu else of_cpus,
        host_memory=cluster.memory,
        on_gpu=on_gpu,
    )


def _problems_of_run(request: JobRequest, mount: Mount) -> list[Problem]:
    """Report a live process that holds the run's folder; may watch it for a minute."""
    run, problems = find_run_folder(mount, run_name_of(request))
    if problems:
        return problems
    try:
        check_not_held(run)
    except BadInput as error:
        return error.problems
    return []


def _problems_of_data(request: JobRequest, mount: Mount) -> list[Problem]:
    files, problems = find_data(mount, request.data_name) if request.data_name else ({}, [])
    return problems + problems_of_records(files, request)


def _problem_of_hub_model(name: str) -> Problem:
    """Refuse a hub model: submitted jobs run offline."""
    here = name.rpartition("/")[2]
    hint = f"run `python3 -m workflow prefetch {name}`, then set --model_init_name {here}"
    return Problem(f"model {name}", "a hub model, but jobs run offline", "a local folder", hint)


def _problems_of_disk(request: JobRequest, mount: Mount, model: Path) -> list[Problem]:
    """Report a disk without room for all checkpoints that exist at the same time."""
    if request.no_train:
        return []
    try:
        weights, with_state = checkpoint_bytes(sizes_of(model))
    except BadInput:  # reported elsewhere
        return []
    # the newest and the next one with optimizer state; older ones and the best without
    needed = 2 * with_state + request.save_total_limit * weights + SETTINGS_BYTES
    run, _ = find_run_folder(mount, run_name_of(request))
    needed -= sum(path.stat().st_size for path in run.glob("checkpoint-*/**/*") if path.is_file())
    folder = mount.models if mount.models.is_dir() else mount.root
    free = shutil.disk_usage(folder).free if folder.is_dir() else needed
    if free >= needed:
        return []
    expected = f"{needed / 1e9:,.1f} GB for the newest, next, best and older checkpoints"
    hint = "free disk space, or reduce --save_total_limit"
    return [Problem(str(folder), f"{free / 1e9:,.1f} GB free", expected, hint)]
