"""scripts/test_gpu: its lines, its file, and checks that fail; without a GPU."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from gpu_checks.__main__ import Check, _environment, main
from gpu_checks.training import greatest
from gpu_checks.waits import counting

MADE_UP = """
import os, time
from gpu_checks.place import Failed, Skip

def fine(place):
    place.note(speed=3, losses=[1.5, float("nan")], far={"bf16": float("inf")})
    return "three"

def wrong(place):
    place.note(speed=1)
    print("first")
    raise Failed("too slow:\\n1 is not 3")

def missing(place):
    raise Skip("no CUDA device")

def late(place):
    place.note(speed=2)
    print("waiting", flush=True)
    time.sleep(60)

def killed(place):
    os.kill(os.getpid(), 9)
"""


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it is run for its own sake")
def test_the_script_prints_a_line_a_check_and_writes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    words = ["--only", "machine", "--only", "memory", "--json", file]
    done = subprocess.run(
        [ROOT / "scripts" / "test_gpu", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("machine") and "s  ok: no CUDA device, " in first
    assert second.startswith("memory") and "s  skip: no CUDA device" in second
    assert last.startswith("1 ok, 0 FAIL, 1 skip; ")
    found = read(file)
    assert found["complete"] and list(found["checks"]) == ["machine", "memory"]
    figures = found["checks"]["machine"]["figures"]
    assert (figures["device"], figures["torch"]) == ("cpu", torch.__version__)


def test_a_check_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made_up.py").write_text(MADE_UP)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    names = ("fine", "wrong", "missing", "late", "killed")
    checks = {name: Check(f"made_up:{name}", 30, alone=True) for name in names}
    checks["late"] = Check("made_up:late", 3)
    file = tmp_path / "gpu.json"
    assert main(["--json", str(file)], checks) == 1
    found = read(file)["checks"]
    assert {name: (result["outcome"], result["said"]) for name, result in found.items()} == {
        "fine": ("ok", "three"),
        "wrong": ("FAIL", "1 is not 3"),
        "missing": ("skip", "no CUDA device"),
        "late": ("FAIL", "no end in 3 s; waiting"),
        "killed": ("FAIL", "ended by signal 9"),
    }
    assert {name: found[name]["figures"] for name in ("fine", "wrong", "late")} == {
        "fine": {"speed": 3, "losses": [1.5, "nan"], "far": {"bf16": "inf"}},
        "wrong": {"speed": 1},
        "late": {"speed": 2},
    }
    assert found["wrong"]["output"][0] == "first" and "output" not in found["fine"]
    assert "wrong         " in (out := capfd.readouterr().out) and "FAIL: 1 is not 3" in out
    assert main(["--only", "fine"], checks) == 0


def test_other_words_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--only", "other"])
    assert raised.value.code == 2 and "'other'" in capsys.readouterr().err
    assert main(["--json", str(tmp_path / "missing" / "gpu.json")]) == 2
    assert "missing" in capsys.readouterr().err


def test_the_first_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for visible, expected in ((None, "0,1"), ("4,5,6", "4,5"), ("MIG-1", "MIG-1"), ("", "")):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        environment = _environment(2)
        assert environment["CUDA_VISIBLE_DEVICES"] == expected and "RANK" not in environment


def test_operations_that_wait_are_counted() -> None:
    numbers = torch.arange(4.0)
    with counting("cpu") as found:
        numbers + 1
        numbers[1:].sum().item()
        numbers.nonzero()
        numbers[numbers > 1]
        numbers[torch.tensor([0, 1])]
    assert found == [3]


def test_what_is_not_a_number_is_far_off() -> None:
    assert greatest([0.5, math.nan, 0.1]) == math.inf
    assert greatest([0.5, 1.5]) == 1.5
