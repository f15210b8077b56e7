"""Decoder-only models: a row of packed examples, a padded batch and lone examples agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GPT_TINY
from tiny_models import make_small
from transformers import CONFIG_MAPPING
from transformers.modeling_layers import GradientCheckpointingLayer

from workflow.models.batch import SHARED, Example
from workflow.models.configuration import set_dropout
from workflow.models.families import family_of
from workflow.models.families.decoder_only import PACKED, restarting_positions
from workflow.models.families.encoder import PACKED as PACKED_ENCODERS
from workflow.models.hub import load_tokenizer
from workflow.models.loading import load_model, save_model
from workflow.models.state_dict import file_tensors
from workflow.training.memory_probe import enlarged
from workflow.training.oom import Shape

Tensors = dict[str, torch.Tensor]
LENGTHS = ((12, 5), (7, 9), (20, 3), (3, 1))
"""Source and target tokens of some examples."""
TYPED = ("albert", "bert", "deberta-v2", "electra")
UNPACKED = ("albert", "bloom", "deberta", "deberta-v2", "modernbert", "mpnet")


def examples_for(model: Any, shared: int = 0) -> list[Example]:
    """Random examples whose sources begin alike."""
    drawn, reads = np.random.default_rng(0), family_of(model.config).generates
    prefix = drawn.integers(5, 900, shared)
    return [
        Example(
            np.concatenate([prefix, drawn.integers(5, 900, source)]),
            drawn.integers(5, 900, target) if reads else (),
        )
        for source, target in LENGTHS
    ]


def logits_of(model: Any, rows: list[list[Example]]) -> torch.Tensor:
    family = family_of(model.config)
    with torch.no_grad():
        return family.target_logits(model, family.collate(model.config, rows, torch.empty(0)))


def gradients_of(model: Any, rows: list[list[Example]]) -> tuple[torch.Tensor, Tensors]:
    """The logits, and each parameter's gradient of a function of all of them."""
    family = family_of(model.config)
    logits = family.target_logits(model, family.collate(model.config, rows, torch.empty(0)))
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.shape[1])).cos().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits, found


def assert_equal(found: tuple[torch.Tensor, Tensors], wanted: tuple[torch.Tensor, Tensors]) -> None:
    """But for rounding."""
    largest = max(float(gradient.abs().max()) for gradient in wanted[1].values())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * largest)


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


SHARING = (
    "cohere", "gemma", "gpt2", "gpt_neox", "granite", "llama", "olmo2", "opt", "phi",
    "qwen2", "qwen3", "smollm3", "stablelm",
)  # fmt: skip


@pytest.mark.parametrize("kind", SHARING)
def test_a_shared_beginning_is_computed_once_and_changes_no_gradient(kind: str) -> None:
    model = make_small(kind)
    set_dropout(model.config, 0)
    family, examples = family_of(model.config), examples_for(model, shared=6)
    alone = [[one] for one in examples]
    rows = [examples[:3], examples[3:]]
    of_all = family.collate(model.config, rows, torch.empty(0)).input_ids.shape[1]
    assert of_all == sum(len(e.source) + len(e.read) for e in rows[0]) - 2 * 6
    assert_equal(gradients_of(model, rows), gradients_of(model, alone))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", *PACKED_ENCODERS])
def test_recomputed_layers_have_the_same_gradient(kind: str) -> None:
    """The last layer too, which an encoder's head otherwise has computed for what it reads."""
    model = make_small(kind, vocab_size=1000).train()
    (layer,) = (m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
    calls: list[int] = []
    first = next(m for m in layer.modules() if "weight" in m._parameters)
    first.register_forward_hook(lambda *_: calls.append(len(calls)))
    examples = examples_for(model)
    rows = [examples[:2], examples[2:3], examples[3:]]
    kept = gradients_of(model, rows)
    assert len(calls) == 1
    model.activation_checkpointing_enable()
    assert_equal(gradients_of(model, rows), kept)
    assert len(calls) == 3


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_rows_may_be_longer_than_the_model_has_positions(kind: str) -> None:
    """Those of several examples, and so the padding of the others."""
    model = make_small(kind, max_position_embeddings=24, vocab_size=1000)
    ids = np.arange(10, 26)
    examples = [Example(np.append(ids, [number] * 4), [7, 8]) for number in range(30, 38)]
    alone = torch.cat([logits_of(model, [[one]]) for one in examples])
    packed = logits_of(model, [examples[:7], examples[7:]])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("kind", [*PACKED_ENCODERS, "mpnet", "albert", "modernbert"])
def test_the_longest_texts_have_positions(kind: str) -> None:
    model = make_small(kind, max_position_embeddings=40)
    longest, _ = family_of(model.config).max_positions(model.config)
    text = np.arange(5, 5 + int(longest))
    assert 37 < len(text) <= 40
    assert logits_of(model, [[Example(text)]]).isfinite().all()


def test_prefixes_are_not_shared_with_dropout() -> None:
    config = CONFIG_MAPPING["gpt2"]()
    assert not family_of(config).shares_prefixes(config)
    set_dropout(config, 0)
    assert family_of(config).shares_prefixes(config)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "roberta", "modernbert", *TYPED])
def test_logits_are_those_of_a_plain_call(kind: str) -> None:
    """Also of models with types of tokens, which some tokenizers of transformers 5 do not give."""
    model = make_small(kind, vocab_size=1000)
    for example in examples_for(model):
        ids = torch.tensor([[*example.source, *example.read]])
        types = {"token_type_ids": torch.zeros_like(ids)} if kind in TYPED else {}
        plain = model(input_ids=ids, **types).logits[0]
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


def test_the_largest_micro_batch_may_have_rows_longer_than_the_model_s_positions() -> None:
    model = make_small("gpt2", max_position_embeddings=24, vocab_size=1000)
    first = family_of(model.config).collate(
        model.config, [[Example(np.arange(5, 9), [5, 6])]], torch.arange(3)
    )
    batch = enlarged(first, Shape(2, 50, 10), model.config)
    assert batch.input_ids.shape == (2, 59)
    logits = family_of(model.config).target_logits(model, batch)
    assert len(logits) == len(batch.targets) >= 2 * 10


@pytest.mark.parametrize("kind", sorted({*PACKED, *PACKED_ENCODERS, *UNPACKED} - {"gpt_neo"}))
def test_files_have_the_names_that_transformers_gives(kind: str, tmp_path: Path) -> None:
    """Of GPT-NeoX, version 5 has other names for modules than for files. (GPT-Neo's small copy
    cannot be saved.)
    """
    model = make_small(kind)
    model.save_pretrained(tmp_path / "plain")
    save_model(model, load_tokenizer(GPT_TINY), tmp_path / "ours")
    names = [dict(file_tensors(tmp_path / one)).keys() for one in ("plain", "ours")]
    assert names[0] == names[1]
    loaded = load_model(tmp_path / "ours").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_positions_restart_with_each_segment() -> None:
    segments = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [1, 2, 3, 0, 0, 0]])
    assert restarting_positions(segments).tolist() == [
        [0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0],
    ]  # fmt: skip
    shared = torch.tensor([[SHARED, SHARED, 1, 1, 2, 0]])
    assert restarting_positions(shared).tolist() == [[0, 1, 2, 3, 2, 0]]
