"""Flags: what each of them means, and a command line or a JSON file as their values."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from workflow.config.field_types import FieldType
from workflow.config.foreign_flags import FOREIGN
from workflow.core.errors import Problem, shorten

_LIKE = 0.7
"""How much two names of flags are alike, at least, where one may be meant by the other."""
_NO_VALUE = object()


Decision = Literal["result", "course", "name", "start"]


@dataclass(frozen=True)
class Flag:
    """All that a flag means; it stands in the metadata of a dataclass's field.

    Attributes:
        group: of the help that the flag stands in.
        help: what the flag is for; at its end, in brackets, the default where that says more than
            the value itself.
        default: None where it is derived from other flags, the data or the machine.
        only_for: the task that alone has a use for the flag; None where all have.
        decides: what the flag decides of a job. "result": what comes out of it; another value is
            another job, which is refused where a run is resumed. "course": where it is computed and
            how often it is saved, and "name": what it is called and whom it reports to; these may
            differ where a run is resumed. "start": how this start treats an earlier one; it is not
            a part of the job, and not written to training_args.json.
    """

    group: str
    type: FieldType
    help: str
    default: Any = None
    only_for: str | None = None
    decides: Decision = "result"

    @property
    def may_differ_on_resume(self) -> bool:
        return self.decides != "result"

    @property
    def described(self) -> str:
        """The help with the default."""
        return (
            self.help if self.help.endswith("]") else f"{self.help} [{str(self.default).lower()}]"
        )


def flag(group: str, type: FieldType, help: str, default: Any = None, **more: Any) -> Any:
    """A dataclass field that is also a command-line flag; `more` is what else a Flag has."""
    metadata = {"flag": Flag(group, type, help, default, **more)}
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(*classes: type) -> dict[str, Flag]:
    """The flags among the fields of dataclasses, by their names."""
    fields = [field for of_class in classes for field in dataclasses.fields(of_class)]
    return {field.name: field.metadata["flag"] for field in fields if "flag" in field.metadata}


@dataclass(frozen=True)
class FlagSet:
    """Flags that are read together, by their names, which `aliases` stand for, too."""

    flags: Mapping[str, Flag]
    aliases: Mapping[str, str]

    def read_command_line(
        self, argv: Sequence[str], description: str, usage: str
    ) -> tuple[dict[str, Any], set[str], list[Problem]]:
        """The values of a command line, the names of what was given, and every problem of it.

        What was given has no value where that could not be converted.
        """
        namespace, unknown = self._parser(description, usage).parse_known_args(list(argv))
        values: dict[str, object] = {}
        problems = self._unknown_words(unknown)
        for name, given in vars(namespace).items():
            type = self.flags[name].type
            if type.words == 0:  # any number of words, which may be given bit by bit
                values[name] = [word for some in given for word in some] or _NO_VALUE
                continue
            if any(value != given[0] for value in given):
                problems.append(
                    Problem(f"--{name}", "several values", "one value", "give the flag once")
                )
            value = given[-1]
            values[name] = True if value is _NO_VALUE and type.may_stand_alone else value
        typed, more = self._convert(values, "--")
        return typed, set(values), problems + more

    def _parser(self, description: str, usage: str) -> argparse.ArgumentParser:
        """A parser that takes every value as text, so that all problems can be told at once."""
        parser = argparse.ArgumentParser(
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=partial(argparse.HelpFormatter, max_help_position=38, width=100),
            description=description,
            usage=usage,
        )
        groups: dict[str, Any] = {}
        for name, flag in self.flags.items():
            if flag.group not in groups:
                groups[flag.group] = parser.add_argument_group(flag.group)
            names = [name, *(alias for alias, meant in self.aliases.items() if meant == name)]
            groups[flag.group].add_argument(
                *[f"--{name}" for name in names],
                dest=name,
                **({"nargs": "?", "const": _NO_VALUE} if flag.type.words == 1 else {"nargs": "*"}),
                action="append",
                metavar=flag.type.metavar,
                help=flag.described.replace("%", "%%"),
            )
        return parser

    def _unknown_words(self, words: Sequence[str]) -> list[Problem]:
        known = [*self.flags, *self.aliases]
        problems = []
        after_unknown_flag = False
        for word in words:
            if word.startswith("-"):
                problems.append(_unknown_flag(word.lstrip("-").split("=")[0], known, "--"))
                after_unknown_flag = "=" not in word
            elif after_unknown_flag:
                after_unknown_flag = False
            else:
                problems.append(
                    Problem("command line", shorten(word), "flags only", "put a --flag before it")
                )
        return problems

    def read_object(
        self, parsed: Mapping[str, object], where: str
    ) -> tuple[dict[str, Any], list[Problem]]:
        """The flags in a JSON object or in keywords, with every problem of them.

        A value of null means: not given.

        Args:
            where: stands before the name of a flag.
        """
        values: dict[str, object] = {}
        problems = []
        for key, value in parsed.items():
            name = self.aliases.get(key, key)
            if name not in self.flags:
                problem = _unknown_flag(name, sorted(self.flags))
                problems.append(dataclasses.replace(problem, where=f"{where}{problem.where}"))
            elif value is not None:
                values[name] = value
        converted, more = self._convert(values, where)
        return converted, problems + more

    def _convert(
        self, values: Mapping[str, object], where: str
    ) -> tuple[dict[str, Any], list[Problem]]:
        """The values of flags as their types have them, with a problem for each that is none."""
        converted = {}
        problems = []
        for name, value in values.items():
            type, place = self.flags[name].type, f"{where}{name}"
            try:
                converted[name] = type.convert(value)
            except (ValueError, RecursionError, OverflowError):
                found = "no value" if value is _NO_VALUE else shorten(value)
                hint = f"write it as {place} {type.metavar}"
                hint = "choose one of them" if type.metavar == "NAME" else hint
                problems.append(Problem(place, found, type.expected, hint))
        return converted, problems


def _unknown_flag(name: str, known: Sequence[str], prefix: str = "") -> Problem:
    """The problem of a flag (or job-file key) that does not exist, with the nearest that does."""
    written = name.replace("-", "_")
    expected, hint = FOREIGN.get(written, ("", ""))
    if expected and set(re.findall(r"--(\w+)", hint)) <= set(known):
        return Problem(f"{prefix}{name}", "a flag this tool does not take", expected, hint)
    near = difflib.get_close_matches(written, known, n=1, cutoff=_LIKE)
    hint = f"did you mean {prefix}{near[0]}?" if near else "see -h for all flags"
    return Problem(f"{prefix}{name}", "an unknown flag", "a known one", hint)


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
