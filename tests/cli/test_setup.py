"""PyTorch's build for a machine's driver and GPUs."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


def torch_build(folder: Path, gpus: list[str] | None) -> subprocess.CompletedProcess[str]:
    """Run scripts/torch_build with an nvidia-smi that lists these GPUs, or fails."""
    output = "\n".join(gpus or [])
    script = f"#!/bin/sh\nprintf '%s\\n' '{output}'\nexit {0 if gpus else 9}\n"
    (folder / "nvidia-smi").write_text(script)
    (folder / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [ROOT / "scripts" / "torch_build"], env=environment, text=True, capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "build"),
    [
        (None, "cpu"),
        (["580.65.06, 9.0"] * 8, "cu130"),
        (["610.10, 12.0"], "cu130"),
        (["570.133.20, 9.0"], "cu126"),
        (["535.104.05, 8.0"], "cu126"),
        (["580.65.06, 7.0"], "cu126"),  # Volta
        (["580.65.06, 8.6", "580.65.06, 6.1"], "cu126"),
    ],
)
def test_the_build_suits_driver_and_gpus(
    tmp_path: Path, gpus: list[str] | None, build: str
) -> None:
    done = torch_build(tmp_path, gpus)
    assert (done.stdout, done.stderr, done.returncode) == (f"{build}\n", "", 0)


def test_blackwell_with_an_old_driver_is_refused(tmp_path: Path) -> None:
    done = torch_build(tmp_path, ["570.133.20, 10.0"])
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr == (
        "scripts/setup: Blackwell GPUs need NVIDIA driver 580 or newer. Hint: update the driver, "
        "or use scripts/setup --cuda cpu.\n"
    )


def install_torch(folder: Path, build: str, index: str, unreachable: bool) -> list[str]:
    """Run scripts/install_torch with an interpreter that notes pip's arguments in a file."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/calls\n'
        f'case "$*" in *--index-url*) exit {int(unreachable)} ;; esac\n'
    )
    python.chmod(0o755)
    subprocess.run(
        [ROOT / "scripts" / "install_torch", python, build],
        env=os.environ | {"TORCH_INDEX": index}, cwd=ROOT, check=True,
    )  # fmt: skip
    calls = folder / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("build", "index", "unreachable", "installed"),
    [
        ("cu130", "", False, []),  # comes with the other packages
        ("cu130", "https://mine", False, ["--index-url https://mine"]),
        ("cu126", "", False, ["--index-url https://download.pytorch.org/whl/cu126"]),
        (
            "cpu", "", False,
            ["--no-deps --retries 0 --timeout 30 --index-url https://download.pytorch.org/whl/cpu"],
        ),
        (
            "cpu", "https://mine", True,
            ["--no-deps --retries 0 --timeout 30 --index-url https://mine", "--no-deps"],
        ),
    ],
)  # fmt: skip
def test_the_build_is_installed_with_the_pinned_version(
    tmp_path: Path, build: str, index: str, unreachable: bool, installed: list[str]
) -> None:
    (pin,) = re.findall(r"^torch==.*$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert install_torch(tmp_path, build, index, unreachable) == [
        f"-m pip --disable-pip-version-check install --quiet {words} {pin}" for words in installed
    ]


def test_a_gpu_build_that_cannot_be_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        install_torch(tmp_path, "cu126", "", unreachable=True)
