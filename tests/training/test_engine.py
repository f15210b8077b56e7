"""A step's gradient equals that of the naive single batch for any micro-batches; optimizers."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import addition_records, make_t5, rows_of
from transformers import LlamaConfig, LlamaForCausalLM

from workflow import make_job
from workflow.config.job import JobSpec, resolve_defaults
from workflow.data.example_lengths import ExampleLengths
from workflow.data.source import DataSource
from workflow.data.step_planner import StepPlan, plan_step
from workflow.data.token_cache import prepare_splits
from workflow.distributed.world import World
from workflow.models.batch import make_batch
from workflow.models.families import DecoderIds
from workflow.tasks.base import Task
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.optim import make_optimizer
from workflow.training.prepare import Job
from workflow.training.step import PlannedStep, StepOutcome, add_gradients, finish_step
from workflow.tuning import FullTuning

RECORDS = [
    *addition_records(11),
    {"prompt": "who wrote this? no one", "completion": "Someone wrote this in the morning."},
    {"prompt": "yes", "completion": "no"},
]


def make_spec(**values: Any) -> JobSpec:
    values = {"max_steps": 10, "warmup_steps": 0, "bf16": False, "max_grad_norm": 0} | values
    spec = make_job("seq2seq", model_init_name="x", data_name="y", **values)
    spec = resolve_defaults(spec, "run", len(RECORDS), 12, fast_bf16=True)
    return dataclasses.replace(spec, micro_batch_tokens=spec.micro_batch_tokens or 64)


@pytest.fixture
def job(tmp_path: Path, tokenizer: Any) -> Job:
    return prepared(make_spec(), Seq2Seq(), tokenizer, RECORDS, tmp_path)


def prepared(
    spec: JobSpec, task: Task, tokenizer: Any, records: list[dict[str, Any]], folder: Path
) -> Job:
    """A job on these train records, tokenized."""
    path = folder / "data.json"
    path.write_text(json.dumps({"train": records}))
    splits = prepare_splits(DataSource({"": path}, ["train"]), task, tokenizer, folder / "cache")
    return Job(
        spec, task, FullTuning(), tokenizer, DecoderIds(0), None, {}, splits,
        folder, folder, folder / "lock", strategy=None, request=spec,
        resolve_defaults=lambda request: request, resume_point=None,
    )  # fmt: skip


def make_engine(model: Any, spec: JobSpec, task: Task | None = None) -> SingleProcessEngine:
    task = task or Seq2Seq()

    def loss(model: Any, batch: Any) -> torch.Tensor:
        return task.loss(model, batch, spec.label_smoothing_factor)

    return SingleProcessEngine(model, spec, loss)


def step_once(job: Job, engine: SingleProcessEngine, plan: StepPlan, step: int = 1) -> StepOutcome:
    planned = PlannedStep.of(job, plan, step, engine.model.config, rank=0)
    losses = add_gradients(job, engine, planned, World())
    return finish_step(job, engine, planned, losses, World())


def only_add_gradients(
    job: Job, engine: SingleProcessEngine, plan: StepPlan, rank: int = 0, step: int = 1
) -> float:
    """A step without its update; its loss on this rank."""
    planned = PlannedStep.of(job, plan, step, engine.model.config, rank)
    return float(add_gradients(job, engine, planned, World(rank)).sum())


def naive_gradient(job: Job, model: Any, smoothing: float) -> dict[str, torch.Tensor]:
    """One padded batch, its mean token loss differentiated, as in a textbook."""
    model = copy.deepcopy(model)
    sources = job.tokenizer([r["prompt"] for r in RECORDS], padding=True, return_tensors="pt")
    labels = job.tokenizer([r["completion"] for r in RECORDS], padding=True, return_tensors="pt")
    labels = labels["input_ids"].masked_fill(labels["input_ids"] == 0, -100)
    logits = model(**sources, labels=labels).logits
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def cuts(job: Job) -> list[StepPlan]:
    examples = np.arange(len(RECORDS))
    sources = job.splits["train"].sources.lengths(1024)
    targets = job.splits["train"].targets.lengths(512)
    planned = [
        plan_step(examples, ExampleLengths(sources, targets), bound)
        for bound in (1, 24, 64, 100_000)
    ]
    packed = [
        plan_step(examples, ExampleLengths(sources, targets), bound, packs=True)
        for bound in (128, 10_000)
    ]
    alone = [examples[i : i + 1] for i in examples]
    by_hand = [
        [tuple(alone)],
        [tuple(alone[::-1][:5]), tuple(alone[::-1][5:])],
        [(row,) for row in alone],
        [(examples[:7], examples[7:])],
        [(examples,)],
    ]
    plans = [StepPlan(tuple((batch,) for batch in cut), (alone[0],), 1, 1) for cut in by_hand]
    return planned + plans + packed


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cut", range(11))
def test_the_gradient_is_the_naive_one_for_any_cut(
    job: Job, cut: int, checkpointing: bool, smoothing: float
) -> None:
    spec = make_spec(gradient_checkpointing=checkpointing, label_smoothing_factor=smoothing)
    job = dataclasses.replace(job, spec=spec)
    wanted = naive_gradient(job, make_t5(), smoothing)
    engine = make_engine(make_t5(), spec)
    only_add_gradients(job, engine, cuts(job)[cut])
    for name, parameter in engine.master.named_parameters():
        difference = (parameter.grad - wanted[name]).norm()
        assert difference <= 1e-5 * wanted[name].norm(), name


@pytest.mark.parametrize("processes", [2, 3, 5, 20])
@pytest.mark.parametrize("packs", [False, True])
def test_the_gradients_of_several_processes_add_up_to_the_naive_one(
    job: Job, processes: int, packs: bool
) -> None:
    """Fillers, which keep an idle process in lockstep, count neither in gradient nor loss."""
    split = job.splits["train"]
    lengths = ExampleLengths(split.sources.lengths(1024), split.targets.lengths(512))
    plan = plan_step(np.arange(len(RECORDS)), lengths, 128, packs, processes)
    assert any(() in ranks for ranks in plan.micro_steps) is (processes == 20)
    summed: dict[str, Any] = {}
    losses = []
    for rank in range(processes):
        engine = make_engine(make_t5(), job.spec)
        losses.append(only_add_gradients(job, engine, plan, rank))
        for name, parameter in engine.master.named_parameters():
            summed[name] = summed.get(name, 0) + parameter.grad
    engine = make_engine(make_t5(), job.spec)
    assert sum(losses) == pytest.approx(step_once(job, engine, cuts(job)[4]).loss, rel=1e-5)
    for name, wanted in naive_gradient(job, make_t5(), 0.0).items():
        assert (summed[name] - wanted).norm() <= 1e-5 * wanted.norm(), name


@pytest.mark.parametrize("loss", [1.0, math.inf, math.nan])
@pytest.mark.parametrize("weight", [1.0, math.inf])
def test_an_update_needs_a_finite_loss_and_gradient(loss: float, weight: float) -> None:
    engine = make_engine(make_t5(), make_spec(learning_rate=0.1))
    before = copy.deepcopy(engine.master.state_dict())
    ids = [[np.array([3, 4])]]
    engine.add_gradient(make_batch(rows_of(ids, ids), torch.tensor([4, 5]), 0), weight, last=True)
    figures = engine.update(torch.tensor([2.0, loss]))
    assert figures.losses == pytest.approx([2.0, loss], nan_ok=True)
    assert figures.loss == pytest.approx(2.0 + loss, nan_ok=True)
    assert np.isfinite(figures.gradient_norm) == (weight == 1.0)
    after = engine.master.state_dict()
    changed = any(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert changed == (loss == weight == 1.0)
    assert engine.learning_rate == pytest.approx(0.09 if changed else 0.1)


def test_updates_are_those_of_plain_adamw(job: Job) -> None:
    spec = make_spec(learning_rate=1e-3, max_grad_norm=0.5, lr_scheduler_type="constant")
    job = dataclasses.replace(job, spec=spec)
    plain = make_t5()
    decays = [n for n, p in plain.named_parameters() if p.ndim > 1 and "bias" not in n]
    named = dict(plain.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [named[n] for n in decays], "weight_decay": 0.01},
            {"params": [p for n, p in named.items() if n not in decays], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    start = copy.deepcopy(plain.state_dict())
    engine = make_engine(make_t5(), spec)
    for step in range(1, 6):
        gradient = naive_gradient(job, plain, 0.0)
        for name, parameter in named.items():
            parameter.grad = gradient[name]
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        outcome = step_once(job, engine, cuts(job)[4], step)
        assert outcome.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for name, parameter in engine.master.named_parameters():
        change = (named[name] - start[name]).norm()
        assert (parameter - named[name]).norm() <= 1e-3 * change, name


def test_norms_and_biases_do_not_decay() -> None:
    model = make_t5()
    groups = make_optimizer(model.named_parameters(), make_spec(weight_decay=0.3)).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    free = {names[id(p)] for p in groups[1]["params"]}
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert free == {
        n for n in names.values() if "layer_norm" in n or "relative_attention_bias" in n
    }


def test_bf16_computes_in_bf16_and_updates_in_float32(job: Job) -> None:
    spec = make_spec(bf16=True, learning_rate=1e-5, lr_scheduler_type="constant")
    job = dataclasses.replace(job, spec=spec)
    engine = make_engine(make_t5(), spec)
    before = copy.deepcopy(engine.master.state_dict())
    gradients = []
    for step in range(1, 4):
        only_add_gradients(job, engine, cuts(job)[step], step=step)
        gradients.append({n: p.grad.clone() for n, p in engine.master.named_parameters()})
        engine._optimizer.zero_grad()
    step_once(job, engine, cuts(job)[0])
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in engine.master.parameters()} == {torch.float32}
    for state in engine._optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in gradients[0].values())
    # A change far below bfloat16's resolution is kept in the masters.
    after = engine.master.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    for computing, master in zip(
        engine.model.parameters(), engine.master.parameters(), strict=True
    ):
        assert torch.equal(computing, master.to(torch.bfloat16))
    # The gradient agrees with float32's to bfloat16's precision, whatever the cut.
    wanted = naive_gradient(job, make_t5(), 0.0)
    for gradient in gradients:
        for name, tensor in gradient.items():
            assert (tensor - wanted[name]).norm() <= 0.1 * wanted[name].norm(), name


def test_tied_weights_stay_tied_in_bf16(tmp_path: Path) -> None:
    engine = make_engine(make_t5(own_head=False), make_spec(bf16=True))
    assert engine.model.lm_head.weight is engine.model.shared.weight
    assert engine.model.shared.weight is not engine.master.shared.weight


def test_rotary_positions_keep_their_frequencies_in_bf16() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=8, num_hidden_layers=1, **sizes)
    model: Any = LlamaForCausalLM(config)
    engine: Any = make_engine(model, make_spec(bf16=True))
    assert engine.model.lm_head.weight.dtype == torch.bfloat16
    expected = LlamaForCausalLM(config).model.rotary_emb.inv_freq
    torch.testing.assert_close(engine.model.model.rotary_emb.inv_freq, expected, rtol=0, atol=0)


def test_adafactor_has_a_fixed_rate_and_factored_state(job: Job) -> None:
    spec = make_spec(optim="adafactor", warmup_steps=None)
    assert (spec.learning_rate, spec.lr_scheduler_type) == (1e-3, "constant")
    job = dataclasses.replace(job, spec=spec)
    engine = make_engine(make_t5(), spec)
    before = step_once(job, engine, cuts(job)[0]).loss
    for step in range(2, 6):
        after = step_once(job, engine, cuts(job)[0], step).loss
    assert after < before
    state = engine._optimizer.state[engine.master.lm_head.weight]
    assert state["exp_avg_sq_row"].shape == (1024,)
    assert engine.learning_rate == 1e-3
