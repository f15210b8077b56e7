"""What is trained, on several processes: runs equal to those of one, resumed bit for bit."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_mount
from forks import Fork, finish, places
from peft import PeftModel
from safetensors.torch import load_file
from test_one_stack_worlds import start_all
from test_processes import answers, curve, job, run_world, write_scored
from test_resume import FLAGS, assert_identical
from tiny_models import add_one_stack, make_one_stack
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from workflow import make_job, run_job
from workflow.distributed.rendezvous import find_world, join
from workflow.distributed.world import World
from workflow.models.loading import load_model
from workflow.runs.mount import Mount
from workflow.runs.status import read_status
from workflow.training import loop
from workflow.training.context import Invocation
from workflow.training.prepare import prepare

Lines = Callable[[Path], list[dict[str, Any]]]
LORA = {"tuning": "lora", "lora_dropout": 0}
WORDS = {"tuning": "prompt", "num_virtual_tokens": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "small-lora": ("small", LORA),
    "gpt-dora": ("gpt", LORA | {"use_dora": True}),
    "bert-ia3": ("bert", {"tuning": "ia3"}),
    "small-prompt": ("small", WORDS),
    "llama-prefix": ("llama", WORDS | {"tuning": "prefix"}),
    "bert-lora": ("bert", LORA),
    "llama-prompt": ("llama", WORDS),
    "gpt-frozen": ("gpt", {"freeze": ["bottom:1"]}),
    "small-4bit": ("small", LORA | {"load_in_4bit": True}),
    "bert-8bit": ("bert", LORA | {"load_in_8bit": True}),
}
"""Model and flags by name."""
STAGES = {
    "small-lora": (1, 3),
    "gpt-dora": (2,),
    "small-prompt": (3,),
    "llama-prefix": (3,),
    "gpt-frozen": (3,),
    "small-4bit": (1,),
}
WHOLE = ("gpt-dora", "small-4bit", "bert-8bit")
OTHERS = {
    case: sorted(({1, 2} if case in WHOLE else {1, 2, 3}) - {*STAGES.get(case, ())})
    for case in CASES
}
"""The other stages that a case can be trained in."""
RESUMED = (("small-lora", 1, True), ("gpt-dora", 2, False), ("bert-lora", 3, True))
OTHERS_RESUMED = (("small-lora", 1, False), ("llama-prefix", 3, False), ("gpt-frozen", 3, True))
"""Case, stage, and whether in bf16."""
RESUMED_ALONE = (
    ("small-lora", {}),
    ("gpt-dora", {"bf16": True}),
    ("bert-lora", {"bf16": True, "optim": "adamw_bnb_8bit", "lora_r": 32}),
    ("gpt-frozen", {"bf16": True}),
)
"""Of LoRA with rank 32, some tensors have the 4096 elements from which moments have 8 bits."""


def job_of(case: str, name: str, **flags: Any) -> dict[str, Any]:
    """Odd counts of records and bounded micro-batches: ranks have unequal parts, or none."""
    model, of_case = CASES[case]
    bounds = {"micro_batch_tokens": 60, "max_source_length": 64, "dropout_rate": 0}
    task = "clf" if model == "bert" else "seq2seq"
    return job(task, name, **({"model_init_name": model} | bounds | of_case | flags))


def whole_and_cut(case: str, name: str, **flags: Any) -> list[dict[str, Any]]:
    """A run, and the same one, stopped and resumed."""
    flags = FLAGS | {"eval_steps": 9} | flags
    whole, cut = (job_of(case, f"{kind}-{name}", **flags) for kind in ("whole", "cut"))
    return [whole, cut | {"stop_after": 6}, cut]


def evaluation_of(checkpoint: str, name: str) -> dict[str, Any]:
    """A job that evaluates a classifier in bf16, without training."""
    flags = {"data_name": "more", "max_source_length": 64, "bf16": True, "no_train": True}
    return {"task": "clf", "model_init_name": checkpoint, "training_run_name": name} | flags


def make_models(root: Path) -> Mount:
    made = make_mount(root)
    write_scored(made)
    add_one_stack(made)
    make_one_stack("llama", made.models / "llama")
    return made


def trained(run: Path, step: int = 4) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's adapter or model."""
    (file,) = (run / f"checkpoint-{step}").glob("*model.safetensors")
    return load_file(file)


def assert_same_run(run: Path, plain: Path, read_lines: Lines) -> None:
    """Equal losses, norms and evaluations, and equal files, whose tensors are whole."""
    assert curve(run, read_lines) == pytest.approx(curve(plain, read_lines), rel=1e-5), run.name
    found, wanted = trained(run), trained(plain)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
        assert tensor.numel() > 0
    for file in (plain / "checkpoint-4").glob("*.json"):
        if file.name != "checksums.json":
            assert (run / "checkpoint-4" / file.name).read_bytes() == file.read_bytes()
    metrics, expected = (read_lines(r / "metrics.jsonl")[-1]["loss"] for r in (run, plain))
    assert metrics == pytest.approx(expected, rel=1e-6)


def by_peft(mount: Mount, run: Path, flags: dict[str, Any]) -> tuple[float, list[Any]]:
    """The mean token loss of the eval records, or logits of their labels, by peft alone."""
    job = prepare(make_job(**(flags | {"training_run_name": "other"})), mount)
    kinds = {"bert": AutoModelForSequenceClassification, "small": AutoModelForSeq2SeqLM}
    kind: Any = kinds.get(flags["model_init_name"], AutoModelForCausalLM)
    base = kind.from_pretrained(mount.models / flags["model_init_name"])
    model: Any = PeftModel.from_pretrained(base, run / "checkpoint-4").eval()
    examples = job.examples["eval"]
    virtual = job.spec.virtual_ids
    losses, logits = [], []
    for index in range(len(examples.sources)):
        source = torch.tensor(examples.sources[index][virtual:])[None].long()
        target = torch.tensor(examples.targets[index])[None].long()
        labels = target
        if kind is AutoModelForCausalLM:
            source = torch.cat([source, target], 1)
            labels = source.clone()
            labels[:, : -target.shape[1]] = -100
        given = {"input_ids": source, "attention_mask": torch.ones_like(source)}
        if kind is not AutoModelForSequenceClassification:
            given["labels"] = labels
        with torch.no_grad():
            found = model(**given)
        logits.append(found.logits[0].tolist())
        if found.loss is not None:
            losses += [float(found.loss)] * target.shape[1]
    return sum(losses) / max(1, len(losses)), logits


def assert_as_by_peft(mount: Mount, run: Path, flags: dict[str, Any], read_lines: Lines) -> None:
    loss, logits = by_peft(mount, run, flags)
    if flags["task"] == "clf":
        found = [item["logits"] for item in answers(run)]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(logits), rtol=1e-4, atol=1e-5)
    else:
        assert read_lines(run / "metrics.jsonl")[-1]["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft asks for it
def test_two_processes_give_the_runs_of_one_and_resume_bit_for_bit(
    tmp_path: Path, read_lines: Lines
) -> None:
    """All in one world, since starting one takes longer than a job."""
    mount = make_models(tmp_path / "mount")
    assert_same_in_stages(mount, STAGES, RESUMED, read_lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_two_processes_give_the_runs_of_one_in_the_other_stages(
    tmp_path: Path, read_lines: Lines
) -> None:
    mount = make_models(tmp_path / "mount")
    assert_same_in_stages(mount, OTHERS, OTHERS_RESUMED, read_lines)


def assert_same_in_stages(
    mount: Mount,
    stages: Mapping[str, Sequence[int]],
    resumed: Sequence[tuple[str, int, bool]],
    read_lines: Lines,
) -> None:
    """Run cases in one process and in two; in the latter world others are stopped and resumed."""
    run_world(mount, 1, [job_of(case, f"{case}-plain") for case in stages])
    jobs = [
        job_of(case, f"{case}-{stage}", zero_stage=stage)
        for case, of_case in stages.items()
        for stage in of_case
    ]
    for case, stage, bf16 in resumed:
        jobs += whole_and_cut(case, f"{case}-{stage}-{bf16}", zero_stage=stage, bf16=bf16)
    run_world(mount, 2, jobs)
    for case, of_case in stages.items():
        for stage in of_case:
            run = mount.models / f"{case}-{stage}"
            assert_same_run(run, mount.models / f"{case}-plain", read_lines)
        if "bit" not in case and "freeze" not in CASES[case][1]:
            assert_as_by_peft(mount, run, job_of(case, "any"), read_lines)
    for case, stage, bf16 in resumed:
        assert_resumed(mount, f"{case}-{stage}-{bf16}", read_lines)


def assert_resumed(mount: Mount, name: str, read_lines: Lines) -> None:
    cut, whole = (mount.models / f"{kind}-{name}" for kind in ("cut", "whole"))
    assert read_status(cut)["restarts"] == 1
    assert_identical(cut, whole, read_lines)


def test_a_stopped_run_of_one_process_resumes_bit_for_bit(
    tmp_path: Path, read_lines: Lines
) -> None:
    mount = make_models(tmp_path / "mount")
    jobs, names = [], []
    for case, flags in RESUMED_ALONE:
        names.append(f"{case}-alone")
        jobs += whole_and_cut(case, names[-1], **flags)
    jobs.append(evaluation_of("whole-bert-lora-alone/checkpoint-9", "judged"))
    run_world(mount, 1, jobs)
    for name in names:
        assert_resumed(mount, name, read_lines)
    judged, by_training = (
        read_lines(mount.models / name / "metrics.jsonl")[-1]["loss"]
        for name in ("judged", "whole-bert-lora-alone")
    )
    assert judged == by_training
    (state,) = (mount.models / "whole-bert-lora-alone/checkpoint-9").glob("resume/optimizer*")
    kept = {name.rpartition(".")[2] for name in load_file(state)}
    assert {"state1", "absmax1", "qmap1"} <= kept  # in 8 bits


def train_and_look(root: Path, jobs: list[dict[str, Any]]) -> None:
    """Run jobs in this process's world, and check what no training may change."""
    membership = find_world(os.environ)
    assert membership is not None
    join(membership, os.environ)
    world, engines = World.joined(), []
    make_engine = loop.make_engine

    def noted(*given: Any) -> Any:
        engines.append(make_engine(*given))
        return engines[-1]

    loop.make_engine = noted
    for flags in jobs:
        run_job(make_job(**flags), Mount(root), Invocation(world=world))
        base = load_model(Mount(root).models / flags["model_init_name"])
        with engines.pop().evaluating() as (model, _):
            check_frozen(model, base)
    world.end()


def check_frozen(model: Any, base: Any) -> None:
    """Frequencies of rotary positions as in the base, and its weights, rounded once."""
    buffers = dict(model.named_buffers())
    assert buffers
    for name, wanted in base.named_buffers():
        assert torch.equal(buffers[name], wanted), name
        assert buffers[name].dtype == wanted.dtype
    frozen = {
        name.replace(".base_layer.", "."): one
        for name, one in model.named_parameters()
        if ".lora_" not in name
    }
    assert frozen.keys() == {name for name, _ in base.named_parameters()}
    for name, wanted in base.named_parameters():
        assert torch.equal(frozen[name], wanted.bfloat16()), name


def test_bf16_trains_adapters_in_float32_and_rounds_no_frequencies(
    tmp_path: Path, read_lines: Lines
) -> None:
    mount = make_models(tmp_path / "mount")
    flags = LORA | {"model_init_name": "llama"}
    run_world(mount, 1, [job_of("small-lora", "plain", **flags)])
    jobs = [
        job_of("small-lora", f"bf16-{stage}", zero_stage=stage, **(flags | {"bf16": True}))
        for stage in (1, 2, 3)
    ]
    world = [Fork(train_and_look, mount.root, jobs, environment=place) for place in places(2)]
    for done in finish(world):
        assert done.returncode == 0, done.stderr[-9000:]
    for stage in (1, 2, 3):
        run = mount.models / f"bf16-{stage}"
        wanted = curve(mount.models / "plain", read_lines)
        assert curve(run, read_lines) == pytest.approx(wanted, rel=0.05)
        for name, tensor in trained(run).items():
            assert tensor.dtype == torch.float32
            assert not torch.equal(tensor, tensor.bfloat16().float()), name


@pytest.mark.parametrize(
    ("case", "processes"), [("small-lora", 1), pytest.param("bert-lora", 2, marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_one_left_alone(
    tmp_path: Path, read_lines: Lines, case: str, processes: int
) -> None:
    """SIGKILL between two checkpoints, with two processes under ZeRO-3; then the same command."""
    mount = make_models(tmp_path / "mount")
    flags = {"max_steps": 30, "save_steps": 10, "eval_steps": 30, "dropout_rate": 0.1}
    if processes > 1:
        flags["zero_stage"] = 3
    whole, cut = (mount.models / name for name in ("whole", "cut"))
    finish(start_all(mount, job_of(case, "whole", **flags), processes))
    forks = start_all(mount, job_of(case, "cut", **flags), processes)
    log = cut / "train_log.jsonl"
    while not log.exists() or log.read_text().count("\n") < 13:
        assert not any(fork.returncode for fork in forks)
        time.sleep(0.01)
    for fork in forks:
        fork.kill()
    assert [done.returncode for done in finish(forks)] == [-signal.SIGKILL] * processes
    for done in finish(start_all(mount, job_of(case, "cut", **flags), processes)):
        assert done.returncode == 0, done.stderr
    assert read_lines(cut / "starts.jsonl")[1]["step"] in (10, 20)
    assert_identical(cut, whole, read_lines, step=30)
