"""Decoding: reproducible sampling, and settings with transformers' meanings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALONE, addition_records, make_t5
from transformers import TypicalLogitsWarper

from workflow import make_job
from workflow.config.job import resolve_defaults
from workflow.data.text_format import SeparateTexts, Texts
from workflow.data.token_cache import CutRows, Ragged
from workflow.distributed.stop import Stop
from workflow.inference.decoding import Decoding, PromptBatch
from workflow.inference.decoding_loop import generate_rows
from workflow.inference.generate import Generation, _trie_of, generate
from workflow.inference.hf_generate import hf_generate
from workflow.inference.sampling import TypicalTokens, adjusted, argmax, draw
from workflow.inference.t5_decoder import T5Decoder
from workflow.metrics.references import processed

PROMPTS = [record["prompt"] for record in addition_records(9)] + ["no", "who wrote the question?"]


def make_decoding(**values: Any) -> Decoding:
    """Decoding of a job with these flags, on data whose longest completion has 12 tokens."""
    spec = make_job("seq2seq", model_init_name="x", data_name="y", **values)
    return Decoding.of(resolve_defaults(spec, "run", 10, 12, fast_bf16=True))


@pytest.fixture(scope="module")
def model() -> Any:
    """A model with small logits, so uncertain predictions."""
    made = make_t5()
    made.lm_head.weight.data *= 0.2
    return made


def cut_rows(rows: Sequence[Sequence[int]]) -> CutRows:
    offsets = np.cumsum([0, *map(len, rows)])
    return CutRows(Ragged(np.concatenate(rows).astype(np.int32), offsets), longest=1000)


def answer(model: Any, tokenizer: Any, **values: Any) -> list[list[Generation]]:
    sources = cut_rows(tokenizer(PROMPTS)["input_ids"])
    found = dict(
        generate(model, Texts(tokenizer, SeparateTexts(0)), sources, make_decoding(**values), ALONE)
    )
    assert sorted(found) == list(range(len(PROMPTS)))
    return [found[row] for row in range(len(PROMPTS))]


def full_texts(answers: Sequence[Sequence[Generation]]) -> list[str]:
    return [generation.full_text for generations in answers for generation in generations]


@pytest.mark.parametrize("eval_batch_size", [1, 2, 4, 100, None])
@pytest.mark.parametrize(
    "choice",
    [
        {}, {"top_k": 20}, {"top_p": 0.8, "temperature": 0.7}, {"min_p": 0.01},
        {"typical_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    ],
)  # fmt: skip
def test_samples_depend_on_the_seed_and_not_on_the_batch(
    model: Any, tokenizer: Any, eval_batch_size: int | None, choice: dict[str, Any]
) -> None:
    values = {"temperature": 1.0, "n_samples": 3} | choice
    alone = answer(model, tokenizer, **values, eval_batch_size=3)
    assert full_texts(answer(model, tokenizer, **values, eval_batch_size=eval_batch_size)) == (
        full_texts(alone)
    )
    assert full_texts(answer(model, tokenizer, **values, seed=1)) != full_texts(alone)
    assert len(set(full_texts(alone))) > 25


def test_more_samples_begin_with_the_same(model: Any, tokenizer: Any) -> None:
    few = answer(model, tokenizer, temperature=1.0, n_samples=2)
    many = answer(model, tokenizer, temperature=1.0, n_samples=5)
    assert [generations[:2] for generations in many] == few


def test_typical_tokens_are_transformers() -> None:
    scores = 3 * torch.randn(100, 200, generator=torch.Generator().manual_seed(0))
    scores[:, :20] = -torch.inf
    kept = TypicalTokens(0.7)(None, scores).isfinite()
    expected = TypicalLogitsWarper(0.7)(None, scores).isfinite()
    assert (kept == expected).all(-1).float().mean() > 0.9  # others have ties
    assert kept.sum(-1).min() > 0 and kept.sum(-1).max() < 150


def test_penalties_and_biases_are_openais() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, by loops over 100 random texts."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(100, 50, generator=generator)
    written = torch.randint(0, 50, (100, 30), generator=generator)
    positions = torch.randint(0, 31, (100,), generator=generator)
    decoding = make_decoding(
        presence_penalty=0.7, frequency_penalty=-0.3, logit_bias={"3": 1.5, "49": -100.0}
    )
    expected = scores.clone()
    for row, position in enumerate(positions.tolist()):
        for token, count in Counter(written[row, :position].tolist()).items():
            expected[row, token] -= 0.7 - 0.3 * count
        expected[row, 3] += 1.5
        expected[row, 49] -= 100
    found = adjusted(scores, written, positions, decoding)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_penalties_and_biases_change_texts_in_every_loop(
    model: Any, tokenizer: Any, num_beams: int
) -> None:
    """Beams are those of `model.generate`; with one, its loop and ours write the same."""
    plain = full_texts(answer(model, tokenizer, num_beams=num_beams))
    settings: dict[str, Any] = {"presence_penalty": 2.0, "frequency_penalty": 1.0}
    varied = full_texts(answer(model, tokenizer, num_beams=num_beams, **settings))
    assert varied != plain
    (banned,) = {*tokenizer(plain[0], add_special_tokens=False)["input_ids"][1:2]}
    bias = {str(banned): -1000.0}
    without = full_texts(answer(model, tokenizer, num_beams=num_beams, logit_bias=bias))
    token = tokenizer.convert_ids_to_tokens(banned)
    assert not any(token in tokenizer.tokenize(text) for text in without)
    if num_beams == 1:  # a family that our own loop does not know goes through `generate`
        batch = PromptBatch(tokenizer(PROMPTS)["input_ids"], range(len(PROMPTS)))
        decoding = make_decoding(**settings, logit_bias=bias)
        with torch.no_grad():
            found = hf_generate(model, batch, decoding, ALONE).sequences
        ours = answer(model, tokenizer, **settings, logit_bias=bias)
        assert tokenizer.batch_decode(found) == full_texts(ours)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "n_samples": 3}, {"num_beams": 2}])
def test_texts_are_among_the_choices(
    model: Any, tokenizer: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Whatever the batch; in `model.generate` too."""
    texts = ["yes", "no", "not at all", "not", "1 2 3"]
    (tmp_path / "choices.txt").write_text("\n".join(texts) + "\n\nno\n")
    settings = settings | {"choices": str(tmp_path / "choices.txt")}
    found = answer(model, tokenizer, **settings)
    written = {generation.text for generations in found for generation in generations}
    assert written <= {*texts} and len(written) > 1
    alone = answer(model, tokenizer, **settings, eval_batch_size=1)
    assert full_texts(alone) == full_texts(found)
    decoding = make_decoding(**settings)
    trie = _trie_of(Texts(tokenizer, SeparateTexts(0)), decoding.choices, torch.device("cpu"))
    ids = tokenizer(PROMPTS)["input_ids"]
    batch = PromptBatch(ids, range(len(ids)), (), trie, [0] * len(ids))
    with torch.no_grad():
        sequences = hf_generate(model, batch, decoding, ALONE).sequences
    assert tokenizer.batch_decode(sequences) == full_texts(found)


@pytest.mark.parametrize("loop", ["ours", "generate"])
def test_the_likeliest_of_several_samples_are_kept(model: Any, tokenizer: Any, loop: str) -> None:
    """By the mean log probability of their tokens, computed by one call of the model."""
    ids = tokenizer(PROMPTS)["input_ids"]
    decoding = make_decoding(temperature=1.0, n_samples=2, best_of=6)
    batch, drawn = PromptBatch(ids, range(len(ids))), replace(decoding, n_samples=6)
    with torch.no_grad():
        if loop == "ours":
            decoder = T5Decoder.of(model, ids, drawn, len(ids))
            found = generate_rows(decoder, batch, drawn, Stop(), lambda _: None)
        else:
            found = hf_generate(model, batch, drawn, ALONE)
    best = found.best(2).sequences
    for number, prompt in enumerate(ids):
        of_all, of_best = found.sequences[6 * number :][:6], best[2 * number :][:2]
        means = [mean_logprob(model, prompt, one) for one in of_all]
        kept = [mean_logprob(model, prompt, one) for one in of_best]
        assert kept == pytest.approx(sorted(means, reverse=True)[:2], abs=1e-4)
    written = answer(model, tokenizer, temperature=1.0, n_samples=2, best_of=6)
    assert full_texts(written) == tokenizer.batch_decode(best)


def mean_logprob(model: Any, prompt: list[int], written: list[int]) -> float:
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([written])).loss
    return -float(loss)


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.zeros(300)
    probabilities[[0, 130, 131, 299]] = torch.tensor([0.4, 0.1, 0.2, 0.3])
    scores = torch.log(probabilities).expand(20_000, -1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
    shares = torch.bincount(draw(scores, uniforms), minlength=300) / 20_000
    assert (shares[probabilities == 0] == 0).all()
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)


@pytest.mark.parametrize("size", [4, 128, 300])
def test_the_ends_of_the_interval_draw_what_can_be_drawn(size: int) -> None:
    scores = torch.full((2, size), -torch.inf)
    scores[:, 1:3] = 0.0
    uniforms = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(scores, uniforms).tolist() == [1, 2]


@pytest.mark.parametrize("size", [1, 127, 129, 300])
def test_argmax_is_the_first_of_the_greatest(size: int) -> None:
    scores = torch.randint(-9, -5, (50, size), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(argmax(scores), scores.argmax(-1))


def test_scores_that_are_no_numbers_draw_something() -> None:
    scores = torch.randn(4, 200)
    scores[0, 3], scores[1, 3], scores[2] = torch.nan, torch.inf, -torch.inf
    for choose in (argmax, lambda scores: draw(scores, torch.rand(4, dtype=torch.float64))):
        ids = choose(scores)
        assert ((ids >= 0) & (ids < 200)).all()


def test_generation_may_use_any_kernel(model: Any, tokenizer: Any) -> None:
    """CUDA has no cumulative sum that torch calls deterministic."""
    seen = []
    hook = model.register_forward_hook  # beams use the model, our own loop its layers
    handle = hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    torch.use_deterministic_algorithms(True)
    try:
        answer(model, tokenizer, num_beams=2, max_new_tokens=2)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        handle.remove()
    assert set(seen) == {False}


def test_top_k_of_one_is_greedy(model: Any, tokenizer: Any) -> None:
    drawn = answer(model, tokenizer, temperature=1.0, top_k=1)
    assert full_texts(drawn) == full_texts(answer(model, tokenizer))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"num_beams": 3, "n_samples": 2},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 9},
        {"max_new_tokens": 3},
    ],
)
def test_settings_are_those_of_transformers(
    model: Any, tokenizer: Any, settings: dict[str, Any]
) -> None:
    found = answer(model, tokenizer, **settings, eval_batch_size=100)
    padded = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    theirs = {"max_new_tokens": 12} | settings
    theirs["num_return_sequences"] = theirs.pop("n_samples", 1)
    with torch.no_grad():
        ids = model.generate(**padded, **theirs, do_sample=False)
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert [g.text for generations in found for g in generations] == texts


def test_a_completion_knows_its_length_and_whether_it_was_truncated(
    model: Any, tokenizer: Any
) -> None:
    for generations in answer(model, tokenizer, temperature=1.0, n_samples=4, max_new_tokens=20):
        for generation in generations:
            ended = generation.full_text.endswith("</s>")
            assert generation.at_limit is not ended
            assert generation.tokens == 20 or ended
            assert 1 <= generation.tokens <= 20


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("a b c", (), "a b c"),
        ("a b c", (" c", " b"), "a"),
        ("a b c", ("x",), "a b c"),
        ("abc", ("a",), ""),
    ],
)
def test_a_text_ends_at_its_first_stop_string(text: str, stops: tuple[str, ...], left: str) -> None:
    assert processed(text, stops) == left


def test_stop_strings_end_the_text_and_not_the_full_text(model: Any, tokenizer: Any) -> None:
    plain = [generation for (generation,) in answer(model, tokenizer)]
    stop = plain[0].text[3:5]
    stopped = [generation for (generation,) in answer(model, tokenizer, stop=[stop])]
    assert [g.full_text for g in stopped] == [g.full_text for g in plain]
    assert [g.text for g in stopped] == [g.text.split(stop)[0].strip() for g in plain]
    assert stopped[0].text != plain[0].text
