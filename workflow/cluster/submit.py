"""`python3 -m workflow submit`: a job checked, rendered and handed to a cluster."""

import dataclasses
import fcntl
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

from workflow.cluster.job_record import TEXT, Record, folder_of, read_record, write_record
from workflow.cluster.job_state import OutOfReach
from workflow.cluster.parse import PROJECT, SubmitRequest, read_words
from workflow.cluster.resources import Submission
from workflow.cluster.schedulers import SCHEDULERS, Scheduler, state_of
from workflow.config.parse import as_arguments
from workflow.config.request import JobRequest
from workflow.core.console import start_log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.runs.mount import Mount, find_data, find_model, find_mount, run_name_of
from workflow.runs.status import read_status

SLOWEST_DISK = 100e6
"""Bytes a second, taken to be written where no run has shown how long a save takes."""
FIRST_SECONDS = 60
"""Of a margin: for what the job does besides saving, as ending its step."""


NOT_SEEN = "model and data were not checked: --mount, behind the --, names where they are, if here"
UNSEEN_SECONDS = 600
"""A margin where not even the model's size is known."""


def submit(asked: SubmitRequest, tell: Callable[[str], None]) -> None:
    """Check a job, and queue it; with --dry_run only tell what would be queued.

    Raises:
        BadInput: with all that keeps the job from working; nothing is queued then.
    """
    with chdir(asked.command.folder):  # where the job will read its flags
        mount, seen = _mount(asked)
        scheduler = SCHEDULERS[asked.kind]
        asked, problems = _with_dependency(asked, mount)
        submission = _submission(asked, mount, seen)
        folder = folder_of(mount, submission.run_name)
        reads = list(_read_by(asked, mount)) if seen else []
        text, more = scheduler.render(submission, asked.cluster, folder, reads)
        problems = [*asked.problems, *problems, *more]
        only_told = asked.options.dry_run or (
            asked.kind == "kubernetes" and not asked.options.apply
        )
        found, unknown = _of_cluster(scheduler, text, folder if seen else None)
        problems += found if only_told else [*found, *unknown]
        for problem in unknown if only_told else ():
            tell(f"not asked: {problem.found}")
        if seen:
            for line in _checked(asked, submission, mount, problems):
                tell(line)
        elif problems:
            raise BadInput(problems)
        else:
            tell(NOT_SEEN)
        if only_told:
            print(text, end="")
            return
        with _held(mount):
            found, unknown = _problems_of_queue(folder)
            if problems := [*found, *unknown]:
                raise BadInput(problems)
            record = _hand_over(asked, submission, folder, text)
    usual = mount.root == find_mount(None).root.absolute()
    words = [record.run_name, *([] if usual else ["--mount", str(mount.root)])]
    command = f"python3 -m workflow status {shlex.join(words)}"
    tell(f"submitted as {record.title}; `{command}` tells of it")


def _of_cluster(
    scheduler: Scheduler, text: str, folder: Path | None
) -> tuple[list[Problem], list[Problem]]:
    """What speaks against a job by its cluster's word, and what that would have to say.

    Args:
        folder: of the job, where its run is to be seen from here.
    """
    found, unknown = ([], []) if folder is None else _problems_of_queue(folder)
    try:
        if text:
            found = [*scheduler.problems_of_text(text), *found]
    except OutOfReach as error:
        unknown = [*error.problems, *unknown]
    return found, unknown


def _checked(
    asked: SubmitRequest, submission: Submission, mount: Mount, problems: list[Problem]
) -> list[str]:
    """The memory plan's verdict; raises BadInput with all that keeps the job from working."""
    from workflow.cluster.preflight import look_ahead, machine_of  # slow: torch and transformers

    here = asked.kind == "local"
    machine = None if here else machine_of(asked.cluster, submission.processes)
    nodes, waits = asked.cluster.num_nodes, asked.cluster.dependency is not None
    return look_ahead(asked.spec, mount, problems, submission.processes, nodes, machine, waits)


def _mount(asked: SubmitRequest) -> tuple[Mount, bool]:
    """The job's mount, and whether its files are to be seen here.

    A project that the command names has its own beside its scripts. What a claim of Kubernetes
    holds is seen only where somebody says so.
    """
    named, project = find_mount(asked.place.mount), asked.command.project
    by_chance = named.root == PROJECT / "mount"
    if asked.kind == "kubernetes" and by_chance:
        folder = Path(str((asked.cluster.kubernetes or {}).get("host_path") or ""))
        if not folder.is_absolute() or not folder.is_dir():
            return named, False
        named = Mount(folder)
    elif by_chance and project != PROJECT:
        named = Mount(project / "mount")
    return Mount((asked.command.folder / named.root).absolute()), True


def _submission(asked: SubmitRequest, mount: Mount, seen: bool) -> Submission:
    spec, command = asked.spec, asked.command
    run_name = run_name_of(spec)
    return Submission(
        task=command.task,
        arguments=as_arguments(spec),  # as checked: a job file may change while the job waits
        run_name=run_name,
        processes=_processes(asked),
        folder=command.folder,
        project=command.project,
        mount=mount.root,
        margin=_margin(mount, spec, run_name) if seen else UNSEEN_SECONDS,
    )


def _processes(asked: SubmitRequest) -> int:
    """Of each machine: as many as asked for, else one a GPU."""
    if asked.place.num_processes is not None:
        return asked.place.num_processes
    if asked.kind == "local" and not asked.cluster.gpus_per_node:
        import torch  # slow

        return max(1, torch.cuda.device_count())
    return max(1, asked.cluster.gpus_per_node)


def _margin(mount: Mount, spec: JobRequest, run_name: str) -> int:
    """Seconds that the job may take to end its step and to save: by what it took before.

    Where it never ran, a checkpoint is taken to be three times the model's files, which is what
    float32 weights become with both moments.
    """
    told = read_status(mount.models / run_name).get("stop_seconds")
    if isinstance(told, int | float) and told > 0:
        return FIRST_SECONDS + round(3 * told)
    source, _ = find_model(mount, spec)
    files = [*Path(source).glob("*.safetensors"), *Path(source).glob("pytorch_model*.bin")]
    return FIRST_SECONDS + round(3 * sum(file.stat().st_size for file in files) / SLOWEST_DISK)


def _read_by(asked: SubmitRequest, mount: Mount) -> Iterator[Path]:
    """The files and folders that the job reads, as far as they are here."""
    spec = asked.spec
    source, problems = find_model(mount, spec)
    if isinstance(source, Path) and not problems:
        yield source
    yield from find_data(mount, spec.data_name)[0].values() if spec.data_name else ()
    metric = None if spec.metric is None else spec.metric.rpartition(":")[0]
    yield from (Path(name).absolute() for name in (spec.deepspeed, metric) if name)


def _with_dependency(asked: SubmitRequest, mount: Mount) -> tuple[SubmitRequest, list[Problem]]:
    """The job to wait for in Slurm's words, in place of its run's name."""
    cluster = asked.cluster
    name = cluster.dependency
    if name is None or asked.kind != "slurm" or re.match(r"after|singleton|expand", name):
        return asked, []
    record, told = read_record(folder_of(mount, name)), read_status(mount.models / name)
    if record is None and name.isdigit():
        record = Record(name, "slurm", name)
    state = state_of(record) if record is not None else None
    if state is not None and state.may_live and record is not None and record.cluster == "slurm":
        return _waiting_for(asked, f"afterok:{record.identity}"), []
    if told.get("state") == "done" or (state is not None and state.word == "done"):
        return _waiting_for(asked, None), []
    found, mend = "no job on Slurm that was submitted for such a run", "submit that one first"
    if record is not None and state is not None:  # Slurm itself takes it, and forgets to wait
        found = f"{record.title}, which is not queued and does not run ({state.word})"
        mend = "submit that one again first; or leave this out, if it ended well"
    expected = "a run whose job is queued, runs or is done; or a job's number"
    return asked, [Problem(f"--dependency {shorten(name)}", found, expected, mend)]


def _waiting_for(asked: SubmitRequest, dependency: str | None) -> SubmitRequest:
    cluster = dataclasses.replace(asked.cluster, dependency=dependency)
    return dataclasses.replace(asked, cluster=cluster)


def _problems_of_queue(folder: Path) -> tuple[list[Problem], list[Problem]]:
    """Whether a job for this run is queued or runs already; and apart, that it is not known."""
    record = read_record(folder)
    if record is None or not (state := state_of(record)).may_live:
        return [], []
    where, expected = f"run {record.run_name}", "a run that has no job"
    if state.word == "unknown":
        found = f"{record.title}, and whether that has ended is not known ({state.reason})"
        mend = "submit where its cluster can be asked, or choose another name"
        return [], [Problem(where, found, expected, mend)]
    mend = f"wait for it, `python3 -m workflow cancel {record.run_name}`, or choose another name"
    return [Problem(where, f"a job that is {state.word} ({record.title})", expected, mend)], []


@contextmanager
def _held(mount: Mount) -> Iterator[None]:
    """Hold a lock of the mount: of two submissions for one run the second sees the first."""
    mount.jobs.mkdir(parents=True, exist_ok=True)
    with open(mount.jobs / ".lock", "w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hand_over(asked: SubmitRequest, submission: Submission, folder: Path, text: str) -> Record:
    """Queue the job, and note it in its folder, which goes again where the cluster refuses it."""
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    scheduler = SCHEDULERS[asked.kind]
    try:
        record = scheduler.queue(text, submission, asked.cluster, folder)
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
