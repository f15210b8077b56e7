"""Plain text: the losses of a plain PyTorch loop, in any world, stopped and resumed."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GPT_TINY, T5_TINY, make_mount, write_data
from test_processes import assert_same_run, job, run_world
from test_resume import FLAGS, assert_identical
from tiny_models import add_one_stack
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    set_seed,
)

from workflow import make_job, run_job
from workflow.cli.run import main
from workflow.core.errors import BadInput
from workflow.data.example_order import step_examples
from workflow.runs.mount import Mount
from workflow.runs.status import read_status
from workflow.training.prepare import Job, prepare

Lines = Callable[[Path], list[dict[str, Any]]]
WORDS = ["the", "fox", "sees", "a", "dog", "and", "it", "runs", "to", "town", "yes", "no", "house"]


def documents(count: int, seed: int = 0, longest: int = 90) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"text": " ".join(draw.choices(WORDS, k=draw.randrange(1, longest)))} for _ in range(count)
    ]


@pytest.fixture
def texts(mount: Mount) -> Mount:
    add_one_stack(mount)
    write_data(mount, "texts", documents(40), documents(6, 1))
    return mount


def request(model: str, **flags: Any) -> Any:
    given = {"max_source_length": 48, "max_new_tokens": 4, "train_batch_size": 3, "bf16": False}
    return make_job("seq2seq", model_init_name=model, data_name="texts", **given | flags)


def plain_losses(job: Job, steps: int) -> list[float]:
    """The losses of a plain loop: weights drawn by transformers, each piece computed alone."""
    spec, joins = job.spec, job.spec.model == "gpt"
    automatic = AutoModelForCausalLM if joins else AutoModelForSeq2SeqLM
    (folder,) = (job.run_path.parent / ".cache" / "random").iterdir()
    model = automatic.from_pretrained(folder)
    if joins:
        set_seed(spec.seed)
        drawn = automatic.from_config(AutoConfig.from_pretrained(GPT_TINY))
        for name, tensor in drawn.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])
    model.eval()  # no dropout
    shrinks = [one for name, one in model.named_parameters() if one.ndim > 1]
    others = [one for name, one in model.named_parameters() if one.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": shrinks, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=spec.learning_rate,
    )
    examples, losses = job.train_examples, []
    for step in range(1, steps + 1):
        drawn = examples.in_step(step)
        total, tokens = torch.zeros(()), 0
        blocks = step_examples(step, spec.batch_size, examples.drawn, spec.seed)
        for index in examples.of_drawn(blocks):
            source, target = (
                torch.from_numpy(np.asarray(of_all[index], np.int64))[None]
                for of_all in (drawn.sources, drawn.targets)
            )
            if joins:
                logits = model(torch.cat([source, target[:, :-1]], dim=1)).logits
            else:
                logits = model(input_ids=source, labels=target).logits
            total += torch.nn.functional.cross_entropy(logits[0], target[0], reduction="sum")
            tokens += target.numel()
        loss = total / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("model", ["gpt", "small"])
@pytest.mark.parametrize("packing", [True, False])
def test_losses_from_new_weights_are_those_of_a_plain_loop(
    texts: Mount, read_lines: Lines, model: str, packing: bool
) -> None:
    flags = {"init": "random", "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    flags |= {"max_steps": 8, "logging_steps": 1, "dropout_rate": 0, "block_packing": packing}
    job_request = request(model, **flags, training_run_name="r", micro_batch_tokens=150)
    folder = run_job(job_request, texts)
    found = [line["loss"] for line in read_lines(folder / "train_log.jsonl")]
    assert found == pytest.approx(plain_losses(prepare(job_request, texts), 8), rel=1e-5)
    assert found[-1] < found[0]
    metrics = read_lines(folder / "metrics.jsonl")[-1]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    (path,) = folder.glob("temperature=0.00_n=1_step=8.json")
    items = json.loads(path.read_text())
    assert [item["orig_d"] for item in items] == documents(6, 1)
    again = ["--config", str(folder / "training_args.json"), "--mount", str(texts.root)]
    assert main("seq2seq", "", again) == 0  # the same job: done


def test_a_batch_counts_blocks_that_documents_fill(texts: Mount) -> None:
    job = prepare(request("gpt"), texts)
    examples = job.train_examples
    sizes = [
        sum(len(examples.targets[i]) for i in examples.of_drawn(np.array([block])))
        for block in range(examples.drawn)
    ]
    assert {*sizes[:-1]} == {48}
    tokenizer, end = job.tokenizer, job.tokenizer.eos_token
    ids = [i for row in examples.targets for i in row.tolist()]
    assert tokenizer.decode(ids) == "".join(one["text"] + end for one in documents(40))
    assert job.spec.max_steps == math.ceil(4 * examples.drawn / 3)
    alone = prepare(request("gpt", block_packing=False), texts)
    assert alone.train_examples.drawn == len(alone.train_examples) > examples.drawn


def test_perplexity_of_a_byte_counts_the_bytes_of_the_text(texts: Mount, read_lines: Lines) -> None:
    folder = run_job(request("gpt", no_train=True, training_run_name="e"), texts)
    metrics = read_lines(folder / "metrics.jsonl")[-1]
    size = sum(len(record["text"].encode()) for record in documents(6, 1))
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    tokens = sum(len(tokenizer(record["text"])["input_ids"]) + 1 for record in documents(6, 1))
    expected = math.exp(metrics["loss"] * tokens / size)
    assert metrics["byte_perplexity"] == pytest.approx(expected)
    (path,) = folder.glob("temperature=*.json")
    for item in json.loads(path.read_text()):
        text = item["orig_d"]["text"]
        assert text.startswith(item["prompt"] + item["demonstration"])
        shown = len(tokenizer(item["prompt"])["input_ids"])
        assert shown == min(32, (len(tokenizer(text)["input_ids"]) + 1) // 2)


def test_any_world_gives_the_run_of_one_process_and_resumes(
    texts: Mount, read_lines: Lines
) -> None:
    """Two processes under ZeRO; each family stopped and resumed bit for bit on one and on two."""
    flags = {"data_name": "texts", "max_source_length": 40, "dropout_rate": 0, "init": "random"}

    def job_of(model: str, name: str, **more: Any) -> dict[str, Any]:
        return job("seq2seq", f"{model}-{name}", **flags | {"model_init_name": model} | more)

    def both(name: str, **more: Any) -> list[dict[str, Any]]:
        return [job_of(model, name, **more) for model in ("gpt", "small")]

    longer = FLAGS | {"dropout_rate": 0.1}

    def stopped(name: str, **more: Any) -> list[dict[str, Any]]:
        cut = both(name, **longer, **more)
        return [one for start in cut for one in (start | {"stop_after": 6}, start)]

    run_world(texts, 1, [*both("plain"), *both("whole", **longer), *stopped("cut")])
    jobs = [*both("two", zero_stage=3), *both("wide", zero_stage=2, **longer)]
    run_world(texts, 2, [*jobs, *stopped("narrow", zero_stage=2)])
    for model in ("gpt", "small"):
        of_name = {path.name: path for path in texts.models.glob(f"{model}-*")}
        assert_same_run(of_name[f"{model}-two"], of_name[f"{model}-plain"], read_lines, rel=1e-5)
        for cut, whole in (("cut", "whole"), ("narrow", "wide")):
            resumed = of_name[f"{model}-{cut}"]
            assert read_status(resumed)["restarts"] == 1
            assert_identical(resumed, of_name[f"{model}-{whole}"], read_lines)


def test_text_files_are_data_too(tmp_path: Path, read_lines: Lines) -> None:
    mount = make_mount(tmp_path)
    (mount.models / "gpt").symlink_to(GPT_TINY)
    found = []
    text = "\n\n".join(record["text"] for record in documents(9))
    marked = "--x--".join(record["text"] for record in documents(9))
    (mount.data / "texts").mkdir()
    (mount.data / "texts" / "train.txt").write_text(text)
    (mount.data / "texts" / "eval.txt").write_text(text)
    (mount.data / "one.txt").write_text(text)
    (mount.data / "marked.txt").write_text(marked)
    for data, flags in (
        ("texts", {}),
        ("one", {"eval_fraction": 0.2}),
        ("marked", {"eval_fraction": 0.2, "document_separator": "--x--"}),
    ):
        job = prepare(request("gpt", **flags) if data == "texts" else make_job(
            "seq2seq", model_init_name="gpt", data_name=data, **flags
        ), mount)  # fmt: skip
        split = job.splits["train"]
        found.append({split.record(i)["text"] for i in range(len(split))})
    every = {record["text"] for record in documents(9)}
    assert found[0] == every
    assert found[1] == found[2] < every


def test_models_without_marks_of_spans_refuse_text(tmp_path: Path) -> None:
    mount = make_mount(tmp_path)
    folder = mount.models / "m"
    folder.mkdir()
    for file in T5_TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("extra_id", "other"))
    write_data(mount, "texts", documents(4), documents(2))
    with pytest.raises(BadInput, match="without tokens for hidden spans"):
        prepare(request("m"), mount)
