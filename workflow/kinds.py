"""The kinds of value that flags take."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of value: what to call it, and how to make one of text or of a JSON value.

    `convert` raises ValueError for anything else. On a command line it takes a text, or a list of
    several `words`.
    """

    expected: str
    convert: Callable[[object], Any]
    metavar: str
    may_stand_alone: bool = False
    words: int = 1


def text() -> Kind:
    def convert(value: object) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return value

    return Kind("a text that is not empty", convert, "TEXT")


def texts() -> Kind:
    """One text, or a list of them (on the command line as JSON)."""

    def convert(value: object) -> tuple[str, ...]:
        if isinstance(value, str) and value.startswith("["):
            value = json.loads(value)
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list | tuple):
            raise ValueError
        if not all(isinstance(one, str) and one for one in several):
            raise ValueError
        return tuple(several)

    return Kind("a text, or a JSON list of texts", convert, "TEXT")


def several(count: int) -> Kind:
    """As many different texts, one after the other."""

    def convert(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or len(value) != count:
            raise ValueError
        if not all(isinstance(one, str) and one.strip() for one in value):
            raise ValueError
        if len(set(value)) != count:
            raise ValueError
        "".join(value).encode()  # lone surrogates cannot be written
        return tuple(value)

    return Kind(f"{count} different texts", convert, " ".join(["WORD"] * count), words=count)


def template(place: str) -> Kind:
    """A text in which `place` stands, or the name of a file that holds one."""

    def convert(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        content = value
        if place not in value:
            try:
                content = Path(value).read_text(encoding="utf-8-sig")
            except OSError as error:
                raise ValueError from error
        content.encode()  # lone surrogates cannot be written
        if place not in content or "\0" in content:
            raise ValueError
        return content

    return Kind(f"a text with {place} in it, or a file that holds one", convert, "FILE|TEXT")


def integer(minimum: int, maximum: int | None = None) -> Kind:
    def convert(value: object) -> int:
        if isinstance(value, bool | float) or not isinstance(value, int | str):
            raise ValueError
        converted = int(value)
        if converted < minimum or (maximum is not None and converted > maximum):
            raise ValueError
        return converted

    upper = "" if maximum is None else f" and at most {maximum}"
    return Kind(f"a whole number of at least {minimum}{upper}", convert, "N")


def number(minimum: float = -math.inf, below: float = math.inf, above: bool = False) -> Kind:
    """A finite number of at least `minimum` (greater, if `above`) and less than `below`."""

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        converted = float(value)
        too_low = converted <= minimum if above else converted < minimum
        if not math.isfinite(converted) or too_low or converted >= below:
            raise ValueError
        return converted

    lower = f" above {minimum:g}" if above else f" of at least {minimum:g}"
    lower = "" if math.isinf(minimum) else lower
    upper = "" if math.isinf(below) else f" and below {below:g}"
    return Kind(f"a number{lower}{upper}", convert, "X")


def choice(*options: str) -> Kind:
    def convert(value: object) -> str:
        if value not in options:
            raise ValueError
        return str(value)

    return Kind("one of " + ", ".join(options), convert, "NAME")


def boolean() -> Kind:
    def convert(value: object) -> bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("true or false", convert, "true|false", may_stand_alone=True)


def mapping() -> Kind:
    def convert(value: object) -> dict[str, object]:
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, dict):
            raise ValueError
        return parsed

    return Kind("a JSON object", convert, "JSON")


def memory() -> Kind:
    """An amount of memory, as 80GB or 512 GB, in bytes."""

    def convert(value: object) -> float:
        found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B?\s*", str(value), re.IGNORECASE)
        if found is None or isinstance(value, bool):
            raise ValueError
        number, prefix, binary = found.groups()
        power = " KMGT".index(prefix.upper() or " ")
        size: float = float(number) * (1024 if binary else 1000) ** power
        if not 0 < size < math.inf:
            raise ValueError
        return size

    return Kind("an amount of memory, as 80GB", convert, "SIZE")


def or_auto(kind: Kind) -> Kind:
    """`kind`, or the word auto, which becomes None: to be derived."""

    def convert(value: object) -> Any:
        return None if value == "auto" else kind.convert(value)

    return dataclasses.replace(
        kind, expected=f"auto or {kind.expected}", convert=convert, metavar=f"auto|{kind.metavar}"
    )
