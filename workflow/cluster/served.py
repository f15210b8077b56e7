"""A server as a job: `submit … -- serve RUN`, one process on one node."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from workflow.cluster.legacy_command import Command
from workflow.cluster.resources import Cluster, Submission, not_supported
from workflow.config.parse import make_job
from workflow.config.serve_flags import (
    SERVE,
    add_arguments,
    is_loopback,
    missing_packages,
    problems_of_access,
    read_adapters,
)
from workflow.core.errors import BadInput, Problem
from workflow.runs.mount import Mount, newest_checkpoint

END_SECONDS = 15
"""How long a server takes to end after its requests."""
ALL_ADDRESSES = "0.0.0.0"
_HINTS = {
    "num_nodes": "remove it; a server is one process on one node",
    "gpu_memory": "remove it; the memory of servers is not planned",
}
_ON_KUBERNETES = {"max_restarts": "remove it; a Deployment restarts its pod without a limit"}


@dataclass(frozen=True)
class Server(Submission):
    """A server as it is submitted.

    Attributes:
        run_name: the folder of its text, record and log; it writes no other.
        margin: seconds in which it ends after a signal.
    """

    port: int = 8000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = "`python3 -m workflow serve -h` lists them"
        raise BadInput([Problem("-- serve", message, "a RUN and flags of serve", hint)])


def read_server(kind: str, words: Sequence[str], cluster: Cluster) -> argparse.Namespace:
    """Parse the flags of `serve`.

    Returns:
        serve's own flags, `arguments` with those that differ from its defaults, `name` of the job,
        and `problems` of both.

    Raises:
        BadInput: flags that serve would not take.
    """
    parser = _Parser(prog=f"python3 -m workflow submit {kind} [flags] -- serve", allow_abbrev=False)
    parser.add_argument("--mount", help="folder with data/ and models/")
    add_arguments(parser)
    command = parser.parse_args(list(words))
    if command.host is None and kind != "local":
        command.host = ALL_ADDRESSES
    given = {name: value for name, value in vars(command).items() if name not in ("model", "mount")}
    flags: list[str] = []
    for name, value in given.items():
        if value is True:
            flags.append(f"--{name}")
        elif value != parser.get_default(name):
            flags += [f"--{name}={one}" for one in (value if name == "adapter" else [value])]
    command.arguments = (command.model, *flags)
    # one folder in mount/models/.jobs
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", cluster.name or f"{SERVE}-{command.model}")
    command.name = plain.strip(".-")[:100] or SERVE
    command.problems = _problems(kind, command, cluster)
    return command


def _problems(kind: str, command: argparse.Namespace, cluster: Cluster) -> list[Problem]:
    defaults, hints = Cluster(), _HINTS | (_ON_KUBERNETES if kind == "kubernetes" else {})
    problems = [
        not_supported(name, f"{kind} -- serve", hint)
        for name, hint in hints.items()
        if getattr(cluster, name) != getattr(defaults, name)
    ]
    if kind != "kubernetes" and cluster.container is None:  # the nodes use this .venv, too
        problems += missing_packages()
    if cluster.gpus_per_node > 1:
        hint = "write --gpus_per_node 1; a server is one process on one GPU"
        found = str(cluster.gpus_per_node)
        problems.append(Problem("--gpus_per_node", found, "at most one GPU", hint))
    if command.host is not None:
        has_key = command.api_key_env is not None
        problems += problems_of_access(command.host, has_key, command.no_auth)
        if kind == "kubernetes" and is_loopback(command.host):
            found = f"{command.host}, which only the pod itself reaches"
            problems.append(Problem("--host", found, "an address of the pod", "remove it"))
    return problems + read_adapters(command.adapter)[1]


def server_of(
    served: argparse.Namespace, command: Command, cluster: Cluster, mount: Mount
) -> Server:
    """The submission of a parsed server."""
    return Server(
        task=SERVE,
        arguments=served.arguments,
        run_name=served.name,
        processes=1,
        folder=command.folder,
        project=command.project,
        mount=mount,
        margin=served.grace + END_SECONDS,
        cluster=dataclasses.replace(cluster, name=None),  # of the queue; now the run_name
        port=served.port,
    )


def read_by(served: argparse.Namespace, mount: Mount) -> tuple[list[Path], list[Problem]]:
    """The folders of the models that a server loads, and what is wrong with them."""
    from workflow.training.adapters import find_model_and_adapter  # slow: torch

    names = {served.model: f"{SERVE} {served.model}"}
    names |= {
        one: f"--adapter {name}={one}" for name, one in read_adapters(served.adapter)[0].items()
    }
    folders: list[Path] = []
    problems: list[Problem] = []
    for name, where in names.items():
        if not name:  # reported already
            continue
        newest = newest_checkpoint(mount, name)
        request = make_job("seq2seq", model_init_name=newest, data_name="none")
        model, adapter, wrong = find_model_and_adapter(mount, request)
        folders += [path for path in (model, adapter) if isinstance(path, Path) and not wrong]
        problems += [dataclasses.replace(one, where=where) for one in wrong]
    return folders, problems
