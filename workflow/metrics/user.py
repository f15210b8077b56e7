"""A metric of the user's own: `--metric file.py:function`.

The function takes the eval records and, for each, its sampled texts, and returns a number or a
dict of numbers:

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
"""What the names of modules made of the users' files begin with."""


def load_user_metric(text: str) -> Callable[..., object]:
    """The function named by `file.py:function`, whose file is executed once.

    The file may import what is installed; modules beside it are not found.

    Raises:
        BadInput: there is no such function of two parameters.
    """
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise _bad(shorten(text), FORM, "name a Python file and a function in it")
    module = _import(file)
    defined = [
        key for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]  # fmt: skip
    hint = f"it defines {', '.join(defined) or 'no function'}"
    if not hasattr(module, name):
        raise _bad(f"no {name} in {file}", "a function of that name", hint)
    function: Callable[..., object] = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise _bad(f"{name} of {file}, a value of type {kind}", "a function", hint)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C do not tell
        return function
    try:
        signature.bind([], [])
    except TypeError:
        found, hint = f"{name}{signature} in {file}", "let it take two positional arguments"
        raise _bad(found, f"{name}(records, predictions)", hint) from None
    return function


def apply_user_metric(
    function: Callable[..., object],
    name: str,
    records: Sequence[dict[str, Any]],
    predictions: Sequence[Any],
) -> dict[str, float | None]:
    """What the function says of the predictions: {name: number}, or {name_key: number} of a dict.

    The function gets copies. Where it fails, or a result is no finite number, the log says why
    with the place in the user's file, and the value is None: only KeyboardInterrupt passes.
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
    """The numbers of a result, under their names; the log tells which are none."""
    named = {name: result}
    if isinstance(result, dict) and result:
        named = {f"{name}_{key}": value for key, value in result.items()}
    values = {key: _finite(value) for key, value in named.items()}
    for key in [key for key, value in values.items() if value is None]:
        found = shorten(named[key])
        expected = "a finite number" if key != name else "a finite number or a dict of them"
        log.warning(
            "%sreturned %s; expected %s; %s is null", _definition(function), found, expected, key
        )
    return values


def _finite(value: object) -> float | None:
    """The number as a float; None for what is no finite number. True and False are none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _import(file: str) -> ModuleType:
    """The module that a file makes. It is registered, as dataclasses and pickle need it.

    importlib would write what it compiles beside the user's file.
    """
    try:
        code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    except FileNotFoundError:
        raise _bad(f"no file {shorten(file)}", FORM, "correct the path") from None
    except OSError as error:
        found = f"{shorten(file)}, which cannot be read: {error.strerror}"
        raise _bad(found, "a Python file", "name another file") from None
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        found = f"{Path(file).name}{line}: {type(error).__name__}: {error.msg}"
        raise _bad(found, "a Python file", "correct it") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or too deep
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
        raise _bad(found, "a file that can be imported", "correct it") from None
    return module


def _place(error: BaseException) -> str:
    """`metric.py:12: `, the innermost line of a user's file that the error came through."""
    places = [
        f"{Path(frame.f_code.co_filename).name}:{line}: "
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(MODULE_PREFIX)
    ]
    return places[-1] if places else ""


def _definition(function: Callable[..., object]) -> str:
    """`metric.py:12: `, where the function is defined."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}: " if code else ""


def _describe(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero`, on one line."""
    try:
        said = " ".join(str(error).split())
    except Exception:
        said = "an error without a text"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _bad(found: str, expected: str, hint: str) -> BadInput:
    return BadInput([Problem("--metric", found, expected, hint)])
