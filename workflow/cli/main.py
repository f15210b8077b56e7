"""`python3 -m workflow`: submit, list, status, logs, cancel, report, compare, prefetch."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from workflow.cluster import job_record as records
from workflow.cluster.overview import describe, look, run_names, table
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.core.errors import BadInput, Problem, WorkflowError
from workflow.runs.mount import Mount, find_mount, find_run_folder
from workflow.runs.status import is_run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["submit"] and words[1:2] not in (["-h"], ["--help"]):
            from workflow.cluster.submit import main as submit

            return submit(words[1:])
        command = _parser().parse_args(words)
        return int(command.do(find_mount(command.mount), command) or 0)
    except WorkflowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # as of `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    called = Path(sys.argv[0]).name
    prog = called if called == "workflow" else "python3 -m workflow"
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(
        name: str, do: Callable[[Mount, argparse.Namespace], int | None], help: str
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help, description=help)
        verb.add_argument("--mount", help="holds data/ and models/ [$WORKFLOW_MOUNT, or ./mount]")
        verb.set_defaults(do=do)
        return verb

    submitting = (  # whose job names its mount
        "slurm|kubernetes|local [flags] -- seq2seq.py|clf.py [flags]: hand a job over; "
        "submit slurm -h tells the flags"
    )
    verbs.add_parser("submit", help=submitting, description=submitting)
    add("list", _list, "all runs and jobs")
    status = add("status", _status, "one run, with the end of its log")
    logs = add("logs", _logs, "what a job has said")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it says more")
    cancel = add(
        "cancel",
        _cancel,
        "end a job; one that runs saves first, as far as its cluster gives it the time",
    )
    cancel.add_argument("run", metavar="RUN")
    report = add("report", _report, "make a run's report.html anew, of what its folder holds")
    for verb in (status, logs, report):
        verb.add_argument("run", nargs="?", help="[the newest]", metavar="RUN")
    compare = add(
        "compare",
        _compare,
        "runs, or steps of runs, against the first named, with paired intervals",
    )
    named = (
        "RUN (its last evaluation), RUN@STEP, RUN@best or RUN@last; one RUN alone: first and last"
    )
    compare.add_argument("runs", nargs="+", help=named, metavar="RUN")
    compare.add_argument("--html", help="write a page with all records too", metavar="FILE")
    compare.add_argument("--json", help="write the numbers too; - for nothing else", metavar="FILE")
    prefetch = add("prefetch", _prefetch, "put a model of the hub into mount/models")
    prefetch.add_argument("model", help="as google/flan-t5-xl", metavar="MODEL")
    return parser


def _list(mount: Mount, command: argparse.Namespace) -> None:
    lines = table([look(mount, name) for name in run_names(mount)])
    print("\n".join(lines) if len(lines) > 1 else f"no runs in {mount.models}")


def _status(mount: Mount, command: argparse.Namespace) -> None:
    print("\n".join(describe(look(mount, command.run or _newest(mount)), mount)))


def _logs(mount: Mount, command: argparse.Namespace) -> None:
    run = command.run or _newest(mount)
    folder = records.folder_of(mount, run)
    record = records.read_record(folder)
    if record is None:
        look(mount, run)  # says so where there is no such run
        hint = "look where it was started: there it spoke"
        raise BadInput([Problem(f"run {run}", "no log", "a run that was submitted", hint)])
    SCHEDULERS[record.cluster].show_log(record, folder, command.follow)


def _cancel(mount: Mount, command: argparse.Namespace) -> None:
    run = command.run
    record = records.read_record(records.folder_of(mount, run))
    if record is None:
        look(mount, run)
        found = "a run that was not submitted"
        hint = f"write a file `stop` into {mount.models / run}, which lets it save and end"
        raise BadInput([Problem(f"cancel {run}", found, "a submitted one", hint)])
    if not state_of(record).may_live:
        print(f"{run} has no live job; nothing was done")
    else:
        SCHEDULERS[record.cluster].cancel(record)
        print(f"asked {record.title} to end")


def _report(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.reporting.report.run import write_report

    name = command.run or _newest(mount)
    run, problems = find_run_folder(mount, name)
    if problems:
        raise BadInput([replace(problem, where=f"run {name}") for problem in problems])
    if not is_run_folder(run):
        look(mount, name)  # says so where there is no such run
        hint = "wait until it has begun"
        raise BadInput([Problem(f"run {run.name}", "no folder of its own", "a run", hint)])
    print(write_report(run))


def _compare(mount: Mount, command: argparse.Namespace) -> int:
    from workflow.reporting.compare import compare

    return compare(mount, command.runs, command.html, command.json)


def _prefetch(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.core.console import start_log
    from workflow.runs.model_store import prefetch

    start_log()
    prefetch(command.model, mount)


def _newest(mount: Mount) -> str:
    names = run_names(mount)
    if not names:
        raise BadInput([Problem(str(mount.models), "no runs", "a run or a job", "submit one")])
    return names[-1]
