"""`python3 -m workflow sweep`: a job with several values of flags, and several seeds."""

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from workflow.cluster.job_record import folder_of, read_record
from workflow.cluster.parse import PROJECT, read_words
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.cluster.resources import Submission
from workflow.config.flags import read_json_object
from workflow.config.job import JOB_FLAGS
from workflow.config.parse import ALIASES, CLUSTER_PART, make_job
from workflow.config.task_specs import TASK_SPECS
from workflow.core.console import log, show, start_log
from workflow.core.errors import BadInput, Problem, RunFailed, Stopped, shorten
from workflow.core.files import read_object, write_json
from workflow.reporting.compare.seeds import by_seed
from workflow.runs.mount import Mount, find_data, find_run_folder
from workflow.runs.status import read_status

_LONGEST = 40
"""Characters of a value in a folder's name."""
_STOPPED = (Stopped.exit_status, 130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a run that was asked to stop."""


def sweep(mount: Mount, command: argparse.Namespace) -> None:
    """Run or submit the jobs of a sweep that are not done.

    Raises:
        BadInput: with all problems of all jobs, before any of them runs.
        RunFailed: some runs failed.
        Stopped: on request; the same command continues.
    """
    name, jobs = _read(mount, command)
    start_log()
    files = {run: _written(mount, run, job) for run, job in jobs.items()}
    left = {run: file for run, file in files.items() if not _is_done(mount, run, file)}
    if len(left) < len(files):
        log.info("%d of %d runs are done already", len(files) - len(left), len(files))
    if command.then:
        _submit(mount, name, left, command)
        return
    failed = []
    for number, (run, file) in enumerate(left.items(), start=1):
        log.info("run %d of %d: %s", number, len(left), run)
        script = PROJECT / f"{jobs[run]['task']}.py"
        if _call([sys.executable, str(script), f"--config={file}", f"--mount={mount.root}"]):
            failed.append(run)
    with suppress(BadInput):  # no run is done
        show(by_seed(mount, [name]))
    if failed:
        found = f"{len(failed)} of {len(files)} runs failed: {', '.join(failed)}"
        raise RunFailed(f"{found}. Hint: fix the cause, then rerun the command, which repeats them")


def _read(mount: Mount, command: argparse.Namespace) -> tuple[str, dict[str, dict[str, Any]]]:
    """The sweep's name, and the content of each job file by the name of its run."""
    path, words = Path(command.config), command.then
    parsed, problems = read_json_object(path)
    in_file = {ALIASES.get(flag, flag): value for flag, value in parsed.items()}
    axes, of_grid = _axes(command.grid, command.seeds, in_file)
    problems += of_grid
    if in_file and str(in_file.get("task")) not in TASK_SPECS:
        found = shorten(in_file["task"]) if "task" in in_file else "missing"
        hint = 'add "task": "clf" or "task": "seq2seq"'
        problems.append(Problem(f"--config {path}: task", found, "clf or seq2seq", hint))
    if not mount.root.is_dir():
        hint = "create it, or set --mount or $WORKFLOW_MOUNT"
        problems.append(Problem(str(mount.root), "does not exist", "a mount", hint))
    if words and (words[0] != "submit" or not {*words[1:2]} & {*SCHEDULERS}):
        found, expected = shorten(" ".join(words)), f"submit {'|'.join(SCHEDULERS)} [flags]"
        problems.append(Problem("--", found, expected, "correct the words after the --"))
    name = command.name or str(in_file.get("training_run_name") or path.stem)
    if "/" in name:
        problems.append(Problem("--name", shorten(name), "a name without /", "add --name NAME"))
    jobs, of_jobs = _jobs(in_file, axes, name)
    _, of_name = find_run_folder(mount, max(jobs, key=len))
    if problems := [*problems, *of_name, *of_jobs]:
        raise BadInput(list(dict.fromkeys(problems)))
    return name, jobs


def _axes(
    words: Sequence[str], seeds: int | None, in_file: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """The values of each flag, by their parts of folder names; those of the seed come last."""
    axes: dict[str, dict[str, Any]] = {}
    problems = []
    for word in words:
        written, _, text = word.partition("=")
        flag, where = ALIASES.get(written, written), f"--grid {written}"
        if flag in axes or (flag == "seed" and seeds):
            found = "given twice" if flag in axes else "given with --seeds"
            problems.append(Problem(where, found, "each flag once", "remove one of them"))
        if flag in JOB_FLAGS and JOB_FLAGS[flag].may_differ_on_resume:
            found, hint = "does not change results", "set it in the job file, or remove it"
            problems.append(Problem(where, found, "a flag that changes results", hint))
        axes[flag], more = _values(where, text)
        problems += more
    first = int(in_file["seed"]) if str(in_file.get("seed")).isdecimal() else 0
    usual = {str(seed): seed for seed in range(first, first + (seeds or 1))}
    of_seed = axes.pop("seed", usual)
    return axes | {"seed": of_seed}, problems


def _values(where: str, text: str) -> tuple[dict[str, Any], list[Problem]]:
    """The values in VALUE,VALUE or [JSON, JSON], by their part of a folder's name."""
    values: list[Any] = text.split(",")
    with suppress(ValueError):
        values = (json.loads(text) or [""]) if text.startswith("[") else values
    found: dict[str, Any] = {}
    problems = []
    for value in values:
        word = value if isinstance(value, str) else json.dumps(value)
        word = re.sub(r"[^a-zA-Z0-9_.,=+-]+", "-", word)[:_LONGEST]  # shells need not quote it
        if value == "" or word in found:
            what = f"two values with the folder name {word}" if value else "an empty value"
            expected, hint = "FLAG=VALUE,VALUE or FLAG=[JSON, JSON]", "write different values"
            problems.append(Problem(where, what, expected, hint))
        found[word] = value
    return found, problems


def _jobs(
    in_file: dict[str, Any], axes: dict[str, dict[str, Any]], name: str
) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """A job file for each combination of values, by the name of its run, and all problems."""
    jobs: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for cell in itertools.product(*(values.items() for values in axes.values())):
        chosen = {flag: value for flag, (_, value) in zip(axes, cell, strict=True)}
        run = f"{name}/" + ",".join(f"{f}={w}" for f, (w, _) in zip(axes, cell, strict=True))
        given = {flag: value for flag, value in chosen.items() if value not in (None, "none")}
        rest = {flag: value for flag, value in in_file.items() if flag not in chosen}
        jobs[run] = rest | given | {"training_run_name": run}
        flags = {n: v for n, v in jobs[run].items() if n not in ("task", CLUSTER_PART) and v != ""}
        try:
            if (task := str(in_file.get("task"))) in TASK_SPECS:
                make_job(task, **flags)
        except BadInput as error:
            problems += error.problems
    return jobs, problems


def _written(mount: Mount, run: str, job: dict[str, Any]) -> Path:
    """The job file of a run, written only if the job is new or has changed."""
    path = mount.jobs / f"{run}.json"
    if read_object(path) != job:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, job)
    return path


def _is_done(mount: Mount, run: str, file: Path) -> bool:
    """Whether the run was done after its job file and its data were written."""
    status = read_status(mount.models / run)
    data, _ = find_data(mount, read_object(file)["data_name"])
    written = max(path.stat().st_mtime for path in (file, *data.values()))
    return status.get("state") == "done" and float(status.get("time", 0)) > written


def _call(command: Sequence[str]) -> int:
    """Run a command, which gets our signals, and return its exit status; Stopped ends the sweep."""
    process = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    with suppress(KeyboardInterrupt):  # a terminal interrupts the run, too
        process.wait()
    if (status := process.wait()) in _STOPPED:
        raise Stopped("sweep stopped; the same command continues it")
    return status


def _submit(mount: Mount, name: str, files: dict[str, Path], command: argparse.Namespace) -> None:
    """Submit jobs, unless they are active: to Slurm as an array, to others one by one."""
    from workflow.cluster.submit import submit, submit_array  # slow

    _, kind, *flags = command.then
    checked: list[tuple[Submission, str]] = []
    problems: list[Problem] = []
    for run, file in files.items():
        record = read_record(folder_of(mount, run))
        if record is not None and (state := state_of(record)).may_live:
            log.info("%s is %s already, as %s", run, state.word, record.title)
            continue
        job = ["--", f"{read_object(file)['task']}.py", f"--mount={mount.root}"]
        request = read_words(kind, [*flags, f"--config={file}", *job])
        try:
            submit(request, log.info, checked if kind == "slurm" else None)
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    if checked:
        array = submit_array(checked, name, command.at_once)
        log.info("submitted %d runs as %s, an array", len(checked), array.title)
