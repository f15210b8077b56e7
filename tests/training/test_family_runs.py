"""Runs of every family: resumed bit for bit, and on float32 masters whatever the files hold."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, T5_TINY
from safetensors.torch import load_file, save_file
from test_families import FAMILIES, make_any
from test_processes import job, write_scored
from test_resume import assert_identical, start
from tiny_models import change_settings

from workflow import make_job, run_job
from workflow.runs.mount import Mount

Lines = Callable[[Path], list[dict[str, Any]]]


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"mbart25", "nllb"}))  # as others are
def test_a_stopped_run_of_a_family_resumes_as_if_it_had_not_stopped(
    mount: Mount, read_lines: Lines, family: str, bf16: bool
) -> None:
    flags: dict[str, Any] = make_any(family, mount.models / family)
    flags |= {
        "model_init_name": family, "bf16": bf16, "max_steps": 4, "eval_steps": 4, "save_steps": 4,
        "eval_on_start": False, "max_source_length": 64, "max_target_length": 64,
    }  # fmt: skip
    assert start(mount, "plain", **flags)
    assert not start(mount, "cut", stop_after=3, **flags)
    assert start(mount, "cut", **flags)
    assert_identical(mount.models / "cut", mount.models / "plain", read_lines, step=4)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("folder", [T5_TINY, GPT_TINY, BERT_TINY], ids=lambda folder: folder.name)
def test_files_in_half_precision_are_trained_in_float32(
    mount: Mount, folder: Path, half: torch.dtype
) -> None:
    """As the same weights in float32 files are, bit for bit."""
    write_scored(mount)
    task, saved = "clf" if folder is BERT_TINY else "seq2seq", []
    for dtype in (half, torch.float32):
        name = str(dtype).removeprefix("torch.")
        shutil.copytree(folder, mount.models / name)
        weights = load_file(folder / "model.safetensors")
        rounded = {name: tensor.to(half).to(dtype) for name, tensor in weights.items()}
        save_file(rounded, mount.models / name / "model.safetensors", {"format": "pt"})
        change_settings(mount.models / name / "config.json", {"dtype": name})
        flags = {"model_init_name": name, "max_steps": 2, "save_steps": 2, "eval_on_start": False}
        run = run_job(make_job(**job(task, f"of-{name}", **flags)), mount)
        saved.append(load_file(run / "checkpoint-2" / "model.safetensors"))
    of_half, of_single = saved
    assert {tensor.dtype for tensor in of_half.values()} == {torch.float32}
    assert of_half.keys() == of_single.keys()
    for name, tensor in of_single.items():
        assert torch.equal(of_half[name], tensor), name
