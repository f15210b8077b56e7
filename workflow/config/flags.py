"""Flags: their meaning, and how command lines and JSON files are read into values."""

import argparse
import dataclasses
import difflib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from workflow.config.field_types import FieldType
from workflow.config.foreign_flags import FOREIGN
from workflow.core.errors import Problem, shorten

_SIMILARITY = 0.7
"""Least similarity (difflib's ratio) of an unknown flag and one that is suggested for it."""
_NO_VALUE = object()


Decision = Literal["result", "course", "name", "start"]


@dataclass(frozen=True)
class Flag:
    """The meaning of a flag, in the metadata of a dataclass field.

    Attributes:
        group: heading in the help.
        help: what the flag does; ends with the default in brackets if `default` does not show it.
        default: None if derived from other flags, the data or the machine.
        only_for: the one task that uses the flag; None: all tasks.
        decides: what the flag changes. "result": the outcome; a run resumes only with the same
            value. "course": where the job is computed and how often it is saved; "name": its name
            and its trackers; both may differ on resume. "start": how this start treats an earlier
            one; not part of the job, and not written to training_args.json.
        common: whether `-h` shows the flag; `--help_all` shows all.
    """

    group: str
    type: FieldType
    help: str
    default: Any = None
    only_for: str | None = None
    decides: Decision = "result"
    common: bool = False

    @property
    def may_differ_on_resume(self) -> bool:
        return self.decides != "result"

    @property
    def described(self) -> str:
        """The help, with the default in brackets if there is one."""
        if self.help.endswith("]") or self.default in (None, "", ()):
            return self.help
        return f"{self.help} [{str(self.default).lower()}]"


def flag(group: str, type: FieldType, help: str, default: Any = None, **more: Any) -> Any:
    """A dataclass field that is also a command-line flag; `more` are other fields of Flag."""
    metadata = {"flag": Flag(group, type, help, default, **more)}
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(*classes: type) -> dict[str, Flag]:
    """The flags among the fields of dataclasses, by their names."""
    fields = [field for of_class in classes for field in dataclasses.fields(of_class)]
    return {field.name: field.metadata["flag"] for field in fields if "flag" in field.metadata}


@dataclass(frozen=True)
class FlagSet:
    """Flags that are read together, by name; `aliases` maps other spellings to names."""

    flags: Mapping[str, Flag]
    aliases: Mapping[str, str]
    task: str | None = None
    """Flags of other tasks are accepted but not in the help."""

    def read_command_line(
        self, argv: Sequence[str], description: str, usage: str
    ) -> tuple[dict[str, Any], set[str], list[Problem]]:
        """Read a command line: values, names of the flags given, and all problems.

        A flag whose value could not be converted is among the names but not among the values.
        """
        if requested := {"-h", "--help", "--help_all"} & {*argv}:
            self._help(description, usage, everything="--help_all" in requested).print_help()
            raise SystemExit(0)
        parser = argparse.ArgumentParser(
            add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
        )
        self._add(parser, self.flags)
        namespace, unknown = parser.parse_known_args(list(argv))
        values: dict[str, object] = {}
        problems = self._unknown_words(unknown)
        for name, given in vars(namespace).items():
            type = self.flags[name].type
            if type.words == 0:  # any number of words; the flag may be repeated
                values[name] = [word for some in given for word in some] or _NO_VALUE
                continue
            if any(value != given[0] for value in given):
                problems.append(
                    Problem(f"--{name}", "several values", "one value", "keep one of them")
                )
            value = given[-1]
            values[name] = True if value is _NO_VALUE and type.may_stand_alone else value
        typed, more = self._convert(values, "--")
        return typed, set(values), problems + more

    def _help(self, description: str, usage: str, everything: bool) -> argparse.ArgumentParser:
        """A parser with the help of every flag, or of the common ones if there are some."""
        columns = min(100, shutil.get_terminal_size((100, 24)).columns)
        parser = argparse.ArgumentParser(
            add_help=False,
            formatter_class=partial(_HelpFormatter, max_help_position=32, width=columns),
            description=description,
            usage=usage,
        )
        flags = {
            name: flag
            for name, flag in self.flags.items()
            if self.task is None or flag.only_for in (None, self.task)
        }
        common = {name: flag for name, flag in flags.items() if flag.common}
        if common and not everything:
            self._add(parser.add_argument_group("most used flags"), common)
            parser.epilog = f"--help_all shows all {len(flags)} flags."
            return parser
        for group in dict.fromkeys(flag.group for flag in flags.values()):
            in_group = {name: flag for name, flag in flags.items() if flag.group == group}
            self._add(parser.add_argument_group(group), in_group)
        return parser

    def _add(self, to: argparse._ActionsContainer, flags: Mapping[str, Flag]) -> None:
        """Add flags whose values are text, so that conversion can report all problems at once."""
        for name, flag in flags.items():
            names = [name, *(alias for alias, meant in self.aliases.items() if meant == name)]
            to.add_argument(
                *[f"--{name}" for name in names],
                dest=name,
                **({"nargs": "?", "const": _NO_VALUE} if flag.type.words == 1 else {"nargs": "*"}),
                action="append",
                metavar=flag.type.metavar,
                help=flag.described.replace("%", "%%"),
            )

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
                    Problem("command line", shorten(word), "only flags", "add its --flag before it")
                )
        return problems

    def read_object(
        self, parsed: Mapping[str, object], where: str
    ) -> tuple[dict[str, Any], list[Problem]]:
        """Read the flags in a JSON object or in keywords: values and all problems.

        A value of null means that the flag is not given.

        Args:
            where: prefix of flag names in problems.
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
        """Values converted to their flags' types, and a problem for each that cannot be."""
        converted = {}
        problems = []
        for name, value in values.items():
            type, place = self.flags[name].type, f"{where}{name}"
            try:
                converted[name] = type.convert(value)
            except (ValueError, RecursionError, OverflowError):
                found = "no value" if value is _NO_VALUE else shorten(value)
                hint = f"write {place} {type.metavar}" if where == "--" else "correct the value"
                hint = "choose one of them" if type.metavar == "NAME" else hint
                problems.append(Problem(place, found, type.expected, hint))
        return converted, problems


class _HelpFormatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`--data_name, --data DATA`: the value once, without brackets."""
        return f"{', '.join(action.option_strings)} {action.metavar}"


def _unknown_flag(name: str, known: Sequence[str], prefix: str = "") -> Problem:
    """The problem of a flag (or job-file key) that does not exist, with the nearest that does."""
    written = name.replace("-", "_")
    hint = FOREIGN.get(written, "")
    if not hint or not set(re.findall(r"--(\w+)", hint)) <= {*known}:
        near = difflib.get_close_matches(written, known, n=1, cutoff=_SIMILARITY)
        hint = f"did you mean {prefix}{near[0]}?" if near else "remove it, or correct its name"
    return Problem(f"{prefix}{name}", "unknown flag", "a documented flag", hint)


def read_json_object(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Read a job file's JSON object; if it is not one, an empty object and a problem."""
    where = f"--config {path}"
    example = 'write flags as keys, like {"max_steps": 100}'
    try:
        parsed = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, [Problem(where, str(error), "a readable JSON file", example)]
    if not isinstance(parsed, dict):
        return {}, [Problem(where, type(parsed).__name__, "a JSON object", example)]
    return parsed, []
