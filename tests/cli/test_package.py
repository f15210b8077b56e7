"""The package: its pins, the contents of its wheel, and the wheel installed, without a network."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
LIBRARY = """
import workflow
print(workflow.make_job("seq2seq", model_init_name="m", data_name="d").data_name)
print(workflow.__file__)
"""


def run(*command: object, cwd: Path) -> str:
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": ""}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(*paths: str) -> list[str]:
    return run("git", "ls-files", "--", *paths, cwd=ROOT).splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git tracks, so that nothing else can get into it."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked("workflow", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".")
    run(sys.executable, "-m", "pip", *build, cwd=source)
    (built,) = (source / "dist").iterdir()
    return built


def test_pins_and_lock_agree() -> None:
    locked = dict(re.findall(r"^(\S+)==(\S+)$", LOCK, re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(pin for pins in extras.values() for pin in pins)]
    pins = dict(pin.split("==") for pin in wanted if not pin.startswith("workflow["))
    assert {name: locked.get(name) for name in pins} == pins
    assert "uv pip compile --all-extras" in LOCK.splitlines()[1]


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(tracked("workflow"))


def test_the_installed_wheel_gives_the_command_and_the_library(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    usage = run(venv / "bin" / "workflow", "-h", cwd=tmp_path)
    assert usage.startswith("usage: workflow [-h] COMMAND ...\n")
    as_module = run(python, "-m", "workflow", "-h", cwd=tmp_path)
    assert as_module.startswith("usage: python3 -m workflow [-h] COMMAND ...\n")
    assert run(python, "-c", LIBRARY, cwd=tmp_path).splitlines() == [
        "d", str(packages / "workflow" / "__init__.py"),
    ]  # fmt: skip
