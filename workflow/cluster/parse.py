"""The command line of `python3 -m workflow submit`, and the "cluster" part of a job file."""

import argparse
import dataclasses
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workflow.cluster.legacy_command import SCRIPTS, Command, read_command
from workflow.cluster.resources import ALIASES, Cluster
from workflow.cluster.served import read_server
from workflow.config.field_types import boolean, text
from workflow.config.flags import FlagSet, flag, flags_of, read_json_object
from workflow.config.launch import LaunchOptions
from workflow.config.parse import CLUSTER_PART, make_job, parse_command_line
from workflow.config.request import JobRequest
from workflow.config.serve_flags import SERVE
from workflow.core.errors import BadInput, Problem, shorten
from workflow.runs.mount import find_mount

PROJECT = Path(__file__).resolve().parents[2]
_submitting = partial(flag, "submission")
DESCRIPTION = "Check a job, then submit it to a scheduler or run it in this machine's background."


@dataclass(frozen=True)
class Options:
    """Flags of `submit` itself."""

    config: str | None = _submitting(text(), 'job file; its "cluster" object sets these flags')
    dry_run: bool = _submitting(
        boolean(), "print the script or manifest and the memory plan; submit nothing", False
    )
    apply: bool = _submitting(
        boolean(), "Kubernetes: run kubectl apply; otherwise only print the manifest", False
    )


@dataclass(frozen=True)
class SubmitRequest:
    """A parsed command line: the job, its cluster flags and all problems of both.

    Attributes:
        prints_only: print the job's text, submit nothing.
        spec: of a job that trains or evaluates.
        served: as `read_server` returns it; None for other jobs.
    """

    kind: str
    cluster: Cluster
    prints_only: bool
    command: Command
    spec: JobRequest
    launch: LaunchOptions
    problems: list[Problem]
    served: argparse.Namespace | None = None


def read_words(kind: str, words: Sequence[str]) -> SubmitRequest:
    """Parse what follows `submit KIND`: cluster flags, then -- and the job's own command."""
    jobs = "seq2seq.py|clf.py|serve RUN [flags of the job]"
    usage = f"python3 -m workflow submit {kind} [flags] -- {jobs}"
    flags = FlagSet(flags_of(Cluster, Options), ALIASES)
    cut = words.index("--") if "--" in words else len(words)
    typed, _, problems = flags.read_command_line(words[:cut], DESCRIPTION, usage)
    of_submitting = typed.keys() & {f.name for f in dataclasses.fields(Options)}
    options = Options(**{name: typed.pop(name) for name in of_submitting})
    job = list(words[cut + 1 :])
    config = _config_of(options, job)
    # the job reports the file's other problems
    in_file = {} if config is None else read_json_object(config)[0]
    part, more = _cluster_part(in_file, f"--config {config}: {CLUSTER_PART}")
    problems += more
    for name, value in typed.items():  # the command line overrides the file, key by key
        both = isinstance(value, dict) and isinstance(part.get(name), dict)
        part[name] = part[name] | value if both else value
    cluster = Cluster(**part)
    prints_only = options.dry_run or (kind == "kubernetes" and not options.apply)
    if job[:1] == [SERVE] and cluster.command is None:
        try:
            served = read_server(kind, job[1:], cluster)
        except BadInput as error:
            raise BadInput([*problems, *error.problems]) from None
        return _of_server(kind, cluster, prints_only, served, problems)
    command, unread = _command_of(job, in_file, config, cluster)
    with chdir(command.folder):  # where the job will read its flags
        spec, launch, more = parse_command_line(command.task, "", command.arguments)
    problems += unread or [*more, *_problems_of_launch(launch)]
    envs = {**(cluster.envs or {}), **command.envs}
    cluster = dataclasses.replace(cluster, setup=(*cluster.setup, *command.setup), envs=envs)
    prints_only = prints_only or launch.dry_run
    return SubmitRequest(kind, cluster, prints_only, command, spec, launch, problems)


def _of_server(
    kind: str,
    cluster: Cluster,
    prints_only: bool,
    served: argparse.Namespace,
    problems: list[Problem],
) -> SubmitRequest:
    # -m finds this project's code in its working directory, in any container
    command = Command(SERVE, served.arguments, PROJECT, PROJECT)
    spec = make_job("seq2seq", model_init_name=served.model, data_name="none")
    launch = LaunchOptions(mount=str(find_mount(served.mount).root.absolute()))
    key = {} if served.api_key_env is None else {served.api_key_env: None}
    cluster = dataclasses.replace(cluster, envs={**(cluster.envs or {}), **key})
    problems = [*problems, *served.problems]
    return SubmitRequest(kind, cluster, prints_only, command, spec, launch, problems, served)


def _config_of(options: Options, job: Sequence[str]) -> Path | None:
    """Return the job file of --config, given before or after the --."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", default=options.config, const=options.config)
    named = parser.parse_known_args(job)[0].config
    return None if named is None else Path(named).expanduser().absolute()


def _cluster_part(in_file: dict[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    part = in_file.get(CLUSTER_PART)
    if not isinstance(part, dict):
        return {}, []
    return FlagSet(flags_of(Cluster), ALIASES).read_object(part, f"{where}: ")


def _command_of(
    words: list[str], in_file: dict[str, Any], config: Path | None, cluster: Cluster
) -> tuple[Command, list[Problem]]:
    """Return the job's command: after --, in --command, or from a job file with a task."""
    here = Path.cwd()
    nothing = Command("seq2seq", (), here, PROJECT)  # lets the remaining checks run
    problems: list[Problem] = []
    if cluster.command is not None and words:
        found, hint = "--command and a job after --", "remove one"
        return nothing, [Problem("submit", found, "one of the two", hint)]
    if cluster.command is not None:
        try:
            command = read_command(cluster.command, cluster.shared_host_dir, here)
        except BadInput as error:
            command, problems = nothing, error.problems
    elif words and Path(words[0]).name in SCRIPTS:
        command, problems = _after_dashes(words, here)
    elif not words and config is not None:
        task, problems = _task_in(in_file, f"--config {config}: task")
        command = dataclasses.replace(nothing, task=task)
    else:
        found = shorten(" ".join(words)) if words else "no job"
        hint = "add -- seq2seq.py or -- clf.py with its flags after the cluster flags"
        return nothing, [Problem("submit", found, "-- seq2seq.py|clf.py [flags]", hint)]
    if config is not None and "--config" not in " ".join(command.arguments):
        arguments = ("--config", str(config), *command.arguments)
        command = dataclasses.replace(command, arguments=arguments)
    return command, problems


def _after_dashes(words: list[str], here: Path) -> tuple[Command, list[Problem]]:
    """Parse the command after --: a bare script name means this project's script."""
    script = Path(words[0]).expanduser()
    project = PROJECT if script.name == words[0] else (here / script).parent.resolve()
    command = Command(SCRIPTS[script.name], tuple(words[1:]), here, project)
    if (project / script.name).is_file():
        return command, []
    hint = f"correct the path, or write {script.name} alone for this project's"
    return command, [Problem(f"-- {words[0]}", "does not exist", "seq2seq.py or clf.py", hint)]


def _task_in(in_file: dict[str, Any], where: str) -> tuple[str, list[Problem]]:
    task = in_file.get("task")
    if task in SCRIPTS.values():
        return str(task), []
    found = "is missing" if task is None else shorten(task)
    hint = 'set "task", or add -- seq2seq.py after the flags'
    return "seq2seq", [Problem(where, found, "seq2seq or clf", hint)]


def _problems_of_launch(launch: LaunchOptions) -> list[Problem]:
    """Refuse --plan_* flags: the cluster flags describe the machines."""
    hint = "set --num_nodes, --gpus_per_node, --gpu_memory and --memory before the --"
    return [
        Problem(f"--{name}", "not supported with submit", "cluster flags", hint)
        for name in vars(launch)
        if name.startswith("plan_") and getattr(launch, name) is not None
    ]
