"""User metrics: `--metric file.py:function`.

The function takes the eval records and their sampled texts, and returns a number or a dict of
numbers:

    def function(records: list[dict], predictions: list[list[str]]) -> float | dict[str, float]
"""

import copy
import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from workflow.core.console import log
from workflow.core.errors import BadInput, Problem, shorten

FORM = "file.py:function"
MODULE_PREFIX = "user_metric_"
"""Prefix of the names of modules created from user files."""


def load_user_metric(text: str) -> Callable[..., object]:
    """Execute the file of `file.py:function` and return the function.

    The file may import installed modules, but not modules of its folder.

    Raises:
        BadInput: the file or function does not exist or is invalid.
    """
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise _bad(shorten(text), FORM, "name a Python file and a function in it")
    module = _import(file)
    defined = [
        key for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]  # fmt: skip
    hint = f"use {' or '.join(defined)}" if defined else "define it"
    if not hasattr(module, name):
        raise _bad(f"no {name} in {file}", "a function of that name", hint)
    function: Callable[..., object] = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise _bad(f"{name} in {file} of type {kind}", "a function", hint)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some C functions have no signature
        return function
    try:
        signature.bind([], [])
    except TypeError:
        found, hint = f"{name}{signature} in {file}", "accept two positional arguments"
        raise _bad(found, f"{name}(records, predictions)", hint) from None
    return function


def apply_user_metric(
    function: Callable[..., object],
    name: str,
    records: Sequence[dict[str, Any]],
    predictions: Sequence[Any],
) -> dict[str, float | None]:
    """The function's metrics: {name: number}, or {name_key: number} for a dict.

    The function gets copies. If it fails or a result is not a finite number, the value is None, and
    a warning names the place in the user's file. Only KeyboardInterrupt is raised.
    """
    try:
        copies = copy.deepcopy([list(records), list(predictions)])
        return _numbers(function, name, function(*copies))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a metric does not end a run
        log.warning("%s%s; %s is null", _place(error), _describe(error), name)
        return {name: None}


def _numbers(function: Callable[..., object], name: str, result: object) -> dict[str, float | None]:
    """The numbers of a result by name; warns about values that are not finite numbers."""
    named = {name: result}
    if isinstance(result, dict) and result:
        named = {f"{name}_{key}": value for key, value in result.items()}
    values = {key: _finite(value) for key, value in named.items()}
    for key in [key for key, value in values.items() if value is None]:
        found = shorten(named[key])
        expected = "a finite number" if key != name else "a finite number or a dict of them"
        log.warning(
            "%sreturned %s (expected %s); %s is null", _definition(function), found, expected, key
        )
    return values


def _finite(value: object) -> float | None:
    """The number as a float; None for other values, booleans and infinities."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _import(file: str) -> ModuleType:
    """Execute a file as a module, registered in sys.modules for dataclasses and pickle.

    Unlike importlib, it writes no compiled file to the user's folder.
    """
    try:
        code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    except FileNotFoundError:
        raise _bad(f"no file {shorten(file)}", FORM, "correct the path") from None
    except OSError as error:
        found = f"{shorten(file)}: {(error.strerror or str(error)).lower()}"
        raise _bad(found, "a Python file", "check the path and its permissions") from None
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        found = f"{Path(file).name}{line}: {type(error).__name__}: {error.msg}"
        raise _bad(found, "a Python file", "correct it") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes or deep nesting
        found = f"{Path(file).name}: {_describe(error)}"
        raise _bad(found, "a Python file", "correct it") from None
    module = ModuleType(MODULE_PREFIX + Path(file).stem)
    module.__file__ = file
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[module.__name__]
        found = f"{_place(error)}{_describe(error)}"
        raise _bad(found, "an importable file", "correct it") from None
    return module


def _place(error: BaseException) -> str:
    """`metric.py:12: `, the innermost line of a user's file in the error's traceback."""
    places = [
        f"{Path(frame.f_code.co_filename).name}:{line}: "
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(MODULE_PREFIX)
    ]
    return places[-1] if places else ""


def _definition(function: Callable[..., object]) -> str:
    """`metric.py:12: `, the place of the function's definition."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}: " if code else ""


def _describe(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero`, on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "an error without a message"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _bad(found: str, expected: str, hint: str) -> BadInput:
    return BadInput([Problem("--metric", found, expected, hint)])
