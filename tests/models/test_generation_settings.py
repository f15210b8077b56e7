"""Of a model's own generation settings the job keeps what is part of the model, and says so."""

import json
from typing import Any

import pytest
import torch
from conftest import ALONE, ROOT, make_t5
from test_families import job_of
from test_generate import PROMPTS, answer, make_decoding
from tiny_models import make_marian
from transformers import GenerationConfig

from workflow import run_job
from workflow.inference.decoding import PromptBatch
from workflow.inference.hf_generate import hf_generate
from workflow.inference.t5_loop import can_decode
from workflow.models.generation_settings import describe_settings, kept_settings
from workflow.runs.mount import Mount

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def test_what_is_kept_and_what_is_set_aside() -> None:
    own = GenerationConfig(
        **IDS, bad_words_ids=[[7]], forced_eos_token_id=1, num_beams=4, length_penalty=2.0,
        max_length=142, use_cache=True, do_sample=True,
    )  # fmt: skip
    assert kept_settings(own) == IDS | {"bad_words_ids": [[7]], "forced_eos_token_id": 1}
    assert describe_settings(own) == (
        "of the model's own generation settings the job keeps forced_eos_token_id, bad_words_ids; "
        "sets aside do_sample True, length_penalty 2.0, max_length 142, num_beams 4 (the flags of "
        "the job decide)"
    )
    assert describe_settings(GenerationConfig(**IDS)) is None


@pytest.mark.parametrize("choice", [{}, {"temperature": 1.0, "n_samples": 2}, {"num_beams": 2}])
def test_tokens_that_a_model_must_not_write_are_not_written(
    tokenizer: Any, choice: dict[str, Any]
) -> None:
    """In T5's own kind of model too, whose texts are otherwise written by our own loop."""
    model, decoding = make_t5(), make_decoding(**choice)
    batch = PromptBatch(tokenizer(PROMPTS)["input_ids"], range(len(PROMPTS)))

    def ids(**settings: Any) -> list[list[int]]:
        model.generation_config = GenerationConfig(**IDS, **settings)
        assert not can_decode(model, decoding) or not settings
        with torch.no_grad():
            return hf_generate(model, batch, decoding, ALONE).sequences

    free = ids()
    first = {row[0] for row in free if row}
    anywhere = {token for row in free for token in row} - {0, 1}
    assert not first & {row[0] for row in ids(begin_suppress_tokens=sorted(first)) if row}
    assert not anywhere & {token for row in ids(suppress_tokens=sorted(anywhere)) for token in row}
    banned = ids(bad_words_ids=[[token] for token in sorted(anywhere)])
    assert not anywhere & {token for row in banned for token in row}
    assert {row[0] for row in ids(forced_bos_token_id=150)} == {150}


def test_an_end_that_is_forced_at_the_limit_is_the_limit(tokenizer: Any) -> None:
    model = make_t5()
    answers = {}
    for forced in (None, 1):
        model.generation_config = GenerationConfig(
            **IDS, forced_eos_token_id=forced, bad_words_ids=[[1]] if forced is None else None
        )
        answers[forced] = [only for (only,) in answer(model, tokenizer, max_new_tokens=4)]
    assert len(answers[1]) == len(PROMPTS)
    for one in answers[1]:
        assert one.at_limit == (one.tokens == 4)
        assert not one.at_limit or one.full_text.endswith("</s>")
    assert all(one.at_limit for one in answers[None])


def test_marian_does_not_write_its_padding(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    make_marian(mount.models / "marian")
    caplog.set_level("INFO", "workflow")
    run = run_job(job_of("marian", "marian", no_train=True, max_new_tokens=6), mount)
    items = json.loads((run / "temperature=0.00_n=1_step=0.json").read_text())
    assert all("<pad>" not in item["generations"][0]["full_generated"] for item in items)
    assert any(item["generations"][0]["lm_postprocess"] for item in items)
    told = "keeps forced_eos_token_id, bad_words_ids; sets aside num_beams 4 (the flags of the job"
    assert told in caplog.text


def test_the_list_in_the_documentation_is_the_one_that_is_kept() -> None:
    page = (ROOT / "docs" / "use" / "models.md").read_text()
    every = GenerationConfig(
        **IDS, bos_token_id=2, forced_bos_token_id=3, forced_eos_token_id=1, bad_words_ids=[[4]],
        suppress_tokens=[5], begin_suppress_tokens=[6],
    )  # fmt: skip
    assert all(f"`{name}`" in page for name in kept_settings(every))
