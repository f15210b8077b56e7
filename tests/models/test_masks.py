"""Attention masks of packed rows."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_t5, rows_of

from workflow.models.batch import make_batch
from workflow.models.families import family_of


@pytest.mark.parametrize("seed", range(8))
def test_every_query_attends_to_something(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some CUDA kernels return NaN for a query that attends to nothing (pytorch#196678)."""
    draw = random.Random(seed)
    model = make_t5()
    masks: list[torch.Tensor] = []

    def recorded(original: Any) -> Any:
        def forward(*given: Any, **named: Any) -> Any:
            masks.extend(value for name, value in named.items() if name.endswith("attention_mask"))
            return original(*given, **named)

        return forward

    for module in (model, model.get_encoder()):
        monkeypatch.setattr(module, "forward", recorded(module.forward))

    def rows(longest: int) -> list[list[Any]]:
        return [[np.full(draw.randint(1, longest), 5) for _ in range(parts)] for parts in counts]

    counts = [draw.randint(1, 3) for _ in range(draw.randint(1, 5))]
    sources, inputs = rows(9), rows(7)
    batch = make_batch(rows_of(sources, inputs), torch.zeros(0, dtype=torch.long), pad_id=0)
    logits = family_of(model.config).target_logits(model, batch)
    assert len(masks) == 3
    assert all(mask.any(-1).all() for mask in masks)
    assert logits.isfinite().all()
