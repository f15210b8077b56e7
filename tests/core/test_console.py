"""Tables and colors: rich on a terminal, plain lines elsewhere."""

import io
import re

import pytest

from workflow.core.console import log_parts, show, show_error
from workflow.core.tables import as_lines, render, table

ROWS = [["run", "state", "step"], ["a [bold]run[/]", ":smile: done", "7"], ["é文", "", "1,000"]]
LINES = [
    "run             state          step",
    "a [bold]run[/]  :smile: done      7",
    "é文                           1,000",
]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_texts_are_never_markup() -> None:
    assert as_lines(["[red]no[/] :smile:", table(ROWS, left=2)]) == ["[red]no[/] :smile:", *LINES]


def test_a_table_fits_its_terminal() -> None:
    lines = render([table(ROWS, left=2)], 24, colors=False).split("\n")
    assert max(map(len, lines)) <= 24
    assert "".join("".join(lines).split()).count("1,000") == 1


def test_lines_are_never_wrapped() -> None:
    long = "word " * 60 + "end"
    assert render([long], 40, colors=False) == long
    assert as_lines([table([["head"], ["x" * 500]])])[1] == "x" * 500


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colors_are_for_terminals_without_no_color(
    no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        show([table(ROWS, left=2)], stream)
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert [line.rstrip() for line in plain.splitlines()] == LINES
    assert ("\x1b[" in terminal.getvalue()) == (no_color == "")
    assert file.getvalue().splitlines() == LINES


def test_an_error_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "data.json: train[3]: [x] (expected text). Hint: " + "remove it " * 30 + ":smile:"
    show_error(message)
    assert capsys.readouterr().err == message + "\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    show_error(message)
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()) == message + "\n"


def test_a_closed_terminal_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Terminal):
        def write(self, text: str) -> int:
            raise OSError("Input/output error")

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", Closed())
    log_parts([table(ROWS, left=2)])
