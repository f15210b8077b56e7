"""`python3 -m workflow serve`: a model over HTTP."""

import argparse
import importlib.util
import ipaddress
import os
from collections.abc import Sequence

from workflow.core.console import log, start_log
from workflow.core.errors import BadInput, Problem
from workflow.core.imports import importing
from workflow.runs.mount import Mount, newest_checkpoint

PACKAGES = ("fastapi", "uvicorn")
BODY = 10 << 20
"""Bytes of a request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    name = (
        "RUN/checkpoint-N, a RUN (its newest checkpoint), a folder of mount/models, or a hub name"
    )
    parser.add_argument("model", help=name, metavar="RUN")
    adapter = (
        "an adapter of RUN, which requests choose as model NAME; repeat for others: "
        "--adapter NAME=RUN/checkpoint-N"
    )
    parser.add_argument("--adapter", action="append", default=[], help=adapter, metavar="NAME=RUN")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="port [8000]")
    key = "environment variable with the key that requests must have as a bearer token"
    parser.add_argument("--api_key_env", help=key, metavar="NAME")
    parser.add_argument("--no_auth", action="store_true", help="serve other machines without a key")
    parser.add_argument("--batch", type=int, default=16, help="texts written together [16]")
    queue = "texts that may wait for a place; more are refused with 429 [64]"
    parser.add_argument("--queue", type=int, default=64, help=queue)
    parser.add_argument("--max_tokens", type=int, default=512, help="tokens of a text [512]")
    parser.add_argument("--deadline", type=float, default=300, help="seconds of a request [300]")
    grace = "seconds that running requests have to end after SIGTERM [30]"
    parser.add_argument("--grace", type=int, default=30, help=grace)
    parser.add_argument("--fp32", action="store_true", help="compute in float32 in any case")
    prompts = "log prompts, answers and tracebacks of failures"
    parser.add_argument("--log_prompts", action="store_true", help=prompts)


def serve(mount: Mount, command: argparse.Namespace) -> None:
    """Serve a model until a signal ends it.

    Raises:
        BadInput: all that is wrong with the command or the model.
    """
    key, problems = _key(command)
    adapters, wrong = _adapters(command.adapter)
    problems += wrong + _missing_packages()
    if problems:
        raise BadInput(problems)
    start_log()
    with importing():
        import uvicorn

        from workflow.serving.app import make_app
        from workflow.serving.limits import Limits
        from workflow.serving.model import load_adapters, load_served
        from workflow.serving.server import Server
    model = load_served(
        newest_checkpoint(mount, command.model), mount, False if command.fp32 else None
    )
    checkpoints = {name: newest_checkpoint(mount, run) for name, run in adapters.items()}
    models = [model, *load_adapters(checkpoints, model, mount)]
    prompt = model.job.spec.max_source_length
    limits = Limits(
        rows=command.batch, queue=command.queue, tokens=command.max_tokens, prompt=prompt,
        body=BODY, seconds=command.deadline, api_key=key, log_prompts=command.log_prompts,
    )  # fmt: skip
    app = make_app(Server.of(models, limits))
    names = ", ".join(one.name for one in models)
    log.info("serving %s on http://%s:%d", names, command.host, command.port)
    uvicorn.run(
        app, host=command.host, port=command.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=command.grace, server_header=False,
    )  # fmt: skip


def _key(command: argparse.Namespace) -> tuple[str | None, list[Problem]]:
    """The key of requests, if they need one."""
    if command.api_key_env is not None:
        if key := os.environ.get(command.api_key_env):
            return key, []
        where, hint = f"--api_key_env {command.api_key_env}", "export it"
        return None, [Problem(where, "not set", "an environment variable with the key", hint)]
    if _is_loopback(command.host) or command.no_auth:
        return None, []
    found, expected = f"{command.host}, which other machines reach", "a key that requests must have"
    hint = "add --api_key_env NAME, or --no_auth to serve anyone"
    return None, [Problem("--host", found, expected, hint)]


def _adapters(words: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
    """The checkpoints of adapters, by name."""
    adapters: dict[str, str] = {}
    problems = []
    for word in words:
        name, _, checkpoint = word.partition("=")
        if not (name and checkpoint):
            expected = "NAME=RUN or NAME=RUN/checkpoint-N"
            problems.append(Problem("--adapter", word, expected, "name the adapter for requests"))
        elif name in adapters:
            hint = "give each adapter a name of its own"
            problems.append(Problem("--adapter", f"{name} twice", "different names", hint))
        adapters[name] = checkpoint
    return adapters, problems


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _missing_packages() -> list[Problem]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    hint = "install them with scripts/setup --extra serve"
    return [Problem("serve", f"without {' and '.join(missing)}", "the extra serve", hint)]
