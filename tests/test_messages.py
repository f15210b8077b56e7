"""The program's words: golden files of its output, and words that it avoids."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import golden_files
import pytest
from conftest import ROOT, addition_records, write_data

from workflow.cli.main import main as workflow
from workflow.cli.run import main as job
from workflow.core.console import inform_once, warn_once
from workflow.runs.mount import Mount

JOB = ("--model_init_name", "small", "--data_name", "sums", "--max_new_tokens", "4",
       "--bf16", "false")  # fmt: skip
TRAIN = (*JOB, "--training_run_name", "run", "--max_steps", "4", "--eval_steps", "2",
         "--logging_steps", "2")  # fmt: skip


def shown(text: str, mount: Mount) -> str:
    """Output without what differs between machines and runs: places, times, speeds, digits."""
    text = text.replace(str(mount.root), "{mount}").replace(str(ROOT), "{project}")
    text = re.sub(r"\d\d:\d\d:\d\d ", "HH:MM:SS ", text)
    text = re.sub(r"\d+\.\d+(e[-+]\d+)?", "N.N", text)
    text = re.sub(r"\b(loss|token_accuracy|exact_match|rouge\w+|chrf) \d\S*", r"\1 N.N", text)
    text = re.sub(r"(N\.N) +(?=[-+]?N\.N)", r"\1  ", text)
    text = re.sub(r"\bpid \d+ on \S+", "pid N on HOST", text)
    return re.sub(r"N\.N (K|M|G|T)?B\b", "N MB", text)


@pytest.mark.parametrize(
    "command",
    [
        "seq2seq.py -h", "seq2seq.py --help_all", "clf.py -h", "clf.py --help_all",
        "workflow -h", "workflow submit -h", "workflow submit slurm -h",
        "workflow compare -h", "workflow sweep -h", "workflow import -h",
        "workflow list -h",
    ],
)  # fmt: skip
def test_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.argv", [command.split()[0]])
    script, *words = command.split()
    with pytest.raises(SystemExit) as raised:
        job(script.removesuffix(".py"), "", words) if ".py" in script else workflow(words)
    assert raised.value.code == 0
    help = capsys.readouterr().out
    assert max(map(len, help.splitlines())) <= 100
    golden_files.check("help.txt", command, help.rstrip("\n"))


def test_a_run(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    """A run from its first line to its last, then what the commands show of it."""

    def check(title: str, status: int) -> None:
        output = capsys.readouterr()
        golden_files.check("run.txt", title, shown(output.out + output.err, mount).rstrip("\n"))
        assert status == 0

    for once in (inform_once, warn_once):  # other tests may have logged the same lines
        once.cache_clear()
    at = ("--mount", str(mount.root))
    check("no runs", workflow(["list", *at]))
    check("train", job("seq2seq", "", [*TRAIN, *at]))
    check("the same command again", job("seq2seq", "", [*TRAIN, *at]))
    check("evaluate", job("seq2seq", "", [*JOB, *at, "--no_train"]))
    check("audit", job("seq2seq", "", [*JOB, *at, "--audit"]))
    check("list", workflow(["list", *at]))
    check("status", workflow(["status", "run", *at]))
    check("compare", workflow(["compare", "run", *at]))
    check("memory plan", job("seq2seq", "", [*JOB, *at, "--max_steps", "4", "--dry_run",
          "--plan_gpus", "4", "--plan_gpu_memory", "80GB"]))  # fmt: skip


def test_an_audit_of_bad_data(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    good = addition_records(40)
    train = [
        *good, *good[:6], good[1] | {"completion": "9 9"}, good[2] | {"prompt": "a {b}\nc"},
        {"prompt": "", "completion": "1"}, {"prompt": "add one: 7", "completion": ""},
        {"prompt": "add one: " + "7 " * 90, "completion": "日本"},
    ]  # fmt: skip
    write_data(mount, "sums", train, good[3:9])
    argv = [*JOB, "--mount", str(mount.root), "--audit", "--max_source_length", "40"]
    assert job("seq2seq", "", argv) == 0
    golden_files.check(
        "run.txt", "audit of bad data", shown(capsys.readouterr().err, mount).rstrip()
    )


AVOIDED = re.compile(
    r"\b(tells?|told|goes on|going on|go on|gone on|stood still|begins? again|is none|leave it out"
    r"|by itself|makes? anew|made anew|mend|there is no such|until now|besides|is held by)\b"
)
"""Words of docs/develop/style.md's right column that are wrong wherever they are printed."""


def printed_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a module that are not docstrings, each with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings:
            yield node.lineno, text


def test_printed_texts_avoid_odd_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "workflow").rglob("*.py"))
        for line, text in printed_texts(path)
        if AVOIDED.search(text)
    ]
    assert found == []
