"""PyTorch's build for a machine's driver and GPUs."""

import os
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
