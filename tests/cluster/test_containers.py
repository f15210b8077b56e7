"""The files of the images: same pins, same steps, no linter findings, no root user.

scripts/test_containers builds an image and runs jobs in it.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_mount
from forks import Fork, finish, run_script

from workflow import __version__
from workflow.reporting.trackers import base as trackers

FOLDER = ROOT / "containers"
TOOLS = Path(sys.executable).parent
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
DEFINITION = (FOLDER / "workflow.def").read_text()
INSTALL = (FOLDER / "install").read_text()
TRIED = (ROOT / "scripts" / "test_containers").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
Stage = dict[str, Any]


def lint(*command: object, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(TOOLS / str(command[0])), *map(str, command[1:])],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip


def read_dockerfile(text: str) -> list[Stage]:
    """Parse the base, copies, commands and environment of each stage."""
    stages: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append({"base": rest, "copies": set(), "runs": [], "sets": {}, "user": "root"})
        elif word == "COPY":
            *sources, _ = rest.split()
            stages[-1]["copies"] |= set(sources)
        elif word == "RUN":
            stages[-1]["runs"].append(rest)
        elif word == "ENV":
            stages[-1]["sets"] |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "USER":
            stages[-1]["user"] = rest
    return stages


def read_definition(text: str) -> list[Stage]:
    stages: list[Stage] = []
    section = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("Bootstrap:"):
            stages.append({"copies": set(), "runs": [], "sets": {}})
            section = "header"
        elif line.startswith("From:"):
            stages[-1]["base"] = line.split(maxsplit=1)[1]
        elif line.startswith("%"):
            section = line.split()[0]
        elif section == "%files":
            stages[-1]["copies"].add(line.split()[0])
        elif section == "%post":
            stages[-1]["runs"].append(line)
        elif section == "%environment" and line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            stages[-1]["sets"][name] = value
    return stages


def test_both_images_have_the_same_content_and_steps() -> None:
    (docker,) = read_dockerfile(DOCKERFILE)
    (apptainer,) = read_definition(re.sub(r"{{ (\w+) }}", r"${\1}", DEFINITION))
    for part in ("base", "copies", "runs"):
        assert docker[part], part
        assert docker[part] == apptainer[part], part
    for name in ("HOME", "HF_HUB_CACHE"):  # under Apptainer they are the user's own
        del docker["sets"][name]
    assert apptainer["sets"] == docker["sets"] | {"PYTHONPATH": ""}
    steps = {step.split()[1] for step in docker["runs"]}
    assert steps == set(re.findall(r"^(\w+)\(\) \{", INSTALL, re.MULTILINE)) - {"apt_install"}


def test_build_arguments_have_the_same_names_everywhere() -> None:
    names = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    assert names == {"BASE", "TORCH_BUILD", "TORCH_INDEX"}
    assert names == set(re.findall(r"\$\{(\w+)\}", DOCKERFILE))
    assert names == set(re.findall(r"\{\{ (\w+) \}\}", DEFINITION))
    assert names == set(re.findall(r'^ +"([A-Z_]+)": ', TRIED, re.MULTILINE))
    shown = [(FOLDER / name).read_text() for name in ("README.md", "build")]
    for text in shown:
        assert set(re.findall(r"\b(BASE|TORCH_[A-Z]+)\b", text)) == names
    assert set(re.findall(r"--build-arg (\w+)", shown[0])) <= names


def test_the_image_is_not_run_as_root() -> None:
    user = read_dockerfile(DOCKERFILE)[-1]["user"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number: Kubernetes cannot judge a name"


def test_the_docker_context_has_only_what_is_copied() -> None:
    allowed = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    copied = set().union(*(stage["copies"] for stage in read_dockerfile(DOCKERFILE)))
    assert allowed[0] == "*"
    assert {line[1:] for line in allowed if line.startswith("!")} == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_versions_are_the_project_s() -> None:
    """Packages come from pyproject.toml and requirements.lock themselves."""
    assert "--constraint requirements.lock" in INSTALL
    # The base's python3 is used. Ubuntu 24.04 has Python 3.12; check this again for another base.
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert DOCKERFILE.count("-ubuntu24.04") == 1
    assert "python3." not in INSTALL + DOCKERFILE


def test_the_image_has_what_a_job_may_need_and_no_tools() -> None:
    """Run the lines of `packages` that list the packages, unchanged."""
    found = re.search(r"python3 -c '(.*?)' >needed\.txt", INSTALL, re.DOTALL)
    assert found
    command = [sys.executable, "-c", found[1]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    extras = PROJECT["optional-dependencies"]
    reported = [*extras["tensorboard"], *extras["wandb"]]
    assert set(trackers.OPENED_BY) == {pin.split("==")[0] for pin in reported}
    assert done.stdout.splitlines() == [*PROJECT["dependencies"], *extras["serve"], *reported]


def test_cuda_is_named_once_and_for_this_torch() -> None:
    (cuda,) = re.findall(r"^ARG BASE=nvidia/cuda:(\d+\.\d+\.\d+)-base", DOCKERFILE, re.MULTILINE)
    files = [path.read_text() for path in FOLDER.iterdir() if path.suffix != ".md"]
    assert sum(text.count(cuda) for text in files) == 1
    line = f"torch {PINS['torch']} on PyPI is built for CUDA {cuda.rpartition('.')[0]} "
    assert line in DOCKERFILE, "update the CUDA version of the new torch"
    assert f"ARG TORCH_BUILD=cu{''.join(cuda.split('.')[:2])}\n" in DOCKERFILE


def scripts() -> list[Path]:
    """The bash scripts of the project."""
    paths = [path for name in ("scripts", "containers", ".ci") for path in (ROOT / name).iterdir()]
    return sorted(path for path in paths if path.read_bytes().startswith(b"#!/usr/bin/env bash"))


def test_the_linters_find_nothing() -> None:
    assert {path.name for path in scripts()} >= {"build", "install", "setup", "check", "run"}
    done = lint("hadolint", FOLDER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    done = lint("shellcheck", *scripts())
    assert (done.returncode, done.stdout) == (0, "")
    for stage in read_definition(DEFINITION):
        done = lint("shellcheck", "--shell=sh", "-", text="\n".join(stage["runs"]))
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("FROM ${BASE}", "FROM nvidia/cuda:latest", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ('["tini", "--"]', "tini --", "DL3025"),
        ("WORKDIR /opt/workflow", "RUN cd /opt/workflow", "DL3003"),
    ],
)
def test_a_broken_dockerfile_is_rejected(right: str, wrong: str, rule: str) -> None:
    assert right in DOCKERFILE
    done = lint("hadolint", "-", text=DOCKERFILE.replace(right, wrong))
    assert done.returncode != 0
    assert rule in done.stdout


def test_a_broken_script_is_rejected() -> None:
    done = lint("shellcheck", "-", text=INSTALL.replace('"$packages/workflow.pth"', "$packages/x"))
    assert done.returncode != 0
    assert "SC2086" in done.stdout


def run_build(
    folder: Path, programs: dict[str, str], *words: str
) -> "subprocess.CompletedProcess[str]":
    """Run containers/build with only these programs and the shell's own in PATH."""
    for name in ("bash", "dirname", "env", "sed"):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        [FOLDER / "build", *words], env={"PATH": str(folder)}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


NOTE = 'echo "${0##*/} $* in $PWD"'


def test_both_images_are_built_from_the_root_and_named_by_version(tmp_path: Path) -> None:
    done = run_build(tmp_path, {"docker": NOTE, "apptainer": NOTE})
    base = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)[0]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"docker build --file containers/Dockerfile --tag workflow:{__version__} . in {ROOT}",
        f"apptainer build --build-arg=BASE={base} --build-arg=TORCH_BUILD=cu130 "
        f"--build-arg=TORCH_INDEX= workflow-{__version__}.sif containers/workflow.def in {ROOT}",
    ]


@pytest.mark.parametrize(("what", "last"), [("docker", "workflow:mine ."), ("apptainer", "def")])
def test_one_image_is_built_under_another_tag(tmp_path: Path, what: str, last: str) -> None:
    done = run_build(tmp_path, {what: NOTE}, what, "mine")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{what} build ")
    assert line.endswith(f"{last} in {ROOT}")
    assert "mine" in line


@pytest.mark.parametrize("what", ["docker", "apptainer"])
def test_arguments_are_passed_after_the_defaults(tmp_path: Path, what: str) -> None:
    """Of several values of an argument, both builders use the last."""
    given = ["--build-arg", "TORCH_BUILD=cpu", "--build-arg", "BASE=ubuntu:24.04"]
    (line,) = run_build(tmp_path, {what: NOTE}, what, "cpu", *given).stdout.splitlines()
    before, _, after = line.partition(" ".join(given))
    assert after
    assert "TORCH_BUILD" not in after
    assert ("TORCH_BUILD=cu130" in before) == (what == "apptainer")


@pytest.mark.parametrize(
    ("programs", "words", "message"),
    [
        ({}, ["docker"], "docker not found. Hint: install it, or build elsewhere."),
        ({"docker": NOTE}, [], "apptainer not found. Hint: install it, or build elsewhere."),
        (
            {"docker": "[ $1 != info ]"}, ["docker"],
            "the docker daemon does not answer. Hint: run docker info for the reason.",
        ),
    ],
)  # fmt: skip
def test_missing_build_tools_are_reported_before_anything_is_built(
    tmp_path: Path, programs: dict[str, str], words: list[str], message: str
) -> None:
    done = run_build(tmp_path, programs, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"containers/build: {message}\n"


def test_unknown_arguments_print_the_usage(tmp_path: Path) -> None:
    done = run_build(tmp_path, {}, "podman")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Builds the images: containers/build [docker|apptainer|both]")


NOTHING_COMPILED = """
import sys
from deepspeed.ops.op_builder.builder import OpBuilder
from workflow.cli.run import main

def compiled(builder, *arguments, **named):
    raise AssertionError(f"{builder.name} would be compiled")

OpBuilder.load = OpBuilder.jit_load = compiled
sys.exit(main("seq2seq", ""))
"""


@pytest.mark.parametrize(("stage", "offload"), [("1", "optimizer"), ("3", "all")])
def test_no_deepspeed_operation_is_compiled(tmp_path: Path, stage: str, offload: str) -> None:
    """The final image needs no compiler and no nvcc."""
    mount = make_mount(tmp_path / "mount")
    words = ["--mount", mount.root, "--model_init_name", "small", "--data_name", "sums"]
    words += ["--num_processes", "1", "--zero_stage", stage, "--offload", offload]
    words += ["--max_steps", "1", "--eval_on_start", "false", "--max_new_tokens", "2"]
    script = tmp_path / "nothing_compiled.py"
    script.write_text(NOTHING_COMPILED)
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    (done,) = finish([Fork(run_script, script, *map(str, words), environment=environment)])
    assert done.returncode == 0, done.stderr
    assert f"ZeRO {stage}" in done.stderr


def test_an_image_can_be_read_whatever_the_checkout_s_permissions_are(tmp_path: Path) -> None:
    """Run the line of `project` that mends them, unchanged."""
    (line,) = re.findall(r"^ +(chmod .*)$", INSTALL, re.MULTILINE)
    package = tmp_path / "workflow"
    package.mkdir(mode=0o700)
    (package / "module.py").touch(0o600)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    modes = [path.stat().st_mode & 0o777 for path in (package, package / "module.py")]
    assert modes == [0o755, 0o644]
