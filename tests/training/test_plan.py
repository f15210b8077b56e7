"""`--dry_run` and the memory check before a job, through the command; published cases."""

from pathlib import Path

import pytest
from test_memory import SHAPES, write_config
from transformers import CONFIG_MAPPING

from workflow.cli.run import main
from workflow.distributed.strategy import ShardingStrategy
from workflow.memory import machine as this_host
from workflow.memory.activations import Work
from workflow.memory.estimate import predict
from workflow.memory.machine import Machine
from workflow.memory.model_dims import sizes_of
from workflow.memory.search import fits
from workflow.runs.mount import Mount

FOUR_80GB = ["--plan_gpus", "4", "--plan_gpu_memory", "80GB", "--plan_host_memory", "512GB"]
PLAN_OF_XXL = """\
model: 11.14 billion parameters, bfloat16 on float32 masters
machine: 1 node, 4 GPUs per node, 80.0 GB per GPU (72.6 usable: 8% and 1.0 GB kept free)
         512.0 GB of host memory per node

                                 minimum       minimum                     largest micro-batch
setting                       GB per GPU   GB per host       fits   positions   of 1536 tokens
ZeRO 1                             167.0           0.0    no: GPU           -                -
ZeRO 2                              76.8           0.0    no: GPU           -                -
ZeRO 3                              61.5           0.0        yes       3,642       2 examples
ZeRO 1, offload optimizer           80.9         262.0    no: GPU           -                -
ZeRO 2, offload optimizer           44.5         262.0        yes       7,085       4 examples
ZeRO 3, offload optimizer           17.0         253.9        yes      12,220       7 examples
ZeRO 3, offload all                 11.4         310.5        yes      13,794       8 examples

chosen: ZeRO 3, micro-batches of 3,642 positions
  peak per process, in reduce: 71.9 GB
    optimizer 22.3, activations 16.8, gradients 11.7, masters 11.1, weights 5.6, reduction 2.0,
    gathered weights 1.4, position bias 1.0, logits 0.1
  evaluation: a complete copy (22.3 GB) does not fit; generation will be slow
checkpoint: 44.5 GB of float32 weights, 133.6 GB with optimizer state
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

    assert "machine: 2 nodes, 4 GPUs per node" in plan("--plan_nodes", "2")
    assert "parameters, float32\n" in plan("--bf16", "false")
    assert "bfloat16 on float32 masters, gradient checkpointing" in plan("--gradient_checkpointing")
    assert "of 192 tokens\n" in plan("--max_source_length", "128", "--max_target_length", "64")
    assert "of 1025 tokens\n" in plan(task="clf")
    assert "checkpoints: none" in plan("--no_train")
    only = plan("--zero_stage", "3", "--offload", "optimizer", "--micro_batch_tokens", "4000")
    assert "chosen: ZeRO 3, offload optimizer, micro-batches of 4,000 positions\n" in only
    assert "ZeRO 2" not in only
    unsaid = ["--plan_gpus", "4", "--plan_gpu_memory", "80GB", "--offload", "all"]
    assert dry_run(empty_mount, *unsaid) == 0
    assert "host memory unlimited\n" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--load_in_4bit", "--use_dora"])
def test_a_model_that_needs_whole_weights_is_not_divided(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    words = [*FOUR_80GB, "--tuning", "lora", flag]
    assert dry_run(empty_mount, *words) == 0
    printed = capsys.readouterr().out
    assert "ZeRO 2, offload optimizer" in printed
    assert "ZeRO 3" not in printed
    for setting in (["--zero_stage", "3"], ["--offload", "all"]):
        assert dry_run(empty_mount, *words, *setting) == 2
        assert capsys.readouterr().err == (
            f"{flag}: set with ZeRO 3, which divides the weights (expected ZeRO 1, ZeRO 2 or plain "
            "torch, whose weights are whole). Hint: use --zero_stage 2 without --offload all, or "
            f"remove {flag}.\n"
        )


def test_a_plan_has_texts_that_the_model_can_read(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, task, tokens in (("bert", "clf", 513), ("gpt2", "seq2seq", 1024)):
        config = CONFIG_MAPPING[kind]().to_json_string()
        (empty_mount.models / "flan-t5-xxl" / "config.json").write_text(config)
        assert dry_run(empty_mount, *FOUR_80GB, task=task) == 0
        assert f"of {tokens} tokens\n" in capsys.readouterr().out
    assert dry_run(empty_mount, "--max_source_length", "2000") == 2
    assert capsys.readouterr().err == (
        "--max_source_length: 2000 (expected at most 512, as prompt and completion share the "
        "model's 1024 positions). Hint: add --max_source_length 512, or reduce "
        "--max_target_length, which is 512.\n"
    )


def test_a_plan_reports_that_nothing_fits(
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
    monkeypatch.setattr(this_host, "available_memory", lambda: 800e9)
    assert dry_run(empty_mount, "--num_processes", "2", "--bf16", "true") == 0
    printed = capsys.readouterr().out
    assert "1 node, 2 processes per node on CPUs; 367.6 GB per process for the model" in printed
    assert dry_run(empty_mount, "--bf16", "true") == 0
    assert "chosen: plain torch" in capsys.readouterr().out


BAD = [
    (
        ["--plan_gpu_memory", "80GB"],
        "--plan_gpu_memory: set without --plan_gpus (expected the number of GPUs per node too). "
        "Hint: add --plan_gpus N.\n",
    ),
    (
        ["--plan_nodes", "2"],
        "--plan_nodes: set without --plan_gpus (expected the number of GPUs per node too). "
        "Hint: add --plan_gpus N.\n",
    ),
    (
        ["--plan_gpus", "4"],
        "--plan_gpus: set without --plan_gpu_memory (expected the memory of each GPU too). "
        "Hint: add --plan_gpu_memory, e.g. 80GB.\n",
    ),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda value: value[0])
def test_a_plan_of_half_a_machine_is_refused(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert dry_run(empty_mount, *words) == 2
    assert capsys.readouterr().err == message


def test_all_problems_of_a_plan_are_reported_together(
    empty_mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plan_host_memory", "much", "--plan_nodes", "2", "--zero_stage", "4"]
    argv = ["--mount", str(empty_mount.root), "--model_init_name", "flan-t5-xx", "--data", "none"]
    assert main("seq2seq", "", [*argv, "--dry_run", *words]) == 2
    assert capsys.readouterr().err.replace(str(empty_mount.models), "{models}") == (
        "--plan_host_memory: 'much' (expected an amount of memory, e.g. 80GB). Hint: write "
        "--plan_host_memory SIZE.\n"
        "--zero_stage: '4' (expected auto or an integer of at least 1 and at most 3). "
        "Hint: write --zero_stage auto|N.\n"
        "--plan_nodes: set without --plan_gpus (expected the number of GPUs per node too). "
        "Hint: add --plan_gpus N.\n"
        "--model_init_name flan-t5-xx: does not exist (expected the folder {models}/flan-t5-xx). "
        "Hint: did you mean flan-t5-xxl?\n"
        "(4 problems in all)\n"
    )


def test_a_job_that_does_not_fit_is_refused_before_its_folder_is_made(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(this_host, "available_memory", lambda: 480e6)
    argv = ["--mount", str(mount.root), "--model_init_name", "small", "--data_name", "sums"]
    assert main("seq2seq", "", [*argv, "--bf16", "false"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "memory: 0 MB per process for the model (expected at least 4 MB per process with plain "
        "torch). Hint: use a smaller model, or a machine with more memory."
    )
    assert {path.name for path in mount.models.iterdir()} == {"small", ".cache"}


V100, A10G, A100 = 16.9e9, 24.1e9, 42.3e9
"""Bytes of the published machines' GPUs, as torch reports them; then of their hosts."""
P3_8, P3_16, G5, P4D = (gib * 2**30 for gib in (244, 488, 384, 1152))

# https://www.philschmid.de/fine-tune-flan-t5-deepspeed: ZeRO-3 with gradient checkpointing, 500
# and 129 tokens padded to multiples of 8; fp32 on a V100.
PUBLISHED = [
    ("xl", 4, V100, P3_8, "none", 1, False),
    ("xl", 8, V100, P3_16, "none", 1, True),
    ("xl", 8, A100, P4D, "none", 72, True),
    ("xl", 4, V100, P3_8, "all", 8, True),
    ("xl", 8, V100, P3_16, "all", 8, True),
    ("xxl", 8, A100, P4D, "none", 8, True),
    ("xxl", 4, V100, P3_8, "all", 1, False),
    ("xxl", 4, A10G, G5, "all", 24, True),
    ("xxl", 8, A100, P4D, "all", 48, True),
]
"""Model, GPUs, memory of each and of the host, offload, batch a GPU, whether it ran. One is left
out that is predicted to run and did not: xxl on 8 V100 with offload
(docs/operate/performance.md)."""


@pytest.mark.parametrize(("model", "gpus", "memory", "host", "offload", "batch", "ran"), PUBLISHED)
def test_published_jobs_are_predicted_to_fit_or_not(
    tmp_path: Path,
    model: str,
    gpus: int,
    memory: float,
    host: float,
    offload: str,
    batch: int,
    ran: bool,
) -> None:
    width = SHAPES[model]["d_model"]
    buckets = {"reduce_bucket_size": width**2, "stage3_prefetch_bucket_size": 0.9 * width**2}
    work = Work(
        bf16=memory != V100,
        source_length=504,
        target_length=136,
        positions=batch * 640,
        processes=gpus,
        gradient_checkpointing=True,
        generated=0,  # how many they generated at once is not said
    )
    strategy = ShardingStrategy(3, offload, gathers=False, users={"zero_optimization": buckets})
    need = predict(sizes_of(write_config(tmp_path / model, model)), work, strategy)
    assert fits(need, Machine(gpus, gpus, memory, host), strategy) == ran
