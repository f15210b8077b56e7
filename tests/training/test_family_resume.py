"""Every family's runs resume bit for bit, in float32 and bfloat16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_families import FAMILIES, make_any
from test_resume import assert_identical, start

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
