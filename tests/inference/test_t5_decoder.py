"""Our own decoding loop generates what transformers' does, whenever texts leave the batch."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALONE, SHARED_DATA, addition_records, make_t5
from test_generate import make_decoding
from transformers import MT5Config, MT5ForConditionalGeneration

from workflow.distributed.stop import Stop
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.decoding_loop import generate_rows, own_decoder
from workflow.inference.hf_generate import hf_generate
from workflow.inference.rows import ON_CPU, ON_GPU, Pace, moves
from workflow.inference.t5_decoder import T5Decoder
from workflow.models.families import family_of

END = 1
NEW_TOKENS = 20
ROUNDED = Pace(tokens=3, multiple=4, doubles=True)
"""Rounds shapes as on a GPU, in several steps even for short texts."""


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


def write(
    model: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    scored_ids: Sequence[int] = (5, 6),
    at_once: int = 1000,
    first: int = 0,
    pace: Pace = ON_CPU,
) -> GeneratedIds:
    """With our own loop; the prompts' indexes start at `first`."""
    batch = PromptBatch(prompts, range(first, first + len(prompts)), scored_ids)
    finished: list[int] = []
    with torch.no_grad():
        decoder = T5Decoder.of(model, prompts, decoding, at_once, pace)
        generated = generate_rows(decoder, batch, decoding, Stop(), finished.append)
    assert sum(finished) == len(prompts)
    return generated


def by_ourselves(
    model: Any,
    prompts: Sequence[list[int]],
    at_once: int = 1000,
    pace: Pace = ON_CPU,
    **settings: Any,
) -> list[list[int]]:
    decoding = make_decoding(max_new_tokens=NEW_TOKENS, **settings)
    written = write(model, prompts, decoding, at_once=at_once, pace=pace)
    assert written.ended == [END in text for text in written.sequences]
    return written.sequences


def random_prompts(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[*rng.integers(2, 1024, rng.integers(0, 40)).tolist(), END] for _ in range(count)]


@pytest.mark.parametrize(
    ("own_head", "settings", "fast"),
    [
        (True, {}, False),
        (False, {"min_new_tokens": 5}, False),
        (True, {"min_new_tokens": 5}, True),
        (False, {}, True),
    ],
)
def test_greedy_texts_are_those_of_transformers(
    own_head: bool, settings: dict[str, Any], fast: bool
) -> None:
    model, prompts = ending(own_head), random_prompts(150)
    wanted = by_transformers(model, prompts, **settings)
    if fast:
        family_of(model.config).use_fast_modules(model)
    paces = ((1, ON_CPU), (7, ON_GPU), (7, ROUNDED), (150, ON_CPU), (150, ROUNDED))
    for at_once, pace in paces:
        assert by_ourselves(model, prompts, at_once, pace, **settings) == wanted
    if own_head:  # tied, such a model repeats itself
        assert len({len(text) for text in wanted}) > 10


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
@pytest.mark.parametrize("own_head", [True, False])
def test_a_thousand_real_prompts_are_completed_as_by_transformers(own_head: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    data = json.loads((SHARED_DATA / "instruct.json").read_text())
    texts = [record["prompt"] for record in data["eval"] + data["train"]][:1000]
    prompts = tokenizer(texts)["input_ids"]
    model = ending(own_head, vocab_size=32128, d_model=64, num_layers=2)
    wanted = by_transformers(model, prompts)
    found = by_ourselves(model, prompts, at_once=200)
    assert len(prompts) == 1000
    assert sum(one != other for one, other in zip(found, wanted, strict=True)) == 0


@pytest.mark.parametrize("at_once", [2, 7])
def test_the_first_scores_are_the_raw_logits(tokenizer: Any, at_once: int) -> None:
    model = ending()
    prompts = tokenizer([record["prompt"] for record in addition_records(7)])["input_ids"]
    decoding = make_decoding(max_new_tokens=4, min_new_tokens=3, temperature=1.0, n_samples=3)
    written = write(model, prompts, decoding, [END, 6], at_once)
    with torch.no_grad():
        for prompt, first in zip(prompts, written.first_logits, strict=True):
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0]]))
            torch.testing.assert_close(first, logits.logits[0, 0, [END, 6]])


@pytest.mark.parametrize("at_once", [4, 9])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("pace", [ON_CPU, replace(ROUNDED, tokens=1)])
def test_rows_continue_as_if_none_left_or_came(pace: Pace, samples: int, at_once: int) -> None:
    """The logits of each text by position, whichever others leave and come, and when."""
    model, prompts = make_t5(), random_prompts(9)
    rng = np.random.default_rng(samples)
    ids = torch.from_numpy(rng.integers(2, 1024, (9 * samples, 8)))
    seen = set()
    with torch.no_grad():
        wanted = [
            model(input_ids=torch.tensor([prompts[text // samples]]),
                  decoder_input_ids=ids[[text]]).logits[0]
            for text in range(9 * samples)
        ]  # fmt: skip
        decoding = make_decoding(max_new_tokens=8, temperature=1.0, n_samples=samples)
        decoder = T5Decoder.of(model, prompts, decoding, at_once, pace)
        rows, taken = decoder.rows, 0
        while True:
            more = prompts[taken : taken + decoder.free]
            decoder.add(taken, more)
            taken += len(more)
            if not len(rows):
                break
            shapes, _ = rows.ahead()
            texts, positions = rows.texts[: len(rows)], rows.positions[: len(rows)].clone()
            rows.ids[: len(rows)] = ids[texts, positions]
            logits = decoder.logits(shapes)
            for row, (text, position) in enumerate(zip(texts, positions, strict=True)):
                torch.testing.assert_close(
                    logits[row], wanted[text][position], rtol=1e-4, atol=1e-4
                )
                seen.add((int(text), int(position)))
            decoder.keep(rng.random(len(rows)) < 0.8 * (positions < 7).numpy())
    assert {text for text, _ in seen} == set(range(9 * samples))
    assert max(position for _, position in seen) >= 5


@pytest.mark.parametrize(("pace", "at_once"), [(ON_CPU, 1), (ON_GPU, 1), (ROUNDED, 3)])
def test_a_text_that_is_no_number_does_not_harm_others(pace: Pace, at_once: int) -> None:
    model, prompts = make_t5(), random_prompts(12)
    wanted = write(model, prompts, make_decoding(max_new_tokens=5)).sequences
    model.shared.weight.data[7] = torch.nan
    decoding = make_decoding(max_new_tokens=5)
    found = write(model, [[7, END], *prompts], decoding, at_once=at_once, pace=pace).sequences
    bad = {index for index, prompt in enumerate(prompts) if 7 in prompt}
    assert all(found[index + 1] == wanted[index] for index in set(range(12)) - bad)


def test_rows_close_up_with_as_few_moves_as_there_are_holes() -> None:
    before, holes, movers = moves(np.array([True, False, True, False, True, True]))
    assert (before.tolist(), holes.tolist(), movers.tolist()) == ([0, 4, 2, 5], [1, 3], [4, 5])
    assert [len(found) for found in moves(np.array([False, False]))] == [0, 0, 0]


def test_texts_end_early_where_the_process_is_asked_to_stop() -> None:
    class Asked(Stop):
        def requested(self) -> str | None:
            return "the test"

    decoding = make_decoding(max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        decoder = T5Decoder.of(make_t5(), [[5, END]], decoding, at_once=1)
        written = generate_rows(decoder, PromptBatch([[5, END]], [0]), decoding, Asked(), print)
    assert len(written.sequences[0]) <= 1


@pytest.mark.parametrize("layout", ["own head", "tied", "mt5"])
def test_logits_are_the_model_s(layout: str) -> None:
    """Of given texts by position; greedy texts do not reveal a wrong scale."""
    model = make_t5(own_head=layout == "own head")
    if layout == "mt5":
        sizes = {"vocab_size": 1000, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
                 "num_heads": 4, "decoder_start_token_id": 0}  # fmt: skip
        model = MT5ForConditionalGeneration(MT5Config(**sizes, tie_word_embeddings=False)).eval()
    prompts = random_prompts(7)
    written = torch.from_numpy(np.random.default_rng(1).integers(2, 1000, (7, 40)))
    written[:, 0] = 0
    rows = [torch.tensor(prompt).clamp(max=999) for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        wanted = model(
            input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=written
        ).logits
        decoding = make_decoding(max_new_tokens=40)
        decoder = T5Decoder.of(model, [row.tolist() for row in rows], decoding, at_once=7)
        decoder.add(0, [row.tolist() for row in rows])
        for position in range(40):
            decoder.rows.ids[:], decoder.rows.positions[:] = written[:, position], position
            found = decoder.logits(decoder.rows.ahead()[0])
            torch.testing.assert_close(found, wanted[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 4])
def test_texts_in_bfloat16_do_not_depend_on_their_batch(samples: int) -> None:
    model = ending(d_model=64, num_layers=3).to(torch.bfloat16)
    family_of(model.config).use_fast_modules(model)
    prompts = random_prompts(30)
    decoding = make_decoding(max_new_tokens=NEW_TOKENS, temperature=0.7, n_samples=samples)
    if samples == 1:
        decoding = make_decoding(max_new_tokens=NEW_TOKENS)
    together = write(model, prompts, decoding).sequences
    alone = [
        text
        for index, prompt in enumerate(prompts)
        for text in write(model, [prompt], decoding, first=index).sequences
    ]
    assert alone == together == write(model, prompts, decoding, at_once=4).sequences
    assert together == write(model, prompts, decoding, at_once=9, pace=ROUNDED).sequences
    assert len({tuple(text) for text in together}) > 10


@pytest.mark.parametrize("pace", [ON_CPU, ON_GPU, ROUNDED])
def test_samples_are_those_of_the_slow_way(pace: Pace) -> None:
    model, prompts = ending(), random_prompts(30)
    decoding = make_decoding(max_new_tokens=NEW_TOKENS, temperature=1.0, n_samples=3, top_k=50)
    ours = write(model, prompts, decoding, pace=pace)
    with torch.no_grad():
        theirs = hf_generate(model, PromptBatch(prompts, range(30), [5, 6]), decoding, ALONE)
    assert ours.sequences == theirs.sequences
    assert ours.ended == theirs.ended
    torch.testing.assert_close(ours.first_logits, theirs.first_logits)


def test_a_text_ends_at_the_model_s_end_token(tokenizer: Any) -> None:
    """Whatever the tokenizer's end token is."""
    model, prompts = ending(), random_prompts(40)
    model.generation_config.eos_token_id = 7
    model.lm_head.weight.data[7] *= 2.5
    decoding = make_decoding(max_new_tokens=NEW_TOKENS)
    together = write(model, prompts, decoding)
    assert any(together.ended)
    for text, ended in zip(together.sequences, together.ended, strict=True):
        assert text.index(7) == len(text) - 1 if ended else 7 not in text


def test_when_our_loop_applies() -> None:
    model = make_t5()
    assert own_decoder(model, make_decoding(temperature=1.0, n_samples=2, min_new_tokens=3), 9)
    for settings in ({"num_beams": 2}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}):
        assert own_decoder(model, make_decoding(**settings), 9) is None
    for name, value in (("eos_token_id", [1, 2]), ("forced_bos_token_id", 5)):
        other = make_t5()
        setattr(other.generation_config, name, value)
        assert own_decoder(other, make_decoding(), 9) is None
