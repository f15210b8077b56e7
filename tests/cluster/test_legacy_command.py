"""Jobs given as one shell command, as in earlier command lines."""

import dataclasses
from pathlib import Path

import pytest

from workflow.cluster.legacy_command import Command, read_command
from workflow.cluster.parse import read_words
from workflow.core.errors import BadInput


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A shared folder with a project in it."""
    project = tmp_path / "home" / "workflow"
    project.mkdir(parents=True)
    for name in ("seq2seq.py", "clf.py"):
        (project / name).touch()
    return tmp_path / "home"


FLAGS = ("--model_init_name", "flan-t5-xxl", "--training_run_name", "0216 syn's")


@pytest.mark.parametrize(
    "text",
    [
        'bash -c "cd data/workflow; python3 seq2seq.py --model_init_name flan-t5-xxl '
        "--training_run_name '0216 syn'\\\\''s'\"",
        "cd data/workflow && python3 seq2seq.py --model_init_name flan-t5-xxl "
        "--training_run_name \"0216 syn's\"",
        "cd data; cd workflow;\npython -u ./seq2seq.py --model_init_name flan-t5-xxl "
        "--training_run_name \"0216 syn's\";",
        "/bin/sh -lc 'cd data/workflow; seq2seq.py --model_init_name flan-t5-xxl "
        "--training_run_name \"0216 syn'\\''s\"'",
    ],
)  # fmt: skip
def test_a_command_is_a_folder_a_script_and_its_flags(shared: Path, text: str) -> None:
    found = read_command(text, str(shared), shared / "elsewhere")
    project = shared / "workflow"
    assert dataclasses.replace(found, setup=()) == Command("seq2seq", FLAGS, project, project)
    assert found.setup[-1:] in ((), (f"cd {project} || exit 1",))


def test_lines_before_the_job_come_before_it(shared: Path) -> None:
    text = (
        "module load cuda && export A=$HOME; export D=1; cd data/workflow; B=2 C='x y' python3 "
        "clf.py --seed 1"
    )
    found = read_command(text, str(shared), shared)
    assert found.setup == (
        "module load cuda || exit 1", "export A=$HOME", f"cd {shared}/workflow || exit 1",
    )  # fmt: skip
    assert found.envs == {"D": "1", "B": "2", "C": "x y"}
    assert (found.task, found.arguments) == ("clf", ("--seed", "1"))


def test_without_a_shared_folder_data_is_an_ordinary_folder(shared: Path) -> None:
    found = read_command("cd workflow; python3 clf.py", None, shared)
    assert found.folder == shared / "workflow"


HINT = "write the job after -- instead: -- seq2seq.py [flags]."


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("python3 train.py", "'python3 train.py'",
         "a command with seq2seq.py or clf.py"),
        ("cd data/workflow; python3 clf.py | tee log", "'|'",
         "arguments without shell syntax ($, `, <, >, |, parentheses)"),
        ("cd data/workflow; python3 clf.py --seed $SEED", "'$SEED'",
         "arguments without shell syntax ($, `, <, >, |, parentheses)"),
        ("cd data/workflow; python3 clf.py &", "'&'", "a job in the foreground"),
        ("cd data/workflow || exit; python3 clf.py", "'cd data/workflow || exit'",
         "cd FOLDER"),
        ("cd data/workflow; true & python3 clf.py", "'&'", "commands joined by ; or &&"),
        ("cd data/workflow; python3 clf.py; rm -r x", "'rm -r x'", "nothing after the job"),
        ("cd data/workflow; deepspeed clf.py", "'deepspeed clf.py'", "python3 before the script"),
        ("bash -c 'python3 clf.py", "\"bash -c 'python3 clf.py\": No closing quotation",
         "a complete shell command"),
    ],
)  # fmt: skip
def test_other_commands_are_refused(shared: Path, text: str, found: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_command(text, str(shared), shared)
    assert str(caught.value) == f"--command: {found} (expected {expected}). Hint: {HINT}"


def test_a_missing_script(shared: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_command("cd data/other; python3 clf.py", str(shared), shared)
    assert str(caught.value) == (
        f"--command: '{shared}/other/clf.py' (expected an existing script). Hint: {HINT}"
    )


def test_the_words_of_the_earlier_command_line(shared: Path) -> None:
    words = [
        "--name", "0216synexplain", "--container", "IMAGE", "--shared-host-dir", str(shared),
        "--gpu", "4", "--gpus-type", "a100", "--command",
        'bash -c "cd data/workflow; python3 seq2seq.py --model_init_name flan-t5-xxl --data d"',
    ]  # fmt: skip
    asked = read_words("slurm", words)
    assert asked.problems == []
    assert (asked.cluster.name, asked.cluster.container) == ("0216synexplain", "IMAGE")
    assert (asked.cluster.gpus_per_node, asked.cluster.gpu_type) == (4, "a100")
    assert (asked.spec.model_init_name, asked.spec.data_name) == ("flan-t5-xxl", "d")
    assert asked.command.project == shared / "workflow"
