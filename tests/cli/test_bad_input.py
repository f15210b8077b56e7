"""Bad input: the complete message, status 2, no traceback, no run folder; 20 of many problems."""

import json
import re
import subprocess
import sys

import golden_files
import pytest
from bad_classes import BAD_CLASSES
from bad_inputs import CASES as BAD_CASES
from bad_inputs import BadInput
from bad_prompts import BAD_PROMPTS
from conftest import ROOT, addition_records, write_data

from workflow.cli.run import main
from workflow.runs.mount import Mount

CASES = [*BAD_CASES, *BAD_CLASSES, *BAD_PROMPTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_message_is_complete_and_nothing_is_written(
    case: BadInput, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    case.write(mount)
    assert main(case.task, "", case.argv(mount)) == 2
    lines = capsys.readouterr().err.replace(str(mount.root), "{mount}").splitlines()
    log_line = re.compile(r"\d\d:\d\d:\d\d ")
    message = "\n".join(line for line in lines if not log_line.match(line))
    golden_files.check("bad_input.txt", case.name, message)
    left = {path.name for path in mount.models.iterdir()}
    assert left <= {"small", "other", ".cache"}


def test_every_golden_message_has_its_case() -> None:
    assert golden_files.sections("bad_input.txt").keys() == {case.name for case in CASES}


def test_of_many_problems_20_and_the_count_are_shown(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {"prompt": "a", "completion": "b", f"{chr(97 + i)}": float("nan")} for i in range(25)
    ]
    write_data(mount, "many", records, addition_records(1))
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "many"]
    assert main("seq2seq", "", argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[0].endswith(
        "train[0].a: NaN (expected a finite number). Hint: use null or remove it."
    )
    assert lines[-1] == "… and 5 more (25 problems in all)"


def test_the_typed_command_exits_with_2_and_without_a_traceback(mount: Mount) -> None:
    write_data(mount, "bad", [{"prompt": 1}], [])
    command = [sys.executable, "seq2seq.py", "--mount", str(mount.root), "--data_name", "bad"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 5  # model, prompt, completion, eval, the count
    assert done.stdout == ""


def test_an_unreadable_file_is_reported(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    (mount.data / "loop.json").symlink_to(mount.data / "loop.json")
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "loop"]
    assert main("seq2seq", "", argv) == 2
    assert "--data_name loop: does not exist" in capsys.readouterr().err


def test_a_world_size_without_rank_and_address_is_refused(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "sums"]
    assert main("seq2seq", "", argv) == 2
    assert capsys.readouterr().err == (
        "environment variable WORLD_SIZE: '2' (expected RANK, MASTER_ADDR and MASTER_PORT "
        "as well). Hint: start the job with one launcher (torchrun, srun, deepspeed), or unset "
        "the variable.\n"
    )


def test_answers_may_be_missing_only_without_training(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    (mount.data / "open.json").write_text(json.dumps({"eval": [{"prompt": "add one: 1"}]}))
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data", "open"]
    assert main("seq2seq", "", argv) == 2
    assert 'no key "train"' in capsys.readouterr().err
    assert main("seq2seq", "", [*argv, "--no_train", "--max_new_tokens", "3"]) == 0
