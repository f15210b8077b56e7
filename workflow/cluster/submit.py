"""`python3 -m workflow submit`: check, render and submit a job."""

import dataclasses
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path

from workflow.cluster.job_record import TEXT, JobRecord, folder_of, read_record, write_record
from workflow.cluster.parse import PROJECT, SubmitRequest, read_words
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.cluster.resources import Submission
from workflow.cluster.scheduler import JobState, NotChecked, Scheduler
from workflow.cluster.served import Server, read_by, server_of
from workflow.cluster.slurm.script import array_script
from workflow.config.metric_kinds import AskedMetric
from workflow.config.parse import as_arguments
from workflow.config.request import JobRequest
from workflow.core.console import start_log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import locked
from workflow.runs.mount import (
    Mount,
    find_data,
    find_in_mount,
    find_model,
    find_mount,
    run_name_of,
)
from workflow.runs.status import SLOW_DISK, read_status

FIRST_SECONDS = 60
"""The part of a margin for all but saving, e.g. finishing the step."""
UNSEEN_SECONDS = 600
"""The margin if not even the model's size is known."""
NOT_SEEN = "model and data not checked; no mount on this machine. Hint: set --mount after the --"


def submit(
    request: SubmitRequest,
    report: Callable[[str], None],
    checked: list[tuple[Submission, str]] | None = None,
) -> None:
    """Check a job and queue it, or print it with --dry_run.

    Args:
        checked: collects the job and its text, for `submit_array`, instead of queueing it.

    Raises:
        BadInput: with all problems of the job; nothing is queued then.
    """
    with chdir(request.command.folder):  # where the job will read its flags
        mount, seen = _mount(request)
        request, problems = _with_dependency(request, mount)
        submission = _submission(request, mount, seen)
        scheduler = SCHEDULERS[request.kind]
        reads, missing = _read_by(request, mount) if seen else ([], [])
        text, more = scheduler.render(submission, reads)
        problems = [*request.problems, *problems, *missing, *more]
        problems += scheduler.problems_of_text(text) if text else []
        problems += _problems_of_queue(submission) if seen else []
        problems += _problems_of_build(request) if seen else []
        if request.prints_only:
            for problem in problems:
                if isinstance(problem, NotChecked):
                    report(f"not checked: {problem.found}")
            problems = [problem for problem in problems if not isinstance(problem, NotChecked)]
        if seen and request.served is None:
            from workflow.cluster.preflight import look_ahead  # slow: torch and transformers

            for line in look_ahead(request.spec, submission, request.kind == "local", problems):
                report(line)
        elif problems:
            raise BadInput(problems)
        elif not seen:
            report(NOT_SEEN)
        if request.prints_only:
            print(text, end="")
            return
        if checked is not None:
            checked.append((submission, text))
            return
        with locked(mount.jobs / ".lock"):  # the second of two submissions sees the first
            if problems := _problems_of_queue(submission):
                raise BadInput(problems)
            record = _hand_over(scheduler, submission, text)
    usual = mount.root == find_mount(None).root.absolute()
    words = [record.run_name, *([] if usual else ["--mount", str(mount.root)])]
    command = f"python3 -m workflow status {shlex.join(words)}"
    report(f"submitted as {record.title}; `{command}` shows its state")


def submit_array(
    jobs: Sequence[tuple[Submission, str]], name: str, at_once: int | None
) -> JobRecord:
    """Queue checked jobs as one Slurm array; each task is the job of its run."""
    runs = [submission for submission, _ in jobs]
    with locked(runs[0].mount.jobs / ".lock"):
        if problems := [problem for run in runs for problem in _problems_of_queue(run)]:
            raise BadInput(problems)
        for run, text in jobs:
            run.job_folder.mkdir(parents=True, exist_ok=True)
            (run.job_folder / TEXT).write_text(text, encoding="utf-8")
        array = SCHEDULERS["slurm"].queue(array_script(runs, name, at_once), runs[0])
        for index, run in enumerate(runs):
            task = f"{array.identity}_{index}"
            record = dataclasses.replace(array, run_name=run.run_name, identity=task)
            write_record(run.job_folder, record)
    return array


def _mount(request: SubmitRequest) -> tuple[Mount, bool]:
    """Return the job's mount, and whether its files are visible here.

    A project named in the command has its own mount. The content of a Kubernetes volume claim is
    visible only through a --mount.
    """
    named, project = find_mount(request.launch.mount), request.command.project
    is_default = named.root == PROJECT / "mount"
    if request.kind == "kubernetes" and is_default:
        folder = Path(str((request.cluster.kubernetes or {}).get("host_path") or ""))
        if not folder.is_absolute() or not folder.is_dir():
            return named, False
        named = Mount(folder)
    elif is_default and project != PROJECT:
        named = Mount(project / "mount")
    return Mount((request.command.folder / named.root).absolute()), True


def _submission(request: SubmitRequest, mount: Mount, seen: bool) -> Submission:
    spec, command, device = request.spec, request.command, request.launch.device
    if request.served is not None:
        return server_of(request.served, command, request.cluster, mount)
    return Submission(
        task=command.task,
        # Fixed now: a job file may change while the job waits.
        arguments=(*as_arguments(spec), *([f"--device={device}"] if device else [])),
        run_name=run_name_of(spec),
        processes=_processes(request),
        folder=command.folder,
        project=command.project,
        mount=mount,
        margin=_margin(mount, spec) if seen else UNSEEN_SECONDS,
        cluster=request.cluster,
    )


def _processes(request: SubmitRequest) -> int:
    """Return the processes per node: as requested, else one per GPU."""
    if request.launch.num_processes is not None:
        return request.launch.num_processes
    if request.kind == "local" and not request.cluster.gpus_per_node:
        from workflow.distributed.device import usable_gpus  # slow: torch

        return max(1, usable_gpus())
    return max(1, request.cluster.gpus_per_node)


def _margin(mount: Mount, request: JobRequest) -> int:
    """Return the seconds to finish a step and save, from the run's last measured time.

    Without one, a checkpoint counts as three times the model's files: float32 weights with both
    Adam moments.
    """
    from workflow.models.hub import WEIGHTS  # slow: transformers

    measured = read_status(mount.models / run_name_of(request)).get("stop_seconds")
    if isinstance(measured, int | float) and measured > 0:
        return FIRST_SECONDS + round(3 * measured)
    model = Path(find_model(mount, request)[0])
    size = sum(file.stat().st_size for pattern in WEIGHTS for file in model.glob(pattern))
    return FIRST_SECONDS + round(3 * size / SLOW_DISK)


def _read_by(request: SubmitRequest, mount: Mount) -> tuple[list[Path], list[Problem]]:
    """The files and folders that the job reads, if they exist here.

    `look_ahead` reports those that are missing, except for a server.
    """
    spec = request.spec
    if request.served is not None:
        folders, problems = read_by(request.served, mount)
        return folders, [] if request.cluster.dependency else problems  # whose run writes them
    source, problems = find_model(mount, spec)
    read = [source] if isinstance(source, Path) and not problems else []
    read += find_data(mount, spec.data_name)[0].values() if spec.data_name else ()
    asked = list(map(AskedMetric, spec.metric))
    judges = [one.arguments[0] for one in asked if one.by_model and one.arguments]
    read += [folder for folder, wrong in (find_in_mount(mount, j) for j in judges) if not wrong]
    files = [spec.deepspeed, *(file for one in asked for file in one.files)]
    return read + [Path(name).expanduser().absolute() for name in files if name], []


def _with_dependency(request: SubmitRequest, mount: Mount) -> tuple[SubmitRequest, list[Problem]]:
    """Replace a run name in --dependency by an sbatch dependency on its job."""
    name = request.cluster.dependency
    if name is None or request.kind != "slurm" or re.match(r"after|singleton|expand", name):
        return request, []
    record = read_record(folder_of(mount, name))
    if record is None and name.isdigit():
        record = JobRecord(name, "slurm", name)
    state = JobState("gone") if record is None else state_of(record)
    dependency: str | None = None
    if record is not None and record.cluster == "slurm" and state.may_live:
        dependency = f"afterok:{record.identity}"
    elif "done" not in (state.word, read_status(mount.models / name).get("state")):
        found, hint = "no Slurm job of this run", "submit that run first"
        if record is not None:  # Slurm would accept it, and not wait
            found = f"{record.title} is neither queued nor running, but {state.word}"
            hint = "resubmit that job first, or remove --dependency if it succeeded"
        expected = "a run whose job is queued, running or done, or a job ID"
        return request, [Problem(f"--dependency {shorten(name)}", found, expected, hint)]
    cluster = dataclasses.replace(request.cluster, dependency=dependency)
    return dataclasses.replace(request, cluster=cluster), []


def _problems_of_build(request: SubmitRequest) -> list[Problem]:
    """The problem of a GPU job whose .venv, which the nodes use too, has PyTorch's CPU build."""
    cluster = request.cluster
    if not cluster.gpus_per_node or cluster.container or request.launch.device == "cpu":
        return []
    import torch  # slow

    if torch.version.cuda is not None:
        return []
    found = f"{cluster.gpus_per_node}, but PyTorch {torch.__version__} in .venv is a CPU build"
    hint = "run scripts/setup on a node with GPUs, or e.g. scripts/setup --cuda cu130"
    return [NotChecked("--gpus_per_node", found, "a CUDA build", hint)]


def _problems_of_queue(submission: Submission) -> list[Problem]:
    """Report a job of this run that is, or may be, queued or running."""
    record = read_record(submission.job_folder)
    if record is None or not (state := state_of(record)).may_live:
        return []
    word = "server" if isinstance(submission, Server) else "run"
    name = "--name" if isinstance(submission, Server) else "run name"
    where, expected = f"{word} {record.run_name}", f"a {word} without an active job"
    if state.word == "unknown":
        found = f"state of {record.title} unknown: {state.reason}"
        hint = f"submit where its scheduler is reachable, or choose another {name}"
        return [NotChecked(where, found, expected, hint)]
    cancel = f"`python3 -m workflow cancel {record.run_name}`"
    hint = f"wait for it, cancel it with {cancel}, or choose another {name}"
    return [Problem(where, f"already {state.word} as {record.title}", expected, hint)]


def _hand_over(scheduler: Scheduler, submission: Submission, text: str) -> JobRecord:
    """Queue the job and record it in its folder, which is removed if the scheduler rejects it."""
    folder = submission.job_folder
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = scheduler.queue(text, submission)
    except BaseException:
        if not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        (folder / TEXT).write_text(text, encoding="utf-8")
        write_record(folder, record)
    except BaseException:  # without a record no command could find the job
        scheduler.cancel(record)
        raise
    return record


def main(words: Sequence[str]) -> int:
    """`submit KIND …`; returns the exit status."""
    if not words or words[0] not in SCHEDULERS:
        found = shorten(words[0]) if words else "no scheduler"
        expected = f"one of {', '.join(SCHEDULERS)}"
        raise BadInput([Problem("submit", found, expected, "write it after submit")])
    start_log()
    submit(read_words(words[0], words[1:]), lambda line: print(line, file=sys.stderr))
    return 0
