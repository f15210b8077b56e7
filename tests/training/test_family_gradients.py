"""A step's gradient is the naive one for any micro-batches and processes, in every family."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import BERT_TINY, GPT_TINY, T5_TINY
from test_decoder_only import UNPACKED
from test_engine import make_engine, make_spec, only_add_gradients, prepared
from tiny_models import IDS, make_small
from transformers import AutoTokenizer

from workflow.config.templates import PLAIN
from workflow.data.text_format import ContinuedText, SeparateTexts
from workflow.data.token_cache import CutRows
from workflow.distributed.world import World
from workflow.models.families import family_of
from workflow.models.families.decoder_only import PACKED
from workflow.models.families.encoder import PACKED as PACKED_ENCODERS
from workflow.tasks.label_scoring import LabelScoring
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.prepare import Job
from workflow.training.step import StepPlanner

LENGTHS = ((4, 2), (1, 6), (9, 1), (2, 1), (2, 9), (7, 3), (5, 5))
"""Words of prompts and completions: a mean of means is not their mean."""
BOUNDS = (1, 24, 40, 10_000)
"""Padded positions of a micro-batch: each example alone, some of them, all."""
WORDS = ["add", "one", "house", "yes", "the", "number", "man", "write", "no"]
ENCODER_DECODERS = ("t5", "mt5", "umt5", "longt5", "bart", "mbart", "plbart", "marian", "m2m_100",
                    "pegasus", "blenderbot-small")  # fmt: skip
ALL_LAYERS = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
Gradient = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of texts that a decoder writes, of texts that continue, or of a classification head."""
    folder, spec = tmp_path_factory.mktemp("job"), make_spec(train_batch_size=len(LENGTHS))
    texts = [[" ".join(WORDS[:count]) for count in pair] for pair in LENGTHS]
    task: Seq2Seq | LabelScoring
    if request.param != "classifying":
        causal = request.param == "causal"
        tokenizer = AutoTokenizer.from_pretrained(GPT_TINY if causal else T5_TINY)
        task = Seq2Seq(ContinuedText.of(tokenizer, PLAIN) if causal else SeparateTexts(0))
        records: list[dict[str, Any]] = [{"prompt": a, "completion": b} for a, b in texts]
    else:
        tokenizer = AutoTokenizer.from_pretrained(BERT_TINY)
        task = LabelScoring(PLAIN, ("no", "yes"), 0, 9)
        task = task.bind_tokenizer(tokenizer, SeparateTexts(None))
        records = [{"input": a, "target": len(b) % 10} for a, b in texts]
    return prepared(spec, task, tokenizer, records, folder)


def naive(job: Job, model: Any) -> tuple[float, Gradient]:
    """The mean loss and its gradient, of plain calls of the model with one example each."""
    split, losses, count = job.splits["train"], [], 0
    for index in range(len(split)):
        source, target = split.sources.row(index), torch.from_numpy(split.targets.row(index).copy())
        count += len(target)
        family = family_of(model.config)
        if not family.joins_texts:
            read = torch.tensor([[0, *target[:-1]]])
            logits = model(torch.tensor([source.tolist()]), decoder_input_ids=read).logits[0]
            labels = target.long()
        elif family.generates:
            logits = model(torch.tensor([[*source, *target]])).logits[0, len(source) - 1 : -1]
            labels = target.long()
        else:
            logits = model(torch.tensor([source.tolist()])).logits
            yes = target.view(torch.float32)
            labels = torch.stack([1 - yes, yes], dim=1)
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
    loss = torch.stack(losses).sum() / count
    loss.backward()
    return loss.item(), taken_from(model)


def taken_from(model: Any) -> Gradient:
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradient


def computed(job: Job, model: Any, bound: int, processes: int) -> tuple[float, Gradient]:
    """The same as a step of so many processes adds it up, with micro-batches of this bound."""
    job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, micro_batch_tokens=bound))
    plan = dataclasses.replace(StepPlanner.of(job, model, World()), world_size=processes).plan(1)
    engine = make_engine(model, job.spec, job.task)
    loss = sum(only_add_gradients(job, engine, plan, rank) for rank in range(processes))
    count = job.splits["train"].targets.lengths(512).sum()
    return loss / count, taken_from(model)


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        *(("encoded", kind) for kind in ENCODER_DECODERS),
        *(("causal", kind) for kind in (*PACKED, "bloom")),
        *(("classifying", kind) for kind in (*PACKED_ENCODERS, *UNPACKED) if kind != "bloom"),
    ],
    indirect=["job"],
)
def test_the_gradient_is_the_naive_one_for_any_cut(job: Job, kind: str) -> None:
    """Also with several processes, of which some compute fillers only."""
    changes = IDS | ALL_LAYERS if kind in ENCODER_DECODERS else {"vocab_size": 1000}
    model = make_small(kind, **changes)
    wanted_loss, wanted = naive(job, model)
    largest = max(float(tensor.norm()) for tensor in wanted.values())
    for bound, processes in [*((bound, 1) for bound in BOUNDS), (40, 2), (40, 20)]:
        loss, gradient = computed(job, model, bound, processes)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert gradient.keys() == wanted.keys()
        for name, tensor in wanted.items():
            difference = float((gradient[name] - tensor).norm())
            assert difference <= 1e-4 * float(tensor.norm()) + 1e-6 * largest, (name, bound)


@pytest.mark.parametrize("job", ["causal"], indirect=True)
def test_truncated_completions_keep_their_end(job: Job) -> None:
    targets, end = job.splits["train"].targets, job.tokenizer.eos_token_id
    whole, cut = targets.lengths(512), CutRows(targets, 3)
    assert [int(cut[index][-1]) for index in range(len(whole))] == [end] * len(whole)
    assert targets.count_cut(3) == sum(whole > 3) > 0
    assert [len(cut[index]) for index in range(len(whole))] == [min(3, n) for n in whole]
