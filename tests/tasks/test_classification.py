"""Classes by words and by heads: against plain transformers calls, and complete runs of clf.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    BERT_TINY,
    GPT_TINY,
    T5_TINY,
    evaluate_alone,
    make_mount,
    write_data,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from workflow import make_job
from workflow.data.example_lengths import Indexes
from workflow.distributed.world import World
from workflow.models.loading import save_model
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.prepare import Job, prepare
from workflow.training.setup import load_together, make_engine, weights_in_files
from workflow.training.step import PlannedStep, StepPlanner, add_gradients

MODELS = {"bert": BERT_TINY, "t5": T5_TINY, "gpt": GPT_TINY}
TEXT = [
    "the",
    "man",
    "went",
    "to",
    "the",
    "house",
    "with",
    "a",
    "bird",
    "and",
    "said",
    "that",
    "it",
    "was",
    "not",
    "his",
    "word",
]
NAMES = {"label": ("a", "b", "c"), "pair": ("a", "b", "tie")}


def labels(count: int, last: str) -> list[Any]:
    """Labels of classes a, b and a last one, some of them soft."""
    several = ["b", last, {"a": 0.5, last: 0.5}, "a", {"a": 0.2, "b": 0.7, last: 0.1}]
    return [several[i % len(several)] for i in range(count)]


def texts(count: int) -> list[dict[str, Any]]:
    return [
        {"input": " ".join(TEXT[: 1 + i % 9]) + f" {i}", "label": label, "id": i}
        for i, label in enumerate(labels(count, "c"))
    ]


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": " ".join(TEXT[: 2 + i % 7]), "response_a": " ".join(TEXT[i % 5 :]),
         "response_b": f"{TEXT[i % 11]} {i}", "label": label}
        for i, label in enumerate(labels(count, "tie"))
    ]  # fmt: skip


RECORDS = {"label": texts, "pair": pairs}
KINDS = [(family, shape) for family in MODELS for shape in RECORDS]


def make(folder: Path, family: str, shape: str, **flags: Any) -> tuple[Job, Any]:
    mount = make_mount(folder)
    (mount.models / "m").symlink_to(MODELS[family])
    write_data(mount, "data", RECORDS[shape](20), RECORDS[shape](11))
    flags = {"max_steps": 4, "train_batch_size": 20, "bf16": False, "dropout_rate": 0} | flags
    request = make_job("clf", model_init_name="m", data_name="data", **flags)
    return load_together(prepare(request, mount), World(), None)


class Plain:
    """The logits of classes as one computes them with transformers, one example at a time."""

    def __init__(self, family: str, job: Job, model: Any, folder: Path):
        save_model(model, job.tokenizer, folder)
        kinds: dict[str, Any] = {
            "bert": AutoModelForSequenceClassification, "t5": AutoModelForSeq2SeqLM,
            "gpt": AutoModelForCausalLM,
        }  # fmt: skip
        self.family, self.model = family, kinds[family].from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logits(self, record: dict[str, Any], swapped: bool = False) -> torch.Tensor:
        """Of the classes of a record, (classes,)."""
        if "input" in record:
            return self._of_text(record["input"], "a b c")
        answers = [record["response_a"], record["response_b"]]
        if swapped:
            answers.reverse()
        if self.family == "bert":
            return self._of_parts(record["prompt"], *answers)
        text = f"{record['prompt']}\n\nResponse A: {answers[0]}\n\nResponse B: {answers[1]}"
        return self._of_text(f"{text}\n\nBetter response (A, B, or C for a tie):", "A B C")

    def _of_text(self, text: str, words: str) -> torch.Tensor:
        inputs = self.tokenizer(text, return_tensors="pt")
        if self.family == "bert":
            logits: torch.Tensor = self.model(**inputs).logits[0]
            return logits
        space = {"t5": "", "gpt": " "}[self.family]
        ids = [
            self.tokenizer.encode(space + one, add_special_tokens=False) for one in words.split()
        ]
        chosen = [one for (one,) in ids]
        if self.family == "t5":
            start = torch.full((1, 1), self.model.config.decoder_start_token_id)
            inputs["decoder_input_ids"] = start
        out: torch.Tensor = self.model(**inputs).logits[0, -1, chosen]
        return out

    def _of_parts(self, *parts: str) -> torch.Tensor:
        begin, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids, types = [begin], [0]
        for number, part in enumerate(parts):
            more = [*self.tokenizer.encode(part, add_special_tokens=False), end]
            ids += more
            types += [int(number > 0)] * len(more)
        made = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        logits: torch.Tensor = self.model(**made).logits[0]
        return logits


def target(record: dict[str, Any], swapped: bool = False) -> torch.Tensor:
    label = record["label"]
    soft = label if isinstance(label, dict) else {label: 1.0}
    a, b, last = NAMES["label" if "input" in record else "pair"]
    return torch.tensor([soft.get(name, 0.0) for name in ((b, a) if swapped else (a, b)) + (last,)])


@pytest.mark.parametrize(("family", "shape"), KINDS)
def test_predictions_are_those_of_plain_transformers(
    tmp_path: Path, family: str, shape: str
) -> None:
    """Pairs in both orders, whatever they share a row with."""
    job, model = make(tmp_path, family, shape)
    plain = Plain(family, job, model, tmp_path / "plain")
    found = evaluate_alone(job.task, model, job.tokenizer, job.splits["eval"], job.spec)
    assert [item["orig_d"] for item in found.items] == RECORDS[shape](11)
    names, losses = NAMES[shape], []
    for item in found.items:
        record = item["orig_d"]
        with torch.no_grad():
            wanted = [plain.logits(record)]
            if shape == "pair":
                wanted.append(plain.logits(record, swapped=True)[[1, 0, 2]])
        shown = [item["logits"], *([item["logits_swapped"]] if shape == "pair" else [])]
        np.testing.assert_allclose(shown, torch.stack(wanted), atol=2e-5)
        mean = torch.stack([logits.softmax(-1) for logits in wanted]).mean(0)
        assert list(item["pred_probs"]) == list(names)
        np.testing.assert_allclose(list(item["pred_probs"].values()), mean, atol=1e-5)
        assert item["pred_label"] == names[int(mean.argmax())]
        losses += [float(F.cross_entropy(logits, target(record))) for logits in wanted]
    assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert ("swap_consistency" in found.metrics) == (shape == "pair")


@pytest.mark.parametrize("bound", [1, 10_000])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("family", "shape"), KINDS)
def test_the_gradient_is_the_naive_one_for_any_cut(
    tmp_path: Path, family: str, shape: str, smoothing: float, bound: int
) -> None:
    """Packed and alone, with class weights; each pair in the order drawn for it."""
    weights = {name: 0.5 + number for number, name in enumerate(NAMES[shape])}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    job, model = make(
        tmp_path, family, shape, micro_batch_tokens=bound, label_smoothing_factor=smoothing,
        class_weight=str(tmp_path / "weights.json"),
    )  # fmt: skip
    plain = Plain(family, job, model, tmp_path / "plain")
    records, factors = RECORDS[shape](20), torch.tensor([*weights.values()])
    losses = []
    for record, swapped in zip(records, drawn(job, shape), strict=True):
        wanted = target(record, swapped) * (1 - smoothing) + smoothing / 3
        logs = plain.logits(record, swapped).log_softmax(-1)
        losses.append(-(wanted * factors * logs).sum())
    (sum(losses) / 20).backward()  # type: ignore[union-attr]
    engine = make_engine(job, model, World(), weights_in_files(job, model, None))
    assert isinstance(engine, SingleProcessEngine)
    step(job, engine)
    for (name, one), other in zip(model.named_parameters(), plain.model.parameters(), strict=True):
        if other.grad is not None:
            assert (one.grad - other.grad).norm() <= 2e-5 * other.grad.norm() + 1e-8, name


def drawn(job: Job, shape: str) -> Sequence[bool]:
    if shape == "label":
        return [False] * 20
    orders: Any = job.train_examples.sources
    assert 4 < orders.orders.swapped.sum() < 16
    swaps: list[bool] = orders.orders.swapped.tolist()
    return swaps


def step(job: Job, engine: SingleProcessEngine) -> Indexes:
    """Add the gradient of step 1, which has all train examples; returns their order."""
    plan = StepPlanner.of(job, engine.model, World()).plan(1)
    planned = PlannedStep.of(job, plan, 1, engine.model.config, rank=0)
    assert planned.loss_denominator == 20
    add_gradients(job, engine, planned, World())
    return plan.examples
