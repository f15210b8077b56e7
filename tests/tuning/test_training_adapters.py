"""Adapters of every type train what they should, with the same gradient for any cut of a step."""

from pathlib import Path

import pytest
import torch
from tuned_models import (
    CASES,
    METHODS,
    engine_of,
    gradient_of,
    ready,
    stirred,
    take_step,
    tuned_job,
)

BOUNDS = (24, 40, 10_000)
"""Padded positions of a micro-batch: some examples, or all; the reference has each alone."""


def assert_equal(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], why: object
) -> None:
    """But for rounding in float32."""
    assert found.keys() == wanted.keys()
    largest = max(float(one.norm()) for one in wanted.values())
    for name, tensor in wanted.items():
        difference = float((found[name] - tensor).norm())
        assert difference <= 1e-4 * float(tensor.norm()) + 1e-6 * largest, (name, why)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_trained_moves_and_the_frozen_stays(kind: str, method: str, tmp_path: Path) -> None:
    job = tuned_job(kind, method, tmp_path, weight_decay=0.0)
    model = ready(job)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    engine = engine_of(job, model)
    losses = []
    for step in range(1, 6):
        losses.append(take_step(job, engine, step).loss)
    trained = dict(job.tuning.trainable(model))
    held = {id(one) for one in engine._optimizer.state}
    groups = [group["params"] for group in engine._optimizer.param_groups]
    assert all(groups)  # DeepSpeed fails at an empty one
    assert {id(one) for group in groups for one in group} == {id(one) for one in trained.values()}
    for name, parameter in model.named_parameters():
        if name in trained:
            assert not torch.equal(parameter, before[name]), name
            assert id(parameter) in held
        else:
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None
            assert id(parameter) not in held
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_bf16_trains_float32_masters_and_shares_the_frozen(method: str, tmp_path: Path) -> None:
    kinds = ("gpt2", "llama") if method == "prefix" else ("gpt2", "t5", "bert", "deberta-v2")
    for kind in kinds:
        job = tuned_job(kind, method, tmp_path / kind, bf16=True)
        model = ready(job)
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        engine = engine_of(job, model)
        losses = [take_step(job, engine, step).loss for step in range(1, 6)]
        assert losses[-1] < losses[0]
        copies = dict(engine.model.named_parameters())
        trained = dict(job.tuning.trainable(model))
        for name, master in model.named_parameters():
            assert torch.equal(master, before[name]) == (name not in trained), name
            assert copies[name].dtype == torch.bfloat16, name
            if name in trained:
                assert master.dtype == torch.float32, name
                assert torch.equal(copies[name], master.bfloat16()), name
                # An optimizer that only had bfloat16 would lose updates this small.
                assert not torch.equal(master, master.bfloat16().float()) or master.numel() < 3
            elif ".original_module." not in name:  # peft's copy of a head, which nothing reads
                assert master.data_ptr() == copies[name].data_ptr(), name


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_gradient_is_the_same_for_any_cut(kind: str, method: str, tmp_path: Path) -> None:
    """Rows of several examples, too, and layers that are recomputed."""
    job = tuned_job(kind, method, tmp_path)
    model = stirred(ready(job))
    wanted = gradient_of(job, model, micro_batch_tokens=1)
    assert wanted.keys() == dict(job.tuning.trainable(model)).keys()
    assert all(float(one.norm()) > 0 for one in wanted.values())
    for bound in BOUNDS:
        assert_equal(gradient_of(job, model, micro_batch_tokens=bound), wanted, bound)
    if kind != "albert":
        for bound in (24, 10_000):
            recomputed = gradient_of(
                job, model, micro_batch_tokens=bound, gradient_checkpointing=True
            )
            assert_equal(recomputed, wanted, "recomputed")
