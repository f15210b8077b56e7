"""Adapters of every type train what they should, with the same gradient for any cut of a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tuned_models import CASES, engine_of, gradient_of, ready, stirred, take_step, tuned_job

from workflow.models.families import family_of

BOUNDS = (1, 24, 40)
"""Padded positions of a micro-batch: each example alone, some of them; all is the reference."""


def assert_equal(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], why: object
) -> None:
    """But for rounding in float32."""
    assert found.keys() == wanted.keys()
    largest = max(float(one.norm()) for one in wanted.values())
    for name, tensor in wanted.items():
        difference = float((found[name] - tensor).norm())
        assert difference <= 1e-4 * float(tensor.norm()) + 1e-6 * largest, (name, why)


def head_of(model: Any) -> set[str]:
    family = family_of(model.config)
    return {name for name, _ in model.named_parameters() if family.is_head(model, name)}


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
    for name, parameter in model.named_parameters():
        if name in trained:
            assert not torch.equal(parameter, before[name]), name
            assert id(parameter) in held
        else:
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None
            assert id(parameter) not in held
    assert losses[-1] < losses[0]
    assert {one.rpartition(".")[0] for one in job.tuning.saved(model)} != set()


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_gradient_is_the_same_for_any_cut(kind: str, method: str, tmp_path: Path) -> None:
    """Rows of several examples, too, and layers that are recomputed."""
    job = tuned_job(kind, method, tmp_path)
    model = stirred(ready(job))
    wanted = gradient_of(job, model, micro_batch_tokens=1)
    assert wanted.keys() == dict(job.tuning.trainable(model)).keys()
    assert all(float(one.norm()) > 0 for one in wanted.values())
    for bound in (24, 40, 10_000):
        assert_equal(gradient_of(job, model, micro_batch_tokens=bound), wanted, bound)
    if kind != "albert":
        for bound in (24, 10_000):
            recomputed = gradient_of(
                job, model, micro_batch_tokens=bound, gradient_checkpointing=True
            )
            assert_equal(recomputed, wanted, "recomputed")
