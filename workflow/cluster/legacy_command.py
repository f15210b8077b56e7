"""A job given as one shell command, e.g. `bash -c "cd data/workflow; python3 seq2seq.py …"`."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import BadInput, Problem, shorten

SCRIPTS = {f"{name}.py": name for name in TASK_SPECS}
SHARED_NAME = "data"
"""The name of the shared folder in these commands."""

# A simple command up to the next separator; quoted strings may contain separators.
_PIECE = re.compile(r"""(?:[^;&\n"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_SHELLS_OWN = re.compile(r"[$`<>|()]")


@dataclass(frozen=True)
class Command:
    """The job's own command.

    Attributes:
        task: the script to run.
        arguments: the script's flags.
        folder: its working directory.
        project: the folder of the scripts.
        setup: shell lines before it.
        envs: its environment variables.
    """

    task: str
    arguments: tuple[str, ...]
    folder: Path
    project: Path
    setup: tuple[str, ...] = ()
    envs: Mapping[str, str | None] = field(default_factory=dict)


def read_command(text: str, shared: str | None, folder: Path) -> Command:
    """Parse a shell command of `cd`s, setup commands and, at its end, one of the two scripts.

    Args:
        shared: the folder that the command calls `data`; None if it calls none so.
        folder: its initial working directory.

    Raises:
        BadInput: if it contains anything else.
    """
    pieces = _pieces(_unwrapped(text))
    setup: list[str] = []
    envs: dict[str, str] = {}
    for number, (piece, joint) in enumerate(pieces):
        words = _split(piece)
        if words[0] == "cd":
            if len(words) != 2:
                raise _unclear(_quoted(piece), "cd FOLDER")
            folder = _resolved(words[1], shared, folder)
            setup.append(f"cd {shlex.quote(str(folder))} || exit 1")
        elif any(Path(word).name in SCRIPTS for word in words):
            if number < len(pieces) - 1:
                raise _unclear(_quoted(pieces[number + 1][0]), "nothing after the job")
            return _job(words, shared, folder, setup, envs)
        elif words[0] == "export" and _all_plain(words[1:]):
            envs |= dict(word.split("=", 1) for word in words[1:])
        else:
            setup.append(piece.strip() + (" || exit 1" if joint == "&&" else ""))
    every = "; ".join(piece for piece, _ in pieces)
    raise _unclear(_quoted(every), "a command with seq2seq.py or clf.py")


def _all_plain(words: Sequence[str]) -> bool:
    """Return whether all are assignments whose values a shell would not expand."""
    return all(_ASSIGNMENT.match(word) and not _SHELLS_OWN.search(word) for word in words)


def _unclear(found: str, expected: str) -> BadInput:
    hint = "write the job after -- instead: -- seq2seq.py [flags]"
    return BadInput([Problem("--command", found, expected, hint)])


def _quoted(text: str) -> str:
    return shorten(text.strip(), 200)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:  # unbalanced quotes
        raise _unclear(f"{shorten(text)}: {error}", "a complete shell command") from error


def _unwrapped(text: str) -> str:
    """Return the command inside bash -c "…", or the text itself."""
    words = _split(text)
    shell = words and Path(words[0]).name in ("bash", "sh")
    if shell and len(words) == 3 and re.fullmatch(r"-l?c", words[1]):
        return words[2]
    return text


def _pieces(text: str) -> list[tuple[str, str]]:
    """Split a command list into simple commands, each with the separator after it."""
    pieces, joints = _PIECE.findall(text), [joint.strip() for joint in _PIECE.split(text)[1:]]
    for joint in joints[:-1]:
        if joint not in (";", "&&", ""):
            raise _unclear(_quoted(joint), "commands joined by ; or &&")
    if joints and joints[-1] not in ("", ";"):
        raise _unclear(_quoted(joints[-1]), "a job in the foreground")
    return [(p, joint) for p, joint in zip(pieces, joints, strict=True) if p.strip()]


def _job(
    words: list[str], shared: str | None, folder: Path, setup: list[str], envs: dict[str, str]
) -> Command:
    """Parse the job's simple command: assignments, Python, one of the scripts and its flags."""
    place = next(i for i, word in enumerate(words) if Path(word).name in SCRIPTS)
    count = next(i for i, word in enumerate(words) if not _ASSIGNMENT.match(word))
    before = [Path(word).name for word in words[count:place] if word != "-u"]
    if before not in (["python3"], ["python"], []):
        raise _unclear(_quoted(" ".join(words[: place + 1])), "python3 before the script")
    expected = "arguments without shell syntax ($, `, <, >, |, parentheses)"
    for word in [*words[:count], *words[place + 1 :]]:
        if _SHELLS_OWN.search(word):
            raise _unclear(_quoted(word), expected)
    script = _resolved(words[place], shared, folder)
    if not script.is_file():
        raise _unclear(_quoted(str(script)), "an existing script")
    envs = envs | dict(word.split("=", 1) for word in words[:count])
    arguments, task = tuple(words[place + 1 :]), SCRIPTS[script.name]
    return Command(task, arguments, folder, script.parent, tuple(setup), envs)


def _resolved(path: str, shared: str | None, folder: Path) -> Path:
    """Resolve a path of the command; `data` is the shared folder."""
    parts = Path(path).parts
    if shared is not None and parts[:1] == (SHARED_NAME,):
        return Path(shared, *parts[1:]).absolute()
    return (folder / Path(path).expanduser()).absolute()
