"""Log output of an evaluation in a terminal and in a file."""

import json
import os
import pty
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from workflow.cli.run import main
from workflow.config.task_specs import TASK_SPECS
from workflow.core.console import log
from workflow.core.tables import as_lines
from workflow.reporting.eval_table import metrics_table
from workflow.runs.mount import Mount

NAMES = ("loss", "token_accuracy", "exact_match", "bleu")
LINES: list[dict[str, Any]] = [
    {"step": 0, "loss": 7.52589, "token_accuracy": 0.0, "exact_match": 0.0,
     "exact_match_ci95": [0.0, 0.0], "bleu": None, "mine": 3.0, "time": 1.0},
    {"step": 200, "loss": 0.9714, "token_accuracy": 0.62134, "exact_match": 0.125,
     "exact_match_ci95": [0.0851, 0.165], "bleu": 12.5, "bleu_ci95": [1.0, 20.25], "mine": None},
    {"step": 400, "loss": 1.02701, "token_accuracy": 0.62134, "exact_match": 0.115,
     "exact_match_ci95": [0.075, 0.155], "bleu": 14.0, "bleu_ci95": None, "mine": 4.0},
]  # fmt: skip


def test_the_table_of_an_evaluation() -> None:
    assert as_lines(metrics_table(LINES[:2], LINES[2], NAMES, 800, ["mine"])) == [
        "step 400 of 800",
        "                   now          95% CI  previous    best  at step",
        "loss             1.027                    0.9714  0.9714      200",
        "token_accuracy  0.6213                    0.6213  0.6213      200",
        "exact_match      0.115  0.075 to 0.155     0.125   0.125      200",
        "bleu                14                      12.5      14      400",
        "mine                 4",
    ]


def test_the_first_evaluation_has_no_comparison() -> None:
    assert as_lines(metrics_table([], LINES[0], NAMES, 800, ["mine"])) == [
        "step 0 of 800",
        "                  now  95% CI",
        "loss            7.526",
        "token_accuracy      0",
        "exact_match         0  0 to 0",
        "mine                3",
    ]
    assert as_lines(metrics_table([], {"step": 61, "loss": 1.5}, NAMES, None)) == [
        "step 61", "      now", "loss  1.5",
    ]  # fmt: skip
    assert metrics_table(LINES[:1], {"step": 61, "loss": None}, NAMES, None) == []


def lines_on(stream: Any, mount: Mount, run_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job with `stream` as standard error."""
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    argv += ["--max_steps", "2", "--eval_steps", "1", "--max_new_tokens", "2"]
    (mount.root / "mine.py").write_text("def mine(records, predictions):\n    return 7\n")
    argv += ["--metric", f"{mount.root / 'mine.py'}:mine"]
    with monkeypatch.context() as patch:
        for name in ("level", "propagate"):  # restored for other tests
            patch.setattr(log, name, getattr(log, name))
        patch.setattr("sys.stderr", stream)
        patch.setattr(log, "handlers", [])  # as in a new process
        assert main("seq2seq", "", [*argv, "--training_run_name", run_name]) == 0


def test_a_terminal_gets_the_table_and_a_file_one_line(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # at the end of the output
            while some := os.read(ours, 65536):
                shown.append(some)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as terminal:
        lines_on(terminal, mount, "terminal", monkeypatch)
    reader.join(10)
    os.close(ours)
    with open(tmp_path / "log", "w") as file:
        lines_on(file, mount, "file", monkeypatch)

    screen = re.sub(r"\x1b\[[\d;]*m", "", b"".join(shown).decode()).split("\r\n")
    said = [line.rpartition("\r")[2] for line in screen]  # after the progress bar
    metrics = [
        json.loads(line)
        for line in (mount.models / "terminal" / "metrics.jsonl").read_text().splitlines()
    ]
    names = TASK_SPECS["seq2seq"].shown_metrics
    table = as_lines(metrics_table(metrics[:2], metrics[2], names, 2, ["mine"]))
    assert table[0] == "step 2 of 2"
    begins = said.index(table[0])
    assert said[begins : begins + len(table)] == table
    assert not [line for line in said if " step 2: loss" in line]
    assert b"\x1b[1m" in b"".join(shown)

    said = [line[len("12:34:56 ") :] for line in (tmp_path / "log").read_text().splitlines()]
    told = "  ".join(
        f"{name} {metrics[2][name]:.4g}"
        for name in (*TASK_SPECS["seq2seq"].shown_metrics, "mine")
        if metrics[2][name] is not None
    )
    assert said.count(f"step 2: {told}") == 1
    assert not [line for line in said if " of 2" in line or "95% CI" in line]
