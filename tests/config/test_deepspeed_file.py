"""A user's own DeepSpeed settings: what is taken, and the whole message for what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflow.config.deepspeed_file import ALLOWED, offload_of, read_deepspeed_file

ONLY = ", ".join(ALLOWED)


def read(tmp_path: Path, content: Any, stage: int | None = None, offload: str | None = None) -> Any:
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    settings, problems = read_deepspeed_file(path, stage, offload)
    return settings, [str(problem).replace(str(path), "own.json") for problem in problems]


def test_zero_and_communication_settings_are_taken(tmp_path: Path) -> None:
    own = {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True},
        "comms_logger": {"enabled": False},
    }
    settings, problems = read(tmp_path, own)
    assert problems == []
    assert settings["zero_optimization"] == {"stage": 3, "overlap_comm": True}  # auto is ours
    assert settings["comms_logger"] == {"enabled": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "--deepspeed own.json: Expecting property name enclosed in double quotes: "
              "line 1 column 2 (char 1) (expected a JSON object). Hint: correct the file."),
        ([1], "--deepspeed own.json: [1] (expected a JSON object). Hint: correct the file."),
        ({"train_batch_size": 8}, "--deepspeed own.json: train_batch_size: set by a flag of the "
                                  f"job (expected {ONLY} only). Hint: use --train_batch_size."),
        ({"fp16": {}}, "--deepspeed own.json: fp16: set by a flag of the job "
                       f"(expected {ONLY} only). Hint: use --bf16 (T5 overflows in fp16)."),
        ({"optimizer": {}}, "--deepspeed own.json: optimizer: set by a flag of the job "
                            f"(expected {ONLY} only). Hint: use --optim, --learning_rate and "
                            "--weight_decay."),
        ({"wall_clock_breakdown": True}, "--deepspeed own.json: wall_clock_breakdown: not "
                                         f"supported (expected one of {ONLY}). Hint: remove it."),
        ({"zero_optimization": {"stage": 0}}, "--deepspeed own.json: stage: 0 (expected 1, 2 "
                                              "or 3). Hint: choose one of them; for one "
                                              "process in plain torch remove the file."),
        ({"zero_optimization": {"zero_hpz_partition_size": 2}},
         "--deepspeed own.json: zero_hpz_partition_size: not supported "
         "(expected no value). Hint: remove it."),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}},
         "--deepspeed own.json: device: nvme (expected cpu or none). Hint: use cpu."),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_told(tmp_path: Path, content: Any, message: str) -> None:
    assert read(tmp_path, content)[1] == [message]


def test_what_deepspeed_itself_refuses_is_told_in_a_line(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, {"zero_optimization": {"stage": 2, "overlap_comm": "perhaps"}})[1]
    assert problem.startswith("--deepspeed own.json: zero_optimization: overlap_comm")
    (problem,) = read(tmp_path, {"zero_optimization": {"reduce_bucket_sze": 5}})[1]
    assert "reduce_bucket_sze" in problem


def test_flags_and_file_must_agree(tmp_path: Path) -> None:
    own = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert read(tmp_path, own, stage=2, offload="optimizer")[1] == []
    assert read(tmp_path, own, stage=3, offload="none")[1] == [
        "--zero_stage: 3 (expected 2, as in own.json). Hint: keep one of the two.",
        "--offload: none (expected optimizer, as in own.json). Hint: keep one of the two.",
    ]


def test_what_is_offloaded_is_read_off_the_settings() -> None:
    cpu = {"device": "cpu"}
    assert offload_of({}) == "none"
    assert offload_of({"zero_optimization": {"offload_optimizer": {"device": "none"}}}) == "none"
    assert offload_of({"zero_optimization": {"offload_optimizer": cpu}}) == "optimizer"
    assert offload_of({"zero_optimization": {"offload_param": cpu}}) == "all"
