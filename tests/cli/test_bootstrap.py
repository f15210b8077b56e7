"""The switch from plain python3 to the project's .venv."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SYSTEM_PYTHONS = [path for path in map(shutil.which, ("/usr/bin/python3",)) if path]


def bare_interpreter(folder: Path) -> Path:
    """A virtual environment without packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="needs .venv beside the script")
def test_an_interpreter_without_packages_continues_in_the_venv(tmp_path: Path) -> None:
    python = bare_interpreter(tmp_path / "bare")
    command = [python, ROOT / "seq2seq.py", "--data_name", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--data_name none: does not exist" in done.stderr


@pytest.mark.parametrize("python", ["bare", *SYSTEM_PYTHONS])
def test_missing_packages_are_reported(tmp_path: Path, python: str) -> None:
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    for name in ("seq2seq.py", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    chosen = bare_interpreter(tmp_path / "bare") if python == "bare" else Path(python)
    command = [chosen, tmp_path / "seq2seq.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    setup = tmp_path / "scripts" / "setup"
    assert done.stderr == (
        f"{chosen}: lacks the project's packages (expected Python 3.11 or newer with the packages "
        f"of pyproject.toml). Hint: run {setup}.\n"
    )


@pytest.mark.parametrize("script", ["seq2seq.py", "clf.py"])
def test_help_takes_less_than_a_second(script: str) -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "-h"],
        cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    after = os.times()
    used = after.children_user + after.children_system
    assert used - before.children_user - before.children_system < 1
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy"}
