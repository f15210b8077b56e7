"""Flags of `python3 -m workflow serve`, here and in a submitted server."""

import argparse
import importlib.util
import ipaddress
from collections.abc import Sequence

from workflow.config.field_types import argument, integer, number
from workflow.core.errors import Problem

_count = argument(integer(1))
SERVE = "serve"
WHICH_MODEL = (
    "RUN/checkpoint-N, a RUN (its newest checkpoint), a folder of mount/models, or a hub name"
)
PACKAGES = ("fastapi", "uvicorn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=WHICH_MODEL, metavar="RUN")
    adapter = (
        "an adapter of RUN, which requests choose as model NAME; repeat for others: "
        "--adapter NAME=RUN/checkpoint-N"
    )
    parser.add_argument("--adapter", action="append", default=[], help=adapter, metavar="NAME=RUN")
    host = "address to listen on [127.0.0.1; submitted to a cluster: 0.0.0.0]"
    parser.add_argument("--host", help=host)
    parser.add_argument(
        "--port", type=argument(integer(1, 65535)), default=8000, help="port [8000]"
    )
    key = "environment variable with the key that requests must have as a bearer token"
    parser.add_argument("--api_key_env", help=key, metavar="NAME")
    parser.add_argument("--no_auth", action="store_true", help="serve other machines without a key")
    parser.add_argument("--batch", type=_count, default=16, help="texts written together [16]")
    queue = "texts that may wait for a place; more are refused with 429 [64]"
    parser.add_argument("--queue", type=_count, default=64, help=queue)
    parser.add_argument("--max_tokens", type=_count, default=512, help="tokens of a text [512]")
    seconds = argument(number(0, above=True))
    parser.add_argument("--deadline", type=seconds, default=300, help="seconds of a request [300]")
    grace = "seconds that running requests have to end after SIGTERM [30]"
    parser.add_argument("--grace", type=argument(integer(0)), default=30, help=grace)
    parser.add_argument("--fp32", action="store_true", help="compute in float32 in any case")
    prompts = "log prompts, answers and tracebacks of failures"
    parser.add_argument("--log_prompts", action="store_true", help=prompts)


def problems_of_access(host: str, has_key: bool, no_auth: bool) -> list[Problem]:
    """Refuse a server that answers anyone without saying so."""
    if has_key or no_auth or is_loopback(host):
        return []
    found, expected = f"{host}, which other machines reach", "a key that requests must have"
    hint = "add --api_key_env NAME, or --no_auth to serve anyone"
    return [Problem("--host", found, expected, hint)]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def missing_packages() -> list[Problem]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    hint = "install them with scripts/setup --extra serve"
    return [Problem(SERVE, f"without {' and '.join(missing)}", "the extra serve", hint)]


def read_adapters(words: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
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
