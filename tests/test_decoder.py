"""Our own decoding loop writes what transformers' does, whatever leaves the batch when."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA, addition_records, make_t5
from test_generate import make_spec

from workflow.cpu import use_fast_modules
from workflow.decoder import Decoder, moves, write_texts
from workflow.stop import Stop

END = 1
NEW_TOKENS = 20


def ending(own_head: bool = True, **sizes: Any) -> Any:
    """A random model that ends some of its texts early."""
    model = make_t5(own_head=own_head, **sizes)
    model.get_output_embeddings().weight.data[END] *= 2.5
    return model


def until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1] if END in ids else ids


def by_transformers(model: Any, prompts: Sequence[list[int]], **settings: Any) -> list[list[int]]:
    """The greedy texts of `model.generate`, in batches of 100."""
    found: list[list[int]] = []
    for start in range(0, len(prompts), 100):
        rows = [torch.tensor(prompt) for prompt in prompts[start : start + 100]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        written = model.generate(
            input_ids=ids, attention_mask=(ids != 0).long(), do_sample=False, num_beams=1,
            max_new_tokens=NEW_TOKENS, **settings,
        )  # fmt: skip
        found += [until_end(row) for row in written[:, 1:].tolist()]
    return found


def by_ourselves(model: Any, prompts: Sequence[list[int]], **settings: Any) -> list[list[int]]:
    spec = make_spec(max_new_tokens=NEW_TOKENS, **settings)
    with torch.no_grad():
        written = write_texts(model, prompts, range(len(prompts)), spec, [5, 6], Stop())
    return [until_end(row) for row in written.ids]


def random_prompts(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[*rng.integers(2, 1024, rng.integers(0, 40)).tolist(), END] for _ in range(count)]


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("settings", [{}, {"min_new_tokens": 5}])
@pytest.mark.parametrize("fast", [False, True])
def test_greedy_texts_are_those_of_transformers(
    own_head: bool, settings: dict[str, Any], fast: bool
) -> None:
    model, prompts = ending(own_head), random_prompts(150)
    wanted = by_transformers(model, prompts, **settings)
    if fast:
        use_fast_modules(model, attention=True)
    assert by_ourselves(model, prompts, **settings) == wanted
    if own_head:  # tied, such a model repeats itself
        assert len({len(text) for text in wanted}) > 10


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
@pytest.mark.parametrize("own_head", [True, False])
def test_a_thousand_real_prompts_are_answered_as_by_transformers(own_head: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    data = json.loads((SHARED_DATA / "instruct.json").read_text())
    texts = [record["prompt"] for record in data["eval"] + data["train"]][:1000]
    prompts = tokenizer(texts)["input_ids"]
    model = ending(own_head, vocab_size=32128, d_model=64, num_layers=2)
    wanted = by_transformers(model, prompts)
    found = by_ourselves(model, prompts)
    assert len(prompts) == 1000
    assert sum(one != other for one, other in zip(found, wanted, strict=True)) == 0


def test_the_first_scores_are_the_raw_logits(tokenizer: Any) -> None:
    model = ending()
    prompts = tokenizer([record["prompt"] for record in addition_records(7)])["input_ids"]
    spec = make_spec(max_new_tokens=4, min_new_tokens=3, temperature=1.0, n_samples=3)
    with torch.no_grad():
        written = write_texts(model, prompts, range(7), spec, [END, 6], Stop())
        for prompt, first in zip(prompts, written.first, strict=True):
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0]]))
            torch.testing.assert_close(first, logits.logits[0, 0, [END, 6]])


@pytest.mark.parametrize("samples", [1, 3])
def test_rows_that_stay_go_on_as_if_none_had_left(samples: int) -> None:
    """Logits of each text, whichever others leave, and when."""
    model, prompts = make_t5(), random_prompts(9)
    rng = np.random.default_rng(samples)
    ids = torch.from_numpy(rng.integers(2, 1024, (9 * samples, 8)))
    with torch.no_grad():
        whole = Decoder(model, prompts, samples, 8)
        wanted = torch.stack([whole.step(ids[:, position]) for position in range(8)])
        decoder = Decoder(model, prompts, samples, 8)
        for position in range(8):
            logits = decoder.step(ids[decoder.texts, position])
            torch.testing.assert_close(logits, wanted[position, decoder.texts])
            texts = decoder.texts
            before = decoder.keep(torch.from_numpy(rng.random(len(texts)) < 0.8))
            assert torch.equal(texts[before], decoder.texts)


def test_rows_close_up_with_as_few_moves_as_there_are_holes() -> None:
    going = torch.tensor([True, False, True, False, True, True])
    holes, movers, left = moves(going)
    assert (holes.tolist(), movers.tolist(), left) == ([1, 3], [4, 5], 4)
    holes, movers, left = moves(torch.tensor([False, False]))
    assert (holes.tolist(), movers.tolist(), left) == ([], [], 0)


def test_texts_end_early_where_the_process_is_asked_to_stop() -> None:
    class Asked(Stop):
        def requested(self) -> str | None:
            return "the test"

    spec = make_spec(max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        written = write_texts(make_t5(), [[5, END]], [0], spec, [], Asked())
    assert until_end(written.ids[0])[1:] in ([], [END])
