"""Decoder-only models' texts: as transformers' generate, alone or among others."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALONE
from tiny_models import make_small

from workflow.distributed.stop import Stop
from workflow.inference.causal_decoder import CausalDecoder, by_rows
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.decoding_loop import generate_rows, own_decoder
from workflow.inference.hf_generate import hf_generate
from workflow.inference.rows import ON_GPU

KINDS = ("gpt2", "opt", "llama", "qwen3", "gpt_neox", "mistral", "gemma3_text")
LENGTHS = (9, 1, 4, 12, 3, 7, 1, 5, 30, 2)


def make_model(kind: str) -> Any:
    model = make_small(kind)
    if getattr(model.config, "sliding_window", None):
        model.config.sliding_window = 64
        for module in model.modules():
            if getattr(module, "sliding_window", None):
                module.sliding_window = 64
    # Some of these tokens soon end a text.
    model.generation_config.eos_token_id = list(range(0, model.config.vocab_size, 9))
    return model


def make_prompts() -> PromptBatch:
    drawn = np.random.default_rng(1)
    ids = [drawn.integers(5, 900, length).tolist() for length in LENGTHS]
    return PromptBatch(ids, list(range(len(ids))), [7, 11, 13])


def by_loop(
    model: Any, prompts: PromptBatch, decoding: Decoding, at_once: int, **pace: Any
) -> GeneratedIds:
    with torch.no_grad(), by_rows(model):
        decoder = CausalDecoder.of(model, prompts.ids, decoding, at_once, **pace)
        return generate_rows(decoder, prompts, decoding, Stop(), lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_generate_for_each_prompt_alone(kind: str) -> None:
    model, prompts = make_model(kind), make_prompts()
    decoding = Decoding(max_new_tokens=12)
    assert own_decoder(model, decoding, max(LENGTHS)) is CausalDecoder
    found = by_loop(model, prompts, decoding, at_once=4)
    ends = set(model.generation_config.eos_token_id)
    for place, ids in enumerate(prompts.ids):
        given = torch.tensor([ids])
        alone = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False,
            pad_token_id=0,
        )[0, len(ids) :].tolist()  # fmt: skip
        assert found.sequences[place] == alone
        assert found.ended[place] == (alone[-1] in ends)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, list(prompts.scored_ids)]
        torch.testing.assert_close(found.first_logits[place], logits, rtol=1e-4, atol=1e-5)
    assert len({len(ids) for ids in found.sequences}) > 1
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_samples_do_not_depend_on_the_batch_or_the_loop(kind: str) -> None:
    model, prompts = make_model(kind), make_prompts()
    decoding = Decoding(max_new_tokens=9, temperature=1.0, n_samples=3, seed=5, min_new_tokens=2)
    found = by_loop(model, prompts, decoding, at_once=3)
    assert by_loop(model, prompts, decoding, at_once=10).sequences == found.sequences
    assert by_loop(model, prompts, decoding, at_once=4, pace=ON_GPU).sequences == found.sequences
    with torch.no_grad():
        other = hf_generate(model, prompts, decoding, ALONE)
    assert other.sequences == found.sequences
    torch.testing.assert_close(other.first_logits, found.first_logits, rtol=1e-4, atol=1e-5)
    assert min(map(len, found.sequences)) >= 3


def test_windows_shorter_than_a_text_are_left_to_transformers() -> None:
    model = make_model("mistral")
    assert own_decoder(model, Decoding(max_new_tokens=12), 52) is CausalDecoder
    assert own_decoder(model, Decoding(max_new_tokens=12), 53) is None
    assert own_decoder(make_small("gemma2"), Decoding(max_new_tokens=1), 1) is None  # soft caps
    assert (
        own_decoder(make_small("bloom"), Decoding(max_new_tokens=1), 1) is None
    )  # no position ids
