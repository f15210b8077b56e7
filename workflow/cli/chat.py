"""`python3 -m workflow chat`: a model in a terminal."""

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from workflow.config.field_types import argument, integer, number
from workflow.config.serve_flags import WHICH_MODEL
from workflow.core.console import log, start_log
from workflow.core.errors import BadInput
from workflow.core.imports import importing
from workflow.runs.mount import Mount, newest_checkpoint

if TYPE_CHECKING:  # slow
    from workflow.serving.dialogue import Dialogue

NEW = "/new"
"""The line that begins another conversation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=WHICH_MODEL, metavar="RUN")
    parser.add_argument(
        "--max_tokens", type=argument(integer(1)), default=256, help="tokens of an answer [256]"
    )
    temperature = "temperature of sampling; 0 takes the most likely tokens [0]"
    parser.add_argument("--temperature", type=argument(number(0)), default=0.0, help=temperature)
    parser.add_argument(
        "--seed", type=argument(integer(0)), default=0, help="decides what is sampled [0]"
    )
    parser.add_argument("--fp32", action="store_true", help="compute in float32 in any case")


def chat(mount: Mount, command: argparse.Namespace) -> None:
    """Answer each line of standard input until it ends.

    Raises:
        BadInput: all that is wrong with the model.
    """
    start_log()
    with importing():
        from workflow.inference.decoding import Decoding
        from workflow.serving.dialogue import Dialogue
        from workflow.serving.model import load_served
    name = newest_checkpoint(mount, command.model)
    model = load_served(name, mount, False if command.fp32 else None)
    decoding = Decoding(
        max_new_tokens=command.max_tokens, temperature=command.temperature, seed=command.seed
    )
    dialogue = Dialogue(model, decoding)
    ends = "an empty line or Ctrl-D ends, Ctrl-C stops an answer"
    keeps = f", {NEW} begins another conversation" if dialogue.keeps_turns else ""
    log.info("%s: %s%s", name, ends, keeps)
    with suppress(EOFError, KeyboardInterrupt):
        while line := _read():
            if line == NEW:
                dialogue.begin()
            else:
                _answer(dialogue, line)


def _read() -> str:
    """A line; on a terminal with a prompt, and the keys of a shell."""
    if not sys.stdin.isatty():
        return input()
    with suppress(ImportError):  # Python may be built without it
        import readline  # noqa: F401
    return input("> ")


def _answer(dialogue: "Dialogue", line: str) -> None:
    parts = dialogue.answer(line)
    try:
        for part in parts:
            print(part, end="", flush=True)
    except KeyboardInterrupt:
        parts.close()
    except BadInput as error:
        print(error, file=sys.stderr)
        return
    print()
