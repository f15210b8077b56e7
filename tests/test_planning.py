"""`--dry_run` and the memory check before a job, through the command."""

from pathlib import Path

import pytest
from test_memory import write_config

from workflow import memory_plan
from workflow.cli import main
from workflow.mount import Mount

FOUR_80GB = ["--plan_gpus", "4", "--plan_gpu_memory", "80GB", "--plan_host_memory", "512GB"]
PLAN_OF_XXL = """\
"""


@pytest.fixture
def empty_mount(tmp_path: Path) -> Mount:
    """A mount with xxl's config.json, and no data."""
    made = Mount(tmp_path / "mount")
    write_config(made.models / "flan-t5-xxl", "xxl")
    return made


def dry_run(mount: Mount, *words: str, task: str = "seq2seq") -> int:
    argv = ["--mount", str(mount.root), "--model_init_name", "flan-t5-xxl", "--data", "none"]
    return main(task, "", [*argv, "--dry_run", *words])


def everything_in(mount: Mount) -> list[str]:
    return sorted(str(path.relative_to(mount.root)) for path in mount.root.rglob("*"))


def test_the_plan_of_xxl_on_four_gpus(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_in(empty_mount)
    assert dry_run(empty_mount, *FOUR_80GB) == 0
    printed = capsys.readouterr()
    assert printed.out == PLAN_OF_XXL
    assert printed.err == ""
    assert everything_in(empty_mount) == before == ["models", "models/flan-t5-xxl",
                                                    "models/flan-t5-xxl/config.json"]  # fmt: skip
    assert max(map(len, printed.out.splitlines())) <= 100


def test_a_plan_follows_the_flags(empty_mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(*words: str, task: str = "seq2seq") -> str:
        assert dry_run(empty_mount, *FOUR_80GB, *words, task=task) == 0
        return capsys.readouterr().out

    assert "machine: 2 nodes, 4 GPUs each" in plan("--plan_nodes", "2")
    assert "parameters, float32\n" in plan("--bf16", "false")
    assert "bfloat16 on float32 masters, gradient checkpointing" in plan("--gradient_checkpointing")
    assert "of 192\n" in plan("--max_source_length", "128", "--max_target_length", "64")
    assert "of 1025\n" in plan(task="clf")
    assert "checkpoints: none" in plan("--no_train")
    only = plan("--zero_stage", "3", "--offload", "optimizer", "--micro_batch_tokens", "4000")
    assert "chosen: ZeRO 3, offload optimizer, micro-batches of 4,000 positions\n" in only
    assert "ZeRO 2" not in only
    unsaid = ["--plan_gpus", "4", "--plan_gpu_memory", "80GB", "--offload", "all"]
    assert dry_run(empty_mount, *unsaid) == 0
    assert "host memory not said\n" in capsys.readouterr().out


def test_where_nothing_fits_a_plan_says_so(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plan_gpus", "1", "--plan_gpu_memory", "16GB", "--plan_host_memory", "64GB"]
    assert dry_run(empty_mount, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "nothing fits" in lines
    assert not any("yes" in line for line in lines)


def test_a_plan_of_this_machine(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "available_memory", lambda: 800e9)
    assert dry_run(empty_mount, "--num_processes", "2", "--bf16", "true") == 0
    printed = capsys.readouterr().out
    assert "machine: 1 node, 2 processes on CPUs each; 367.6 GB for the model of each" in printed
    assert dry_run(empty_mount, "--bf16", "true") == 0
    assert "chosen: plain torch" in capsys.readouterr().out


BAD = [
    (
        ["--plan_gpu_memory", "80GB"],
        "--plan_gpu_memory: found no --plan_gpus; expected GPUs of each node; add --plan_gpus N\n",
    ),
    (
        ["--plan_nodes", "2"],
        "--plan_nodes: found no --plan_gpus; expected GPUs of each node; add --plan_gpus N\n",
    ),
    (
        ["--plan_gpus", "4"],
        "--plan_gpus: found no --plan_gpu_memory; expected the memory of each GPU; add it, as "
        "80GB\n",
    ),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda value: value[0])
def test_a_plan_of_half_a_machine_is_refused(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert dry_run(empty_mount, *words) == 2
    assert capsys.readouterr().err == message


def test_all_problems_of_a_plan_are_told_together(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plan_host_memory", "much", "--plan_nodes", "2", "--zero_stage", "4"]
    argv = ["--mount", str(empty_mount.root), "--model_init_name", "flan-t5-xx", "--data", "none"]
    assert main("seq2seq", "", [*argv, "--dry_run", *words]) == 2
    assert capsys.readouterr().err.replace(str(empty_mount.models), "{models}") == (
        "--plan_host_memory: found 'much'; expected an amount of memory, as 80GB; write it as "
        "--plan_host_memory SIZE\n"
        "--zero_stage: found '4'; expected auto or a whole number of at least 1 and at most 3; "
        "write it as --zero_stage auto|N\n"
        "--plan_nodes: found no --plan_gpus; expected GPUs of each node; add --plan_gpus N\n"
        "--model_init_name flan-t5-xx: found no such folder; expected {models}/flan-t5-xx; did you "
        "mean flan-t5-xxl?\n"
        "(4 problems in all)\n"
    )


def test_a_job_that_does_not_fit_is_refused_before_its_folder_is_made(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "available_memory", lambda: 480e6)
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data_name", "sums"]
    assert main("seq2seq", "", [*argv, "--bf16", "false"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "memory: found 0 MB for the model of each process; expected at least 3 MB a process (plain "
        "torch); use a smaller model, or more memory"
    )
    assert {path.name for path in mount.models.iterdir()} == {"small", ".cache"}
