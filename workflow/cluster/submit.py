"""`python3 -m workflow submit`: a job checked, rendered and handed to a cluster."""

import dataclasses
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path

from workflow.cluster.job_record import TEXT, JobRecord, folder_of, read_record, write_record
from workflow.cluster.parse import PROJECT, SubmitRequest, read_words
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.cluster.resources import Submission
from workflow.cluster.scheduler import JobState, NotAsked, Scheduler
from workflow.config.parse import as_arguments
from workflow.config.request import JobRequest
from workflow.core.console import start_log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import locked
from workflow.runs.mount import Mount, find_data, find_model, find_mount, run_name_of
from workflow.runs.status import SLOW_DISK, read_status

FIRST_SECONDS = 60
"""Of a margin: for what the job does besides saving, as ending its step."""
UNSEEN_SECONDS = 600
"""A margin where not even the model's size is known."""
NOT_SEEN = "model and data were not checked: --mount, behind the --, names where they are, if here"


def submit(request: SubmitRequest, tell: Callable[[str], None]) -> None:
    """Check a job, and queue it; with --dry_run only tell what would be queued.

    Raises:
        BadInput: with all that keeps the job from working; nothing is queued then.
    """
    with chdir(request.command.folder):  # where the job will read its flags
        mount, seen = _mount(request)
        request, problems = _with_dependency(request, mount)
        submission = _submission(request, mount, seen)
        scheduler = SCHEDULERS[request.kind]
        text, more = scheduler.render(submission, list(_read_by(request, mount)) if seen else [])
        problems = [*request.problems, *problems, *more]
        problems += scheduler.problems_of_text(text) if text else []
        problems += _problems_of_queue(submission) if seen else []
        if request.prints_only:
            for problem in problems:
                if isinstance(problem, NotAsked):
                    tell(f"not asked: {problem.found}")
            problems = [problem for problem in problems if not isinstance(problem, NotAsked)]
        if seen:
            from workflow.cluster.preflight import look_ahead  # slow: torch and transformers

            for line in look_ahead(request.spec, submission, request.kind == "local", problems):
                tell(line)
        elif problems:
            raise BadInput(problems)
        else:
            tell(NOT_SEEN)
        if request.prints_only:
            print(text, end="")
            return
        with locked(mount.jobs / ".lock"):  # of two for one run the second sees the first
            if problems := _problems_of_queue(submission):
                raise BadInput(problems)
            record = _hand_over(scheduler, submission, text)
    usual = mount.root == find_mount(None).root.absolute()
    words = [record.run_name, *([] if usual else ["--mount", str(mount.root)])]
    command = f"python3 -m workflow status {shlex.join(words)}"
    tell(f"submitted as {record.title}; `{command}` tells of it")


def _mount(request: SubmitRequest) -> tuple[Mount, bool]:
    """The job's mount, and whether its files are to be seen here.

    A project that the command names has its own beside its scripts. What a claim of Kubernetes
    holds is seen only where somebody says so.
    """
    named, project = find_mount(request.launch.mount), request.command.project
    by_chance = named.root == PROJECT / "mount"
    if request.kind == "kubernetes" and by_chance:
        folder = Path(str((request.cluster.kubernetes or {}).get("host_path") or ""))
        if not folder.is_absolute() or not folder.is_dir():
            return named, False
        named = Mount(folder)
    elif by_chance and project != PROJECT:
        named = Mount(project / "mount")
    return Mount((request.command.folder / named.root).absolute()), True


def _submission(request: SubmitRequest, mount: Mount, seen: bool) -> Submission:
    spec, command = request.spec, request.command
    return Submission(
        task=command.task,
        arguments=as_arguments(spec),  # as checked: a job file may change while the job waits
        run_name=run_name_of(spec),
        processes=_processes(request),
        folder=command.folder,
        project=command.project,
        mount=mount,
        margin=_margin(mount, spec) if seen else UNSEEN_SECONDS,
        cluster=request.cluster,
    )


def _processes(request: SubmitRequest) -> int:
    """Of each machine: as many as asked for, else one a GPU."""
    if request.launch.num_processes is not None:
        return request.launch.num_processes
    if request.kind == "local" and not request.cluster.gpus_per_node:
        import torch  # slow

        return max(1, torch.cuda.device_count())
    return max(1, request.cluster.gpus_per_node)


def _margin(mount: Mount, request: JobRequest) -> int:
    """Seconds that the job may take to end its step and to save: by what it took before.

    Where it never ran, a checkpoint is taken to be three times the model's files, which is what
    float32 weights become with both moments.
    """
    from workflow.models.hub import WEIGHTS  # slow: transformers

    measured = read_status(mount.models / run_name_of(request)).get("stop_seconds")
    if isinstance(measured, int | float) and measured > 0:
        return FIRST_SECONDS + round(3 * measured)
    model = Path(find_model(mount, request)[0])
    size = sum(file.stat().st_size for pattern in WEIGHTS for file in model.glob(pattern))
    return FIRST_SECONDS + round(3 * size / SLOW_DISK)


def _read_by(request: SubmitRequest, mount: Mount) -> Iterator[Path]:
    """The files and folders that the job reads, as far as they are here."""
    spec = request.spec
    source, problems = find_model(mount, spec)
    if isinstance(source, Path) and not problems:
        yield source
    yield from find_data(mount, spec.data_name)[0].values() if spec.data_name else ()
    metric = None if spec.metric is None else spec.metric.rpartition(":")[0]
    yield from (Path(name).absolute() for name in (spec.deepspeed, metric) if name)


def _with_dependency(request: SubmitRequest, mount: Mount) -> tuple[SubmitRequest, list[Problem]]:
    """The job to wait for in Slurm's words, in place of its run's name."""
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
        found, hint = "no job on Slurm that was submitted for such a run", "submit that one first"
        if record is not None:  # Slurm itself takes it, and forgets to wait
            found = f"{record.title}, which is not queued and does not run ({state.word})"
            hint = "submit that one again first; or leave this out, if it ended well"
        expected = "a run whose job is queued, runs or is done; or a job's number"
        return request, [Problem(f"--dependency {shorten(name)}", found, expected, hint)]
    cluster = dataclasses.replace(request.cluster, dependency=dependency)
    return dataclasses.replace(request, cluster=cluster), []


def _problems_of_queue(submission: Submission) -> list[Problem]:
    """Whether a job for this run is queued or runs already, or whether that is not known."""
    record = read_record(submission.job_folder)
    if record is None or not (state := state_of(record)).may_live:
        return []
    where, expected = f"run {record.run_name}", "a run that has no job"
    if state.word == "unknown":
        found = f"{record.title}, and whether that has ended is not known ({state.reason})"
        hint = "submit where its cluster can be asked, or choose another name"
        return [NotAsked(where, found, expected, hint)]
    hint = f"wait for it, `python3 -m workflow cancel {record.run_name}`, or choose another name"
    return [Problem(where, f"a job that is {state.word} ({record.title})", expected, hint)]


def _hand_over(scheduler: Scheduler, submission: Submission, text: str) -> JobRecord:
    """Queue the job, and note it in its folder, which goes again where the cluster refuses it."""
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
    except BaseException:  # no command would know of the job
        scheduler.cancel(record)
        raise
    return record


def main(words: Sequence[str]) -> int:
    """`submit KIND …`; returns the exit status."""
    if not words or words[0] not in SCHEDULERS:
        found = shorten(words[0]) if words else "no cluster"
        expected = f"one of {', '.join(SCHEDULERS)}"
        raise BadInput([Problem("submit", found, expected, "write it behind submit")])
    start_log()
    submit(read_words(words[0], words[1:]), lambda line: print(line, file=sys.stderr))
    return 0
