"""Types of flag values: how they are named, and converted from text or JSON."""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FieldType:
    """A type of value, and its conversion from text or from a JSON value.

    Attributes:
        expected: noun phrase for errors.
        convert: raises ValueError for any other value. On a command line it gets a text, or a list
            of texts if `words` is not 1.
        may_stand_alone: whether the flag without a value means true.
        words: values that the flag takes; 0: any number.
    """

    expected: str
    convert: Callable[[object], Any]
    metavar: str
    may_stand_alone: bool = False
    words: int = 1


def argument(kind: FieldType) -> Callable[[str], Any]:
    """The conversion for argparse, with an error that says what is expected."""

    def convert(text: str) -> Any:
        try:
            return kind.convert(text)
        except ValueError:
            expected = f"{text!r} (expected {kind.expected})"
            raise argparse.ArgumentTypeError(expected) from None

    return convert


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _texts(value: object) -> tuple[str, ...]:
    """A text or a list of texts, none empty, as a tuple."""
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list | tuple):
        raise ValueError
    _require(all(isinstance(one, str) and one for one in several))
    return tuple(several)


def text(metavar: str = "TEXT") -> FieldType:
    def convert(value: object) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return value

    return FieldType("non-empty text", convert, metavar)


def texts() -> FieldType:
    """A text, or a list of texts (on the command line in JSON)."""

    def convert(value: object) -> tuple[str, ...]:
        if isinstance(value, str) and value.startswith("["):
            with suppress(ValueError):  # otherwise a text such as [END]
                value = json.loads(value)
        return _texts(value)

    return FieldType("text, or a JSON list of texts", convert, "TEXT")


def several(least: int, most: int) -> FieldType:
    """From `least` to `most` different texts."""

    def convert(value: object) -> tuple[str, ...]:
        found = _texts(value)
        _require(least <= len(found) == len(set(found)) <= most)
        _require(all(one.strip() for one in found))
        "".join(found).encode()  # lone surrogates cannot be written
        return found

    return FieldType(f"at least {least} different non-empty texts", convert, "WORD WORD …", words=0)


def shares(count: int) -> FieldType:
    """`count` numbers above 0 with the sum 1."""

    def convert(value: object) -> tuple[float, ...]:
        _require(isinstance(value, list | tuple))
        found = tuple(number(0, above=True).convert(one) for one in value)  # type: ignore[attr-defined]
        _require(len(found) == count and math.isclose(sum(found), 1, abs_tol=1e-6))
        return found

    return FieldType(
        f"{count} numbers above 0 with the sum 1", convert, " ".join("X" * count), words=count
    )


def template(place: str, named: Mapping[str, str]) -> FieldType:
    """A text that contains `place`, the name of a file with such a text, or one of some names."""

    def convert(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        if value in named:
            return named[value]
        content = value
        if place not in value:
            try:
                content = Path(value).read_text(encoding="utf-8-sig")
            except OSError as error:
                raise ValueError from error
        content.encode()  # lone surrogates cannot be written
        _require(place in content and "\0" not in content)
        return content

    names = ", ".join(named)
    expected = f"{names}, text with {place} in it, or a file with such text"
    return FieldType(expected, convert, "NAME|FILE|TEXT")


def integer(minimum: int, maximum: float = math.inf) -> FieldType:
    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        converted = int(value)
        _require(minimum <= converted <= maximum)
        return converted

    upper = "" if math.isinf(maximum) else f" and at most {maximum}"
    return FieldType(f"an integer of at least {minimum}{upper}", convert, "N")


def number(minimum: float = -math.inf, below: float = math.inf, above: bool = False) -> FieldType:
    """A finite number from `minimum` on (above it, if `above`) and less than `below`."""

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        converted = float(value)
        _require(math.isfinite(converted) and minimum <= converted < below)
        _require(converted > minimum or not above)
        return converted

    lower = f" above {minimum:g}" if above else f" of at least {minimum:g}"
    lower = "" if math.isinf(minimum) else lower
    upper = "" if math.isinf(below) else f" and below {below:g}"
    return FieldType(f"a number{lower}{upper}", convert, "X")


def choice(*options: str) -> FieldType:
    def convert(value: object) -> str:
        _require(value in options)
        return str(value)

    return FieldType("one of " + ", ".join(options), convert, "NAME")


def boolean() -> FieldType:
    def convert(value: object) -> bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError
        return value

    return FieldType("true or false", convert, "true|false", may_stand_alone=True)


def mapping() -> FieldType:
    def convert(value: object) -> dict[str, object]:
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, dict):
            raise ValueError
        return parsed

    return FieldType("a JSON object", convert, "JSON")


def words(expected: str, metavar: str, may_be_none: bool = False) -> FieldType:
    """Any number of texts; in a job file it may be none."""

    def convert(value: object) -> tuple[str, ...]:
        found = _texts(value)
        _require(len(found) > 0 or may_be_none)
        return tuple(text().convert(one) for one in found)

    return FieldType(expected, convert, metavar, words=0)


def any_of(*options: str) -> FieldType:
    """Some of these names, returned in this order, or the word none."""

    def convert(value: object) -> tuple[str, ...]:
        chosen = _texts(value)
        _require(chosen == ("none",) or {*chosen} <= {*options})
        return tuple(option for option in options if option in chosen)

    return FieldType(f"none or some of {', '.join(options)}", convert, "NAME", words=0)


def pairs(expected: str, metavar: str, may_lack_value: bool = False) -> FieldType:
    """Names with values: a JSON object, or any number of NAME=VALUE (or NAME alone)."""

    def convert(value: object) -> dict[str, Any]:
        if isinstance(value, list | tuple) and len(value) == 1 and str(value[0]).startswith("{"):
            value = json.loads(value[0])
        if isinstance(value, dict):
            found = value
        elif isinstance(value, list | tuple) and value:
            split = [text().convert(word).partition("=") for word in value]
            found = {name: content if equals else None for name, equals, content in split}
        else:
            raise ValueError
        _require(all(found) and (may_lack_value or None not in found.values()))
        return found

    return FieldType(expected, convert, metavar, words=0)


def biases() -> FieldType:
    """Token ids with numbers."""
    of_texts = pairs("", "")

    def convert(value: object) -> dict[str, float]:
        found = of_texts.convert(value)
        _require(all(str(name).isdecimal() for name in found))
        return {name: number().convert(bias) for name, bias in found.items()}

    return FieldType("token ids with numbers, ID=BIAS", convert, "ID=BIAS", words=0)


def duration() -> FieldType:
    """A duration in seconds: 90m, 12h, 2d, or in Slurm's forms, minutes or D-HH:MM:SS."""
    units = {"": 60, "s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(value: object) -> int:
        written = str(value).strip().lower()
        if found := re.fullmatch(r"(\d{1,9})([smhd]?)", written, re.ASCII):
            seconds = int(found[1]) * units[found[2]]
        elif found := re.fullmatch(
            r"(?:(\d{1,4})-)?(\d{1,4})(?::(\d{1,2}))?(?::(\d{1,2}))?", written, re.ASCII
        ):
            days, *parts = found.groups()
            numbers = [int(part) for part in parts if part is not None]
            if days is None and len(numbers) == 2:  # minutes and seconds
                numbers = [0, *numbers]
            hours, minutes, rest = [*numbers, 0, 0][:3]
            seconds = int(days or 0) * 86400 + hours * 3600 + minutes * 60 + rest
        else:
            raise ValueError
        _require(seconds >= 1)
        return seconds

    return FieldType("a duration, e.g. 12h, 90m or 1-00:00:00", convert, "TIME")


def memory(with_unit: bool = False) -> FieldType:
    """An amount of memory such as 80GB or 512 GB, in bytes.

    Args:
        with_unit: whether to refuse a number without a unit, which Slurm reads as megabytes.
    """

    def convert(value: object) -> float:
        written = str(value).strip()
        found = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)(i?)B?", written, re.IGNORECASE)
        if found is None or (with_unit and written[-1].isdigit()):
            raise ValueError
        number, prefix, binary = found.groups()
        power = " KMGT".index(prefix.upper() or " ")
        size: float = float(number) * (1024 if binary else 1000) ** power
        _require(0 < size < math.inf)
        return size

    return FieldType("an amount of memory, e.g. 80GB", convert, "SIZE")


def or_auto(type: FieldType) -> FieldType:
    """`type`, or the word auto, which becomes None (to be derived)."""

    def convert(value: object) -> Any:
        return None if value == "auto" else type.convert(value)

    expected = f"auto, {type.expected}" if " or " in type.expected else f"auto or {type.expected}"
    return dataclasses.replace(
        type, expected=expected, convert=convert, metavar=f"auto|{type.metavar}"
    )
