"""`python3 -m workflow`: submit, list, status, logs, cancel, report, compare, prefetch."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from workflow.cluster import job_record as records
from workflow.cluster.overview import describe, look, run_names, table
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.core.errors import BadInput, Problem, WorkflowError
from workflow.runs.mount import Mount, find_mount, find_run_folder
from workflow.runs.status import is_run_folder

VERBS = {
    "submit": "slurm|kubernetes|local [flags] -- seq2seq.py|clf.py [flags]: hand a job over; "
    "submit slurm -h tells the flags",
    "list": "all runs and jobs",
    "status": "one run, with the end of its log",
    "logs": "what a job has said",
    "cancel": "end a job; one that runs saves first, as far as its cluster gives it the time",
    "report": "make a run's report.html anew, of what its folder holds",
    "compare": "runs, or steps of runs, against the first named, with paired intervals",
    "prefetch": "put a model of the hub into mount/models",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["submit"] and words[1:2] not in (["-h"], ["--help"]):
            from workflow.cluster.submit import main as submit

            return submit(words[1:])
        asked = _parser().parse_args(words)
        mount = find_mount(asked.mount)
        verbs: dict[str, Callable[[Mount, argparse.Namespace], int]] = {
            "list": _list, "status": _status, "logs": _logs, "cancel": _cancel,
            "report": _report, "compare": _compare, "prefetch": _prefetch,
        }  # fmt: skip
        return verbs[asked.verb](mount, asked)
    except WorkflowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # as of `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m workflow", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name, told in VERBS.items():
        verb = verbs.add_parser(name, help=told, description=told)
        if name != "submit":  # whose job names its mount
            mount = "holds data/ and models/ [$WORKFLOW_MOUNT, or ./mount]"
            verb.add_argument("--mount", help=mount)
        if name == "logs":
            verb.add_argument("-f", "--follow", action="store_true", help="go on as it says more")
        if name in ("status", "logs", "report"):
            verb.add_argument("run", nargs="?", help="[the newest]", metavar="RUN")
        if name == "cancel":
            verb.add_argument("run", metavar="RUN")
        if name == "compare":
            _add_comparison(verb)
        if name == "prefetch":
            verb.add_argument("model", help="as google/flan-t5-xl", metavar="MODEL")
    return parser


def _add_comparison(verb: argparse.ArgumentParser) -> None:
    named = (
        "RUN (its last evaluation), RUN@STEP, RUN@best or RUN@last; one RUN alone: first and last"
    )
    verb.add_argument("runs", nargs="+", help=named, metavar="RUN")
    verb.add_argument("--html", help="write a page with all records too", metavar="FILE")
    verb.add_argument("--json", help="write the numbers too; - for nothing else", metavar="FILE")


def _list(mount: Mount, asked: argparse.Namespace) -> int:
    lines = table([look(mount, name) for name in run_names(mount)])
    print("\n".join(lines) if len(lines) > 1 else f"no runs in {mount.models}")
    return 0


def _status(mount: Mount, asked: argparse.Namespace) -> int:
    print("\n".join(describe(look(mount, asked.run or _newest(mount)), mount)))
    return 0


def _logs(mount: Mount, asked: argparse.Namespace) -> int:
    run = asked.run or _newest(mount)
    folder = records.folder_of(mount, run)
    record = records.read_record(folder)
    if record is None:
        look(mount, run)  # says so where there is no such run
        mend = "look where it was started: there it spoke"
        raise BadInput([Problem(f"run {run}", "no log", "a run that was submitted", mend)])
    SCHEDULERS[record.cluster].show_log(record, folder, asked.follow)


def _cancel(mount: Mount, asked: argparse.Namespace) -> int:
    record = records.read_record(records.folder_of(mount, asked.run))
    if record is None:
        look(mount, asked.run)
        found = "a run that was not submitted"
        mend = f"write a file `stop` into {mount.models / asked.run}, which lets it save and end"
        raise BadInput([Problem(f"cancel {asked.run}", found, "a submitted one", mend)])
    if not state_of(record).may_live:
        print(f"{asked.run} has no live job; nothing was done")
        return 0
    SCHEDULERS[record.cluster].cancel(record)
    print(f"asked {record.title} to end")
    return 0


def _report(mount: Mount, asked: argparse.Namespace) -> int:
    from workflow.reporting.report.run import write_report

    name = asked.run or _newest(mount)
    run, problems = find_run_folder(mount, name)
    if problems:
        raise BadInput([replace(problem, where=f"run {name}") for problem in problems])
    if not is_run_folder(run):
        look(mount, name)  # says so where there is no such run
        mend = "wait until it has begun"
        raise BadInput([Problem(f"run {run.name}", "no folder of its own", "a run", mend)])
    print(write_report(run))
    return 0


def _compare(mount: Mount, asked: argparse.Namespace) -> int:
    from workflow.reporting.compare import compare

    return compare(mount, asked.runs, asked.html, asked.json)


def _prefetch(mount: Mount, asked: argparse.Namespace) -> int:
    from workflow.core.console import start_log
    from workflow.runs.model_store import prefetch

    start_log()
    prefetch(asked.model, mount)
    return 0


def _newest(mount: Mount) -> str:
    names = list(run_names(mount))
    if not names:
        found = "no runs"
        raise BadInput([Problem(str(mount.models), found, "a run or a job", "submit one")])
    return names[-1]
