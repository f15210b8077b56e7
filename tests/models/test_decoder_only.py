"""Decoder-only models: a row of packed examples, a padded batch and lone examples agree."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_small

from workflow.models.batch import Example
from workflow.models.families import family_of
from workflow.models.families.decoder_only import PACKED, restarting_positions
from workflow.models.families.encoder import PACKED as PACKED_ENCODERS
from workflow.training.memory_probe import enlarged
from workflow.training.oom import Shape

LENGTHS = ((12, 5), (7, 9), (20, 3), (3, 1))
"""Source and target tokens of some examples."""
UNPACKED = ("albert", "bloom", "deberta", "deberta-v2", "modernbert", "mpnet")


def examples_for(model: Any) -> list[Example]:
    drawn, reads = np.random.default_rng(0), family_of(model.config).generates
    return [
        Example(drawn.integers(5, 900, source), drawn.integers(5, 900, target) if reads else ())
        for source, target in LENGTHS
    ]


def logits_of(model: Any, rows: list[list[Example]]) -> torch.Tensor:
    family = family_of(model.config)
    with torch.no_grad():
        return family.target_logits(model, family.collate(model.config, rows, torch.empty(0)))


@pytest.mark.parametrize("kind", [*PACKED, *PACKED_ENCODERS, *UNPACKED])
def test_logits_do_not_depend_on_the_other_examples(kind: str) -> None:
    model = make_small(kind, vocab_size=1000)
    first, second, third, fourth = examples = examples_for(model)
    alone = torch.cat([logits_of(model, [[one]]) for one in examples])
    batches = [[[one] for one in examples]]
    if family_of(model.config).supports_packing(model):
        batches.append([[first, second], [third], [fourth]])
    for rows in batches:
        torch.testing.assert_close(logits_of(model, rows), alone, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_logits_are_those_of_a_plain_call(kind: str) -> None:
    model = make_small(kind, vocab_size=1000)
    for example in examples_for(model):
        ids = torch.tensor([[*example.source, *example.read]])
        plain = model(input_ids=ids).logits[0]
        if family_of(model.config).generates:
            plain = plain[len(example.source) - 1 :]
        else:
            plain = plain[None]
        torch.testing.assert_close(logits_of(model, [[example]]), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_largest_micro_batch_has_a_label_for_each_prediction(kind: str) -> None:
    config = make_small(kind).config
    example = Example(np.arange(5, 9), () if kind == "bert" else [5, 6])
    count = 1 if kind == "bert" else 3
    first = family_of(config).collate(config, [[example]], torch.arange(count))
    packed = enlarged(first, Shape(3, 20, 2), config)  # rows of two examples
    assert len(packed.targets) == len(packed.target_positions) == (3 if kind == "bert" else 6)
    assert packed.input_ids.shape == (3, 21)


def test_positions_restart_with_each_segment() -> None:
    segments = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [1, 2, 3, 0, 0, 0]])
    assert restarting_positions(segments).tolist() == [
        [0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2],
    ]  # fmt: skip
