"""User metrics: errors are reported at the start and never end a run."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workflow.core.errors import BadInput
from workflow.metrics.user import apply_user_metric, load_user_metric

RECORDS: list[dict[str, Any]] = [
    {"prompt": "a", "completion": "b", "tags": ["x"]},
    {"prompt": "c", "completion": "d", "tags": []},
]
PREDICTIONS = [["b", "B"], ["e", "d"]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Write metric.py to the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_source(source: str | bytes) -> None:
        raw = source if isinstance(source, bytes) else source.encode()
        (tmp_path / "metric.py").write_bytes(raw)

    return write_source


Write = Callable[[str | bytes], None]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(logging.getLogger("workflow"), "propagate", True)
    return caplog


@pytest.mark.parametrize("metric", ["metric.py:share", "./metric.py:share"])
def test_a_function_is_loaded_and_applied(write: Write, metric: str, logged: Any) -> None:
    write(
        "def share(records, predictions):\n"
        "    pairs = zip(records, predictions, strict=True)\n"
        "    return sum(r['completion'] in texts for r, texts in pairs) / len(records)\n"
    )
    function = load_user_metric(metric)
    assert apply_user_metric(function, "share", RECORDS, PREDICTIONS) == {"share": 1.0}
    assert warnings_of(logged) == []


def test_the_file_is_found_by_its_absolute_path(write: Write, tmp_path: Path) -> None:
    write("def share(records, predictions): return 1")
    (tmp_path / "a:b").mkdir()
    moved = (tmp_path / "metric.py").rename(tmp_path / "a:b" / "metric.py")
    assert load_user_metric(f"{moved}:share")([], []) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f(records, predictions, more=1): return 1",
        "def f(*anything): return 1",
        "f = lambda r, p: 1",
        "class C:\n    def __call__(self, r, p): return 1\nf = C()",
        "from functools import partial\ndef g(k, r, p): return k\nf = partial(g, 1)",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass D:\n    x: int = 1\ndef f(r, p): return D().x",
    ],
)
def test_any_function_of_two_arguments_is_a_metric(write: Write, source: str) -> None:
    write(source)
    assert apply_user_metric(load_user_metric("metric.py:f"), "f", [], []) == {"f": 1.0}


NO_FILE = "(expected file.py:function). Hint: correct the path."
FORM = "(expected file.py:function). Hint: name a Python file and a function in it."
FILE = "(expected a Python file). Hint: correct it."
IMPORT = "(expected an importable file). Hint: correct it."
TWO = "in metric.py (expected f(records, predictions)). Hint: accept two positional arguments."


@pytest.mark.parametrize(
    ("metric", "source", "message"),
    [
        ("metric.py", "", f"'metric.py' {FORM}"),
        ("metric.py:", "", f"'metric.py:' {FORM}"),
        (":f", "", f"':f' {FORM}"),
        ("metric.py:f()", "", f"'metric.py:f()' {FORM}"),
        ("other.py:f", "", f"no file 'other.py' {NO_FILE}"),
        ("no/metric.py:f", "", f"no file 'no/metric.py' {NO_FILE}"),
        (
            ".:f",
            "",
            "'.': is a directory (expected a Python file). Hint: check the path and its "
            "permissions.",
        ),
        (
            "metric.py:f",
            "import math\ndef f(r, p:\n    return 1\n",
            f"metric.py:2: SyntaxError: '(' was never closed {FILE}",
        ),
        (
            "metric.py:f",
            "def f(r, p):\nreturn 1\n",
            "metric.py:2: IndentationError: expected an indented block after function "
            f"definition on line 1 {FILE}",
        ),
        (
            "metric.py:f",
            "x = 1\n\ny = x / 0\n",
            f"metric.py:3: ZeroDivisionError: division by zero {IMPORT}",
        ),
        (
            "metric.py:f",
            "\nimport no_such_module\n",
            f"metric.py:2: ModuleNotFoundError: No module named 'no_such_module' {IMPORT}",
        ),
        (
            "metric.py:f",
            "import json\njson.loads('{')\n",
            "metric.py:2: JSONDecodeError: Expecting property name enclosed in double "
            f"quotes: line 1 column 2 (char 1) {IMPORT}",
        ),
        ("metric.py:f", "raise SystemExit(3)", f"metric.py:1: SystemExit: 3 {IMPORT}"),
        (
            "metric.py:f",
            "from math import sqrt\ndef bleu(r, p): ...\ndef rouge(r, p): ...\n",
            "no f in metric.py (expected a function of that name). Hint: use bleu or rouge.",
        ),
        (
            "metric.py:f",
            "",
            "no f in metric.py (expected a function of that name). Hint: define it.",
        ),
        (
            "metric.py:f",
            "f = 0.5\ndef g(r, p): ...\n",
            "f in metric.py of type float (expected a function). Hint: use g.",
        ),
        ("metric.py:f", "def f(records): ...", f"f(records) {TWO}"),
        ("metric.py:f", "def f(a, b, c): ...", f"f(a, b, c) {TWO}"),
        ("metric.py:f", "def f(): ...", f"f() {TWO}"),
        ("metric.py:f", "def f(a, b, *, c): ...", f"f(a, b, *, c) {TWO}"),
        ("metric.py:f", "def f(a, *, b=1): ...", f"f(a, *, b=1) {TWO}"),
    ],
)
def test_a_bad_metric_is_reported(write: Write, metric: str, source: str, message: str) -> None:
    write(source)
    with pytest.raises(BadInput) as caught:
        load_user_metric(metric)
    assert str(caught.value) == f"--metric: {message}"


@pytest.mark.parametrize("source", [b"x = '\xff'\n", b"x = 1\0\n", b"# coding: no-such-code\n"])
def test_a_file_that_is_not_text_is_reported(write: Write, source: bytes) -> None:
    write(source)
    with pytest.raises(BadInput, match=rf"--metric: metric\.py: ?.*Error: .* {re.escape(FILE)}"):
        load_user_metric("metric.py:f")


RESULT = "(expected a finite number or a dict of them)"


@pytest.mark.parametrize(
    ("body", "values", "messages"),
    [
        ("return 1 / 0", {"m": None}, ["metric.py:4: ZeroDivisionError: division by zero"]),
        (
            "return sum(helper(p) for p in predictions)",
            {"m": None},
            ["metric.py:2: KeyError: 'no'"],
        ),
        ("return json.loads('')", {"m": None}, ["metric.py:4: JSONDecodeError: Expecting value: "
         "line 1 column 1 (char 0)"]),
        ("raise SystemExit", {"m": None}, ["metric.py:4: SystemExit"]),
        ("raise GeneratorExit('a\\nb')", {"m": None}, ["metric.py:4: GeneratorExit: a b"]),
        ("return True", {"m": None}, [f"metric.py:3: returned True {RESULT}"]),
        ("return None", {"m": None}, [f"metric.py:3: returned None {RESULT}"]),
        ("return '0.5'", {"m": None}, [f"metric.py:3: returned '0.5' {RESULT}"]),
        ("return float('nan')", {"m": None}, [f"metric.py:3: returned nan {RESULT}"]),
        ("return -float('inf')", {"m": None}, [f"metric.py:3: returned -inf {RESULT}"]),
        ("return [1.0]", {"m": None}, [f"metric.py:3: returned [1.0] {RESULT}"]),
        ("return {}", {"m": None}, [f"metric.py:3: returned {{}} {RESULT}"]),
        ("return 3", {"m": 3.0}, []),
        ("import numpy\n    return numpy.float32(0.5)", {"m": 0.5}, []),
        ("return {'a': 0.5, 'b': 2}", {"m_a": 0.5, "m_b": 2.0}, []),
    ],
)  # fmt: skip
def test_results_and_failures(
    write: Write, logged: Any, body: str, values: dict[str, float | None], messages: list[str]
) -> None:
    write(
        "import json\ndef helper(texts): return {}['no']\n"
        f"def m(records, predictions):\n    {body}\n"
    )
    measured = apply_user_metric(load_user_metric("metric.py:m"), "m", RECORDS, PREDICTIONS)
    assert measured == values
    assert all(type(value) in (float, type(None)) for value in measured.values())
    assert warnings_of(logged) == [f"{message}; m is null" for message in messages]


def test_bad_values_of_a_dict_are_null_one_by_one(write: Write, logged: Any) -> None:
    write("def m(r, p):\n    return {'good': 1, 'flag': False, 'huge': 10**400, 3: 'x' * 99}\n")
    measured = apply_user_metric(load_user_metric("metric.py:m"), "m", [], [])
    assert measured == {"m_good": 1.0, "m_flag": None, "m_huge": None, "m_3": None}
    huge, text = "1" + "0" * 58 + "…", "'" + "x" * 58 + "…"
    assert warnings_of(logged) == [
        "metric.py:1: returned False (expected a finite number); m_flag is null",
        f"metric.py:1: returned {huge} (expected a finite number); m_huge is null",
        f"metric.py:1: returned {text} (expected a finite number); m_3 is null",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "class E(Exception):\n    def __str__(self): raise self\ndef m(r, p): raise E",
        "class V:\n    def __repr__(self): raise OSError('no')\ndef m(r, p): return V()",
        "class K(str):\n    def __format__(self, how): raise OSError('no')\n"
        "def m(r, p): return {K('a'): 1}",
        "def m(r, p): return m(r, p)",
        "def m(r, p): raise MemoryError",
        "f = lambda r, p: 1\nf.__wrapped__ = f\nm = lambda r, p: 'x'\nm.__wrapped__ = m",
    ],
)
@pytest.mark.usefixtures("logged")
def test_a_hostile_metric_is_null(write: Write, source: str) -> None:
    write(source)
    try:
        function = load_user_metric("metric.py:m")
    except BadInput:
        pytest.fail("it can be loaded")
    assert apply_user_metric(function, "m", [{}], [["x"]]) == {"m": None}


def test_the_metric_cannot_change_records_or_predictions(write: Write) -> None:
    write(
        "def m(records, predictions):\n"
        "    records[0]['tags'].append('y'); records.pop()\n"
        "    predictions[0].clear(); predictions.pop()\n"
        "    return 0\n"
    )
    records = [{"tags": ["x"]}, {"tags": []}]
    predictions = [["a"], ["b"]]
    apply_user_metric(load_user_metric("metric.py:m"), "m", records, predictions)
    assert records == [{"tags": ["x"]}, {"tags": []}]
    assert predictions == [["a"], ["b"]]


def test_a_keyboard_interrupt_is_raised(write: Write) -> None:
    write("def m(r, p): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        apply_user_metric(load_user_metric("metric.py:m"), "m", [], [])
    write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_user_metric("metric.py:m")


def test_a_function_that_was_not_loaded_from_a_file(logged: Any) -> None:
    def fails(records: object, predictions: object) -> float:
        raise ValueError("no")

    assert apply_user_metric(fails, "fails", [], []) == {"fails": None}
    assert warnings_of(logged) == ["ValueError: no; fails is null"]
