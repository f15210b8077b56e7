"""`python3 -m workflow`: jobs on clusters, sweeps, runs, comparisons, models."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from workflow.cli.chat import add_arguments as add_chat_arguments
from workflow.cluster import job_record as records
from workflow.cluster.overview import describe, inspect_run, run_names, run_table
from workflow.cluster.registry import SCHEDULERS, state_of
from workflow.config.field_types import argument, integer, number
from workflow.config.serve_flags import add_arguments as add_serve_arguments
from workflow.core.console import show, show_error
from workflow.core.errors import BadInput, Problem, WorkflowError
from workflow.core.imports import importing
from workflow.runs.mount import Mount, find_mount, find_run_folder
from workflow.runs.status import is_run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["submit"] and words[1:2] not in (["-h"], ["--help"]):
            from workflow.cluster.submit import main as submit

            return submit(words[1:])
        command = _parser().parse_args(words)
        return int(command.do(find_mount(command.mount), command) or 0)
    except WorkflowError as error:
        show_error(str(error))
        return error.exit_status
    except BrokenPipeError:  # e.g. `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        show_error(f"stopped: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    called = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=called if called == "workflow" else "python3 -m workflow",
        description="Submit and manage jobs, compare runs, import data, download and merge models.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(
        name: str, do: Callable[[Mount, argparse.Namespace], int | None], help: str
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help, description=help)
        mount = "folder with data/ and models/ [$WORKFLOW_MOUNT, /model_mount or ./mount]"
        verb.add_argument("--mount", help=mount)
        verb.set_defaults(do=do)
        return verb

    # without --mount, which is a flag of the job
    submit = "submit a job to Slurm or Kubernetes, or start it in the background (local)"
    usage = (
        "python3 -m workflow submit slurm|kubernetes|local [flags] -- seq2seq.py|clf.py|serve RUN"
    )
    flags = "`python3 -m workflow submit slurm -h` lists the flags."
    verbs.add_parser("submit", help=submit, description=submit, usage=usage, epilog=flags)
    sweep = add("sweep", _sweep, "run a job with every combination of some values, and with seeds")
    sweep.add_argument("--config", required=True, help='job file with "task"', metavar="FILE")
    grid = "values of a flag, or a JSON list of them; none: not given; repeat it for more flags"
    sweep.add_argument("--grid", action="append", default=[], help=grid, metavar="FLAG=VALUE,VALUE")
    seeds = "runs of each combination, from the job's own seed on [1]"
    sweep.add_argument("--seeds", type=argument(integer(1)), help=seeds, metavar="N")
    name = "folder of the runs in mount/models [training_run_name, or FILE's name]"
    sweep.add_argument("--name", help=name, metavar="NAME")
    at_once = "Slurm: tasks of the array that may run at the same time [all]"
    sweep.add_argument("--at_once", type=argument(integer(1)), help=at_once, metavar="N")
    then = "submit the jobs, to Slurm as an array, instead of running them here one by one"
    sweep.add_argument("then", nargs="*", help=then, metavar="-- submit slurm [flags]")
    add("list", _list, "list all runs and jobs")
    status = add("status", _status, "show a run's state, progress and end of log")
    logs = add("logs", _logs, "print a job's log")
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing new lines")
    cancel = add("cancel", _cancel, "cancel a job; it saves a checkpoint if it has the time")
    cancel.add_argument("run", help="name of the run", metavar="RUN")
    report = add("report", _report, "regenerate a run's report.html from its folder")
    for verb in (status, logs, report):
        verb.add_argument("run", nargs="?", help="name of the run [the newest]", metavar="RUN")
    compare = add("compare", _compare, "compare runs or steps, with paired confidence intervals")
    named = (
        "RUN (its last evaluation), RUN@STEP, RUN@best or RUN@last; a single RUN compares its "
        "first and last evaluations"
    )
    compare.add_argument("runs", nargs="+", help=named, metavar="RUN")
    by_seed = (
        "means and standard deviations over runs that differ only in seed, and tests against the "
        "best, of their last evaluations or RUN@best; RUN may also be a folder of runs or a "
        "pattern like 'NAME/*'"
    )
    compare.add_argument("--by_seed", action="store_true", help=by_seed)
    compare.add_argument("--html", help="also write a page with all records", metavar="FILE")
    compare.add_argument("--json", help="also write JSON; - prints only JSON", metavar="FILE")
    prefetch = add(
        "prefetch", _prefetch, "download a model from the Hugging Face hub to mount/models"
    )
    prefetch.add_argument("model", help="name on the hub, e.g. google/flan-t5-xl", metavar="MODEL")
    merge = add("merge", _merge, "write an adapter and its base as a plain model to mount/models")
    merge.add_argument("adapter", help="its folder in mount/models", metavar="RUN/checkpoint-N")
    merge.add_argument("name", help="of the new model in mount/models", metavar="NAME")
    served = add("serve", _serve, "serve a model over HTTP, with OpenAI's completions and chats")
    add_serve_arguments(served)
    asked = add("chat", _chat, "ask a model in the terminal")
    add_chat_arguments(asked)
    files = add("import", _import, "turn CSV, JSON or Parquet files into a data file")
    files.add_argument("files", nargs="+", help="several are one after another", metavar="FILE")
    files.add_argument("name", help="of the file to write, mount/data/NAME.json", metavar="NAME")
    key = "a key of the new records, and the path of its value; repeat it for more keys"
    files.add_argument(
        "--map", action="append", default=[], type=pair, help=key, metavar="KEY=PATH"
    )
    files.add_argument("--template", help='text of prompts or inputs, e.g. "Question: {question}"')
    where = "import only records with this value; repeat it for more fields"
    values = "FIELD=VALUE"
    files.add_argument(
        "--where", action="append", default=[], type=pair, help=where, metavar=values
    )
    files.add_argument(
        "--split",
        type=argument(number(0, 1, above=True)),
        help="share of train held out as eval [none]",
    )
    files.add_argument("--seed", type=int, default=0, help="decides what --split holds out [0]")
    files.add_argument("--overwrite", action="store_true", help="replace mount/data/NAME.json")
    return parser


def _sweep(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.cli.sweep import sweep

    sweep(mount, command)


def pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise ValueError
    return name, value


def _import(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.cli.import_data import import_data

    import_data(mount, command)


def _list(mount: Mount, command: argparse.Namespace) -> None:
    runs = [inspect_run(mount, name) for name in run_names(mount)]
    show([run_table(runs) if runs else f"no runs in {mount.models}"])


def _status(mount: Mount, command: argparse.Namespace) -> None:
    show(describe(inspect_run(mount, command.run or _newest(mount)), mount))


def _logs(mount: Mount, command: argparse.Namespace) -> None:
    run = command.run or _newest(mount)
    folder = records.folder_of(mount, run)
    record = records.read_record(folder)
    if record is None:
        inspect_run(mount, run)  # raises if the run does not exist
        hint = "look at the output of the command that started it"
        raise BadInput([Problem(f"run {run}", "has no log", "a submitted run", hint)])
    SCHEDULERS[record.cluster].show_log(record, folder, command.follow)


def _cancel(mount: Mount, command: argparse.Namespace) -> None:
    run = command.run
    record = records.read_record(records.folder_of(mount, run))
    if record is None:
        inspect_run(mount, run)
        hint = f"create the file {mount.models / run / 'stop'} to make it save and exit"
        raise BadInput([Problem(f"cancel {run}", "was not submitted", "a submitted run", hint)])
    if not state_of(record).may_live:
        print(f"{run} has no active job; nothing to cancel")
    else:
        SCHEDULERS[record.cluster].cancel(record)
        print(f"cancelling {record.title}")


def _report(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.reporting.report.run import write_report

    name = command.run or _newest(mount)
    run, problems = find_run_folder(mount, name)
    if problems:
        raise BadInput([replace(problem, where=f"run {name}") for problem in problems])
    if not is_run_folder(run):
        inspect_run(mount, name)  # raises if the run does not exist
        hint = "wait until its job starts"
        raise BadInput([Problem(f"run {run.name}", "has no folder yet", "a started run", hint)])
    print(write_report(run))


def _compare(mount: Mount, command: argparse.Namespace) -> int:
    from workflow.reporting.compare import compare
    from workflow.reporting.compare.seeds import by_seed

    if command.by_seed and (command.html or command.json):
        found, hint = "set with --html or --json", "remove one of them"
        raise BadInput([Problem("--by_seed", found, "a table in the terminal", hint)])
    if command.by_seed:
        show(by_seed(mount, command.runs))
        return 0
    return compare(mount, command.runs, command.html, command.json)


def _prefetch(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.core.console import start_log
    from workflow.runs.model_store import prefetch

    start_log()
    prefetch(command.model, mount)


def _serve(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.cli.serve import serve

    serve(mount, command)


def _chat(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.cli.chat import chat

    chat(mount, command)


def _merge(mount: Mount, command: argparse.Namespace) -> None:
    from workflow.core.console import start_log

    start_log()
    with importing():
        from workflow.training.merge import merge
    print(f"merged {command.adapter} into {merge(command.adapter, command.name, mount)}")


def _newest(mount: Mount) -> str:
    names = run_names(mount)
    if not names:
        raise BadInput([Problem(str(mount.models), "no runs", "a run or a job", "submit a job")])
    return names[-1]
