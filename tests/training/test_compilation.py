"""`--torch_compile`: compiled layers compute the same, for few compilations, or are refused."""

import copy
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_t5, rows_of
from test_engine import make_spec
from tiny_models import make_small
from torch._dynamo.utils import counters

from workflow import run_job
from workflow.cli.run import main
from workflow.distributed.strategy import ShardingStrategy
from workflow.models.batch import Batch, Example, make_batch
from workflow.models.families import family_of
from workflow.models.losses import summed_cross_entropy
from workflow.runs.mount import Mount
from workflow.training.compilation import (
    compile_layers,
    problems_of_compiler,
    problems_of_sharding,
    uncompiled,
)
from workflow.training.engines.single import SingleProcessEngine

# As errors, warnings that torch's compiler causes by itself would fail its compilations.
pytestmark = pytest.mark.filterwarnings("default")
SPEC = make_spec(torch_compile=True)
KINDS = 4
"""Kinds of T5's layers: the first, with the position bias, and the others, of both stacks."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()
    counters.clear()


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are traced and differentiated as when compiled, but no kernels are built."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def batch_of(rows: int, source: int, target: int) -> Batch:
    draw = np.random.default_rng(rows)
    sources = [[draw.integers(3, 1000, source - row % 3)] for row in range(rows)]
    inputs = [[draw.integers(3, 1000, target - row % 2)] for row in range(rows)]
    tokens = sum(len(ids) for row in inputs for ids in row)
    targets = torch.from_numpy(draw.integers(3, 1000, tokens))
    return make_batch(rows_of(sources, inputs), targets, pad_id=0)


def loss(model: Any, batch: Batch) -> torch.Tensor:
    logits = family_of(model.config).target_logits(model, batch)
    return summed_cross_entropy(logits, batch.targets)


def compiled() -> int:
    return int(counters["stats"]["unique_graphs"])


def check_gradients(plain: Any, model: Any, batch: Batch) -> None:
    """A micro-batch has the same loss and gradients in both models, within 1e-5."""
    losses = []
    for each in (plain, model):
        each.train().zero_grad()
        losses.append(loss(each, batch))
        losses[-1].backward()
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-6)
    for (name, wanted), found in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (found.grad - wanted.grad).norm() < 1e-5 * wanted.grad.norm(), name


@pytest.mark.slow
def test_compiled_gradients_are_those_of_the_layers() -> None:
    """With torch's own compiler, two micro-batches of different sizes."""
    plain = make_t5(num_layers=1)
    model = copy.deepcopy(plain)
    family_of(model.config).use_fused_modules(model)
    compile_layers(model, SPEC)
    check_gradients(plain, model, batch_of(3, 9, 7))
    check_gradients(plain, model, batch_of(4, 13, 5))
    assert compiled() == 2


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
def test_each_kind_of_layer_is_compiled_once_for_all_sizes() -> None:
    plain = make_t5(num_layers=3)
    model = copy.deepcopy(plain)
    family_of(model.config).use_fused_modules(model)
    compile_layers(model, SPEC)
    assert list(model.state_dict()) == list(plain.state_dict())
    for sizes in [(4, 4, 4), (3, 9, 7), (2, 30, 30), (5, 8, 16)]:
        check_gradients(plain, model, batch_of(*sizes))
    assert compiled() == KINDS
    assert not counters["graph_break"]
    model.activation_checkpointing_enable()
    check_gradients(plain, model, batch_of(3, 9, 7))


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_layers_of_models_with_one_stack_compile(kind: str) -> None:
    """Also an encoder's last layer, of which less is computed otherwise."""
    plain = make_small(kind, vocab_size=1000)
    model, family = copy.deepcopy(plain), family_of(plain.config)
    family.use_fast_modules(model)
    compile_layers(model, SPEC)
    gradients = []
    for length in (5, 8, 13):
        row = [Example(np.arange(first, first + length), [7] if kind == "llama" else ())
               for first in (10, 20)]  # fmt: skip
        batch = family.collate(plain.config, [row, row[1:]], torch.empty(0))
        for each in (plain, model):
            each.zero_grad()
            family.target_logits(each, batch).square().sum().backward()
            gradients.append([p.grad for p in each.parameters() if p.grad is not None])
        torch.testing.assert_close(*gradients[-2:], rtol=1e-4, atol=1e-5)
    assert compiled() == 1


@pytest.mark.usefixtures("traced_only")
def test_modules_for_cpus_compile_too_but_not_for_evaluations() -> None:
    """With dropout, which draws the same elements as without compilation; in bfloat16."""
    spec = make_spec(torch_compile=True, bf16=True)
    original = make_t5(num_layers=1, dropout_rate=0.1)
    family_of(original.config).use_fast_modules(original)
    plain, engine = (SingleProcessEngine(copy.deepcopy(original), spec, loss) for _ in range(2))
    compile_layers(engine.model, spec)
    with engine.evaluating() as (model, _), uncompiled(spec), torch.no_grad():
        loss(model, batch_of(3, 9, 7))
    assert compiled() == 0
    gradients = []
    for each in (plain, engine):
        torch.manual_seed(5)
        each.add_gradient(batch_of(3, 9, 7), 1.0, last=True)
        gradients.append(torch.cat([p.grad.flatten() for p in each.master.parameters()]))
    assert compiled() > 0
    assert (gradients[1] - gradients[0]).norm() < 1e-2 * gradients[0].norm()


@pytest.mark.slow
def test_a_run_is_the_same_to_rounding(mount: Mount, job: Any, read_lines: Any) -> None:
    curves = []
    for name, compiles in (("plain", False), ("compiled", True)):
        folder = run_job(job(name, torch_compile=compiles), mount)
        assert (compiled() > 0) == compiles
        lines = read_lines(folder / "train_log.jsonl")
        curves.append([(line["loss"], line["grad_norm"]) for line in lines])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


@pytest.fixture
def job() -> Any:
    from workflow import make_job

    def made(name: str, **flags: Any) -> Any:
        return make_job(
            "seq2seq", model_init_name="small", data_name="sums", training_run_name=name,
            max_steps=4, train_batch_size=12, micro_batch_tokens=120, bf16=False, logging_steps=1,
            eval_steps=2, save_steps=4, max_new_tokens=3, **flags,
        )  # fmt: skip

    return made


def test_without_a_compiler_it_is_refused(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    words = ["--mount", str(mount.root), "--model_init_name", "small", "--data_name", "sums"]
    assert main("seq2seq", "", [*words, "--torch_compile"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "--torch_compile: no compiler on this machine (g++) (expected a C++ compiler, in PATH or "
        "in CXX). Hint: install g++, or remove --torch_compile."
    )
    assert {path.name for path in mount.models.iterdir()} <= {"small", ".cache"}
    monkeypatch.setattr("workflow.training.compilation.usable_gpus", lambda: 1)
    assert "(gcc or clang)" in str(problems_of_compiler(SPEC)[0])
    assert problems_of_compiler(make_spec(torch_compile=True, no_train=True)) == []


def test_without_python_s_headers_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems_of_compiler(SPEC) == []
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (problem,) = problems_of_compiler(SPEC)
    assert problem.found == f"no file {tmp_path}/Python.h"


def test_zero_3_is_refused(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--mount", str(mount.root), "--model_init_name", "small", "--data_name", "sums"]
    assert main("seq2seq", "", [*words, "--torch_compile", "--zero_stage", "3"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "--torch_compile: ZeRO 3, which divides the weights (expected ZeRO 1, ZeRO 2 or plain "
        "torch, whose weights are whole). Hint: set --zero_stage 2 --offload optimizer, or remove "
        "--torch_compile."
    )
    assert problems_of_sharding(SPEC, ShardingStrategy(2)) == []
    assert problems_of_sharding(make_spec(), ShardingStrategy(3)) == []
