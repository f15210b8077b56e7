"""Runs of clf.py on records with classes: trained, evaluated alone, resumed, on two processes."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BERT_TINY, write_data
from test_classification import pairs, texts
from test_processes import assert_same_run, job, run_world
from test_resume import FLAGS, assert_identical
from tiny_models import add_one_stack
from transformers import AutoConfig

from workflow import make_job, run_job
from workflow.runs.mount import Mount
from workflow.runs.status import read_spec, read_status

Lines = Callable[[Path], list[dict[str, Any]]]
WORDS = {"animal": ("cat", "dog", "bird"), "color": ("red", "blue", "white"),
         "place": ("house", "town", "sea")}  # fmt: skip


def of_topics(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts whose class shows in one word."""
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        name = draw.choice([*WORDS])
        text = f"{draw.randrange(100)} times {draw.choice(WORDS[name])} and {draw.randrange(100)}"
        records.append({"input": text, "label": name})
    return records


def judged(count: int, seed: int) -> list[dict[str, Any]]:
    """The better answer agrees."""
    draw, records = random.Random(seed), []
    for _ in range(count):
        number, other = draw.sample(range(1000), 2)
        better, worse = f"that is true {other}", f"that was not {other}"
        records.append({"prompt": f"say {number}", "chosen": better, "rejected": worse})
    return records


@pytest.fixture
def bert(mount: Mount) -> Mount:
    (mount.models / "bert").symlink_to(BERT_TINY)
    return mount


def run(mount: Mount, **flags: Any) -> Path:
    flags = {"bf16": False, "train_batch_size": 16, "data_name": "data"} | flags
    return run_job(make_job("clf", **flags), mount)


def test_a_classifier_learns_and_its_checkpoint_knows_its_classes(
    bert: Mount, read_lines: Lines
) -> None:
    write_data(bert, "data", of_topics(200, 0), of_topics(30, 1))
    flags = {"model_init_name": "bert", "max_steps": 60, "learning_rate": 3e-3, "eval_steps": 60}
    path = run(bert, **flags, training_run_name="r")
    lines = read_lines(path / "metrics.jsonl")
    assert lines[-1]["accuracy"] > 0.95 > lines[-1]["majority_accuracy"]
    assert read_spec(path)["classes"] == [*WORDS]
    items = json.loads((path / "preds.json").read_text())
    assert [item["orig_d"] for item in items] == of_topics(30, 1)
    assert list(items[0]) == ["orig_d", "pred_label", "pred_probs", "logits"]
    config = AutoConfig.from_pretrained(path / "checkpoint-60")
    assert config.id2label == dict(enumerate(WORDS))
    unlabeled = [{"input": record["input"]} for record in of_topics(30, 1)]
    write_data(bert, "new", [], unlabeled)
    again = run(bert, model_init_name="r/checkpoint-60", data_name="new", no_train=True)
    found = json.loads((again / "checkpoint-60-preds.json").read_text())
    assert [item["logits"] for item in found] == [item["logits"] for item in items]
    assert [item["orig_d"] for item in found] == unlabeled


def test_a_judge_learns_which_answer_is_better_on_either_side(
    bert: Mount, read_lines: Lines
) -> None:
    write_data(bert, "data", judged(400, 0), judged(40, 1))
    flags = {"model_init_name": "bert", "max_steps": 200, "learning_rate": 2e-3}
    path = run(bert, **flags, training_run_name="r", eval_steps=200)
    last = read_lines(path / "metrics.jsonl")[-1]
    assert last["accuracy"] > 0.9
    assert last["swap_consistency"] > 0.9
    assert 0.4 < last["majority_accuracy"] < 0.7  # the sides are drawn
    other = run(bert, **flags | {"seed": 1, "max_steps": 1}, training_run_name="s")
    sides = [
        [item["chosen_as"] for item in json.loads((one / "preds.json").read_text())]
        for one in (path, other)
    ]
    assert sides[0] == sides[1]  # so that the runs can be compared
    assert {*sides[0]} == {"a", "b"}


def test_an_epoch_has_each_pair_once_or_in_both_orders(bert: Mount) -> None:
    write_data(bert, "data", pairs(24), pairs(5))
    flags = {"model_init_name": "bert", "num_train_epochs": 2, "train_batch_size": 8}
    for both, steps in ((False, 6), (True, 12)):
        path = run(bert, **flags, both_orders=both, training_run_name=f"r{steps}")
        assert read_status(path)["step"] == steps


def test_any_world_gives_the_run_of_one_process_and_resumes(
    mount: Mount, read_lines: Lines
) -> None:
    """Two processes under each stage; a judge stopped and resumed bit for bit."""
    add_one_stack(mount)
    write_data(mount, "pairs", pairs(23), pairs(7))
    write_data(mount, "texts", texts(23), texts(7))
    cases = [("bert", "pairs", 3), ("gpt", "pairs", 2), ("small", "texts", 1)]
    flags = {"micro_batch_tokens": 60, "dropout_rate": 0}

    def job_of(model: str, data: str, name: str, **more: Any) -> dict[str, Any]:
        given = {"model_init_name": model, "data_name": data} | flags | more
        return job("clf", f"{model}-{name}", **given)

    run_world(mount, 1, [job_of(model, data, "plain") for model, data, _ in cases])
    jobs = [job_of(model, data, "two", zero_stage=stage) for model, data, stage in cases]
    longer = FLAGS | {"zero_stage": 3}
    cut = job_of("bert", "pairs", "cut", **longer)
    jobs += [job_of("bert", "pairs", "whole", **longer), cut | {"stop_after": 6}, cut]
    run_world(mount, 2, jobs)
    for model, _, _ in cases:
        two, plain = (mount.models / f"{model}-{name}" for name in ("two", "plain"))
        assert_same_run(two, plain, read_lines, rel=1e-5)
    whole, resumed = (mount.models / f"bert-{name}" for name in ("whole", "cut"))
    assert read_status(resumed)["restarts"] == 1
    assert_identical(resumed, whole, read_lines)
