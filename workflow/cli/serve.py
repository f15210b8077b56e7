"""`python3 -m workflow serve`: a model over HTTP."""

import argparse
import asyncio
import os
import socket

from workflow.config.serve_flags import missing_packages, problems_of_access, read_adapters
from workflow.core.console import log, start_log
from workflow.core.errors import BadInput, Problem
from workflow.core.imports import importing
from workflow.runs.mount import Mount, newest_checkpoint

HOST = "127.0.0.1"
BODY = 10 << 20
"""Bytes of a request."""


def serve(mount: Mount, command: argparse.Namespace) -> None:
    """Serve a model until a signal ends it.

    Raises:
        BadInput: all that is wrong with the command or the model.
    """
    host = command.host or HOST
    key, problems = _key(command, host)
    adapters, wrong = read_adapters(command.adapter)
    problems += wrong + missing_packages()
    if problems := problems or _problems_of_port(host, command.port):
        raise BadInput(problems)
    start_log()
    with importing():
        import uvicorn

        from workflow.serving.app import make_app
        from workflow.serving.limits import Limits
        from workflow.serving.model import load_adapters, load_served
        from workflow.serving.server import Server
    bf16 = False if command.fp32 else None
    model = load_served(newest_checkpoint(mount, command.model), mount, bf16)
    checkpoints = {name: newest_checkpoint(mount, run) for name, run in adapters.items()}
    models = [model, *load_adapters(checkpoints, model, mount)]
    prompt = model.job.spec.max_source_length
    limits = Limits(
        rows=command.batch, queue=command.queue, tokens=command.max_tokens, prompt=prompt,
        body=BODY, seconds=command.deadline, api_key=key, log_prompts=command.log_prompts,
    )  # fmt: skip
    app = make_app(Server.of(models, limits))
    names = ", ".join(one.name for one in models)
    reached = socket.gethostname() if host in ("0.0.0.0", "::") else host
    log.info("serving %s on http://%s:%d", names, reached, command.port)
    uvicorn.run(
        app, host=host, port=command.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=command.grace, server_header=False,
    )  # fmt: skip


def _key(command: argparse.Namespace, host: str) -> tuple[str | None, list[Problem]]:
    """The key of requests, if they need one."""
    if command.api_key_env is None:
        return None, problems_of_access(host, False, command.no_auth)
    if key := os.environ.get(command.api_key_env):
        return key, []
    where, hint = f"--api_key_env {command.api_key_env}", "export it"
    return None, [Problem(where, "not set", "an environment variable with the key", hint)]


def _problems_of_port(host: str, port: int) -> list[Problem]:
    """The problem of an address that uvicorn could not listen on, once the model is loaded."""

    async def listen() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
        server.close()

    try:
        asyncio.run(listen())
    except OSError as error:
        reason = error.strerror or str(error)
        found = reason.rpartition(": ")[2]  # after asyncio's "error while attempting to bind …"
        hint = "stop what listens there, or choose another --port or --host"
        return [Problem(f"--port {port}", f"{found} on {host}", "a free port", hint)]
    return []
