"""Flags: a command line or a JSON file as named values."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.config.field_types import FieldType
from workflow.config.foreign_flags import FOREIGN
from workflow.core.errors import Problem, shorten


def flag(kind: FieldType, default: Any, group: str, help: str, shown: str | None = None) -> Any:
    """A dataclass field that is also a command-line flag.

    A default of None means: derived from the other flags, the data or the machine; `shown` then
    says how.
    """
    metadata = {
        "kind": kind,
        "group": group,
        "help": help,
        "shown": str(default).lower() if shown is None else shown,
    }
    return dataclasses.field(default=default, metadata=metadata)


_NO_VALUE = object()
LIKE = 0.7
"""How much two names of flags are alike, at least, where one may be meant by the other."""


def build_parser(
    fields: Sequence[dataclasses.Field[Any]], aliases: Mapping[str, str], **options: Any
) -> argparse.ArgumentParser:
    """A parser that takes every value as text, so that all problems can be told at once."""

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(prog, max_help_position=38, width=100)

    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=formatter,
        **options,
    )
    groups: dict[str, Any] = {}
    for field in fields:
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        names = [field.name] + [alias for alias, name in aliases.items() if name == field.name]
        kind = field.metadata["kind"]
        described = f"{field.metadata['help']} [{field.metadata['shown']}]"
        groups[title].add_argument(
            *[f"--{name}" for name in names],
            dest=field.name,
            **({"nargs": "?", "const": _NO_VALUE} if kind.words == 1 else {"nargs": "*"}),
            action="append",
            metavar=kind.metavar,
            help=described.replace("%", "%%"),
        )
    return parser


def read_command_line(
    parser: argparse.ArgumentParser,
    fields: Sequence[dataclasses.Field[Any]],
    aliases: Mapping[str, str],
    argv: Sequence[str],
) -> tuple[dict[str, object], list[Problem]]:
    """The flags given in `argv` as name → text (True where a true/false flag stands alone)."""
    namespace, unknown = parser.parse_known_args(list(argv))
    values: dict[str, object] = {}
    problems = _unknown_words(unknown, fields, aliases)
    kinds = {field.name: field.metadata["kind"] for field in fields}
    for name, given in vars(namespace).items():
        kind = kinds[name]
        if kind.words == 0:  # any number of words, which may be given bit by bit
            values[name] = [word for some in given for word in some] or _NO_VALUE
            continue
        if any(value != given[0] for value in given):
            problems.append(
                Problem(f"--{name}", "several values", "one value", "give the flag once")
            )
        value = given[-1]
        values[name] = True if value is _NO_VALUE and kind.may_stand_alone else value
    return values, problems


def _unknown_words(
    words: Sequence[str], fields: Sequence[dataclasses.Field[Any]], aliases: Mapping[str, str]
) -> list[Problem]:
    known = [field.name for field in fields] + list(aliases)
    problems = []
    after_unknown_flag = False
    for word in words:
        if word.startswith("-"):
            problems.append(unknown_flag(word.lstrip("-").split("=")[0], known, "--"))
            after_unknown_flag = "=" not in word
        elif after_unknown_flag:
            after_unknown_flag = False
        else:
            problems.append(
                Problem("command line", shorten(word), "flags only", "put a --flag before it")
            )
    return problems


def unknown_flag(name: str, known: Sequence[str], prefix: str = "") -> Problem:
    """The problem of a flag (or job-file key) that does not exist, with the nearest that does."""
    written = name.replace("-", "_")
    expected, mend = FOREIGN.get(written, ("", ""))
    if expected and set(re.findall(r"--(\w+)", mend)) <= set(known):
        return Problem(f"{prefix}{name}", "a flag this tool does not take", expected, mend)
    near = difflib.get_close_matches(written, known, n=1, cutoff=LIKE)
    mend = f"did you mean {prefix}{near[0]}?" if near else "see -h for all flags"
    return Problem(f"{prefix}{name}", "an unknown flag", "a known one", mend)


def read_job_file(
    path: Path, fields: Sequence[dataclasses.Field[Any]], aliases: Mapping[str, str]
) -> tuple[dict[str, object], list[Problem]]:
    """A job as one JSON object of flag names and values; null means: not given."""
    parsed, problems = read_json_object(path)
    values, more = known_values(parsed, fields, aliases, f"--config {path}")
    return values, problems + more


def read_json_object(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The JSON object that a job file is; empty, with a problem, where it is none."""
    where = f"--config {path}"
    example = 'write flags as keys, like {"max_steps": 100}'
    try:
        parsed = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, [Problem(where, shorten(str(error)), "a readable JSON file", example)]
    if not isinstance(parsed, dict):
        return {}, [Problem(where, type(parsed).__name__, "a JSON object", example)]
    return parsed, []


def known_values(
    parsed: Mapping[str, Any],
    fields: Sequence[dataclasses.Field[Any]],
    aliases: Mapping[str, str],
    where: str,
) -> tuple[dict[str, object], list[Problem]]:
    """The values of an object whose keys are flags, with a problem for each key that is none."""
    known = {field.name for field in fields}
    values: dict[str, object] = {}
    problems = []
    for key, value in parsed.items():
        name = aliases.get(key, key)
        if name not in known:
            problem = unknown_flag(name, sorted(known))
            problems.append(dataclasses.replace(problem, where=f"{where}: {problem.where}"))
        elif value is not None:
            values[name] = value
    return values, problems


def convert_values(
    values: Mapping[str, object], fields: Sequence[dataclasses.Field[Any]], where: str = "--{}"
) -> tuple[dict[str, Any], list[Problem]]:
    """Named values turned into those of their kinds, with a problem for each that is none."""
    kinds = {field.name: field.metadata["kind"] for field in fields}
    converted = {}
    problems = []
    for name, value in values.items():
        kind = kinds[name]
        try:
            converted[name] = kind.convert(value)
        except (ValueError, RecursionError, OverflowError):
            found = "no value" if value is _NO_VALUE else shorten(value)
            mend = f"write it as {where.format(name)} {kind.metavar}"
            mend = "choose one of them" if kind.metavar == "NAME" else mend
            problems.append(Problem(where.format(name), found, kind.expected, mend))
    return converted, problems
